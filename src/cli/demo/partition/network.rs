//! A network of the demonstration's own: two switches joined by a cable, machines on both, and a second network on which their clients
//! reach them.
//!
//! ```text
//!     clients ─┬─────┬───────────┬─────┬─────┬─      every machine, and this process
//!              m1    m2          m3    m4    m5
//!     left  ───┴─────┴── cable ──┴─────┴─────┴── right
//! ```
//!
//! To pull the cable is what happens when a switch or a line between two rooms fails: each side works, and neither hears the other.
//!
//! It is made inside a network namespace that this process enters before it does anything else ([`enter`]): the program `unshare`
//! becomes it again, in a namespace in which there is nothing. Each machine is a namespace of its own below that, held by a process
//! that sleeps. So nothing of the machine's own network is touched, and the kernel clears all of it away when the last process is gone,
//! however it goes. As root that needs nothing else; others need user namespaces, in which they are root of what they have made.
//!
//! **Invariant.** No interface is made or removed unless this process is in a namespace of its own ([`is_own`]), and none whose name
//! doesn't begin with `OURS`.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::cli::demo::scenario::Failed;
use crate::cli::demo::stage::Stage;

/// Set for the program in a network of its own: the namespace that it came from.
const OUTSIDE: &str = "FENCEGATE_DEMO_OUTSIDE";
/// How the names of all interfaces begin that are made in the namespace that this process is in.
const OURS: &str = "fgd-";
/// What a namespace has from the start: besides the loopback, what some modules of the kernel put into every one
/// (`net.core.fb_tunnels_only_for_init_net` in the kernel's documentation).
const IN_ALL: [&str; 10] =
    ["lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];
/// How many machines there can be: their addresses end in their number.
pub const MACHINES_MAX: u8 = 99;
/// How `unshare` is told to make a network namespace: as root, and as anybody who may make user namespaces.
const WAYS: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
/// Where Debian keeps what is meant for administrators, which is not in everybody's path.
const MORE_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Where a program is, if it is anywhere.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(MORE_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// What there is to say where a network of one's own can't be had; `None` where it can.
pub fn lacks() -> Option<String> {
    let packages = [("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2")];
    if let Some((name, package)) = packages.into_iter().find(|(name, _)| tool(name).is_none()) {
        return Some(format!("it needs the program {name} (Debian: {package})"));
    }
    if is_own() {
        return None;
    }
    let tries = WAYS.map(attempt);
    let [as_root, as_anybody] = &tries;
    if tries.iter().any(Result::is_ok) {
        return None;
    }
    let why = |tried: &Result<(), String>| tried.as_ref().err().cloned().unwrap_or_default();
    Some(format!(
        "it needs a network of its own, and so root, or leave to make user namespaces, and a kernel with bridges and veth pairs: {}; {}",
        why(as_root),
        why(as_anybody)
    ))
}

/// Makes what is needed, in a namespace that is gone when this returns.
fn attempt(way: &[&str]) -> Result<(), String> {
    let missing = |name: &str| format!("{name} is missing");
    let unshare = tool("unshare").ok_or_else(|| missing("unshare"))?;
    let ip = tool("ip").ok_or_else(|| missing("ip"))?;
    let script = "\"$0\" link add fgd-a type bridge && \"$0\" link add fgd-b type veth peer name fgd-c && \
                  exec \"$1\" --net true";
    let mut command = Command::new(&unshare);
    command.args(way).args(["sh", "-c", script]).arg(ip).arg(&unshare).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("unshare: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.trim().lines().next().unwrap_or("it failed").to_owned();
    if output.status.success() { Ok(()) } else { Err(complaint) }
}

/// Enters a network namespace of its own by becoming this program again with the same arguments. Returns where that can't be done, and
/// where it is done already. To be called before there are other threads, since those would end.
pub fn enter() {
    if is_own() {
        // What is shown before in the same run needs the loopback, too. Where this fails, nothing can be reached, and that is said.
        let _ = tool("ip").map(|ip| Command::new(ip).args(["link", "set", "lo", "up"]).stdin(Stdio::null()).status());
        return;
    }
    let Some(way) = WAYS.into_iter().find(|way| attempt(way).is_ok()) else { return };
    let (Some(unshare), Ok(program), Some(outside)) = (tool("unshare"), std::env::current_exe(), namespace()) else {
        return;
    };
    let mut command = Command::new(unshare);
    command.args(way).arg("--").arg(program).args(std::env::args_os().skip(1)).env(OUTSIDE, outside);
    // It only returns where it fails; then there is no network of its own, and `Network::make` says so.
    let _ = command.exec();
}

/// The network namespace that this process is in.
fn namespace() -> Option<OsString> {
    std::fs::read_link("/proc/self/ns/net").ok().map(PathBuf::into_os_string)
}

/// Whether this process is in a network namespace of its own: another one than it was started in, and with nothing in it that is
/// somebody else's.
pub fn is_own() -> bool {
    static OWN: OnceLock<bool> = OnceLock::new();
    *OWN.get_or_init(|| {
        let outside = std::env::var_os(OUTSIDE);
        outside.is_some() && outside != namespace() && interfaces().iter().all(|name| IN_ALL.contains(&&**name))
    })
}

/// The interfaces of the namespace that this process is in.
fn interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    // Two lines of headings.
    let name = |line: &str| Some(line.split_once(':')?.0.trim().to_owned());
    table.lines().skip(2).filter_map(name).collect()
}

/// The network, and the machines on it: 1, 2, and so on.
#[derive(Debug)]
pub struct Network {
    ip: PathBuf,
    nsenter: PathBuf,
    /// The processes that hold the machines' namespaces.
    holders: Vec<String>,
}

/// A machine's address among the machines, on which nobody else hears it.
pub fn inner_address(machine: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, machine)
}

/// A machine's address for its clients.
pub fn client_address(machine: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 2, machine)
}

