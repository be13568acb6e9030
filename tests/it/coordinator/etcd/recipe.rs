//! In one election with etcd's own clients.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use fencegate::coordinator::{Coordinator as _, Leadership as _};
use rustix::process::{Pid, Signal, kill_process};

use super::super::suite::{lead, until_waiting};
use super::super::{bid, election};
use super::Shared;

/// `etcdctl elect`, campaigning. It lets its leadership go when it is told to stop.
struct Ctl {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Ctl {
    fn elect(site: &Shared, election: &str, holder: &str) -> Ctl {
        let mut command = site.etcd.ctl(&["elect", &format!("{}{election}", site.prefix), holder]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Ctl { child, lines }
    }

    /// The key and the value that it prints once it leads.
    fn elected(&mut self) -> (String, String) {
        let mut line = || self.lines.next().unwrap().unwrap();
        (line(), line())
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Ctl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn etcdctl_takes_part_before_and_after_us() {
    let site = Shared::start().await;
    let orders = election("orders");
    let mut before = Ctl::elect(&site, "orders", "ctl-1");
    let (key, value) = before.elected();
    let first = site.coordinator.leader(&orders).await.unwrap().unwrap();
    assert_eq!((value.as_str(), first.holder.as_deref()), ("ctl-1", Some("ctl-1")));
    assert!(key.starts_with(&format!("{}orders/", site.prefix)), "{key}");

    let ours = lead(&site, &orders, "node-a");
    let hands_over = async {
        until_waiting(&site, &orders, 1).await;
        tokio::task::spawn_blocking(|| before.stop()).await.unwrap();
    };
    let (ours, ()) = tokio::join!(ours, hands_over);
    assert!(ours.token() > first.token);
    let told = site.etcd.told(&["get", "--prefix", &format!("{}orders/", site.prefix), "-w", "fields"]);
    assert!(
        told.contains(&format!("\"CreateRevision\" : {}\n", ours.token())),
        "the token is the create revision: {told}"
    );
    assert!(told.contains(&format!("\"Key\" : \"{}orders/{:x}\"\n", site.prefix, ours.lease_id())), "{told}");
    assert!(told.contains("\"Value\" : \"node-a\"\n"), "{told}");

    let mut after = Ctl::elect(&site, "orders", "ctl-2");
    until_waiting(&site, &orders, 1).await;
    let view = site.coordinator.view(&orders).await.unwrap();
    assert_eq!((view.leader.unwrap().token, view.waiting), (ours.token(), vec![bid("ctl-2").holder]));
    let last_token = ours.token();
    ours.resign().await.unwrap();
    assert_eq!(after.elected().1, "ctl-2");
    let last = site.coordinator.leader(&orders).await.unwrap().unwrap();
    assert!(last.token > last_token);
    assert_eq!(last.holder, bid("ctl-2").holder);
}
