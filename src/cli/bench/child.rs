//! A gate that `bench` starts: this same program, on free ports, with its data in the temporary folder. It dies with `bench`, however
//! that ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::cli::failure::Failure;
use crate::cli::lead::PROGRAM;
use crate::cli::tied;

use super::clock::CpuClock;
use super::stop::Stop;
use super::subject::stopped;

/// How long a gate may take to listen.
const START_TIME: Duration = Duration::from_secs(20);
/// How much of a dead gate's log is shown, in lines.
const LOG_LINES_SHOWN: usize = 5;

/// A running gate. Killed when dropped: its data goes, too.
#[derive(Debug)]
pub struct OwnGate {
    child: Child,
    log: PathBuf,
    /// Its data listener.
    pub addr: SocketAddr,
    /// Its clock.
    pub cpu: Option<CpuClock>,
}

impl OwnGate {
    /// Starts `fencegate serve` with these arguments. Only on the main thread: what it starts dies with the thread that started it.
    ///
    /// # Errors
    /// It doesn't listen in time; the process was told to stop.
    pub fn start(folder: &Path, name: &str, args: &[OsString], stop: &Stop) -> Result<OwnGate, Failure> {
        let log = folder.join(format!("{name}.log"));
        // What a refusal costs is measured where others are served, too: none is to wait for its turn.
        let own: [OsString; 11] = [
            "serve".into(),
            "--listen".into(),
            "127.0.0.1:0".into(),
            "--admin".into(),
            "127.0.0.1:0".into(),
            "--log".into(),
            "warn".into(),
            "--limit".into(),
            "refusals=1000000000".into(),
            "--data-dir".into(),
            folder.join(name).into(),
        ];
        let mut command = tied::command(PROGRAM.as_ref(), [&own[..], args].concat());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?).spawn()?;
        let stdout = child.stdout.take();
        let mut gate =
            OwnGate { cpu: CpuClock::of(child.id()), child, log, addr: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = stdout.map(|stdout| BufReader::new(stdout).read_line(&mut line));
            let _ = tell.send(read.and_then(Result::ok).map(|_| line));
        });
        let until = Instant::now() + START_TIME;
        let line = loop {
            match told.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => break line.unwrap_or_default(),
                Err(RecvTimeoutError::Timeout) if stop.is_set() => return Err(stopped(stop.signal())),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(_) => return Err(gate.failed(&format!("does not listen within {START_TIME:?}"))),
            }
        };
        let data =
            line.split_whitespace().find_map(|word| word.strip_prefix("data=")).and_then(|addr| addr.parse().ok());
        gate.addr = data.ok_or_else(|| gate.failed("does not start"))?;
        Ok(gate)
    }

    /// What to say where it fails, with the end of its log.
    pub fn failed(&self, what: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        let end = if end.is_empty() { String::new() } else { format!("; it says:\n  {end}") };
        Failure::Other(format!("the gate that is to be measured {what}{end}"))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for OwnGate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