/// The number that this process has on both.
const THIS: u8 = 254;

impl Network {
    /// Makes a network with so many machines, all of them on the right side. What an earlier run has left is removed first.
    ///
    /// # Errors
    /// It can't be made.
    pub async fn make(stage: &mut Stage, machines: u8) -> Result<Network, Failed> {
        let missing = || Failed::Broken("there is no network of its own".into());
        let (Some(ip), Some(nsenter), Some(unshare), true) = (tool("ip"), tool("nsenter"), tool("unshare"), is_own())
        else {
            return Err(missing());
        };
        let mut network = Network { ip, nsenter, holders: Vec::new() };
        for name in interfaces().iter().filter(|name| name.starts_with(OURS)) {
            // A pair goes with either of its ends, so that the second may be gone already.
            let _ = network.batch(&format!("link del {name}\n"));
        }
        for machine in 1..=machines {
            let lane = format!("net{machine}");
            let hold = ["--net", "sh", "-c", "echo $$; exec sleep 2147483647"].map(OsStr::new);
            stage.start(&lane, unshare.as_os_str(), &hold)?;
        }
        for machine in 1..=machines {
            let lane = format!("net{machine}");
            let pid = stage.until("a machine's network", |stage| stage.lines(&lane).first().cloned()).await?;
            network.holders.push(pid);
        }
        network.batch(&network.layout())?;
        for (machine, holder) in (1..).zip(&network.holders) {
            network.within(holder, &configuration(machine))?;
        }
        Ok(network)
    }

    fn layout(&self) -> String {
        let (inner, client) = (inner_address(THIS), client_address(THIS));
        let mut lines = format!(
            "link add {OURS}left type bridge\nlink add {OURS}right type bridge\nlink add {OURS}clients type bridge\n\
             link add {OURS}cable type veth peer name {OURS}cable-end\n\
             link set {OURS}cable master {OURS}left up\nlink set {OURS}cable-end master {OURS}right up\n\
             link set {OURS}left up\nlink set {OURS}right up\nlink set {OURS}clients up\n\
             addr add {client}/24 dev {OURS}clients\naddr add {inner}/24 dev {OURS}right\n"
        );
        for (machine, holder) in (1..=MACHINES_MAX).zip(&self.holders) {
            lines += &format!(
                "link add {OURS}m{machine} type veth peer name inner netns {holder}\n\
                 link add {OURS}c{machine} type veth peer name clients netns {holder}\n\
                 link set {OURS}m{machine} master {OURS}right up\nlink set {OURS}c{machine} master {OURS}clients up\n"
            );
        }
        lines
    }

    /// Puts these machines on the left side, and takes this process off the machines' own network: from here on it is only a client.
    ///
    /// # Errors
    /// It can't be done.
    pub fn divide(&self, left: &[u8]) -> Result<(), Failed> {
        let moved = left.iter().map(|machine| format!("link set {OURS}m{machine} master {OURS}left up\n"));
        let leave = format!("addr flush dev {OURS}right\n");
        self.batch(&moved.chain([leave]).collect::<String>())
    }

    /// Pulls the cable between the two sides.
    ///
    /// # Errors
    /// It can't be done.
    pub fn cut(&self) -> Result<(), Failed> {
        self.batch(&format!("link set {OURS}cable down\n"))
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// It can't be done.
    pub fn heal(&self) -> Result<(), Failed> {
        self.batch(&format!("link set {OURS}cable up\n"))
    }

    /// Starts a program on a machine.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(
        &self,
        stage: &mut Stage,
        machine: u8,
        lane: &str,
        program: &Path,
        args: &[String],
    ) -> Result<(), Failed> {
        let holder = self.holders.get(usize::from(machine).wrapping_sub(1));
        let holder = holder.ok_or_else(|| Failed::Broken(format!("there is no machine {machine}")))?;
        let mut all = ["--target", holder, "--net", "--"].map(OsStr::new).to_vec();
        all.push(program.as_os_str());
        all.extend(args.iter().map(OsStr::new));
        stage.start(lane, self.nsenter.as_os_str(), &all)
    }

    fn batch(&self, lines: &str) -> Result<(), Failed> {
        if !is_own() {
            return Err(Failed::Broken("this is not a network of its own".into()));
        }
        feed(Command::new(&self.ip).args(["-batch", "-"]), lines)
    }

    fn within(&self, holder: &str, lines: &str) -> Result<(), Failed> {
        let mut command = Command::new(&self.nsenter);
        feed(command.args(["--target", holder, "--net", "--"]).arg(&self.ip).args(["-batch", "-"]), lines)
    }
}

/// What is set in a machine's own namespace.
fn configuration(machine: u8) -> String {
    let (inner, client) = (inner_address(machine), client_address(machine));
    format!(
        "link set lo up\naddr add {inner}/24 dev inner\naddr add {client}/24 dev clients\nlink set inner up\nlink set clients up\n"
    )
}

/// Runs a program with this on its standard input.
fn feed(command: &mut Command, lines: &str) -> Result<(), Failed> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = piped.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Where it has ended before, it says why.
        let _ = stdin.write_all(lines.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failed::Broken(format!("the network can't be set: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
