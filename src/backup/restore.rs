//! Puts a backup back.
//!
//! **Invariant.** Whatever moment it is cut short at, a gate that starts then finds each store either as it was before or as it is after, never
//! one whose marks are those of the backup: copies are raised before they take their place, each takes it by one rename, and
//! meanwhile the locks keep every gate away. The elections take theirs first, so that no store is restored before the tokens that come
//! after have been raised.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::{Config, KindConfig, SqliteConfig};
use crate::coordinator::embedded::store as elections;
use crate::fail::{self, Point};
use crate::files::{folder_of, make_dir};
use crate::lock::{LockError, LockFile};
use crate::resource::http::store as fences;
use crate::resource::sqlite::db::{Access, connect};
use crate::resource::sqlite::store;

use super::copy::{check, fold};
use super::learn::learn;
use super::level::{self, Above, Issued, Levels};
use super::manifest::{Entry, Manifest, Of};
use super::{BackupError, Piece, pieces, raise, sync_folder};

/// The folder in which copies are prepared, in the data directory.
const STAGING: &str = "restore.partial";

/// What a restore has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Each file that was put in place: what it is, where, where the one before it is now, and how many of its marks were raised.
    pub files: Vec<(Of, PathBuf, Option<PathBuf>, usize)>,
    /// What became of the marks of each resource that was restored.
    pub levels: Levels,
    /// How many candidacies and terms were ended.
    pub ended: usize,
    /// What somebody should know of it.
    pub notes: Vec<String>,
}

/// One file on its way.
struct Move<'a> {
    entry: &'a Entry,
    piece: Piece,
    /// Where its copy is prepared: on the same file system.
    staged: PathBuf,
}

/// Restores a backup to where this configuration has its files. `replace`: what is there is moved aside; without it, nothing may be there.
///
/// # Errors
/// A backup that isn't whole or doesn't fit the configuration, files that are in use or in the way, tokens of which an operator has to say something.
/// Nothing was changed then, but where putting the files in place failed half-way: the text says so.
pub fn restore(folder: &Path, config: &Config, replace: bool, above: &Above) -> Result<Restored, BackupError> {
    let manifest = Manifest::read(folder)?;
    manifest.verify(folder)?;
    let moves = plan(&manifest, config)?;
    data_dir(&config.data_dir)?;
    let _locks = lock(config, &moves)?;
    fail::at(Point::RestoreLocked);
    if !replace && let Some(there) = moves.iter().find(|file| file.piece.file.symlink_metadata().is_ok()) {
        let why = "it is there already; --replace moves it aside, and keeps the higher of its marks";
        return Err(BackupError::file(&there.piece.file, why));
    }
    let mut notes = unknown(config, &manifest);
    let sources: Vec<_> =
        moves.iter().map(|file| (&file.piece.of, folder.join(&file.entry.name), &*file.piece.file)).collect();
    let (known, issued) = learn(&sources, config, &mut notes)?;
    let levels = level::decide(config, &known, &issued, above)?;
    let why = format!("restored from the backup of {}: what came after it is not known", manifest.began_at);
    let raised = Raised { levels: &levels, issued: &issued, why: &why };
    let staging = Staging::make(&config.data_dir.join(STAGING), &moves)?;
    let mut counts = Vec::new();
    for file in &moves {
        counts.push(prepare(folder, file, config, &raised)?);
        fail::at(Point::RestorePrepared);
    }
    // Before the first takes its place: what is in use is better found now.
    let there = moves.iter().map(|file| there(&file.piece.file)).collect::<Result<Vec<_>, _>>()?;
    let mut done = Vec::new();
    let mut ended = 0;
    // Elections first, then fences, then databases.
    for ((file, count), there) in moves.iter().zip(counts).zip(there).rev() {
        let aside = put(file, there).map_err(|error| half_way(error, done.len()))?;
        match file.piece.of {
            Of::Elections => ended = count,
            Of::Database { .. } | Of::Fences => {}
        }
        let rose = if file.piece.of == Of::Elections { 0 } else { count };
        done.push((file.piece.of.clone(), file.piece.file.clone(), aside, rose));
    }
    drop(staging);
    Ok(Restored { files: done, levels, ended, notes })
}

fn half_way(error: BackupError, done: usize) -> BackupError {
    match done {
        0 => error,
        _ => BackupError(format!(
            "{error}. {done} of the files were restored already, and no gate may serve before all are: mend this, and restore again with --replace"
        )),
    }
}

/// Makes the data directory where it is missing. It has to outlive a loss of power: with it would go what the elections were raised to.
fn data_dir(dir: &Path) -> Result<(), BackupError> {
    if dir.is_dir() {
        return Ok(());
    }
    make_dir(dir).map_err(|error| BackupError::file(dir, error))?;
    give(dir, dir)
}

