//! The gate has no file descriptor left.

use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

use crate::process::{Gate, PROGRAM, until};
use crate::upstream::hostile::Hostile;
use crate::upstream::{self, pass_time};

/// A gate that gets no more file descriptors, until this is dropped.
pub struct NoMoreFiles {
    pid: Pid,
    before: Rlimit,
}

impl NoMoreFiles {
    /// `left`: so many it still gets.
    pub fn of(gate: &Gate, left: u64) -> NoMoreFiles {
        let pid = Pid::from_raw(gate.pid().cast_signed()).expect("a process");
        // From the highest that is open: below it there may be gaps, which are filled first.
        let numbers = std::fs::read_dir(format!("/proc/{}/fd", gate.pid())).expect("it runs").flatten();
        let open: Vec<u64> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        let limit = open.len() as u64 + left;
        // It has inherited what this process may have at most.
        let now = Rlimit { current: Some(limit), maximum: getrlimit(Resource::Nofile).maximum };
        let before = prlimit(Some(pid), Resource::Nofile, now).expect("it is ours");
        NoMoreFiles { pid, before }
    }
}

impl Drop for NoMoreFiles {
    fn drop(&mut self) {
        // It may have ended meanwhile.
        let _ = prlimit(Some(self.pid), Resource::Nofile, self.before);
    }
}

#[test]
fn out_of_file_descriptors() {
    let dir = tempfile::tempdir().expect("a directory");
    let upstream = Hostile::start(dir.path());
    let config = format!(
        "[[resource]]\nname = \"shop\"\nkind = \"sqlite\"\nfile = \"shop.db\"\n\
         [[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"{}\"\nfence = \"stock/{{1}}\"\n",
        upstream.url()
    );
    let mut gate = upstream::gate(dir.path(), &config);
    let (mut client, mut admin) = (gate.client(), gate.admin());
    let write = |client: &mut crate::process::Client, token: &str, sql: &str| {
        let body = json!({"requests": [{"type": "execute", "stmt": {"sql": sql}}, {"type": "close"}]}).to_string();
        client.request("POST", "/shop/v3/pipeline", &[("fencing-token", token)], body.as_bytes()).expect("an answer")
    };
    assert_eq!(write(&mut client, "1", "CREATE TABLE t (v)").status, 200);
    let failures = |admin: &mut crate::process::Client| {
        let metrics = String::from_utf8(admin.get("/metrics").body).expect("text");
        let line = metrics.lines().find(|line| line.starts_with("fencegate_accept_failures_total "));
        line.map_or(0.0, |line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number"))
    };

    let none_left = NoMoreFiles::of(&gate, 0);
    // Whoever connects isn't heard yet, and not turned away either.
    let mut waiting = Vec::new();
    until("a connection can't be accepted", || {
        waiting.push(gate.client());
        failures(&mut admin) >= 1.0
    });
    for client in &mut waiting {
        client.send(b"GET /-/healthz HTTP/1.1\r\nhost: gate\r\n\r\n").expect("sent");
    }
    // Connections that are there go on: writes, claims, newer leaders.
    for token in ["1", "2", "3"] {
        assert_eq!(write(&mut client, token, "INSERT INTO t VALUES (1)").status, 200);
    }
    let claim = client.request("POST", "/-/fences/stock%2F7/claim", &[("fencing-token", "4")], b"").expect("an answer");
    assert_eq!(claim.status, 200, "{claim:?}");
    assert_eq!(write(&mut client, "2", "INSERT INTO t VALUES (1)").status, 412);
    // What needs a file of its own is told that it was not done.
    let put = client.request("PUT", "/stock/7/doc", &[("fencing-token", "4")], b"x").expect("an answer");
    assert_eq!((put.status, put.code().as_str(), &put.json()["applied"]), (502, "UPSTREAM_UNREACHABLE", &json!("no")));
    let begin = json!({"requests": [{"type": "execute", "stmt": {"sql": "BEGIN"}}]}).to_string();
    let begin =
        client.request("POST", "/shop/v3/pipeline", &[("fencing-token", "3")], begin.as_bytes()).expect("an answer");
    assert_eq!((begin.status, begin.code().as_str(), &begin.json()["applied"]), (503, "UNAVAILABLE", &json!("no")));
    assert!(begin.header("retry-after").is_some());
    // It doesn't spin over connections that it can't take in.
    let (used, since) = (gate.processor_time(), Instant::now());
    pass_time(1000);
    let used = gate.processor_time() - used;
    assert!(used < since.elapsed() / 4, "it used {used:?} of a processor in {:?}", since.elapsed());
    assert!(gate.is_running());

    // And recovers by itself: whoever waited is answered.
    drop(none_left);
    for client in &mut waiting {
        assert_eq!(client.read_answer().expect("the answer comes").status, 200);
    }
    assert_eq!(
        gate.client().request("PUT", "/stock/7/doc", &[("fencing-token", "4")], b"x").expect("an answer").status,
        200
    );
}

#[test]
fn with_too_few_file_descriptors_it_says_so_or_serves() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut said, mut served) = (0, 0);
    for limit in (8..200).step_by(2) {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &limit.to_string(), PROGRAM, "serve"]);
        match Gate::run(command, dir.path()) {
            // It says why, and isn't there.
            Err(why) => {
                assert!(!why.is_empty(), "with {limit} file descriptors it ended without a word");
                said += 1;
            }
            // It has what it needs for itself; what clients need it gets now.
            Ok(gate) => {
                let pid = Pid::from_raw(gate.pid().cast_signed());
                let all = Rlimit { current: Some(1024), maximum: getrlimit(Resource::Nofile).maximum };
                // Only root may give it more than it began with.
                if prlimit(pid, Resource::Nofile, all).is_ok() {
                    assert_eq!(gate.client().get("/-/healthz").status, 200, "with {limit} file descriptors");
                    assert_eq!(gate.admin().get("/healthz").status, 200, "with {limit} file descriptors");
                }
                served += 1;
            }
        }
        if served == 8 {
            break;
        }
    }
    assert!(said > 0 && served > 0, "{said} told why, {served} served");
}
