//! Puts a backup back.
//!
//! **Invariant.** Whatever moment it is cut short at, a gate that starts then finds each store either as it was before or as it is after, never
//! one whose marks are those of the backup: copies are raised before they take their place, each takes it by one rename, and
//! meanwhile the locks keep every gate away. The elections take theirs first, so that no store is restored before the tokens that come
//! after have been raised.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::config::{Config, KindConfig, ResourceConfig, SqliteConfig};
use crate::coordinator::embedded::store as elections;
use crate::fence::{FenceName, Token};
use crate::lock::{LockError, LockFile};
use crate::resource::http::store as fences;
use crate::resource::sqlite::db::{Access, connect};
use crate::resource::sqlite::store;

use super::copy::fold;
use super::level::{self, Above, Issued, Known, Levels};
use super::manifest::{Entry, Manifest, Of};
use super::take::has_table;
use super::{BackupError, Piece, pieces, raise, sync_folder};

/// The folder in which copies are prepared, in the data directory.
const STAGING: &str = "restore.partial";

/// What a restore has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Each file that was put in place: what it is, where, where the one before it is now, and how many of its marks were raised.
    pub files: Vec<(Of, PathBuf, Option<PathBuf>, usize)>,
    /// What the marks of each resource's fences are at least; `None` where they are as in the backup.
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
    fs::create_dir_all(&config.data_dir).map_err(|error| BackupError::file(&config.data_dir, error))?;
    let _locks = lock(config, &moves)?;
    if !replace && let Some(there) = moves.iter().find(|file| file.piece.file.symlink_metadata().is_ok()) {
        let why = "it is there already; --replace moves it aside, and keeps the higher of its marks";
        return Err(BackupError::file(&there.piece.file, why));
    }
    let mut notes = unknown(config, &manifest);
    let (known, issued) = learn(folder, config, &moves, &mut notes)?;
    let levels = level::decide(config, &known, &issued, above)?;
    let why = format!("restored from the backup of {}: what came after it is not known", manifest.began_at);
    let raised = Raised { levels: &levels, issued: &issued, why: &why };
    let staging = Staging::make(&config.data_dir.join(STAGING))?;
    let mut counts = Vec::new();
    for file in &moves {
        counts.push(prepare(folder, file, config, &raised)?);
    }
    let mut done = Vec::new();
    let mut ended = 0;
    // Elections first, then fences, then databases.
    for (file, count) in moves.iter().zip(counts).rev() {
        let aside = put(file).map_err(|error| half_way(error, done.len()))?;
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

/// What of the backup goes where.
fn plan<'a>(manifest: &'a Manifest, config: &Config) -> Result<Vec<Move<'a>>, BackupError> {
    let here = pieces(config);
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
            Of::Database { .. } => {
                let mut name = piece.file.clone().into_os_string();
                name.push(".restore-partial");
                PathBuf::from(name)
            }
            Of::Fences | Of::Elections => config.data_dir.join(STAGING).join(&entry.name),
        };
        Some(Move { entry, piece, staged })
    };
    Ok(here.into_iter().filter_map(find).collect())
}

/// What the configuration has and the backup hasn't, where there is no file of it either.
fn unknown(config: &Config, manifest: &Manifest) -> Vec<String> {
    let has_services = config.resources.iter().any(|resource| matches!(resource.kind, KindConfig::Http(_)));
    let missing = pieces(config).into_iter().filter(|piece| {
        let is_wanted = piece.of != Of::Fences || has_services;
        is_wanted && !piece.file.exists() && manifest.files.iter().all(|entry| entry.of != piece.of)
    });
    let note = |piece: Piece| {
        format!(
            "the backup has nothing of {}, and there is no {}: it begins anew, and takes any token",
            piece.of,
            piece.file.display()
        )
    };
    missing.map(note).collect()
}

