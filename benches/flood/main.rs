//! How much a flood of stale writes slows the leader's own: one deposed leader that asks again as soon as it is refused, on many
//! connections, beside a leader that writes; to a SQLite database, and to an HTTP service. Interleaved rounds with the flood and without it,
//! by a gate as it is and by one that doesn't hold refusals back (`--limit refusals`), which shows what that is for. Medians, ratios of
//! pairs, and the gate's processor time for each of the leader's writes, which other work on the machine changes least.
//!
//! Leader, flood, gate and upstream share the processors, as they would on the machine of somebody who tries: so the flood takes from the
//! leader what sending it takes, too.
//!
//! `make bench-flood`, or `cargo bench --bench flood` (`-- --rounds 7 --seconds 1 --clients 16 --flood 64`): a minute and a half
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use common::{free_addr, median, option};
use load::{Rate, Talk};

#[path = "../common/mod.rs"]
mod common;
#[path = "../writes/load.rs"]
#[allow(dead_code, reason = "it is shared")]
mod load;
#[path = "../writes/servers.rs"]
#[allow(dead_code, reason = "they are shared")]
mod servers;

/// How much longer the flood lasts than what is measured, at each end.
const MARGIN: Duration = Duration::from_millis(250);

/// Time passes: for a load that is to have begun, or to be over.
fn pause(time: Duration) {
    let (_nobody, told) = std::sync::mpsc::channel::<()>();
    let _ = told.recv_timeout(time);
}

/// Answers everything with 200, on a thread of its own.
fn upstream() -> SocketAddr {
    use hyper::{Response, server::conn::http1, service::service_fn};
    let addr = free_addr();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let serving = async {
            let listener = tokio::net::TcpListener::bind(addr).await.expect("a listener");
            tell.send(()).expect("somebody waits");
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                stream.set_nodelay(true).expect("a socket option");
                let service = service_fn(|_| async {
                    let body = http_body_util::Full::new(bytes::Bytes::from_static(b"ok"));
                    Ok::<_, std::convert::Infallible>(Response::new(body))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::task::spawn_local(http1::Builder::new().serve_connection(io, service));
            }
        };
        tokio::task::LocalSet::new().block_on(&runtime, serving)
    });
    told.recv().expect("it listens");
    addr
}

/// A small write to a service, with this token, each answered so.
fn proxied(gate: &servers::Server, token: u64, wanted: &str) -> Talk {
    let body = "x".repeat(128);
    let head =
        format!("POST /items/1 HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\ncontent-length: {}", body.len());
    let request = format!("{head}\r\n\r\n{body}").into_bytes();
    Talk { request, ..servers::through_gate(gate, token, wanted) }
}

/// One gate before a database or a service, with a leader's talk and that of the one that was deposed.
struct Subject {
    name: String,
    leader: Talk,
    stale: Talk,
    _gate: servers::Server,
    /// Without the flood, and with it.
    rates: [Vec<Rate>; 2],
}

impl Subject {
    fn sqlite(dir: &Path, name: &str, limits: &[&str]) -> Subject {
        let file = dir.join("gate.db");
        let gate = servers::gate_with(dir, &[&["--sqlite", &*file.to_string_lossy()], limits].concat(), None);
        servers::create(&gate);
        let (leader, stale) = (servers::through_gate(&gate, 7, "200"), servers::through_gate(&gate, 6, "412"));
        Subject { name: format!("SQLite, {name}"), leader, stale, _gate: gate, rates: [const { Vec::new() }; 2] }
    }

    fn http(dir: &Path, upstream: SocketAddr, name: &str, limits: &[&str]) -> Subject {
        let upstream = format!("http://{upstream}");
        let gate = servers::gate_with(dir, &[&["--upstream", &*upstream], limits].concat(), None);
        let talk = |token, wanted| proxied(&gate, token, wanted);
        let (leader, stale) = (talk(7, "200"), talk(6, "412"));
        // The mark, before anybody is stale.
        load::load(&leader, 1, Duration::ZERO);
        Subject { name: format!("HTTP, {name}"), leader, stale, _gate: gate, rates: [const { Vec::new() }; 2] }
    }

    fn round(&mut self, clients: usize, flood: usize, time: Duration, with_flood: bool) {
        let rate = std::thread::scope(|scope| {
            if with_flood {
                scope.spawn(|| load::load(&self.stale, flood, time + 2 * MARGIN));
                pause(MARGIN);
            }
            load::load(&self.leader, clients, time)
        });
        self.rates[usize::from(with_flood)].push(rate);
        pause(Duration::from_millis(50));
    }

    fn report(&self) {
        let [quiet, flooded] = &self.rates;
        let of = |rates: &[Rate], pick: fn(&Rate) -> f64| median(rates.iter().map(pick));
        let ratio = |pick: fn(&Rate) -> f64| {
            median(quiet.iter().zip(flooded).map(|(quiet, flooded)| pick(flooded) / pick(quiet)))
        };
        println!(
            "{:<28} {:>8.0}/s alone, {:>8.0}/s in the flood: ratio {:.3}; gate's processor time for each write {:.1} us, {:.1} us: ratio {:.3}",
            self.name,
            of(quiet, |rate| rate.per_s),
            of(flooded, |rate| rate.per_s),
            ratio(|rate| rate.per_s),
            of(quiet, |rate| rate.server_us),
            of(flooded, |rate| rate.server_us),
            ratio(|rate| rate.server_us),
        );
    }
}

fn main() {
    let (rounds, clients, flood) = (option("--rounds", 7), option("--clients", 16), option("--flood", 64));
    let time = Duration::from_secs_f64(option("--seconds", 1.0));
    // Beside the build, not in /tmp, which may be memory.
    let dirs = [(); 4].map(|()| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"));
    let upstream = upstream();
    let (usual, lifted): (&[&str], &[&str]) = (&[], &["--limit", "refusals=1000000000"]);
    let mut subjects = [
        Subject::sqlite(dirs[0].path(), "as it is", usual),
        Subject::http(dirs[1].path(), upstream, "as it is", usual),
        Subject::sqlite(dirs[2].path(), "not held back", lifted),
        Subject::http(dirs[3].path(), upstream, "not held back", lifted),
    ];
    println!("{rounds} rounds of {time:?}; a leader with {clients} connections, a flood of stale writes on {flood}");
    for round in 0..=rounds {
        for subject in &mut subjects {
            // Each second time the other way round; the first round warms up.
            for with_flood in [round % 2 == 1, round % 2 == 0] {
                subject.round(clients, flood, time, with_flood);
            }
            if round == 0 {
                subject.rates.iter_mut().for_each(Vec::clear);
            }
        }
    }
    subjects.iter().for_each(Subject::report);
}
