//! The folder that a demonstration works in, and the process that clears it away whatever happens.
//!
//! The sweeper makes the folder, waits until the demonstration has closed a pipe, which SIGKILL does, too, and removes the folder. It
//! is in a process group of its own, so that what ends the demonstration's doesn't end it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cli::lead::PROGRAM;

/// The first argument of the program that is the sweeper.
pub const SWEEPER: &str = "__demo-sweeper";
/// How long it tries: processes that are being killed may still write for a moment.
const SWEEP_TIME: Duration = Duration::from_secs(10);
const SWEEP_AGAIN: Duration = Duration::from_millis(20);

/// The folder.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    sweeper: Option<(Child, ChildStdin)>,
}

impl Scratch {
    /// A new folder in the system's folder for such, which is gone afterwards.
    ///
    /// # Errors
    /// It can't be made.
    pub fn new() -> std::io::Result<Scratch> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let name = format!("fencegate-demo-{:016x}", u64::from_ne_bytes(random));
        let path = std::env::temp_dir().join(name);
        let mut sweeper = Command::new(PROGRAM)
            .arg0("fencegate-demo-sweeper")
            .arg(SWEEPER)
            .arg(&path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let (stdin, stdout) = (sweeper.stdin.take(), sweeper.stdout.take());
        let mut told = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut told)?;
        }
        match stdin {
            Some(stdin) if told == "made\n" => Ok(Scratch { path, sweeper: Some((sweeper, stdin)) }),
            _ => {
                let _ = sweeper.wait();
                Err(std::io::Error::other(format!("{}: {}", path.display(), told.trim_end())))
            }
        }
    }

    /// A folder that stays; made where it is missing.
    ///
    /// # Errors
    /// It can't be made.
    pub fn kept(path: &Path) -> std::io::Result<Scratch> {
        std::fs::create_dir_all(path)?;
        if std::fs::read_dir(path)?.next().is_some() {
            return Err(std::io::Error::other(format!("{} isn't empty", path.display())));
        }
        Ok(Scratch { path: path.canonicalize()?, sweeper: None })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some((mut sweeper, stdin)) = self.sweeper.take() {
            drop(stdin);
            let _ = sweeper.wait();
            // Somebody may have killed the sweeper.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs the sweeper: the argument is the folder.
pub fn run(mut args: impl Iterator<Item = OsString>) -> u8 {
    let Some(path) = args.next().map(PathBuf::from) else { return crate::cli::EXIT_USAGE };
    let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
    let told = made.as_ref().map_or_else(|error| format!("{error}\n"), |()| "made\n".to_owned());
    let _ = std::io::stdout().write_all(told.as_bytes());
    if made.is_err() {
        return 1;
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let started = Instant::now();
    while path.exists() && started.elapsed() < SWEEP_TIME {
        if std::fs::remove_dir_all(&path).is_err() {
            let (waker, sleeper) = std::sync::mpsc::channel::<()>();
            let _ = sleeper.recv_timeout(SWEEP_AGAIN);
            drop(waker);
        }
    }
    0
}
