//! A disk that loses what wasn't synced, is full, or fails: a shim between the gate and the real one (`shim.c`), compiled and preloaded.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use crate::process::Gate;

mod errors;
mod image;
mod power;
mod restored;

/// The shim, compiled once; `None`, and said so, where there is no C compiler.
fn shim(test: &str) -> Option<&'static Path> {
    static SHIM: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let made = SHIM.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let shim = dir.path().join("shim.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/disk/shim.c");
        let output = Command::new("cc")
            .args(["-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o"])
            .arg(&shim)
            .arg(source)
            .output()
            .ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some((dir, shim))
    });
    if made.is_none() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: there is no C compiler (scripts/ensure cc)");
    }
    made.as_ref().map(|(_, shim)| shim.as_path())
}

/// What of a disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Writes, syncs, cuts, or the making of files.
    pub ops: u32,
    /// How the file's path ends.
    pub file: &'static str,
    /// The how manieth of them.
    pub nth: u32,
    /// How: a number of the operating system's, or [`KILL`].
    pub error: i32,
    /// Whether those after it fail, too.
    pub stays: bool,
}

pub const WRITE: u32 = 1;
pub const SYNC: u32 = 2;
pub const CUT: u32 = 4;
pub const MAKE: u32 = 8;
/// In place of an error: the process is killed right before the call.
pub const KILL: i32 = 9999;

/// Gates on such a disk.
pub struct BadDisk {
    pub dir: tempfile::TempDir,
    shim: &'static Path,
    plan: std::fs::File,
    control: Arc<tempfile::TempDir>,
}

impl BadDisk {
    pub fn new(test: &str) -> Option<BadDisk> {
        let shim = shim(test)?;
        let (dir, control) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let plan = std::fs::File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(control.path().join("plan"))
            .expect("made");
        plan.write_all_at(&[0; 128], 0).expect("written");
        Some(BadDisk { dir, shim, plan, control: Arc::new(control) })
    }

    /// The same, with something else on it.
    pub fn at(&self, dir: tempfile::TempDir) -> BadDisk {
        let plan = self.plan.try_clone().expect("a file can be shared");
        BadDisk { dir, shim: self.shim, plan, control: Arc::clone(&self.control) }
    }

    pub fn log(&self) -> PathBuf {
        self.control.path().join("log")
    }

    /// How much is written down so far.
    pub fn logged(&self) -> u64 {
        std::fs::metadata(self.log()).map_or(0, |log| log.len())
    }

    /// As [`Gate::try_start`].
    pub fn try_start(&self, args: &[&str], more: &[(&str, &str)], is_logged: bool) -> Result<Gate, String> {
        let own = self.variables(is_logged);
        let mut variables: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        variables.extend(more);
        Gate::try_start_with(self.dir.path(), args, &variables, &|_| {})
    }

    /// What puts the shim before a program's files.
    pub fn variables(&self, is_logged: bool) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let mut variables = vec![
            ("LD_PRELOAD", text(self.shim)),
            ("FENCEGATE_DISK_DIR", text(self.dir.path())),
            ("FENCEGATE_DISK_PLAN", text(&self.control.path().join("plan"))),
        ];
        if is_logged {
            variables.push(("FENCEGATE_DISK_LOG", text(&self.log())));
        }
        variables
    }

    /// `fencegate` with these arguments, in the folder of this disk, and everything written down.
    pub fn run(&self, args: &[&str]) -> std::process::Output {
        let mut command = Command::new(crate::process::PROGRAM);
        command.args(args).current_dir(self.dir.path()).envs(self.variables(true)).output().expect("it runs")
    }

    fn word(&self, number: u64) -> u32 {
        let mut bytes = [0; 4];
        self.plan.read_exact_at(&mut bytes, number * 4).expect("read");
        u32::from_ne_bytes(bytes)
    }

    fn set_word(&self, number: u64, word: u32) {
        self.plan.write_all_at(&word.to_ne_bytes(), number * 4).expect("written");
    }

    /// From here on this fails.
    pub fn fail(&self, fault: Fault) {
        self.set_word(0, 0);
        let Fault { ops, file, nth, error, stays } = fault;
        let torn = error == rustix::io::Errno::IO.raw_os_error() || error == rustix::io::Errno::NOSPC.raw_os_error();
        let words = [ops, nth, error.unsigned_abs(), u32::from(stays), u32::from(torn), 0, 0];
        words.into_iter().zip(1..).for_each(|(word, number)| self.set_word(number, word));
        let mut name = [0; 96];
        name[..file.len()].copy_from_slice(file.as_bytes());
        self.plan.write_all_at(&name, 32).expect("written");
        self.set_word(0, 1);
    }

    /// How often it has failed since it was told to.
    pub fn hits(&self) -> u32 {
        self.word(7)
    }

    /// All is well again. How often it failed.
    pub fn mend(&self) -> u32 {
        self.set_word(0, 0);
        self.hits()
    }
}
