//! A member that leads the cluster is cut off from the others, while its clients still reach it.
//!
//! That takes a network of the test's own, and so root: the test starts itself again inside one. Each member runs as a user of its
//! own, so that the packets it sends can be told from the others'.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use fencegate::coordinator::{Coordinator as _, CoordinatorError, Leadership as _};
use tokio::time::timeout;

use super::super::suite::SOON;
use super::super::{bid, bid_for, election};
use super::cluster::{THREE, address_of, leader_of};
use super::open;
use crate::upstream::etcd::{Etcd, Setup};

/// Set in the process that has a network of its own, and in no other.
const INSIDE: &str = "FENCEGATE_TEST_OWN_NETWORK";
/// What it says when it comes to its end.
const DONE: &str = "cut off, and healed";
/// The users that the members run as: this one and those after it. None of them needs to exist.
const UID: u32 = 64_901;

fn own_network(arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).args(arguments);
    command
}

fn iptables(arguments: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let done = Command::new("iptables").env("PATH", path).arg("-w").args(arguments).output();
    done.is_ok_and(|done| done.status.success())
}

#[test]
fn who_leads_through_a_member_that_is_cut_off_is_replaced_and_told() {
    let can = own_network(&["env", "PATH=/usr/sbin:/sbin:/usr/bin:/bin", "iptables", "-S"]).output();
    if !can.is_ok_and(|can| can.status.success()) {
        let why = "a network of its own needs root, unshare, ip and iptables (scripts/ensure iptables)";
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: who_leads_through_a_member_that_is_cut_off_is_replaced_and_told: {why}"
        );
        return;
    }
    let program = std::env::current_exe().unwrap();
    let inside = ["--exact", "coordinator::etcd::partition::inside", "--nocapture"];
    let mut arguments = vec![program.to_str().unwrap()];
    arguments.extend(inside);
    let output = own_network(&arguments).env(INSIDE, "yes").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains(DONE), "{told}{}", String::from_utf8_lossy(&output.stderr));
}

/// The local ports that this member has opened towards others.
fn ports_of(uid: u32) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of_member = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = fields[1].rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
        port.filter(|_| fields[7] == uid.to_string()).map(|port| port.to_string())
    };
    table.lines().skip(1).filter_map(of_member).collect()
}

/// Drops all that goes between this member and the others, whoever began it.
fn cut_off(etcd: &Etcd, member: usize) {
    let uid = UID + u32::try_from(member).unwrap();
    let port = |member: usize| etcd.members[member].peer.addr.port().to_string();
    let client = etcd.members[member].client.addr.port().to_string();
    let peers: Vec<String> = (0..etcd.members.len()).map(port).collect();
    let opened: Vec<String> = ports_of(uid).into_iter().filter(|port| *port != client).collect();
    // What it sends from or to any member's port for members.
    assert!(iptables(&[
        "-A",
        "OUTPUT",
        "-p",
        "tcp",
        "-m",
        "owner",
        "--uid-owner",
        &uid.to_string(),
        "-m",
        "multiport",
        "--ports",
        &peers.join(","),
        "-j",
        "DROP",
    ]));
    // What others send to its own, and to those that it had opened.
    for port in opened.iter().chain([&peers[member]]) {
        assert!(iptables(&["-A", "OUTPUT", "-p", "tcp", "--dport", port, "-j", "DROP"]));
    }
}

/// Not a test of its own: see [`who_leads_through_a_member_that_is_cut_off_is_replaced_and_told`].
#[tokio::test]
async fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let etcd = Etcd::start(&Setup { uid: Some(UID), ..THREE });
    let (leads, others) = leader_of(&etcd);
    let orders = election("orders");
    let cut = open(&format!("{}?timeout=100ms", address_of(&etcd, &[leads])));
    let rest = open(&format!("{}?timeout=500ms", address_of(&etcd, &others)));
    let mut first = cut.campaign(&orders, &bid_for("node-a", Duration::from_secs(1))).await.unwrap();
    let mut ended = std::pin::pin!(first.ended());
    let story = async {
        cut_off(&etcd, leads);
        // While the majority has no leader itself, a candidate is told so, and comes again.
        let second = async {
            loop {
                match rest.campaign(&orders, &bid("node-b")).await {
                    Ok(second) => break second,
                    Err(CoordinatorError::Unavailable(_) | CoordinatorError::OutcomeUnknown(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let second = timeout(SOON, second).await.expect("the lease runs out");
        assert!(second.token() > first.token());
        // On the minority's side nobody is elected, renewed, or told who leads.
        let renewed = first.renew().await;
        assert!(
            matches!(renewed, Err(CoordinatorError::Unavailable(_) | CoordinatorError::OutcomeUnknown(_))),
            "{renewed:?}"
        );
        for election in [&orders, &election("jobs")] {
            assert!(cut.campaign(election, &bid("node-c")).await.is_err());
            assert!(cut.leader(election).await.is_err());
        }
        // It is up and reached, and still takes the first one for the leader.
        let mut client = Client::connect([format!("http://{}", etcd.members[leads].client.addr)], None).await.unwrap();
        let stale = client.get("orders/", Some(GetOptions::new().with_prefix().with_serializable())).await.unwrap();
        assert_eq!(stale.kvs()[0].value(), b"node-a");
        second
    };
    let mut second = tokio::select! { biased;
        () = &mut ended => panic!("nobody can have said so there"),
        second = story => second,
    };
    assert!(iptables(&["-F", "OUTPUT"]));
    timeout(SOON, ended).await.expect("now it is told");
    assert_eq!(first.renew().await, Err(CoordinatorError::Lost));
    second.renew().await.unwrap();
    let leader = cut.leader(&orders).await.unwrap().unwrap();
    assert_eq!((leader.token, leader.holder), (second.token(), bid("node-b").holder));
    assert_eq!(cut.view(&election("jobs")).await.unwrap().waiting_count, 0);
    println!("{DONE}");
}
