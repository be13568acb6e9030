//! A newer token takes the fence while a write is in flight.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use fencegate::fence::drain::{OnUnknown, Policy};

use super::{LONG, Plan, Raw, problem, put};
use crate::upstream::pass_time;

const DRAIN: Duration = Duration::from_millis(300);

fn policy(on_unknown: OnUnknown) -> Policy {
    Policy { drain_ms: 300, settle_ms: 60_000, on_unknown, enforce: true }
}

fn plan(upstream: &Raw, on_unknown: OnUnknown) -> Plan {
    Plan { policy: policy(on_unknown), ..Plan::raw(upstream) }
}

const CLAIM: &[u8] =
    b"POST /-/fences/stock/claim HTTP/1.1\r\nhost: gate\r\nfencing-token: 8\r\ncontent-length: 0\r\n\r\n";

#[test]
fn one_that_finishes_in_time_lets_the_next_one_through() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let (mut old, mut new) = (gate.client(), gate.client());
    old.send(&put("/a", 7, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    new.send(&put("/a", 8, 0)).unwrap();
    gate.until("stock", |info| info.highest.map(|token| token.get()) == Some(8));
    assert!(!upstream.was_asked(), "the newer write waits for the older one");
    assert_eq!(gate.client().request("PUT", "/a", &[("fencing-token", "7")], b"").unwrap().status, 412);
    peer.answer("200 OK", "old");
    assert_eq!(old.read_answer().unwrap().body, b"old");
    peer.head();
    peer.answer("200 OK", "new");
    let answer = new.read_answer().unwrap();
    assert_eq!((&*answer.body, answer.header("fencing-verdict")), (&b"new"[..], Some("advanced")));
    gate.until_known("stock");
}

#[test]
fn one_that_does_not_is_cut_off() {
    let upstream = Raw::start();
    let gate = plan(&upstream, OnUnknown::Wait).start();
    let (mut old, mut new) = (gate.client(), gate.client());
    old.send(&put("/a", 7, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    let started = Instant::now();
    new.send(CLAIM).unwrap();
    let answer = old.read_answer().unwrap();
    assert_eq!(problem(&answer), (504, "OUTCOME_UNKNOWN".into(), "unknown".into()));
    assert!(started.elapsed() >= DRAIN);
    peer.was_cut();
    let refused = new.read_answer().unwrap();
    assert_eq!(problem(&refused), (503, "QUARANTINED".into(), "no".into()));
    assert!(refused.header("retry-after").is_some());
    gate.until_unknown("stock");
}

#[test]
fn who_proceeds_does_not_wait_longer_than_the_drain() {
    let upstream = Raw::start();
    let gate = plan(&upstream, OnUnknown::Proceed).start();
    let (mut old, mut new) = (gate.client(), gate.client());
    // A body that comes in drops, for as long as anybody lets it.
    old.send(&put("/a", 7, 1_000_000)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    let started = Instant::now();
    new.send(CLAIM).unwrap();
    while old.send(b"x").is_ok() && started.elapsed() < LONG {
        if new.is_answered() {
            break;
        }
        pass_time(1);
    }
    assert_eq!(new.read_answer().unwrap().status, 200);
    let took = started.elapsed();
    assert!(took >= DRAIN && took < DRAIN + Duration::from_secs(5), "{took:?}");
    let mut rest = Vec::new();
    let error = peer.stream.read_to_end(&mut rest).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(old.read_answer().unwrap().status, 504);
}

#[test]
fn one_whose_client_has_gone_is_cut_off_all_the_same() {
    let upstream = Raw::start();
    let gate = plan(&upstream, OnUnknown::Proceed).start();
    let mut old = gate.client();
    old.send(&put("/a", 7, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    drop(old);
    let mut new = gate.client();
    new.send(CLAIM).unwrap();
    assert_eq!(new.read_answer().unwrap().status, 200);
    peer.was_cut();
}

#[test]
fn a_client_that_does_not_read_its_answer_holds_up_nobody() {
    let upstream = Raw::start();
    let mut plan = plan(&upstream, OnUnknown::Wait);
    // So long that the answer can be read in it on a busy machine, too.
    plan.policy.drain_ms = 60_000;
    let gate = plan.start();
    let mut old = gate.client();
    old.send(&put("/a", 7, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    // More than all buffers on the way can hold.
    let len = 64 * 1024 * 1024;
    let sending = std::thread::spawn(move || {
        peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n"));
        let piece = vec![b'x'; 1024 * 1024];
        for _ in 0..64 {
            peer.stream.get_mut().write_all(&piece).unwrap();
        }
        peer
    });
    old.read_until("\r\n\r\n");
    let mut new = gate.client();
    new.send(CLAIM).unwrap();
    // The rest of the answer is read without it, so that the end is known.
    let answer = new.read_answer().unwrap();
    assert_eq!((answer.status, answer.header("fencing-verdict")), (200, Some("advanced")));
    sending.join().unwrap();
    gate.until_known("stock");
    drop(old);
}

#[test]
fn an_answer_that_hangs_in_the_middle_is_cut_off() {
    let upstream = Raw::start();
    let gate = plan(&upstream, OnUnknown::Wait).start();
    let (mut old, mut new) = (gate.client(), gate.client());
    old.send(&put("/a", 7, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    old.read_until("abc");
    new.send(CLAIM).unwrap();
    assert_eq!(new.read_answer().unwrap().code(), "QUARANTINED");
    peer.was_cut();
    assert!(!old.read_until_end().contains("0\r\n\r\n"));
    gate.until_unknown("stock");
}
