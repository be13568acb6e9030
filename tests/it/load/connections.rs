//! Connections: their number, what gives way, what stays reachable.

use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::process::{Answer, Client, Gate, until};
use crate::upstream::pass_time;

use super::{gate, metric, status_kib};

const HALF: &[u8] = b"POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\nfencing-tok";

/// Asks on new connections until one is served, and says how many were turned away.
fn served(gate: &Gate, mut ask: impl FnMut(&mut Client) -> std::io::Result<Answer>) -> (Client, usize) {
    let mut turned_away = 0;
    loop {
        let mut client = gate.client();
        match ask(&mut client) {
            Ok(answer) if answer.status == 503 => {
                let status = answer.header("proxy-status").unwrap_or_default();
                assert!(status.contains("OVERLOADED"), "{answer:?}");
                turned_away += 1;
            }
            Ok(answer) => {
                assert_eq!(answer.status, 200, "{answer:?}");
                return (client, turned_away);
            }
            // It was told, but closed before it had said all.
            Err(_) => turned_away += 1,
        }
        pass_time(1);
    }
}

#[test]
fn half_requests_and_idle_connections_give_way_to_a_leader() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "connections = 6\nheader_time = \"10m\"\n");
    let mut leader = gate.client();
    assert_eq!(leader.sql(Some("7"), &["CREATE TABLE t (v)"]).status, 200);
    // One has a request in work for as long as this takes; the others hold all the rest of the places.
    lead(&gate);
    let busy = candidate(&gate, "second");
    until("it waits", || waiting(&gate) == 1);
    until("those who have their answer are gone", || connections(&gate) == 2);
    let mut holders: Vec<Client> = (0..4)
        .map(|number| {
            let mut client = gate.client();
            if number % 2 == 0 {
                client.send(HALF).expect("sent");
            } else {
                // At once, or after a request.
                let _ = client.request("GET", "/-/healthz", &[], b"");
            }
            client
        })
        .collect();
    until("all places are taken", || connections(&gate) == 6);
    // A new leader gets a place: as soon as one has waited for a second, and no matter that all are taken.
    let claim = |client: &mut Client| client.request("POST", "/-/fences/app/claim", &[("fencing-token", "8")], b"");
    let (mut next, _) = served(&gate, claim);
    assert_eq!(next.sql(Some("8"), &["INSERT INTO t VALUES (1)"]).status, 200);
    assert!(metric(&gate, "fencegate_connections_closed_total{listener=\"data\",why=\"needed\"}") >= 1);
    assert!(!busy.is_answered(), "what has a request in work stays");
    assert_eq!(gate.admin().get("/healthz").status, 200);
    holders.clear();
}

/// Somebody leads the election `e`, for longer than a test takes.
fn lead(gate: &Gate) {
    let bid = br#"{"holder":"first","ttl_ms":600000}"#;
    assert_eq!(gate.client().request("POST", "/-/elections/e/campaign", &[], bid).expect("an answer").status, 200);
}

/// A connection with a request in work: it waits to be elected.
fn candidate(gate: &Gate, name: &str) -> Client {
    let mut client = gate.client();
    let bid = format!("{{\"holder\":\"{name}\",\"wait_ms\":60000}}");
    let head = format!("POST /-/elections/e/campaign HTTP/1.1\r\nhost: gate\r\ncontent-length: {}\r\n\r\n", bid.len());
    // Where there is no place for it, it is told so, or finds the connection closed.
    let _ = client.send((head + &bid).as_bytes());
    client
}

/// How many places are taken.
fn connections(gate: &Gate) -> u64 {
    metric(gate, "fencegate_connections{listener=\"data\"}")
}

/// How many wait in the election.
fn waiting(gate: &Gate) -> u64 {
    // On a connection that isn't there afterwards.
    gate.client().get("/-/elections/e").json()["candidates"].as_u64().unwrap_or(0)
}

#[test]
fn where_all_have_something_to_do_the_next_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "connections = 3\n");
    lead(&gate);
    until("it has its answer and is gone", || connections(&gate) == 0);
    let busy: Vec<Client> = (0..3).map(|number| candidate(&gate, &format!("candidate-{number}"))).collect();
    until("all are taken", || connections(&gate) == 3);
    for _ in 0..20 {
        let mut late = gate.client();
        // Also one that sends much before it reads: the answer isn't destroyed.
        let _ = late.send(
            &[b"POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\ncontent-length: 5000\r\n\r\n".as_slice(), &[b'x'; 5000]]
                .concat(),
        );
        let answer = late.read_answer().expect("it is told");
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert!(answer.header("proxy-status").is_some_and(|status| status.contains("OVERLOADED")));
    }
    assert!(metric(&gate, "fencegate_connections_turned_away_total{listener=\"data\"}") >= 20);
    assert_eq!(gate.admin().get("/readyz").status, 200);
    drop(busy);
    let (_, _) = served(&gate, |client| client.request("GET", "/-/healthz", &[], b""));
}

