//! What is around the gate and fails, each by itself: the wall clock is set, a name can't be looked up or leads elsewhere, file
//! descriptors are used up, the coordinator and the upstream go away and come back. What its users are told, and that it recovers by
//! itself. All of it at once is in `soak`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk::BadDisk;
use crate::lead::text;
use crate::process::{Gate, PROGRAM};

mod clock;
mod files;
mod gone;
mod lookups;
pub mod names;

pub use files::NoMoreFiles;

/// Says that a test is skipped: past the test harness, which keeps what a passing test prints to itself.
pub fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

/// The wall clock of the processes that are started with it.
pub struct WallClock {
    library: PathBuf,
    offset: File,
    path: PathBuf,
}

impl WallClock {
    /// `None` where there is no C compiler.
    pub fn new(dir: &Path) -> Option<WallClock> {
        let (source, library, path) = (dir.join("clock.c"), dir.join("clock.so"), dir.join("clock"));
        std::fs::write(&source, include_str!("clock.c")).expect("written");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-o"]).args([&library, &source]).arg("-ldl");
        let is_here = compiler.output().is_ok_and(|output| output.status.success());
        std::fs::write(&path, 0_i64.to_ne_bytes()).expect("written");
        let offset = File::options().write(true).open(&path).expect("it is there");
        is_here.then_some(WallClock { library, offset, path })
    }

    /// From now on it is off by so many seconds.
    pub fn set(&self, seconds: i64) {
        let nanoseconds = seconds * 1_000_000_000;
        self.offset.write_all_at(&nanoseconds.to_ne_bytes(), 0).expect("written");
    }

    /// What puts it into a program.
    fn variables(&self) -> Variables {
        vec![("LD_PRELOAD", text(&self.library)), ("FENCEGATE_TEST_CLOCK", text(&self.path))]
    }
}

type Variables = Vec<(&'static str, String)>;

/// Where a gate is started: with a clock and a disk of its own, and names that are looked up elsewhere.
#[derive(Default)]
pub struct Place<'a> {
    pub clock: Option<&'a WallClock>,
    pub disk: Option<&'a BadDisk>,
    /// What stands in place of `/etc/resolv.conf`. Takes root.
    pub resolver: Option<&'a Path>,
}

impl Place<'_> {
    /// A gate with this configuration file, which serves `dir`.
    pub fn start(&self, dir: &Path, config: &Path) -> Gate {
        let mut command = match self.resolver {
            None => Command::new(PROGRAM),
            Some(resolver) => {
                let script = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", script, "sh"]).arg(resolver).arg(PROGRAM);
                command
            }
        };
        let clock = self.clock.map(WallClock::variables);
        let disk = self.disk.map(|disk| disk.variables(false));
        let (libraries, others): (Variables, Variables) =
            clock.into_iter().chain(disk).flatten().partition(|(name, _)| *name == "LD_PRELOAD");
        let libraries: Vec<String> = libraries.into_iter().map(|(_, library)| library).collect();
        command.env("LD_PRELOAD", libraries.join(":")).envs(others);
        command.arg("serve").arg("--config").arg(config);
        Gate::run(command, dir).unwrap_or_else(|error| panic!("the gate did not start: {error}"))
    }
}