/// Keeps every gate away that would use one of these files.
fn lock(config: &Config, moves: &[Move<'_>]) -> Result<Vec<LockFile>, BackupError> {
    let mut locks = Vec::new();
    for Move { piece, .. } in moves {
        let (taken, path) = match &piece.of {
            Of::Database { .. } => {
                let taken = store::lock(&piece.file).map_err(|error| BackupError(error.to_string()));
                (taken, beside(&piece.file, "-fencegate.lock"))
            }
            Of::Fences | Of::Elections => {
                let name = if piece.of == Of::Fences { fences::LOCK_NAME } else { elections::LOCK_FILE_NAME };
                let path = config.data_dir.join(name);
                (take(&path), path)
            }
        };
        locks.push(taken?);
        give(&path, &path)?;
    }
    Ok(locks)
}

fn take(lock: &Path) -> Result<LockFile, BackupError> {
    LockFile::take(lock).map_err(|error| match error {
        LockError::Held { path, holder } => BackupError(format!(
            "a gate is running on this data directory ({holder}); stop it first (lock: {})",
            path.display()
        )),
        LockError::Io { path, source } => BackupError::file(&path, source),
    })
}

/// What the backup and the files that it replaces know of tokens.
fn learn(
    folder: &Path,
    config: &Config,
    moves: &[Move<'_>],
    notes: &mut Vec<String>,
) -> Result<(Vec<Known>, Issued), BackupError> {
    let mut known: Vec<Known> = config.resources.iter().map(|_| Known::default()).collect();
    let mut issued = Issued::default();
    let pairs: Vec<(&Of, Vec<PathBuf>)> = moves
        .iter()
        .map(|file| {
            let there = Some(file.piece.file.clone()).filter(|file| file.exists());
            (&file.piece.of, [Some(folder.join(&file.entry.name)), there].into_iter().flatten().collect())
        })
        .collect();
    let read = |files: &[PathBuf],
                of: &Of,
                notes: &mut Vec<String>,
                read: &mut dyn FnMut(&Connection) -> rusqlite::Result<()>| {
        for (number, file) in files.iter().enumerate() {
            let outcome =
                open(file, number == 0).and_then(|conn| read(&conn).map_err(|error| BackupError::file(file, error)));
            match outcome {
                Err(error) if number == 0 => return Err(error),
                // It is about to be replaced, perhaps for that.
                Err(error) => {
                    notes.push(format!("what is replaced of {of} can't be read, so its marks are not known ({error})"))
                }
                Ok(()) => {}
            }
        }
        Ok(())
    };
    // Who has issued what has to be known before the marks are looked at.
    for (of, files) in pairs.iter().filter(|(of, _)| **of == Of::Elections) {
        read(files, of, notes, &mut |conn| elections_of(conn, &mut issued))?;
    }
    for (of, files) in &pairs {
        match of {
            Of::Elections => {}
            Of::Fences => read(files, of, notes, &mut |conn| fences_of(conn, config, &mut known, &issued))?,
            Of::Database { resource } => {
                let place = config.resources.iter().position(|one| one.name == *resource);
                let known = &mut known[place.expect("the plan is made from the configuration")];
                read(files, of, notes, &mut |conn| {
                    each_mark(conn, "fencegate_marks", |fence, mark| known.note(fence, mark, &issued))
                })?;
            }
        }
    }
    // An election may have been held for a fence that has no mark yet.
    for (resource, known) in config.resources.iter().zip(&mut known) {
        known.is_elected |= issued.last.keys().any(|election| has(resource, election));
    }
    Ok((known, issued))
}

/// Opens a file of the backup, in which nothing may be made or changed, or one that is there.
fn open(file: &Path, is_backup: bool) -> Result<Connection, BackupError> {
    if !is_backup {
        return connect(file, Access::Read, std::time::Duration::from_secs(1))
            .map_err(|error| BackupError::file(file, error.message));
    }
    let cannot = |error: rusqlite::Error| BackupError::file(file, error);
    let path = file.canonicalize().map_err(|error| BackupError::file(file, error))?;
    let escaped: String = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags).map_err(cannot)?;
    super::copy::check(&conn, file)?;
    Ok(conn)
}

fn number(token: i64) -> Option<Token> {
    Token::new(u64::try_from(token).ok()?).ok()
}

fn elections_of(conn: &Connection, issued: &mut Issued) -> rusqlite::Result<()> {
    each_mark(conn, "election", |election, last| {
        if let Some(last) = last {
            let known = issued.last.entry(election.clone()).or_insert(last);
            *known = last.max(*known);
        }
    })?;
    if has_table(conn, "floor")? {
        let mut stmt = conn.prepare("SELECT token FROM floor")?;
        issued.floors.extend(
            stmt.query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<i64>>>()?
                .into_iter()
                .filter_map(number),
        );
    }
    Ok(())
}

fn fences_of(conn: &Connection, config: &Config, known: &mut [Known], issued: &Issued) -> rusqlite::Result<()> {
    let mut each = |fence: &FenceName, mark| {
        for (resource, known) in config.resources.iter().zip(&mut *known) {
            if matches!(&resource.kind, KindConfig::Http(http) if http.fence.owns(fence)) {
                known.note(fence, mark, issued);
            }
        }
    };
    each_mark(conn, "mark", &mut each)?;
    if has_table(conn, "floor")? {
        let mut stmt = conn.prepare("SELECT resource, token FROM floor")?;
        let mut rows = stmt.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let place = config.resources.iter().position(|resource| resource.name == name);
            if let (Some(place), Some(floor)) = (place, number(row.get(1)?)) {
                known[place].note_floor(floor, issued);
            }
        }
    }
    Ok(())
}