/// What of the backup goes where.
fn plan<'a>(manifest: &'a Manifest, config: &Config) -> Result<Vec<Move<'a>>, BackupError> {
    let here = pieces(config);
    if manifest.files.iter().all(|entry| entry.of != Of::Elections) {
        let why = "the backup has no elections, which every backup has: without them, tokens would be issued again that leaders have had";
        return Err(BackupError(why.to_owned()));
    }
    if let Some(entry) = manifest.files.iter().find(|entry| here.iter().all(|piece| piece.of != entry.of)) {
        return Err(BackupError(format!(
            "the backup has {}, and the configuration hasn't; restore it with the configuration that it was made with",
            entry.of
        )));
    }
    let find = |mut piece: Piece| {
        // What a link leads to is replaced, not the link.
        piece.file = piece.file.canonicalize().unwrap_or(piece.file);
        let entry = manifest.files.iter().find(|entry| entry.of == piece.of)?;
        let staged = match &piece.of {
            Of::Database { .. } => beside(&piece.file, ".restore-partial"),
            Of::Fences | Of::Elections => config.data_dir.join(STAGING).join(&entry.name),
        };
        Some(Move { entry, piece, staged })
    };
    Ok(here.into_iter().filter_map(find).collect())
}

/// What the configuration has and the backup hasn't.
fn unknown(config: &Config, manifest: &Manifest) -> Vec<String> {
    let has_services = config.resources.iter().any(|resource| matches!(resource.kind, KindConfig::Http(_)));
    let missing = pieces(config).into_iter().filter(|piece| {
        let is_wanted = piece.of != Of::Fences || has_services;
        is_wanted && manifest.files.iter().all(|entry| entry.of != piece.of)
    });
    let note = |Piece { of, file }: Piece| match file.exists() {
        true => format!("the backup has nothing of {of}: {} stays as it is", file.display()),
        false => {
            format!(
                "the backup has nothing of {of}, and there is no {}: it begins anew, and takes any token",
                file.display()
            )
        }
    };
    missing.map(note).collect()
}

/// Keeps every gate away that would use one of these files, and every other restore.
fn lock(config: &Config, moves: &[Move<'_>]) -> Result<Vec<LockFile>, BackupError> {
    let mut locks = Vec::new();
    for Move { piece: Piece { of, file }, .. } in moves {
        let path = match of {
            Of::Database { .. } => store::lock_of(file),
            Of::Fences => config.data_dir.join(fences::LOCK_NAME),
            Of::Elections => config.data_dir.join(elections::LOCK_FILE_NAME),
        };
        let lock = LockFile::take(&path).map_err(|error| match error {
            LockError::Held { path, holder } => BackupError::file(
                file,
                format!(
                    "a gate or another restore has it in use ({holder}); stop that first (lock: {})",
                    path.display()
                ),
            ),
            LockError::Io { path, source } => BackupError::file(&path, source),
        });
        locks.push(lock?);
        give(&path, &path)?;
    }
    Ok(locks)
}

/// Copies that aren't in place yet: those in a folder of theirs, and those beside what they will replace. What is left of them when this is
/// dropped goes: on a full disk it would take the room that the gate needs.
struct Staging {
    folder: PathBuf,
    beside: Vec<PathBuf>,
}

impl Staging {
    fn make(folder: &Path, moves: &[Move<'_>]) -> Result<Staging, BackupError> {
        // One that a restore which was killed has left is of no use to anybody: the locks say that none is under way.
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(BackupError::file(folder, error)),
            _ => {}
        }
        fs::create_dir(folder).map_err(|error| BackupError::file(folder, error))?;
        let beside = moves.iter().map(|file| file.staged.clone()).filter(|file| !file.starts_with(folder)).collect();
        Ok(Staging { folder: folder.to_owned(), beside })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        for file in &self.beside {
            let _ = remove_all(file, &WITH_LOGS);
        }
    }
}

/// What goes into the copies.
struct Raised<'a> {
    levels: &'a Levels,
    issued: &'a Issued,
    /// What the histories say.
    why: &'a str,
}

/// Makes the copy that will take the file's place, and raises it. Returns how many marks rose, or terms ended.
fn prepare(folder: &Path, file: &Move<'_>, config: &Config, raised: &Raised<'_>) -> Result<usize, BackupError> {
    let Raised { levels, issued, why } = raised;
    let Move { entry, piece, staged } = file;
    let failed = |error: std::io::Error| BackupError::file(staged, error);
    remove_all(staged, &WITH_LOGS)?;
    fs::copy(folder.join(&entry.name), staged).map_err(failed)?;
    fs::set_permissions(staged, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let count = match &piece.of {
        Of::Elections => raise::elections(staged.parent().unwrap_or(Path::new(".")), levels.elections, issued)?,
        Of::Fences => raise::fences(staged.parent().unwrap_or(Path::new(".")), config, levels, why)?,
        Of::Database { resource } => {
            let fate = levels.of(resource).expect("what is restored has a level");
            raise::database(staged, sqlite(config, resource), fate, why)?
        }
    };
    fold(staged)?;
    Ok(count)
}

fn sqlite<'a>(config: &'a Config, name: &str) -> &'a SqliteConfig {
    let found =
        config.resources.iter().filter(|resource| resource.name == name).find_map(|resource| match &resource.kind {
            KindConfig::Sqlite(sqlite) => Some(sqlite),
            KindConfig::Http(_) => None,
        });
    found.expect("the plan is made from the configuration")
}

