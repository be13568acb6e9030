//! What goes wrong: one thing at a time, several, and all at once. Each is undone again.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::world::World;
use crate::dice::Dice;
use crate::disk::{self, BadDisk};
use crate::gate::LONG;
use crate::outside::names::{Names, Says};
use crate::outside::{NoMoreFiles, Place, WallClock};
use crate::process::Gate;
use crate::upstream::etcd::Etcd;
use crate::upstream::hostile::Hostile;
use crate::upstream::pass_time;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and started again.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Stop,
    /// All writers stop where they stand.
    Freeze,
    UpstreamKilled,
    UpstreamStopped,
    CoordinatorKilled,
    CoordinatorStopped,
    NoNames,
    ClockSet,
    NoFiles,
    /// What is written or synced fails, at once or after a while, once or until it is mended.
    DiskFails,
}

pub const FAULTS: [Fault; 11] = [
    Fault::Kill,
    Fault::Stop,
    Fault::Freeze,
    Fault::UpstreamKilled,
    Fault::UpstreamStopped,
    Fault::CoordinatorKilled,
    Fault::CoordinatorStopped,
    Fault::NoNames,
    Fault::ClockSet,
    Fault::NoFiles,
    Fault::DiskFails,
];

/// The files of which writes or syncs fail, by how their names end: all, all logs, and one log by itself.
const FILES: [&str; 8] = ["", "", "-wal", "-wal", "shop.db-wal", "led.db-wal", "fences.db-wal", "gate.db-wal"];
/// How.
const ERRORS: [Errno; 3] = [Errno::IO, Errno::NOSPC, Errno::ROFS];

impl Fault {
    /// For how long at most, in milliseconds. An upstream is stopped for far less than `settle`: a write that lies in its sockets
    /// meanwhile is applied afterwards.
    fn ms_max(self) -> u64 {
        match self {
            Fault::Kill | Fault::ClockSet => 0,
            Fault::Stop => 800,
            Fault::UpstreamKilled | Fault::UpstreamStopped => 400,
            Fault::Freeze | Fault::CoordinatorKilled | Fault::CoordinatorStopped => 1500,
            Fault::NoNames | Fault::NoFiles => 1200,
            Fault::DiskFails => 1000,
        }
    }
}

/// By how many seconds a clock is off, at most.
const OFF_MAX: [u64; 5] = [2, 60, 3600, 86_400, 400 * 86_400];

pub struct Nemesis<'a> {
    pub dir: &'a Path,
    pub world: &'a World,
    pub dice: Dice,
    pub upstream: Hostile,
    pub etcd: Option<Etcd>,
    pub clock: Option<WallClock>,
    pub names: Option<Names>,
    pub config: PathBuf,
    pub disk: Option<&'a BadDisk>,
    files: Option<NoMoreFiles>,
    stopped_at: Option<Instant>,
    /// For how long the upstream was stopped at most, which on a busy machine is longer than it should be.
    pub longest_stop: Duration,
    /// When the gate was surely dead.
    pub kills: Vec<u64>,
    /// How often each thing was done, in the order of [`FAULTS`].
    pub deeds: [usize; FAULTS.len()],
    pub storms: usize,
    /// How many calls to the disk have failed.
    pub disk_hits: u64,
}

