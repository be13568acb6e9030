//! etcd, of one member or several: as a coordinator, and as something to write to through its JSON gateway.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Port, until_listening};
use crate::process::{Client, until};

/// A running etcd. Its members are killed when it is dropped.
pub struct Etcd {
    pub members: Vec<Member>,
    dir: tempfile::TempDir,
}

/// One member. It keeps its ports and its data while it is down.
pub struct Member {
    name: String,
    pub client: Port,
    pub peer: Port,
    arguments: Vec<String>,
    uid: Option<u32>,
    child: Option<Child>,
}

/// How an etcd is to be.
pub struct Setup<'a> {
    pub members: usize,
    /// `http` or `https`, for clients.
    pub scheme: &'a str,
    pub arguments: &'a [&'a str],
    /// The user that the first member runs as, the next ones as those after it; where it isn't this one.
    pub uid: Option<u32>,
}

/// One member, without anything particular.
pub const ONE: Setup = Setup { members: 1, scheme: "http", arguments: &[], uid: None };

/// The etcd that all tests share that can. It ends with the last of them.
static SHARED: Mutex<Weak<Etcd>> = Mutex::new(Weak::new());

impl Etcd {
    /// Starts one and waits until it answers.
    pub fn start(setup: &Setup) -> Etcd {
        let etcd = Etcd::spawn(setup);
        if setup.scheme == "http" {
            etcd.until_serving();
        } else {
            etcd.members.iter().for_each(|member| until_listening(member.client.addr));
        }
        etcd
    }

    fn spawn(setup: &Setup) -> Etcd {
        let dir = tempfile::tempdir().expect("a directory");
        let mut members: Vec<Member> = (0..setup.members).map(|nth| Member::new(nth, dir.path(), setup)).collect();
        let all: Vec<String> =
            members.iter().map(|member| format!("{}=http://{}", member.name, member.peer.addr)).collect();
        for member in &mut members {
            member.arguments.push(format!("--initial-cluster={}", all.join(",")));
            member.start();
        }
        Etcd { members, dir }
    }

    /// The one that all tests share. Each has keys of its own in it, and does nothing to it that others would notice.
    pub fn shared() -> Arc<Etcd> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let etcd = Arc::new(Etcd::start(&ONE));
            *shared = Arc::downgrade(&etcd);
            etcd
        })
    }

    /// A directory that lives as long as this does.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `http://ADDR`, of the first member.
    pub fn url(&self) -> String {
        format!("http://{}", self.members[0].client.addr)
    }

    /// `etcd://ADDR,…`, of all members: what a coordinator's address begins with.
    pub fn address(&self) -> String {
        format!("etcd://{}", self.hosts())
    }

    /// `ADDR,…`, of all members.
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(|member| member.client.addr.to_string()).collect();
        hosts.join(",")
    }

    /// `etcdctl` with these arguments, not yet started.
    pub fn ctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.hosts()]).args(arguments).stdin(Stdio::null());
        command
    }

    /// What `etcdctl` with these arguments prints, once it has done well.
    pub fn told(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments).output().expect("etcdctl can be started");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Waits until every member that is up takes part in a cluster that has a leader.
    pub fn until_serving(&self) {
        for member in self.members.iter().filter(|member| member.child.is_some()) {
            until("etcd has a leader", || member.try_get("anything").is_some());
        }
    }

    /// Which member leads the cluster, asked of one that is up and no other.
    pub fn leader(&self, asked: usize) -> Option<usize> {
        let status = self.members[asked].status()?;
        let id = status["leader"].as_str().filter(|id| *id != "0")?.to_owned();
        let is = |member: &Member| member.status().is_some_and(|status| status["header"]["member_id"] == *id);
        self.members.iter().position(is)
    }

    /// A key's value, past the gate.
    pub fn value(&self, key: &str) -> Option<String> {
        value(&self.members[0].try_get(key).expect("etcd answers"))
    }
}

impl Member {
    fn new(nth: usize, dir: &Path, setup: &Setup) -> Member {
        let (name, client, peer) = (format!("m{nth}"), Port::reserve(), Port::reserve());
        let clients = format!("{}://{}", setup.scheme, client.addr);
        let peers = format!("http://{}", peer.addr);
        let uid = setup.uid.map(|uid| uid + u32::try_from(nth).expect("a few members"));
        let data: PathBuf = dir.join(&name);
        std::fs::create_dir(&data).expect("a directory");
        if let Some(uid) = uid {
            std::os::unix::fs::chown(&data, Some(uid), None).expect("as root");
            // The directory above it is for its owner only.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(dir, open).expect("it is ours");
        }
        let mut arguments: Vec<String> = [
            format!("--data-dir={}", data.display()),
            format!("--name={name}"),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
        ]
        .into();
        let usual = [
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=error",
            "--heartbeat-interval=50",
            "--election-timeout=500",
        ];
        arguments.extend(usual.iter().chain(setup.arguments).map(|argument| (*argument).to_owned()));
        Member { name, client, peer, arguments, uid, child: None }
    }

    /// Starts it, with what it had stored. Returns before it serves.
    pub fn start(&mut self) {
        let mut command = Command::new("etcd");
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        self.child = Some(command.spawn().expect("etcd can be started (scripts/ensure etcd)"));
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it, the only member, with what is in this snapshot in place of all that it had stored.
    pub fn restore(&mut self, snapshot: &str) {
        self.kill();
        let flag = |name: &str| self.arguments.iter().find(|argument| argument.starts_with(name)).expect("it is there");
        let data = flag("--data-dir=");
        std::fs::remove_dir_all(data.trim_start_matches("--data-dir=")).expect("it is there");
        // A program of its own has it since etcd 3.5, and etcdctl no longer since 3.6.
        let tool = if Command::new("etcdutl").arg("version").output().is_ok() { "etcdutl" } else { "etcdctl" };
        let mut command = Command::new(tool);
        command.env("ETCDCTL_API", "3").args(["snapshot", "restore", snapshot, data, flag("--name=")]);
        command.args([flag("--initial-cluster="), flag("--initial-advertise-peer-urls=")]);
        assert!(command.output().expect("it can be started").status.success());
        self.start();
    }

    /// Stops it where it stands: it holds its connections and answers nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// To a member that may be down.
    pub fn try_signal(&self, signal: Signal) {
        if self.child.is_some() {
            self.signal(signal);
        }
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it is up");
        kill_process(Pid::from_child(child), signal).expect("it is ours");
    }

    fn post(&self, path: &str, body: &str) -> Option<Value> {
        let mut client = Client::connect(self.client.addr).ok()?;
        let answer = client.request("POST", path, &[], body.as_bytes()).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    fn try_get(&self, key: &str) -> Option<Value> {
        self.post("/v3/kv/range", &get(key))
    }

    fn status(&self) -> Option<Value> {
        self.child.as_ref()?;
        self.post("/v3/maintenance/status", "{}")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The body that reads a key.
pub fn get(key: &str) -> String {
    json!({ "key": STANDARD.encode(key) }).to_string()
}

/// The body that reads all keys that begin with this, which ends with a slash.
pub fn below(prefix: &str) -> String {
    // Up to the character after the slash.
    let end = format!("{}0", prefix.trim_end_matches('/'));
    json!({ "key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end) }).to_string()
}

/// The body that sets one.
pub fn put(key: &str, value: &str) -> String {
    json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) }).to_string()
}

/// The value in an answer to [`get`].
pub fn value(answer: &Value) -> Option<String> {
    let bytes = STANDARD.decode(answer["kvs"][0]["value"].as_str()?).expect("base64");
    Some(String::from_utf8(bytes).expect("UTF-8"))
}
