//! The temporary folder: made for one run, removed at its end. What a run that was killed has left behind, a later one removes.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::getuid;

use crate::lock::LockFile;

/// What the folders' names begin with.
const PREFIX: &str = "fencegate-bench-";
/// Locked by who uses a folder, for as long as it does.
const LOCK: &str = "bench.lock";
/// A folder younger than this may be one that somebody is just making.
const YOUNG: Duration = Duration::from_secs(60);

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: LockFile,
}

impl Folder {
    /// Makes one in `parent`, for this user only, and removes what dead runs have left there.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn make(parent: &Path) -> Result<Folder, String> {
        sweep(parent);
        let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", parent.display());
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| failed(&error))?;
        let path = parent.join(format!("{PREFIX}{:016x}", u64::from_le_bytes(random)));
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| failed(&error))?;
        match LockFile::take(&path.join(LOCK)) {
            Ok(lock) => Ok(Folder { path, _lock: lock }),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&path);
                Err(error.to_string())
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes folders of this user's that nobody uses any more. A link, a folder of somebody else's, or one without our lock file, is
/// left alone.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let is_old = |meta: &std::fs::Metadata| {
            meta.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > YOUNG)
        };
        let is_left = is_ours
            && path
                .symlink_metadata()
                .is_ok_and(|meta| meta.is_dir() && meta.uid() == getuid().as_raw() && is_old(&meta))
            && path.join(LOCK).symlink_metadata().is_ok_and(|meta| meta.is_file());
        // The lock is free only where the process that took it is gone.
        if is_left && let Ok(_lock) = LockFile::take(&path.join(LOCK)) {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes, create_dir, write};
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_what_a_dead_run_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let old = |name: &str, is_locked_once: bool| {
            let path = parent.path().join(name);
            create_dir(&path).unwrap();
            if is_locked_once {
                write(path.join(LOCK), "").unwrap();
            }
            let at = SystemTime::now() - 2 * YOUNG;
            File::open(&path).unwrap().set_times(FileTimes::new().set_modified(at)).unwrap();
            path
        };
        let dead = old("fencegate-bench-dead", true);
        let foreign = old("fencegate-bench-foreign", false);
        let other = old("other", true);
        let used = old("fencegate-bench-used", true);
        let lock = LockFile::take(&used.join(LOCK)).unwrap();
        let link = parent.path().join("fencegate-bench-link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let folder = Folder::make(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(foreign.exists() && other.exists() && used.exists() && link.exists());
        let path = folder.path().to_owned();
        assert!(path.exists());
        drop((folder, lock));
        assert!(!path.exists());
    }
}