impl<'a> Nemesis<'a> {
    pub fn new(dir: &'a Path, world: &'a World, dice: Dice, around: Around<'a>) -> Nemesis<'a> {
        let Around { upstream, etcd, clock, names, config, disk } = around;
        Nemesis {
            dir,
            world,
            dice,
            upstream,
            etcd,
            clock,
            names,
            config,
            disk,
            files: None,
            stopped_at: None,
            longest_stop: Duration::ZERO,
            kills: Vec::new(),
            deeds: [0; FAULTS.len()],
            storms: 0,
            disk_hits: 0,
        }
    }

    pub fn start(&self) -> Gate {
        let resolver = self.names.as_ref().map(|names| names.resolver.as_path());
        let place = Place { clock: self.clock.as_ref(), disk: self.disk, resolver };
        let gate = place.start(self.dir, &self.config);
        self.world.set(Some((gate.data, gate.admin)));
        gate
    }

    /// Does things until so much time has passed since all began, and enough has happened.
    pub fn rage(&mut self, mut gate: Gate, time: Duration) -> Gate {
        // Each at least once, and all at once.
        for fault in FAULTS {
            gate = self.bring(gate, &[fault]);
        }
        gate = self.storm(gate);
        // It may be well again before anybody has written.
        while self.disk.is_some() && self.disk_hits == 0 && self.world.elapsed() < LONG {
            gate = self.bring(gate, &[Fault::DiskFails]);
        }
        while self.world.elapsed() < time || (!self.world.is_enough() && self.world.elapsed() < time + LONG) {
            pass_time(100 + self.dice.roll(900));
            gate = match self.dice.roll(8) {
                0 => self.storm(gate),
                1 | 2 => {
                    let pair = [FAULTS[self.dice.index(FAULTS.len())], FAULTS[self.dice.index(FAULTS.len())]];
                    self.bring(gate, &pair)
                }
                _ => {
                    let fault = FAULTS[self.dice.index(FAULTS.len())];
                    self.bring(gate, &[fault])
                }
            };
            assert_eq!(gate.ended(), None, "the gate ended by itself");
        }
        gate
    }

    fn storm(&mut self, gate: Gate) -> Gate {
        self.storms += 1;
        let mut all = FAULTS;
        for last in (1..all.len()).rev() {
            all.swap(last, self.dice.index(last + 1));
        }
        self.bring(gate, &all)
    }

    /// Begins all of these, and ends them in an order of its own.
    fn bring(&mut self, mut gate: Gate, faults: &[Fault]) -> Gate {
        // What takes long to begin comes first, so that nothing else lasts longer than it should.
        let mut faults = faults.to_vec();
        faults.sort_by_key(|fault| *fault != Fault::Kill);
        faults.dedup();
        let mut ends: Vec<(u64, Fault)> = Vec::new();
        for fault in faults {
            self.deeds[FAULTS.iter().position(|other| *other == fault).expect("it is there")] += 1;
            gate = self.begin(gate, fault);
            ends.push((self.dice.roll(1 + fault.ms_max()), fault));
        }
        ends.sort_unstable_by_key(|(at, _)| *at);
        let mut now = 0;
        for (at, fault) in ends {
            pass_time(at - now);
            now = at;
            self.end(&gate, fault);
        }
        gate
    }

    fn begin(&mut self, gate: Gate, fault: Fault) -> Gate {
        match fault {
            Fault::Kill => return self.kill(gate),
            Fault::Stop => gate.signal(Signal::STOP),
            Fault::Freeze => self.world.freeze(true),
            Fault::UpstreamKilled => self.upstream.kill(),
            Fault::UpstreamStopped => {
                signal(self.upstream.pid(), Signal::STOP);
                self.stopped_at = Some(Instant::now());
            }
            Fault::CoordinatorKilled => self.etcd.iter_mut().for_each(|etcd| etcd.members[0].kill()),
            Fault::CoordinatorStopped => self.etcd.iter().for_each(|etcd| etcd.members[0].try_signal(Signal::STOP)),
            Fault::NoNames => {
                let says = [Says::NoSuchName, Says::Failure, Says::Nothing][self.dice.index(3)];
                self.names.iter().for_each(|names| names.say(says));
            }
            Fault::ClockSet => {
                let most = OFF_MAX[self.dice.index(OFF_MAX.len())].cast_signed();
                let off = self.dice.roll(2 * most.unsigned_abs()).cast_signed() - most;
                self.clock.iter().for_each(|clock| clock.set(off));
            }
            Fault::NoFiles => {
                drop(self.files.take());
                self.files = Some(NoMoreFiles::of(&gate, self.dice.roll(3)));
            }
            Fault::DiskFails => {
                let fault = disk::Fault {
                    ops: [disk::WRITE, disk::SYNC, disk::WRITE | disk::SYNC][self.dice.index(3)],
                    file: FILES[self.dice.index(FILES.len())],
                    nth: 1 + self.dice.index(5) as u32,
                    error: ERRORS[self.dice.index(ERRORS.len())].raw_os_error(),
                    stays: self.dice.roll(4) > 0,
                };
                self.disk.iter().for_each(|disk| disk.fail(fault));
            }
        }
        gate
    }

    fn kill(&mut self, gate: Gate) -> Gate {
        self.world.set(None);
        gate.kill();
        self.kills.push(self.world.now());
        // Of the one that is gone.
        drop(self.files.take());
        self.start()
    }

    fn end(&mut self, gate: &Gate, fault: Fault) {
        match fault {
            Fault::Kill | Fault::ClockSet => {}
            Fault::Stop => gate.signal(Signal::CONT),
            Fault::Freeze => self.world.freeze(false),
            Fault::UpstreamKilled => self.upstream.restart(),
            Fault::UpstreamStopped => {
                signal(self.upstream.pid(), Signal::CONT);
                let time = self.stopped_at.take().map_or(Duration::ZERO, |at| at.elapsed());
                self.longest_stop = self.longest_stop.max(time);
            }
            Fault::CoordinatorKilled => self.etcd.iter_mut().for_each(|etcd| etcd.members[0].start()),
            Fault::CoordinatorStopped => self.etcd.iter().for_each(|etcd| etcd.members[0].try_signal(Signal::CONT)),
            Fault::NoNames => self.names.iter().for_each(|names| names.say(Says::Address(Ipv4Addr::LOCALHOST))),
            Fault::NoFiles => drop(self.files.take()),
            Fault::DiskFails => self.disk_hits += self.disk.map_or(0, |disk| u64::from(disk.mend())),
        }
    }
}

/// What the gate has around it.
pub struct Around<'a> {
    pub upstream: Hostile,
    pub etcd: Option<Etcd>,
    pub clock: Option<WallClock>,
    pub names: Option<Names>,
    pub config: PathBuf,
    pub disk: Option<&'a BadDisk>,
}

/// To a process that may be gone.
fn signal(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}
