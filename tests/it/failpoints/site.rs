//! A gate that is killed or stopped at one place in its first life, and started again as often as it is needed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::gate::LONG;
use crate::process::{Answer, Client, Gate};
use crate::upstream::pass_time;

/// Who comes while the gate is stopped.
pub trait Successor: Send {
    /// Sends a request, whose answer comes once the gate goes on.
    fn send(&mut self, client: &mut Client) -> std::io::Result<()>;

    /// The answer.
    fn hear(&mut self, answer: std::io::Result<Answer>);
}

/// Who plays a history.
pub trait Plays {
    fn site(&mut self) -> &mut Site;

    /// Looks what a gate knows that was started anew.
    fn look(&mut self);

    /// The gate, started where there is none. One that was started anew has been looked at before anybody writes: a write may mend
    /// what a look would find.
    fn gate(&mut self) -> &mut Gate {
        loop {
            self.site().gate();
            if !std::mem::take(&mut self.site().is_unseen) {
                break;
            }
            self.look();
        }
        self.site().gate.as_mut().expect("just looked for")
    }
}

pub struct Site {
    pub dir: tempfile::TempDir,
    args: Vec<String>,
    gate: Option<Gate>,
    /// What `FENCEGATE_FAIL` is in the first life.
    rules: String,
    /// How often a gate was started.
    pub lives: usize,
    /// Whether the present one was started after another, and nobody has looked at it yet.
    is_unseen: bool,
    /// How often it was stopped and woken.
    pub pauses: Arc<Mutex<usize>>,
    successor: Option<Box<dyn Successor>>,
    waker: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    addr: Arc<Mutex<Option<SocketAddr>>>,
}

impl Site {
    pub fn new(dir: tempfile::TempDir, args: &[&str], rules: &str, successor: Box<dyn Successor>) -> Site {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Site {
            dir,
            args,
            gate: None,
            rules: rules.into(),
            lives: 0,
            is_unseen: false,
            pauses: Arc::default(),
            successor: Some(successor),
            waker: None,
            addr: Arc::default(),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("points.log")
    }

    /// The labels that the first life came to, in order.
    pub fn hits(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// The gate, started where there is none.
    pub fn gate(&mut self) -> &mut Gate {
        if !self.is_alive() {
            self.gate = None;
            self.start();
        }
        self.gate.as_mut().expect("just started")
    }

    fn start(&mut self) {
        let args = self.args.clone();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if self.lives == 0 {
            self.lives = 1;
            let log = self.log();
            let log = log.to_str().expect("UTF-8");
            let variables = [("FENCEGATE_FAIL", self.rules.as_str()), ("FENCEGATE_FAIL_LOG", log)];
            let pid = Mutex::new(None);
            let (successor, waker) = (Mutex::new(self.successor.take()), Mutex::new(None));
            let (addr, pauses, pauses_it) = (&self.addr, &self.pauses, self.rules.ends_with(":pause"));
            let spawned = |number: u32| {
                *pid.lock().unwrap() = Some(number);
                if pauses_it && let Some(successor) = successor.lock().unwrap().take() {
                    *waker.lock().unwrap() = Some(wake(number, Arc::clone(addr), Arc::clone(pauses), successor));
                }
            };
            let gate = Gate::try_start_with(self.dir.path(), &args, &variables, &spawned);
            self.waker = waker.into_inner().unwrap();
            if let Ok(gate) = gate {
                *self.addr.lock().unwrap() = Some(gate.data);
                self.gate = Some(gate);
                return;
            }
        }
        self.lives += 1;
        self.is_unseen = true;
        self.rest();
        self.gate = Some(Gate::start(self.dir.path(), &args));
    }

    /// Whether a gate runs.
    pub fn is_alive(&mut self) -> bool {
        self.gate.as_mut().is_some_and(Gate::is_running)
    }

    /// SIGTERM, where a gate runs, and its end, whatever that is.
    pub fn terminate(&mut self) {
        if let Some(gate) = self.gate.take() {
            let _ = gate.terminate();
        }
    }

    /// `kill -9`, where a gate runs.
    pub fn kill(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.kill();
        }
    }

    /// Nobody is woken any more.
    pub fn rest(&mut self) {
        if let Some((over, waker)) = self.waker.take() {
            over.store(true, Ordering::SeqCst);
            waker.join().expect("the waker didn't panic");
        }
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

/// Waits until the process has stopped itself, lets the successor come, and wakes it.
fn wake(
    pid: u32,
    addr: Arc<Mutex<Option<SocketAddr>>>,
    pauses: Arc<Mutex<usize>>,
    mut successor: Box<dyn Successor>,
) -> (Arc<AtomicBool>, JoinHandle<()>) {
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let thread = std::thread::spawn(move || {
        let started = Instant::now();
        while !is_over.load(Ordering::SeqCst) && started.elapsed() < LONG {
            if !is_stopped(pid) {
                pass_time(1);
                continue;
            }
            // The kernel takes connections for a process that is stopped.
            let mut client = addr.lock().unwrap().and_then(|addr| Client::connect(addr).ok());
            let sent = client.as_mut().map(|client| successor.send(client));
            pass_time(20);
            *pauses.lock().unwrap() += 1;
            let number = Pid::from_raw(i32::try_from(pid).expect("a process number")).expect("not 0");
            let _ = kill_process(number, Signal::CONT);
            if let (Some(mut client), Some(Ok(()))) = (client, sent) {
                successor.hear(client.read_answer());
            }
        }
    });
    (over, thread)
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
        if let Some((over, _)) = &self.waker {
            over.store(true, Ordering::SeqCst);
        }
    }
}
