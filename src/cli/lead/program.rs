//! Finds the command before anybody stands for election, so that a mistyped name costs nobody a term.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::super::failure::Failure;
use super::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND};

/// What is looked through where there is no `PATH`, as by `execvp` of the GNU C library.
const PATH_DEFAULT: &str = "/bin:/usr/bin";

/// Whether the command can be started, as far as can be told beforehand.
///
/// # Errors
/// [`Failure::Exit`] with 127 where it isn't found, 126 where it can't be executed.
pub fn check(command: &[OsString]) -> Result<(), Failure> {
    let name = command.first().map_or(OsStr::new(""), OsString::as_os_str);
    let is_path = name.as_bytes().contains(&b'/');
    let candidates: Vec<PathBuf> = if is_path {
        vec![name.into()]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into());
        std::env::split_paths(&path).map(|folder| folder.join(name)).filter(|_| !name.is_empty()).collect()
    };
    let found: Vec<&PathBuf> = candidates.iter().filter(|candidate| candidate.exists()).collect();
    if found.iter().any(|candidate| is_executable(candidate)) {
        return Ok(());
    }
    let name = name.to_string_lossy();
    Err(match found.first() {
        Some(_) => Failure::exit(EXIT_NOT_EXECUTABLE, format!("{name}: can't be executed; nobody stood for election")),
        None => Failure::exit(EXIT_NOT_FOUND, format!("{name}: not found; nobody stood for election")),
    })
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        let status = |name: &str| check(&[name.into()]).map_err(|failure| failure.exit_code());
        assert_eq!(status("sh"), Ok(()));
        assert_eq!(status("/bin/sh"), Ok(()));
        assert_eq!(status("no-such-command"), Err(127));
        assert_eq!(status(""), Err(127));
        assert_eq!(status("./no/such"), Err(127));
        assert_eq!(status("/etc/passwd"), Err(126));
        assert_eq!(status("/etc"), Err(126));
    }
}
