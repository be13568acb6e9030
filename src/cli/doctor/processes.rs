//! Who has a file or a connection open, by `/proc` (proc(5)). Of other users' processes only root sees it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::{Config, KindConfig};
use crate::coordinator::embedded::store::LOCK_FILE_NAME as ELECTIONS_LOCK;
use crate::resource::http::store::LOCK_NAME as FENCES_LOCK;

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
    socket: u64,
}

/// Looks at all processes.
pub fn look(config: &Config) -> Seen {
    let mut seen = Seen { connections: connections(), ..Seen::default() };
    let locks: HashSet<FileId> = locks(config).iter().filter_map(|path| id(path)).collect();
    let mut wanted: HashSet<FileId> =
        databases(config).iter().flat_map(|(_, file)| with_log(file)).filter_map(|file| id(&file)).collect();
    wanted.extend(&locks);
    let own = std::process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).filter(|pid| *pid != own) else {
            continue;
        };
        let Ok(open) = fs::read_dir(entry.path().join("fd")) else {
            seen.hidden += 1;
            continue;
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

    /// The process that has this connection and isn't the gate, as people name it.
    pub fn stranger(&self, connection: &Connection) -> Option<String> {
        let pid = self.sockets.get(&connection.socket).filter(|pid| !self.gates.contains(pid))?;
        Some(format!("process {pid} ({})", self.names.get(pid).map_or("?", String::as_str)))
    }

    /// Whether everything could be seen.
    pub fn is_complete(&self) -> bool {
        self.hidden == 0
    }
}

fn id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn with_log(file: &Path) -> [PathBuf; 2] {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    [file.to_owned(), log.into()]
}

fn databases(config: &Config) -> Vec<(&str, &Path)> {
    let databases = config.resources.iter().filter_map(|resource| match &resource.kind {
        KindConfig::Sqlite(sqlite) => Some((resource.name.as_str(), sqlite.file.as_path())),
        KindConfig::Http(_) => None,
    });
    databases.collect()
}

fn locks(config: &Config) -> Vec<PathBuf> {
    let beside = |file: &Path| {
        let mut name = file.canonicalize().unwrap_or_else(|_| file.to_owned()).into_os_string();
        name.push("-fencegate.lock");
        PathBuf::from(name)
    };
    let own = [FENCES_LOCK, ELECTIONS_LOCK].map(|name| config.data_dir.join(name));
    databases(config).into_iter().map(|(_, file)| beside(file)).chain(own).collect()
}

/// Checks who has the databases open, and how many files the gate may have open.
pub fn check(config: &Config, seen: &Seen, report: &mut Report) {
    for (name, file) in databases(config) {
        open_by(name, file, seen, report);
    }
    if !seen.is_complete() {
        let what = format!(
            "{} processes of other users can't be looked into; run this as root to see theirs, too",
            seen.hidden
        );
        report.unknown("processes", "open files", what);
    }
    descriptors(config, seen, report);
}

fn open_by(name: &str, file: &Path, seen: &Seen, report: &mut Report) {
    const CHECK: &str = "open";
    let subject = format!("database of {name} ({})", file.display());
    let all = with_log(file).into_iter().filter_map(|file| seen.holders.get(&id(&file)?)).flatten();
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
        return report.good(CHECK, subject, format!("no process but the gate has it open{readers}"));
    }
    report.problem(
        CHECK,
        subject,
        format!("{} has it open for writing, past the gate: nothing checks its token", writers.join(", ")),
        "end it, and let it write through the gate; what only reads should open the file for reading only",
    );
}

/// Descriptors that a gate has besides its connections.
const BESIDES: u64 = 256;

fn descriptors(config: &Config, seen: &Seen, report: &mut Report) {
    const CHECK: &str = "descriptors";
    let gate = seen.gates.iter().next();
    let limits =
        gate.map_or_else(|| PathBuf::from("/proc/self/limits"), |pid| PathBuf::from(format!("/proc/{pid}/limits")));
    let subject =
        if gate.is_some() { "open files of the running gate" } else { "open files of a gate started like this" };
    let limits = fs::read_to_string(limits).unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<u64>().ok());
    let Some(soft) = soft else { return report.unknown(CHECK, subject, "their limit can't be seen, or there is none") };
    let has_upstreams = config.resources.iter().any(|resource| matches!(resource.kind, KindConfig::Http(_)));
    // One for each connection of a client, on both listeners, and one to an upstream for each that is in work.
    let each = if has_upstreams { 3 } else { 2 };
    let wanted = (config.limits.connections as u64).saturating_mul(each).saturating_add(BESIDES);
    match soft < wanted {
        false => report.good(CHECK, subject, format!("{soft} are allowed, {wanted} may be needed")),
        true => report.warning(
            CHECK,
            subject,
            format!("{soft} are allowed, and {} connections on each listener may need {wanted}", config.limits.connections),
            "raise the limit (LimitNOFILE= in a unit of systemd, ulimit -n in a shell), or lower `connections` in [limits]",
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
