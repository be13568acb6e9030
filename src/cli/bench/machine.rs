//! The machine: what it is, and whether it does other things at the same time.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::clock::CpuClock;
use super::stats::Spread;
use super::stop::Stop;

/// What a machine is. `None` for what it doesn't tell.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Processors that this process may use.
    pub cpus: usize,
    /// What they are called.
    pub cpu_model: Option<String>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// The operating system's name and version.
    pub os: Option<String>,
    /// The kernel's version.
    pub kernel: String,
    /// The architecture.
    pub arch: &'static str,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str, separator: char| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(separator)?.1.trim().trim_matches('"').to_owned())
        };
        let kilobytes = value(&read("/proc/meminfo"), "MemTotal", ':');
        let kilobytes = kilobytes.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_model: value(&read("/proc/cpuinfo"), "model name", ':'),
            memory_bytes: kilobytes.map(|kilobytes| kilobytes * 1024),
            os: value(&read("/etc/os-release"), "PRETTY_NAME", '='),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            arch: std::env::consts::ARCH,
        }
    }
}

/// What all processors have done since the machine was started, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    all: u64,
    /// What processes did. Interrupts are nobody's: those of a load over loopback, or of its disk, too.
    worked: u64,
    /// Time that the machine would have worked, had not another machine on the same hardware had its processors.
    stolen: u64,
}

impl Ticks {
    fn now() -> Option<Ticks> {
        Ticks::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The line has user, nice, system, idle, iowait, irq, softirq, steal, and guests, which user has in it already.
    fn parse(text: &str) -> Option<Ticks> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let numbers: Vec<u64> = line.split_whitespace().take(8).map_while(|number| number.parse().ok()).collect();
        let [user, nice, system, _, _, _, _, stolen] = numbers[..] else { return None };
        Some(Ticks { all: numbers.iter().sum(), worked: user + nice + system, stolen })
    }
}

/// What was going on over some time, as parts of what all processors could do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// What processes had of them.
    pub busy: f64,
    /// What was stolen from them.
    pub stolen: f64,
}

/// Looks at the processors from now on.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    ticks: Option<Ticks>,
    at: Instant,
    own: Duration,
}

impl Watch {
    /// From now on.
    pub fn start(own: &[CpuClock]) -> Watch {
        Watch { ticks: Ticks::now(), at: Instant::now(), own: used(own) }
    }

    /// What has gone on since.
    pub fn load(&self) -> Option<Load> {
        let (before, now) = (self.ticks?, Ticks::now()?);
        let all = now.all.saturating_sub(before.all);
        let part = |now: u64, before: u64| now.saturating_sub(before) as f64 / all as f64;
        let (busy, stolen) = (part(now.worked, before.worked), part(now.stolen, before.stolen));
        (all > 0).then_some(Load { busy, stolen })
    }

    /// What others have done since: not the processes of these clocks.
    pub fn others(&self, own: &[CpuClock], cpus: usize) -> Option<f64> {
        let load = self.load()?;
        let own = used(own).saturating_sub(self.own).as_secs_f64();
        Some((load.busy - own / (self.at.elapsed().as_secs_f64() * cpus as f64)).max(0.0))
    }
}

fn used(clocks: &[CpuClock]) -> Duration {
    clocks.iter().filter_map(|clock| clock.now()).sum()
}

/// What was seen of other work on the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noise {
    /// Processes that ran or wanted to, on average over the minute before the run.
    pub load_average: Option<f64>,
    /// How busy the processors were right before the run, from 0 to 1.
    pub busy_before: Option<f64>,
    /// And right after it.
    pub busy_after: Option<f64>,
    /// What other processes took during the run; known only where everything that was measured is `bench`'s own.
    pub others: Option<f64>,
    /// What was stolen from this machine by others on the same hardware, during the run.
    pub stolen: Option<f64>,
}

/// More than this of all processors taken by others is too much.
const OTHERS_MAX: f64 = 0.10;
/// More than this stolen is too much.
const STOLEN_MAX: f64 = 0.03;

impl Noise {
    /// The load average of the last minute.
    pub fn load_average() -> Option<f64> {
        std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
    }

    /// How busy the processors are for a moment in which this process does nothing.
    pub fn idle_look(time: Duration, stop: &Stop) -> Option<f64> {
        let watch = Watch::start(&[]);
        stop.wait(time);
        watch.load().map(|load| load.busy)
    }

