//! Who leads, and who believes to: terms by whoever issues them, leases that are kept or not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::checker::{Issued, Term};
use super::world::{Issuer, Line, World};
use crate::dice::Dice;
use crate::process::Client;
use crate::upstream::pass_time;

/// The shortest that the embedded coordinator gives.
const TTL_MS: u64 = 1000;

/// A leader, or one who was.
pub struct Leader {
    pub token: u64,
    pub holder: u32,
    lease: Option<Lease>,
}

/// At the embedded coordinator.
struct Lease {
    candidate: Value,
    term: Term,
    renewed_at: u64,
}

/// The name by which a holder is told to the gate.
pub fn name(holder: u32) -> String {
    format!("node-{holder}")
}

fn ns(time_ms: u64) -> u64 {
    time_ms * 1_000_000
}

impl Leader {
    /// Waits until it leads; `None` when all is over.
    pub fn next(world: &World, line: &Line, dice: &mut Dice, terms: &mut Vec<Term>) -> Option<Leader> {
        while !world.is_over() {
            let number = world.holders.fetch_add(1, Ordering::SeqCst);
            let holder = u32::try_from(number).expect("not so many leaders");
            let led = match line.issuer {
                Issuer::Counter => Some(Leader { token: line.next_term(world), holder, lease: None }),
                Issuer::Etcd(prefix) => {
                    world.elect_in_etcd(line, prefix, &name(holder)).map(|token| Leader { token, holder, lease: None })
                }
                Issuer::Embedded => campaign(world, line, holder),
            };
            if let Some(leader) = led {
                terms.extend(leader.lease.iter().map(|lease| lease.term));
                return Some(leader);
            }
            pass_time(20 + dice.roll(80));
        }
        None
    }

    /// Keeps its lease, mostly; one that forgets it is deposed by time.
    pub fn keep(&mut self, world: &World, line: &Line, client: &mut Client, terms: &mut Vec<Term>) {
        let Some(lease) = &mut self.lease else { return };
        let sent = world.now();
        if sent < lease.renewed_at + ns(TTL_MS / 3) {
            return;
        }
        let body = json!({ "candidate": lease.candidate }).to_string();
        let answer = client.request("POST", &format!("/-/elections/{}/renew", line.name), &[], body.as_bytes());
        if let Ok(answer) = answer
            && answer.status == 200
            && answer.json()["token"].as_str() == Some(&*lease.term.token.to_string())
        {
            (lease.renewed_at, lease.term.until) = (sent, sent + ns(TTL_MS));
            terms.push(lease.term);
        }
    }

    /// Gives its leadership up. It may go on writing all the same.
    pub fn resign(&mut self, world: &World, line: &Line, client: &mut Client, terms: &mut [Term]) {
        let Some(lease) = self.lease.take() else { return };
        let at = world.now();
        for term in terms.iter_mut().filter(|term| term.token == lease.term.token) {
            term.until = term.until.min(at);
        }
        let body = json!({ "candidate": lease.candidate }).to_string();
        let _ = client.request("POST", &format!("/-/elections/{}/resign", line.name), &[], body.as_bytes());
    }
}

fn campaign(world: &World, line: &Line, holder: u32) -> Option<Leader> {
    let mut client = world.connect()?;
    client.give_up_after(Duration::from_secs(10));
    let path = format!("/-/elections/{}/campaign", line.name);
    let mut bid = json!({ "holder": name(holder), "ttl_ms": TTL_MS, "wait_ms": 300 });
    while !world.is_over() {
        let sent = world.now();
        let answer = client.request("POST", &path, &[], bid.to_string().as_bytes()).ok()?;
        if !matches!(answer.status, 200 | 202) {
            return None;
        }
        let said = answer.json();
        bid["candidate"] = said["candidate"].clone();
        if said["state"] == "leading" {
            let told = world.now();
            let token = said["token"].as_str()?.parse().ok()?;
            line.issued.lock().unwrap().push(Issued { token, at: sent });
            let term = Term { token, told, until: sent + ns(TTL_MS) };
            let lease = Lease { candidate: said["candidate"].clone(), term, renewed_at: sent };
            return Some(Leader { token, holder, lease: Some(lease) });
        }
    }
    None
}