#[test]
fn who_has_few_file_descriptors_takes_few_connections_and_stays_reachable() {
    let dir = tempfile::tempdir().expect("a directory");
    // Enough for itself, the admin listener, a database with some transactions, and some sixty clients.
    let limits = "admin_connections = 16\ntransactions = 4\nreaders = 2\nheader_time = \"10m\"\n";
    let config = super::config(dir.path(), limits);
    let gate = Gate::try_start_with_files(dir.path(), &["--config", &config], 240).expect("it starts");
    let mut leader = gate.client();
    assert_eq!(leader.sql(Some("7"), &["CREATE TABLE t (v)"]).status, 200);
    lead(&gate);
    let mut clients = Vec::new();
    // Those who are turned away are told so; nobody hangs for want of a descriptor.
    let mut turned_away = 0;
    while turned_away < 10 {
        clients.push(candidate(&gate, &format!("candidate-{}", clients.len())));
        assert!(clients.len() < 400, "there are only 240 descriptors");
        turned_away = metric(&gate, "fencegate_connections_turned_away_total{listener=\"data\"}");
    }
    let is_open = |begin: &str| {
        let mut admin = gate.admin();
        admin.get(begin).status == 200
    };
    assert!(is_open("/healthz") && is_open("/v1/fences/app"));
    // The database opens what it needs, too.
    for _ in 0..4 {
        let begin = serde_json::json!([{ "type": "execute", "stmt": { "sql": "BEGIN" } }]);
        let answer = leader.pipeline(None, None, &begin).expect("an answer");
        assert_eq!(answer.json()["results"][0]["type"], "ok", "{answer:?}");
    }
    assert_eq!(leader.sql(Some("7"), &["INSERT INTO t VALUES (1)"]).status, 200);
}

/// So many connections at once in this process, and the gate's ends of them in another.
const IDLE: usize = 5000;

#[test]
fn thousands_of_idle_connections() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|limit| limit < 2 * IDLE as u64) {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the limit can be raised");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "header_time = \"10m\"\n");
    let mut leader = gate.client();
    assert_eq!(leader.sql(Some("7"), &["CREATE TABLE t (v)"]).status, 200);
    let before = status_kib(gate.pid(), "VmRSS");
    let mut idle: Vec<TcpStream> = Vec::with_capacity(IDLE);
    for number in 0..IDLE {
        idle.push(TcpStream::connect(gate.data).expect("it is accepted"));
        // Half of them have asked once.
        if number % 2 == 0 {
            let mut client = Client::over(idle[number].try_clone().expect("a socket can be shared"));
            assert_eq!(client.get("/-/healthz").status, 200);
        }
        if number % 500 == 0 {
            assert_eq!(leader.sql(Some("7"), &["INSERT INTO t VALUES (1)"]).status, 200);
        }
    }
    until("all are there", || connections(&gate) > IDLE as u64);
    let kib = (status_kib(gate.pid(), "VmRSS").saturating_sub(before)) as f64 / IDLE as f64;
    println!("{kib:.1} KiB for each idle connection");
    assert!(kib < 40.0, "{kib:.1} KiB for each idle connection");
    assert_eq!(leader.sql(Some("7"), &["INSERT INTO t VALUES (1)"]).status, 200);
    assert_eq!(gate.client().sql(Some("8"), &["INSERT INTO t VALUES (1)"]).header("fencing-verdict"), Some("advanced"));
}

#[test]
fn a_flood_on_all_connections_keeps_no_new_leader_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "connections = 20\nrefusals = 5\nbody_time = \"10m\"\n");
    assert_eq!(gate.client().sql(Some("7"), &["CREATE TABLE t (v)"]).status, 200);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Stale writes, one after the other, on more connections than there may be; each as soon as it can.
        for _ in 0..30 {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let Ok(mut client) = Client::connect(gate.data) else { continue };
                    while client
                        .try_sql(Some("6"), &["INSERT INTO t VALUES (6)"])
                        .is_ok_and(|answer| answer.status == 412)
                    {
                        if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                    }
                }
            });
        }
        until("they have all places", || connections(&gate) >= 18);
        served(&gate, |client| client.try_sql(Some("8"), &["INSERT INTO t VALUES (8)"]));
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    until("they are gone", || connections(&gate) == 0);
    let rows = gate.client().sql(None, &["SELECT min(v), max(v) FROM t"]).json();
    assert_eq!(rows["results"][0]["response"]["result"]["rows"][0][0]["value"], "8");
}

#[test]
fn bodies_that_do_not_come_give_way_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "connections = 3\nbody_time = \"10m\"\n");
    let head = b"POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\ncontent-length: 1000\r\n\r\n{";
    let mut slow: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = gate.client();
            client.send(head).expect("sent");
            client
        })
        .collect();
    let (_leader, _) = served(&gate, |client| client.request("GET", "/-/healthz", &[], b""));
    until("one is told", || slow.iter().any(Client::is_answered));
    let answers = slow.iter_mut().filter(|client| client.is_answered()).map(|client| client.read_answer());
    let codes: Vec<String> = answers.map(|answer| answer.expect("an answer").code()).collect();
    assert!(!codes.is_empty() && codes.iter().all(|code| code == "OVERLOADED"), "{codes:?}");
}