    /// Why nothing can be concluded from what was measured; nothing where the machine was quiet.
    pub fn reasons(&self) -> Vec<String> {
        let too_much = |part: Option<f64>, most: f64| part.filter(|part| *part > most).map(|part| part * 100.0);
        let mut reasons = Vec::new();
        let looks =
            [(self.busy_before, "before the run"), (self.busy_after, "after the run"), (self.others, "during the run")];
        for (part, when) in looks {
            if let Some(percent) = too_much(part, OTHERS_MAX) {
                reasons.push(format!("other processes took {percent:.0}% of the processors {when}"));
            }
        }
        if let Some(percent) = too_much(self.stolen, STOLEN_MAX) {
            reasons.push(format!(
                "{percent:.0}% of the processors' time was taken by other machines on the same hardware"
            ));
        }
        reasons
    }
}

/// What a folder lies on.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The file system's kind.
    pub kind: String,
    /// How long it takes to have a page written and synced, in microseconds.
    pub sync_us: Option<Spread>,
}

/// How often a page is written and synced.
const SYNCS: usize = 21;
const PAGE: [u8; 4096] = [0; 4096];
/// For so long, at most.
const SYNC_TIME: Duration = Duration::from_millis(500);

impl Disk {
    /// Of this folder.
    pub fn of(folder: &Path) -> Disk {
        let kind = rustix::fs::statfs(folder).map_or("unknown".to_owned(), |stat| {
            // Numbers of linux/magic.h.
            match u64::try_from(stat.f_type).unwrap_or(0) & 0xffff_ffff {
                0xef53 => "ext4".into(),
                0x5846_5342 => "xfs".into(),
                0x9123_683e => "btrfs".into(),
                0x0102_1994 => "tmpfs".into(),
                0x794c_7630 => "overlay".into(),
                0x2fc1_2fc1 => "zfs".into(),
                0x6969 => "nfs".into(),
                0xf2f5_2010 => "f2fs".into(),
                other => format!("{other:#x}"),
            }
        });
        Disk { kind, sync_us: Disk::syncs(&folder.join("synced")).and_then(|syncs| Spread::of(&syncs)) }
    }

    fn syncs(file: &Path) -> Option<Vec<f64>> {
        let mut file = std::fs::File::create(file).ok()?;
        let (begun, mut syncs) = (Instant::now(), Vec::new());
        while syncs.len() < SYNCS && begun.elapsed() < SYNC_TIME {
            let started = Instant::now();
            file.write_all(&PAGE).and_then(|()| file.sync_data()).ok()?;
            syncs.push(started.elapsed().as_secs_f64() * 1e6);
        }
        Some(syncs)
    }

    /// Whether it is memory, where nothing is ever synced.
    pub fn is_memory(&self) -> bool {
        self.kind == "tmpfs"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_as_the_kernel_tells_of_them() {
        let text = "cpu  100 10 50 800 20 5 10 5 7 0\ncpu0 1 2 3\nintr 1\n";
        assert_eq!(Ticks::parse(text), Some(Ticks { all: 1000, worked: 160, stolen: 5 }));
        assert_eq!(Ticks::parse("cpu  1 2 3\n"), None);
        assert!(Ticks::now().is_some_and(|ticks| ticks.all > ticks.worked));
        let machine = Machine::this();
        assert!(machine.cpus > 0 && !machine.kernel.is_empty() && machine.memory_bytes.is_some());
    }

    #[test]
    fn noise_has_reasons() {
        assert_eq!(Noise::default().reasons(), Vec::<String>::new());
        let quiet = Noise { busy_before: Some(0.05), stolen: Some(0.01), load_average: Some(9.0), ..Noise::default() };
        assert_eq!(quiet.reasons().len(), 0);
        let loud = Noise { others: Some(0.5), stolen: Some(0.2), ..Noise::default() };
        let expected = [
            "other processes took 50% of the processors during the run",
            "20% of the processors' time was taken by other machines on the same hardware",
        ];
        assert_eq!(loud.reasons(), expected);
    }

    #[test]
    fn a_disk_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::of(dir.path());
        assert!(!disk.kind.is_empty() && disk.sync_us.is_some_and(|sync| sync.median > 0.0));
    }
}