/// Goes through the names and tokens of a table of marks, or of elections. One that isn't there has none.
///
/// # Errors
/// SQLite's own.
pub fn each_mark(
    conn: &Connection,
    table: &str,
    mut each: impl FnMut(&FenceName, Option<Token>),
) -> rusqlite::Result<()> {
    if !has_table(conn, table)? {
        return Ok(());
    }
    let (name, token) = if table == "election" { ("name", "last_token") } else { ("fence", "token") };
    let mut stmt = conn.prepare(&format!("SELECT {name}, {token} FROM {table}"))?;
    let mut rows = stmt.query([])?;
    while let Some(row) = rows.next()? {
        let fence: String = row.get(0)?;
        if let Ok(fence) = fence.parse() {
            each(&fence, row.get::<_, Option<i64>>(1)?.and_then(number));
        }
    }
    Ok(())
}

/// Whether a resource has a fence of this name.
fn has(resource: &ResourceConfig, name: &FenceName) -> bool {
    match &resource.kind {
        KindConfig::Sqlite(sqlite) => sqlite.fences().any(|fence| fence == name),
        KindConfig::Http(http) => http.fence.owns(name),
    }
}

/// The folder of copies that aren't in place yet.
struct Staging(PathBuf);

impl Staging {
    fn make(folder: &Path) -> Result<Staging, BackupError> {
        // One that a restore which was killed has left is of no use to anybody: the locks say that none is under way.
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(BackupError::file(folder, error)),
            _ => {}
        }
        fs::create_dir(folder).map_err(|error| BackupError::file(folder, error))?;
        Ok(Staging(folder.to_owned()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
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
    for left in ["", "-wal", "-shm", "-journal"] {
        remove(&beside(staged, left))?;
    }
    fs::copy(folder.join(&entry.name), staged).map_err(failed)?;
    fs::set_permissions(staged, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let count = match &piece.of {
        Of::Elections => raise::elections(staged.parent().unwrap_or(Path::new(".")), levels.elections, issued)?,
        Of::Fences => raise::fences(staged.parent().unwrap_or(Path::new(".")), config, levels, why)?,
        Of::Database { resource } => {
            let level = levels.resources.iter().find(|(name, _)| name == resource).and_then(|(_, level)| *level);
            raise::database(staged, sqlite(config, resource), level, why)?
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

fn remove(file: &Path) -> Result<(), BackupError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(BackupError::file(file, error)),
        _ => Ok(()),
    }
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

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Puts a copy in its place by one rename. Returns where what was there is now.
fn put(file: &Move<'_>) -> Result<Option<PathBuf>, BackupError> {
    let Move { entry, piece: Piece { of, file: target }, staged } = file;
    let failed = |error: std::io::Error| BackupError::file(target, error);
    let folder = folder_of(target);
    give(staged, target)?;
    let mode = u32::from_str_radix(&entry.mode, 8).unwrap_or(0o600) & 0o777;
    fs::set_permissions(staged, fs::Permissions::from_mode(mode)).map_err(failed)?;
    let aside = if target.exists() { Some(set_aside(target)?) } else { None };
    for left in ["-wal", "-shm", "-journal"] {
        remove(&beside(target, left))?;
    }
    if *of == Of::Fences {
        // Of the time before. The store has a new number, so it wouldn't be believed in any case.
        remove(&folder.join(fences::JOURNAL_NAME))?;
    }
    fs::rename(staged, target).map_err(failed)?;
    sync_folder(folder)?;
    Ok(aside)
}

/// Gives what is there a second name, under which it stays. Its write-ahead log goes into it first; if it can't be read, the log is kept beside
/// it, too.
fn set_aside(target: &Path) -> Result<PathBuf, BackupError> {
    let stamp = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string().replace([':', '-'], "");
    let free = |number: u32| {
        let more = if number == 0 { String::new() } else { format!("-{number}") };
        let name = beside(target, &format!(".before-restore-{stamp}{more}"));
        (!name.exists()).then_some(name)
    };
    let aside =
        (0..1000).find_map(free).ok_or_else(|| BackupError::file(target, "no free name to move it aside to"))?;
    if let Err(error) = fold(target) {
        if connect(target, Access::Read, std::time::Duration::from_secs(1))
            .is_ok_and(|conn| super::copy::check(&conn, target).is_ok())
        {
            // It is in order, so that somebody has it open.
            return Err(error);
        }
        for log in ["-wal", "-journal"] {
            let (from, to) = (beside(target, log), beside(&aside, log));
            if from.exists() {
                fs::rename(&from, &to).map_err(|error| BackupError::file(&from, error))?;
            }
        }
    }
    // Both names until the copy takes the first: there is no moment without a file, in which a gate would begin anew without marks.
    let named = fs::hard_link(target, &aside).or_else(|_| {
        // A file system without second names.
        fs::copy(target, &aside)?;
        fs::File::open(&aside)?.sync_all()
    });
    named.map_err(|error| BackupError::file(&aside, error))?;
    Ok(aside)
}
