//! Files that have to outlive a loss of power, and to be where they were.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use rustix::io::Errno;

use crate::fail::{self, Point};

/// Bytes that are written anew at a time.
const PIECE: usize = 1 << 20;

/// The folder that something is in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a directory and those above it that are missing, so that they outlive a loss of power: a new entry is durable once its
/// parent is synced.
///
/// # Errors
/// One that can't be made or synced.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = folder_of(dir);
    make_dir(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

/// The write-ahead log of an SQLite database, which is beside the file itself and not beside a link to it.
fn log_of(database: &Path) -> PathBuf {
    let mut name = database.canonicalize().unwrap_or_else(|_| database.to_owned()).into_os_string();
    name.push("-wal");
    name.into()
}

/// Puts on disk what can be read of a database's write-ahead log. To be called at a start, before anything that is read counts.
///
/// Where syncing the log has failed, the kernel may take its pages for written and have them in memory only. Whoever reads them next
/// sees a transaction that a loss of power would undo, with all that was committed behind it, though that was synced well: the
/// kernel syncs only what was written since. So the log is written once more, as it is.
///
/// # Errors
/// A log that can't be read, written or synced; another process that writes to the database.
pub fn resync(conn: &rusqlite::Connection, database: &Path) -> io::Result<()> {
    if fail::skips(Point::Resync) || fs::metadata(log_of(database)).map_or(0, |log| log.len()) == 0 {
        return Ok(());
    }
    // Nobody adds to the log, or begins it anew, while SQLite's write lock is held.
    conn.execute_batch("BEGIN IMMEDIATE").map_err(io::Error::other)?;
    let written = write_anew(database);
    conn.execute_batch("ROLLBACK").map_err(io::Error::other)?;
    written
}

fn write_anew(database: &Path) -> io::Result<()> {
    let log = match OpenOptions::new().read(true).write(true).open(log_of(database)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        log => log?,
    };
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    loop {
        let len = log.read_at(&mut piece, at)?;
        if len == 0 {
            break;
        }
        log.write_all_at(&piece[..len], at)?;
        at += len as u64;
    }
    if at > 0 { log.sync_all() } else { Ok(()) }
}

/// A database that is open, and where it was when it was opened.
///
/// A file that was removed, or replaced by another one, can still be written to by whoever has it open, and nobody will ever find
/// again what is in it: that must not be called done.
#[derive(Debug)]
pub struct Place {
    /// The database and its log, each with its device and number.
    files: [(PathBuf, (u64, u64)); 2],
}

impl Place {
    /// Of a database that is open in write-ahead mode.
    ///
    /// # Errors
    /// It isn't there.
    pub fn of(database: &Path) -> io::Result<Place> {
        let known = |path: PathBuf| which(&path).map(|found| (path, found));
        Ok(Place { files: [known(database.to_owned())?, known(log_of(database))?] })
    }

    /// Whether both are still there: what was committed before this is called, was committed where it will be found.
    ///
    /// # Errors
    /// What has become of them, for people.
    pub fn check(&self) -> Result<(), String> {
        for (path, known) in &self.files {
            match which(path) {
                Ok(found) if found == *known => {}
                Ok(_) => {
                    return Err(format!(
                        "{} has been replaced by another file; put it back or restart the gate",
                        path.display()
                    ));
                }
                Err(error) => {
                    return Err(format!(
                        "{} isn't where it was ({error}); put it back or restart the gate",
                        path.display()
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The device and the number of the file at a path.
///
/// Its times aren't asked for. Whoever has asked for them is to see by them that the file was written to since, so the next write would
/// have to set them, and the `fsync` after it would have to write them to disk, too: one more wait for the disk in each transaction
/// (multigrain timestamps, Linux 6.13).
fn which(path: &Path) -> io::Result<(u64, u64)> {
    match statx(CWD, path, AtFlags::empty(), StatxFlags::INO) {
        Ok(found) => Ok((makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino)),
        // Some sandboxes don't know it.
        Err(Errno::NOSYS | Errno::PERM) => fs::metadata(path).map(|found| (found.dev(), found.ino())),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_to_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        make_dir(&deep).unwrap();
        make_dir(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(make_dir(&dir.path().join("file/below")).is_err());
    }

    #[test]
    fn a_log_that_is_written_once_more_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("a.db");
        write_anew(&database).unwrap();
        let bytes: Vec<u8> = (0..PIECE + 5000).map(|number| (number % 251) as u8).collect();
        fs::write(log_of(&database), &bytes).unwrap();
        write_anew(&database).unwrap();
        assert_eq!(fs::read(log_of(&database)).unwrap(), bytes);
    }

    #[test]
    fn a_file_that_is_gone_or_another_one_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let [database, away] = ["a.db", "away"].map(|name| dir.path().join(name));
        fs::write(&database, "").unwrap();
        assert!(Place::of(&database).is_err(), "it has no log");
        fs::write(log_of(&database), "").unwrap();
        let place = Place::of(&database).unwrap();
        assert_eq!(place.check(), Ok(()));
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink(&database, &link).unwrap();
        assert_eq!(Place::of(&link).unwrap().check(), Ok(()));
        let log = log_of(&database);
        for path in [&database, &log] {
            fs::rename(path, &away).unwrap();
            assert!(place.check().unwrap_err().contains("isn't where it was"));
            fs::write(path, "").unwrap();
            assert!(place.check().unwrap_err().contains("replaced"));
            fs::rename(&away, path).unwrap();
            assert_eq!(place.check(), Ok(()));
        }
    }
}
