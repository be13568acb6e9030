//! Who has a file or a connection open, by `/proc` (proc(5)). Of other users' processes only root sees it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::{Config, KindConfig};
use crate::coordinator::embedded::store::LOCK_FILE_NAME as ELECTIONS_LOCK;
use crate::resource::http::store::LOCK_NAME as FENCES_LOCK;
use crate::resource::sqlite::store::lock_of;
use crate::server::descriptors::fit;
use crate::server::threads;

use super::finding::Report;

/// A file's number, on its file system.
type FileId = (u64, u64);

/// A process that has a file open.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    pid: u32,
    name: String,
    can_write: bool,
}

/// What was seen at one moment.
#[derive(Debug, Default)]
pub struct Seen {
    holders: HashMap<FileId, Vec<Holder>>,
    /// Which process has the socket of this number.
    sockets: HashMap<u64, u32>,
    names: HashMap<u32, String>,
    /// The gate's processes: those that have its locks open.
    gates: HashSet<u32>,
    /// How many processes can't be looked into.
    hidden: usize,
    /// All TCP connections and listeners.
    pub connections: Vec<Connection>,
}

/// A TCP connection or listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// This side.
    pub local: SocketAddr,
    /// The other.
    pub remote: SocketAddr,
    /// Whether it is one that waits for connections.
    pub is_listener: bool,
    /// The number of its socket.
    pub socket: u64,
}

/// Looks at all processes.
pub fn look(config: &Config) -> Seen {
    let mut seen = Seen { connections: connections(), ..Seen::default() };
    let locks: HashSet<FileId> = locks(config).iter().filter_map(|path| id(path)).collect();
    let mut wanted: HashSet<FileId> = databases(config).iter().filter_map(|(_, file)| id(file)).collect();
    wanted.extend(&locks);
    let own = std::process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).filter(|pid| *pid != own) else {
            continue;
        };
        let open = match fs::read_dir(entry.path().join("fd")) {
            Ok(open) => open,
            // It has ended meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(_) => {
                seen.hidden += 1;
                continue;
            }
        };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
        for file in open.flatten() {
            seen.file(pid, &name, &file.path(), &wanted, &locks);
        }
        seen.names.insert(pid, name);
    }
    seen
}

impl Seen {
    fn file(&mut self, pid: u32, name: &str, path: &Path, wanted: &HashSet<FileId>, locks: &HashSet<FileId>) {
        let target = fs::read_link(path).unwrap_or_default();
        let target = target.to_string_lossy();
        if let Some(socket) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            self.sockets.extend(socket.parse::<u64>().ok().map(|socket| (socket, pid)));
        }
        let Some(id) = id(path).filter(|id| wanted.contains(id)) else { return };
        if locks.contains(&id) {
            self.gates.insert(pid);
        }
        let info = path.to_string_lossy().replacen("/fd/", "/fdinfo/", 1);
        let flags = fs::read_to_string(info).unwrap_or_default();
        let flags = flags.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
        // The last two bits say how it is open: 0 is for reading only (open(2)).
        let can_write = flags.is_none_or(|flags| flags & 3 != 0);
        self.holders.entry(id).or_default().push(Holder { pid, name: name.to_owned(), can_write });
    }

    /// Where the gate listens that runs.
    pub fn gate_listens(&self) -> BTreeSet<SocketAddr> {
        let is_gates = |one: &&Connection| self.sockets.get(&one.socket).is_some_and(|pid| self.gates.contains(pid));
        self.connections.iter().filter(|one| one.is_listener).filter(is_gates).map(|one| one.local).collect()
    }

    /// The process that has this connection and isn't the gate, as people name it.
    pub fn stranger(&self, connection: &Connection) -> Option<String> {
        let pid = self.sockets.get(&connection.socket).filter(|pid| !self.gates.contains(pid))?;
        Some(format!("process {pid} ({})", self.names.get(pid).map_or("?", String::as_str)))
    }
}

fn id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn databases(config: &Config) -> Vec<(&str, &Path)> {
    let databases = config.resources.iter().filter_map(|resource| match &resource.kind {
        KindConfig::Sqlite(sqlite) => Some((resource.name.as_str(), sqlite.file.as_path())),
        KindConfig::Http(_) => None,
    });
    databases.collect()
}

fn locks(config: &Config) -> Vec<PathBuf> {
    let own = [FENCES_LOCK, ELECTIONS_LOCK].map(|name| config.data_dir.join(name));
    databases(config).into_iter().map(|(_, file)| lock_of(file)).chain(own).collect()
}

/// Checks who has the databases open, and how many files the gate may have open.
pub fn check(config: &Config, seen: &Seen, report: &mut Report) {
    let unseen = unseen(seen.hidden);
    for (name, file) in databases(config) {
        open_by(name, file, seen, unseen.is_none(), report);
    }
    if let Some(why) = unseen {
        report.unknown("processes", "open files", why);
    }
    descriptors(config, seen, report);
}

/// The first process numbers are those of the whole machine (`PROC_PID_INIT_INO` in Linux).
const ALL_PROCESSES: &str = "pid:[4026531836]";

