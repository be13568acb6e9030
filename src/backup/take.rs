//! Makes a backup, beside a gate that runs.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::Connection;

use crate::config::{Config, KindConfig};
use crate::fail::{self, Point};
use crate::files::folder_of;
use crate::lock::{LockError, LockFile};

use super::copy::copy;
use super::manifest::{self, Entry, FORMAT, Manifest, MarkEntry, Of};
use super::{BackupError, Piece, pieces, sync_folder};

/// The lock on a backup that isn't complete yet.
const LOCK_NAME: &str = "being-written.lock";
/// What is said of anything else in its folder.
const NOT_OURS: &str = "this is nothing that a backup has left; look at it, and move it away";

/// A backup that isn't complete. Its folder is cleared away when this is dropped.
struct Partial {
    folder: PathBuf,
    lock: Option<LockFile>,
}

impl Partial {
    /// Makes the folder, in place of one that a backup which was killed has left.
    fn begin(to: &Path) -> Result<Partial, BackupError> {
        let mut name = to.as_os_str().to_owned();
        name.push(".partial");
        let folder = PathBuf::from(name);
        let lock = folder.join(LOCK_NAME);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Every backup begins with its lock: where there is something and no lock, it is somebody else's folder.
                let mut entries = fs::read_dir(&folder).map_err(|error| BackupError::file(&folder, error))?;
                if !lock.exists() && entries.next().is_some() {
                    return Err(BackupError::file(&folder, NOT_OURS));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = "there is no such folder to make a backup in; make it first (mkdir -p), or mount its disk";
                return Err(BackupError::file(folder_of(to), why));
            }
            Err(error) => return Err(BackupError::file(&folder, error)),
            Ok(()) => {}
        }
        let lock = LockFile::take(&lock).map_err(|error| match error {
            LockError::Held { holder, .. } => {
                BackupError::file(&folder, format!("another backup is being written there ({holder})"))
            }
            LockError::Io { path, source } => BackupError::file(&path, source),
        })?;
        let partial = Partial { folder, lock: Some(lock) };
        partial.clear()?;
        fail::at(Point::BackupBegun);
        Ok(partial)
    }

    /// Takes away what a backup that was killed has left, and nothing that is of another kind.
    fn clear(&self) -> Result<(), BackupError> {
        let failed = |error: std::io::Error| BackupError::file(&self.folder, error);
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let name = ["-wal", "-shm", "-journal"].iter().find_map(|log| name.strip_suffix(log)).unwrap_or(name);
            let is_database = name.starts_with("resource-") && name.ends_with(".db");
            let is_ours = is_database
                || [manifest::FILE_NAME, &Of::Fences.file_name(), &Of::Elections.file_name()].contains(&name);
            match (name == LOCK_NAME, is_ours) {
                (true, _) => {}
                (false, true) => fs::remove_file(&path).map_err(|error| BackupError::file(&path, error))?,
                (false, false) => return Err(BackupError::file(&path, NOT_OURS)),
            }
        }
        Ok(())
    }

    /// Gives it its name, which has to be free. From then on it is a backup.
    fn complete(mut self, to: &Path) -> Result<(), BackupError> {
        sync_folder(&self.folder)?;
        fail::at(Point::BackupWritten);
        // The lock is held until it has its name: whoever waits for it would clear the folder away. A folder is renamed to nothing that is there
        // already, but for an empty one, on every file system; to be told to replace nothing, some can't (NFS).
        fs::rename(&self.folder, to).map_err(|error| BackupError::file(to, error))?;
        fail::at(Point::BackupNamed);
        self.lock = None;
        let lock = to.join(LOCK_NAME);
        fs::remove_file(&lock).map_err(|error| BackupError::file(&lock, error))?;
        sync_folder(folder_of(to))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.lock.is_some() && self.clear().is_ok() {
            let _ = fs::remove_file(self.folder.join(LOCK_NAME));
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// Backs up everything that this configuration names into the new folder `to`. `tell` hears of each file how far it is copied, in
/// percent.
///
/// **Invariant.** A folder of that name is a whole backup, on disk: it gets its name last. A backup that is killed leaves nothing but a folder
/// with `.partial` behind its name, which the next one to the same place clears away.
///
/// # Errors
/// A folder that is there already, a file that can't be copied; then nothing is left.
pub fn take(config: &Config, to: &Path, tell: &mut dyn FnMut(&Of, u8)) -> Result<Manifest, BackupError> {
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::file(
            to,
            "it is there already, and a backup is never written over; choose another name",
        ));
    }
    if to.file_name().is_none() {
        return Err(BackupError::file(to, "this is no name for a new folder"));
    }
    // Without a slash behind it, which would make the folder's other name one inside of it.
    let to = &to.components().collect::<PathBuf>();
    let began_at = now();
    let partial = Partial::begin(to)?;
    let has_services = config.resources.iter().any(|resource| matches!(resource.kind, KindConfig::Http(_)));
    let mut files = Vec::new();
    for piece in pieces(config) {
        if !piece.file.try_exists().map_err(|error| BackupError::file(&piece.file, error))? {
            // Made when a gate first starts. Without them, a restore could raise nothing.
            if piece.of == Of::Fences && !has_services {
                continue;
            }
            return Err(BackupError::file(
                &piece.file,
                format!("there is no such file ({}); has a gate run here?", piece.of),
            ));
        }
        files.push(entry(&piece, &partial.folder, tell)?);
        fail::at(Point::BackupCopied);
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let manifest = Manifest { format: FORMAT, fencegate: version, began_at, ended_at: now(), files };
    manifest.write(&partial.folder)?;
    partial.complete(to)?;
    Ok(manifest)
}

fn entry(piece: &Piece, folder: &Path, tell: &mut dyn FnMut(&Of, u8)) -> Result<Entry, BackupError> {
    let Piece { of, file } = piece;
    let name = of.file_name();
    let to = folder.join(&name);
    let mode = fs::metadata(file).map_err(|error| BackupError::file(file, error))?.permissions().mode() & 0o777;
    let seen = copy(file, &to, |conn| look(of, conn), &mut |part| tell(of, part))?;
    let (bytes, sha256) = manifest::digest_of(&to)?;
    let Seen { count, highest, marks } = seen;
    let highest = highest.map(|token| token.to_string());
    Ok(Entry { name, of: of.clone(), bytes, sha256, mode: format!("{mode:o}"), count, highest, marks })
}

/// What a database says of marks.
struct Seen {
    count: u64,
    highest: Option<i64>,
    marks: Vec<MarkEntry>,
}

fn look(of: &Of, conn: &Connection) -> rusqlite::Result<Seen> {
    let table = match of {
        Of::Database { .. } => "fencegate_marks",
        Of::Fences => "mark",
        Of::Elections => "election",
    };
    let mut seen = Seen { count: 0, highest: None, marks: Vec::new() };
    if !has_table(conn, table)? {
        // A database that no gate has opened yet.
        return Ok(seen);
    }
    let column = if *of == Of::Elections { "last_token" } else { "token" };
    let sql = format!("SELECT count({column}), max({column}) FROM {table}");
    let count: i64;
    (count, seen.highest) = conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    seen.count = u64::try_from(count).unwrap_or(0);
    if matches!(of, Of::Database { .. }) {
        let mut stmt = conn.prepare("SELECT fence, token, holder FROM fencegate_marks ORDER BY fence")?;
        let rows = stmt.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        for row in rows {
            let (fence, token, holder): (String, i64, Option<String>) = row?;
            let fence = fence.parse().map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
            })?;
            seen.marks.push(MarkEntry { fence, token: token.to_string(), holder });
        }
    }
    Ok(seen)
}

/// Whether a database has this table.
///
/// # Errors
/// SQLite's own.
pub fn has_table(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    conn.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?.exists([name])
}

/// Now, as manifests have it.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}