/// The file of this name with something behind it.
fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// What SQLite has beside a database, and the database itself.
const WITH_LOGS: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Removes the files of this name with these endings, where they are there.
fn remove_all(file: &Path, endings: &[&str]) -> Result<(), BackupError> {
    for ending in endings {
        let file = beside(file, ending);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(BackupError::file(&file, error)),
            _ => {}
        }
    }
    Ok(())
}

/// Gives a file that root has made to who owns what it takes the place of, or the folder: the gate may run as somebody else than who restores.
fn give(file: &Path, target: &Path) -> Result<(), BackupError> {
    let failed = |error: std::io::Error| BackupError::file(file, error);
    let own = fs::metadata(file).map_err(failed)?;
    let like = match fs::metadata(target) {
        Ok(there) if file != target => there,
        _ => fs::metadata(folder_of(target)).map_err(failed)?,
    };
    if own.uid() == 0 && (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        std::os::unix::fs::chown(file, Some(like.uid()), Some(like.gid())).map_err(failed)?;
    }
    Ok(())
}

/// What is there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    /// A database in one file.
    Whole,
    /// Something that SQLite doesn't find in order, with its logs as they are.
    Damaged,
}

/// Looks what is there, and makes one file of it.
///
/// # Errors
/// It is in order, and can't be written all the same: somebody has it open, or there is no room.
fn there(target: &Path) -> Result<There, BackupError> {
    if !target.exists() {
        return Ok(There::Nothing);
    }
    let Err(error) = fold(target) else { return Ok(There::Whole) };
    let conn = connect(target, Access::Read, std::time::Duration::from_secs(1));
    match conn.is_ok_and(|conn| check(&conn, target).is_ok()) {
        true => Err(error),
        false => Ok(There::Damaged),
    }
}

/// Puts a copy in its place by one rename. Returns where what was there is now.
fn put(file: &Move<'_>, there: There) -> Result<Option<PathBuf>, BackupError> {
    let Move { entry, piece: Piece { of, file: target }, staged } = file;
    let failed = |error: std::io::Error| BackupError::file(target, error);
    let folder = folder_of(target);
    give(staged, target)?;
    let mode = u32::from_str_radix(&entry.mode, 8).unwrap_or(0o600) & 0o777;
    fs::set_permissions(staged, fs::Permissions::from_mode(mode)).map_err(failed)?;
    let aside = if there == There::Nothing { None } else { Some(set_aside(target, there)?) };
    fail::at(Point::RestoreAside);
    // The log of another database must not be taken for its own.
    remove_all(target, &WITH_LOGS[1..])?;
    if *of == Of::Fences {
        // Of the time before. The store has a new number, so it wouldn't be believed in any case.
        remove_all(&folder.join(fences::JOURNAL_NAME), &[""])?;
    }
    // On disk, before the other is: no file system has to keep the order of names.
    sync_folder(folder)?;
    fail::at(Point::RestoreCleared);
    fs::rename(staged, target).map_err(failed)?;
    sync_folder(folder)?;
    fail::at(Point::RestorePut);
    Ok(aside)
}

/// Gives what is there a second name, under which it stays; what is damaged with its logs.
fn set_aside(target: &Path, there: There) -> Result<PathBuf, BackupError> {
    let stamp = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string().replace([':', '-'], "");
    let free = |number: u32| {
        let more = if number == 0 { String::new() } else { format!("-{number}") };
        let name = beside(target, &format!(".before-restore-{stamp}{more}"));
        (!name.exists()).then_some(name)
    };
    let aside =
        (0..1000).find_map(free).ok_or_else(|| BackupError::file(target, "no free name to move it aside to"))?;
    // Both names until the copy takes the first: there is no moment without a file, in which a gate would begin anew without marks.
    let named = fs::hard_link(target, &aside).or_else(|_| {
        // A file system without second names.
        fs::copy(target, &aside)?;
        fs::File::open(&aside)?.sync_all()
    });
    named.map_err(|error| BackupError::file(&aside, error))?;
    if there == There::Damaged {
        move_logs(target, &aside)?;
    }
    Ok(aside)
}

/// Moves the logs of a damaged database to beside its second name. Without them it could be taken for what it was a while ago, with the
/// marks of then: so what is no database at all stands in its place before.
fn move_logs(target: &Path, aside: &Path) -> Result<(), BackupError> {
    let logs = ["-wal", "-journal"].map(|log| (beside(target, log), beside(aside, log)));
    if logs.iter().all(|(log, _)| !log.exists()) {
        return Ok(());
    }
    let barrier = beside(target, ".restore-barrier");
    let failed = |error: std::io::Error| BackupError::file(&barrier, error);
    fs::write(&barrier, "fencegate restore was cut short here: run it once more, with --replace\n").map_err(failed)?;
    fs::File::open(&barrier).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(&barrier, target).map_err(failed)?;
    sync_folder(folder_of(target))?;
    for (from, to) in logs.iter().filter(|(log, _)| log.exists()) {
        fs::rename(from, to).map_err(|error| BackupError::file(from, error))?;
    }
    fail::at(Point::RestoreLogsMoved);
    Ok(())
}
