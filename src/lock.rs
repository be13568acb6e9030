//! A lock file: keeps a second process away from files that only one may work on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// Held for as long as this value lives. The operating system lets the lock go with the process, however that ends; the file
/// stays, and says who has or had it.
///
/// **Invariant.** The lock is free once this value is dropped. Closing the file would not make sure of that: a program that
/// another thread is starting at that moment has a copy of every open file until it runs, and the lock belongs to all the
/// copies. So it is let go by name.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is held by {holder}", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote about itself: its process number, and since when.
        holder: String,
    },
    /// The file can't be made or locked.
    #[error("{}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl LockFile {
    /// Locks this file, making it where it is missing.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(path: &Path) -> Result<LockFile, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(io(error)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
                return Err(LockError::Held { path: path.to_owned(), holder: holder.to_owned() });
            }
        }
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        let text = format!("process {} since {now}\n", std::process::id());
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes())).map_err(io)?;
        Ok(LockFile { file })
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Where this fails, closing the file lets the lock go as well, only perhaps a moment later.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_it_says_who() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = LockFile::take(&path).unwrap();
        let held = LockFile::take(&path).unwrap_err().to_string();
        assert!(held.contains(&format!("process {} since ", std::process::id())), "{held}");
        drop(first);
        LockFile::take(&path).unwrap();
        assert!(matches!(LockFile::take(&dir.path().join("no/such/folder")), Err(LockError::Io { .. })));
    }

    /// As a program has it that another thread is just starting.
    #[test]
    fn it_is_free_at_once_whoever_else_has_a_copy_of_the_open_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = LockFile::take(&path).unwrap();
        let copy = first.file.try_clone().unwrap();
        drop(first);
        LockFile::take(&path).unwrap();
        drop(copy);
    }
}
