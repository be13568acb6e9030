//! A terminal with a shell in it, at which a test types.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::process::{PROGRAM, until};
use crate::upstream::pass_time;

/// An interactive shell with job control on a terminal of its own. Hung up when dropped.
pub struct Shell {
    shell: Child,
    master: Option<File>,
    shown: Arc<Mutex<String>>,
    /// What was looked at already.
    seen: usize,
}

impl Shell {
    pub fn start(dir: &Path) -> Shell {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it can be opened");
        let name = ptsname(&master, Vec::new()).expect("it has a name").into_string().expect("UTF-8");
        let slave = || Stdio::from(File::options().read(true).write(true).open(&name).expect("the other end"));
        let shell = Command::new("setsid")
            // A terminal's shell ignores nothing that whoever runs the tests may ignore.
            .args(["--ctty", "env", "--default-signal=HUP,INT,QUIT", "bash", "--norc", "--noprofile", "-i"])
            .current_dir(dir)
            .env("PS1", "ready> ")
            .env("DIR", dir)
            .env("FENCEGATE", PROGRAM)
            .env("TERM", "dumb")
            .env_remove("PROMPT_COMMAND")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("a shell starts");
        let master = File::from(master);
        let mut reader = master.try_clone().expect("a descriptor");
        let shown: Arc<Mutex<String>> = Arc::default();
        let into = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Reading fails when nobody has the other end any more.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                into.lock().expect("nobody panics").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        let mut shell = Shell { shell, master: Some(master), shown, seen: 0 };
        shell.sees("ready> ");
        // What is typed isn't shown again, so that only answers are seen.
        shell.types("stty -echo; bind 'set enable-bracketed-paste off' 2>/dev/null\n");
        shell.sees("ready> ");
        shell
    }

    pub fn types(&mut self, text: &str) {
        self.master.as_mut().expect("it is open").write_all(text.as_bytes()).expect("typed");
    }

    /// Waits until this is shown after what was seen before; all that was shown up to it.
    pub fn sees(&mut self, text: &str) -> String {
        let mut found = None;
        let started = std::time::Instant::now();
        while found.is_none() {
            let shown = self.shown.lock().expect("nobody panics");
            found = shown[self.seen..].find(text).map(|at| self.seen + at + text.len());
            let late = started.elapsed() > crate::gate::LONG;
            assert!(!late, "{text:?} is not shown after {:?}, but {:?}", &shown[..self.seen], &shown[self.seen..]);
            drop(shown);
            pass_time(1);
        }
        let from = std::mem::replace(&mut self.seen, found.expect("it was found"));
        self.shown.lock().expect("nobody panics")[from..self.seen].to_owned()
    }

    /// Waits until the shell says that a job has stopped, and is there again.
    pub fn sees_stopped(&mut self) {
        self.sees("Stopped");
        self.sees("ready> ");
    }

    /// Asks for the exit status of what ran last.
    pub fn status(&mut self) -> String {
        self.sees("ready> ");
        self.types("echo \"status<$?>\"\n");
        let shown = self.sees("status<");
        drop(shown);
        self.sees(">").trim_end_matches('>').to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.master = None;
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        until("it is gone", || matches!(self.shell.try_wait(), Ok(Some(_)) | Err(_)));
    }
}