/// Why not all processes of the machine could be looked into. `None`: all could.
fn unseen(hidden: usize) -> Option<String> {
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let options =
        super::files::mount(Path::new("/proc"), &String::from_utf8_lossy(&mountinfo)).map(|(_, options)| options);
    // With it, whoever isn't root sees nothing of others' processes at all.
    let hides = ["hidepid=2", "hidepid=invisible", "hidepid=4", "hidepid=ptraceable"];
    let is_hidden = options.is_some_and(|options| options.split(',').any(|option| hides.contains(&option)));
    let own = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if hidden > 0 {
        Some(format!("{hidden} processes of other users can't be looked into; run this as root to see theirs, too"))
    } else if is_hidden && !rustix::process::geteuid().is_root() {
        Some(
            "processes of other users are hidden (/proc is mounted with hidepid); run this as root to see theirs, too"
                .into(),
        )
    } else if own.as_os_str() != ALL_PROCESSES {
        Some("only processes of this container are seen; run this on the machine itself to see the others, too".into())
    } else {
        None
    }
}

/// `is_all`: all processes of the machine were seen.
fn open_by(name: &str, file: &Path, seen: &Seen, is_all: bool, report: &mut Report) {
    const CHECK: &str = "open";
    let subject = format!("database of {name} ({})", file.display());
    // By the database itself: SQLite opens the log for writing also where somebody only reads.
    let all = id(file).and_then(|file| seen.holders.get(&file)).into_iter().flatten();
    let others: Vec<&Holder> = all.filter(|holder| !seen.gates.contains(&holder.pid)).collect();
    let mut writers: Vec<String> = others
        .iter()
        .filter(|holder| holder.can_write)
        .map(|holder| format!("process {} ({})", holder.pid, holder.name))
        .collect();
    writers.sort();
    writers.dedup();
    if writers.is_empty() {
        let readers = if others.is_empty() { "" } else { " for writing" };
        let seen = if is_all { "" } else { " that can be seen" };
        return report.good(CHECK, subject, format!("no process{seen} but the gate has it open{readers}"));
    }
    report.problem(
        CHECK,
        subject,
        format!("{} has it open for writing, past the gate: nothing checks its token", writers.join(", ")),
        "end it, and let it write through the gate; what only reads should open the file for reading only",
    );
}

fn descriptors(config: &Config, seen: &Seen, report: &mut Report) {
    const CHECK: &str = "descriptors";
    let gate = seen.gates.iter().next();
    let limits =
        gate.map_or_else(|| PathBuf::from("/proc/self/limits"), |pid| PathBuf::from(format!("/proc/{pid}/limits")));
    let subject =
        if gate.is_some() { "open files of the running gate" } else { "open files of a gate started like this" };
    let limits = fs::read_to_string(limits).unwrap_or_default();
    // The second is the hard limit, to which a gate raises its own.
    let hard = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().nth(1));
    let Some(hard) = hard.and_then(|hard| hard.parse::<usize>().ok()) else {
        return report.unknown(CHECK, subject, "their limit can't be seen, or there is none");
    };
    let (mut fitting, mut resources) = (config.limits.clone(), config.resources.clone());
    fit(&mut fitting, &mut resources, threads(), hard);
    let (wanted, fits) = (config.limits.connections, fitting.connections);
    match fits < wanted {
        false => report.good(CHECK, subject, format!("{hard} are allowed, enough for {wanted} connections")),
        true => report.warning(
            CHECK,
            subject,
            format!("{hard} are allowed, enough for {fits} connections of {wanted} that there may be"),
            "raise the hard limit (LimitNOFILE= in a unit of systemd, ulimit -Hn in a shell), or lower `connections` in [limits]",
        ),
    }
}

/// Every TCP connection and listener of this network namespace.
fn connections() -> Vec<Connection> {
    let read = |name| fs::read_to_string(name).unwrap_or_default();
    let all = [read("/proc/net/tcp"), read("/proc/net/tcp6")];
    all.iter().flat_map(|text| text.lines().skip(1)).filter_map(connection).collect()
}

/// One line of `/proc/net/tcp` or `tcp6`: addresses are words in the machine's own order of bytes, in hexadecimal digits.
fn connection(line: &str) -> Option<Connection> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let state = words.next()?;
    // Established and listening; the others are coming or going.
    let is_listener = match state {
        "01" => false,
        "0A" => true,
        _ => return None,
    };
    let socket = words.nth(5)?.parse().ok()?;
    Some(Connection { local, remote, is_listener, socket })
}

fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Vec<[u8; 4]> = (0..ip.len() / 8)
        .map(|word| u32::from_str_radix(ip.get(word * 8..word * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let ip = match words.as_slice() {
        [one] => IpAddr::V4(Ipv4Addr::from(*one)),
        [_, _, _, _] => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?)).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_understood() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0";
        let found = connection(line).unwrap();
        assert_eq!(
            (found.local.to_string().as_str(), found.is_listener, found.socket),
            ("127.0.0.1:8080", true, 12345)
        );
        let line =
            "   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200007F:C000 01 0:0 0:0 0 0 0 7 1";
        let found = connection(line).unwrap();
        assert_eq!(
            (found.local.to_string().as_str(), found.remote.to_string().as_str()),
            ("127.0.0.1:8080", "127.0.0.2:49152")
        );
        let line =
            "   2: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 8 1";
        assert_eq!(connection(line).unwrap().local.to_string(), "[::]:80");
        assert!(connection("  3: 0100007F:1F90 0100007F:0001 06 0:0 0:0 0 0 0 0 1").is_none(), "it is going");
        assert!(connection("").is_none());
    }
}
