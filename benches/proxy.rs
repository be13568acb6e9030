//! What a proxied, fenced write costs, against nginx and HAProxy on the same work in interleaved rounds: CPU time of the proxy for each
//! request, and the 99th percentile of the latency, for small bodies and for large ones. Load generator and upstream run on one
//! processor, the proxy on another. Then what a refusal costs, against a bare hyper server and against nginx, both of which answer 412
//! by themselves; and how long a new leader's claim and first write take where nothing is in flight, beside one `fsync` of the same
//! disk. All of it takes about four minutes.
//!
//! The others do less for each request: they judge no token, and add no `Forwarded`, `X-Forwarded-*` and `Via`.
//!
//! `make bench-proxy`, or `cargo bench --bench proxy` with wrk, nginx, haproxy and taskset at hand
//! (`-- --rounds 9 --seconds 2 --connections 64`; `--body 1024`: only writes with bodies of that size, and refusals of them)
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{free_addr, median, option};

mod common;

struct Options {
    rounds: usize,
    seconds: u64,
    connections: u64,
    /// Sizes of bodies; refusals are of the first.
    bodies: Vec<u64>,
}

/// A small body, and a large one.
const BODIES: [u64; 2] = [128, 64 * 1024];

fn options() -> Options {
    Options {
        rounds: option("--rounds", 9),
        seconds: option("--seconds", 2),
        connections: option("--connections", 64),
        bodies: match option("--body", 0) {
            0 => BODIES.into(),
            one => vec![one],
        },
    }
}

/// A server process; killed with all that it started when dropped.
struct Server {
    name: &'static str,
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        for pid in family(self.child.id()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

/// A process and its children.
fn family(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
}

/// CPU time that a process and its children have used, in clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let used = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    family(pid).into_iter().filter_map(used).sum()
}

fn start(name: &'static str, processor: &str, port: u16, command: &[&str]) -> Server {
    let child = Command::new("taskset")
        .args(["-c", processor])
        .args(command)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} can't be started with taskset: {error}"));
    let server = Server { name, child, port };
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "{name} does not listen");
        std::thread::yield_now();
    }
    server
}

fn nginx(name: &'static str, dir: &Path, processor: &str, http: &str, server: &str) -> Server {
    let port = free_addr().port();
    let dir = dir.join(name.replace([' ', ','], "-"));
    std::fs::create_dir_all(&dir).expect("a directory");
    let at = dir.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/error.log crit;
        events {{ worker_connections 8192; }}
        http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; client_body_buffer_size 128k;
          client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
          {http} server {{ listen 127.0.0.1:{port}; {server} }} }}"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, config).expect("a file");
    start(name, processor, port, &["nginx", "-p", &at.to_string(), "-c", &file.to_string_lossy()])
}

fn haproxy(dir: &Path, upstream: u16) -> Server {
    let port = free_addr().port();
    let config = format!(
        "global\n nbthread 1\n maxconn 4000\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n \
         http-reuse always\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n server s 127.0.0.1:{upstream}\n"
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, config).expect("a file");
    start("haproxy", "1", port, &["haproxy", "-db", "-f", &file.to_string_lossy()])
}

fn fencegate(name: &'static str, dir: &Path, upstream: u16, more: &[&str]) -> Server {
    let data = dir.join(name);
    let mut child = Command::new("taskset")
        .args([
            "-c",
            "1",
            env!("CARGO_BIN_EXE_fencegate"),
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .args(["--log", "warn", "--fence", "inventory", "--upstream", &format!("http://127.0.0.1:{upstream}")])
        .arg("--data-dir")
        .arg(&data)
        .args(more)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the gate starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says where it listens");
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("data=")).expect("an address");
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    Server { name, child, port }
}

/// A server of hyper's that answers 412 with a fixed body to whatever it is asked, and does nothing else: this program itself, run anew.
fn hello() -> Server {
    let own = std::env::current_exe().expect("this program");
    let port = free_addr().port();
    start("hyper, answering 412", "1", port, &[&own.to_string_lossy(), HELLO, &port.to_string()])
}

const HELLO: &str = "--hello";

fn serve_hello(port: u16) {
    use hyper::{Response, StatusCode, server::conn::http1, service::service_fn};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    let serving = async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a listener");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket option");
            let service = service_fn(|_| async {
                let mut answer = Response::new(http_body_util::Full::new(bytes::Bytes::from_static(b"no")));
                *answer.status_mut() = StatusCode::PRECONDITION_FAILED;
                Ok::<_, std::convert::Infallible>(answer)
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::task::spawn_local(http1::Builder::new().serve_connection(io, service));
        }
    };
    runtime.block_on(tasks.run_until(serving))
}

/// One round against one server: CPU microseconds a request, 99th percentile in milliseconds, requests a second.
#[derive(Clone, Copy)]
struct Sample {
    cpu_us: f64,
    p99_ms: f64,
    rate: f64,
}

/// `wanted`: whether the answers are successes.
fn load(server: &Server, script: &Path, options: &Options, wanted: bool) -> Sample {
    let before = ticks(server.child.id());
    let wrk = Command::new("taskset")
        .args(["-c", "0", "wrk", "-t1", "--latency"])
        .args([format!("-c{}", options.connections), format!("-d{}s", options.seconds)])
        .arg("-s")
        .arg(script)
        .arg(format!("http://127.0.0.1:{}/items/1", server.port))
        .output()
        .expect("wrk runs");
    let used_us = (ticks(server.child.id()) - before) as f64 * 10_000.0;
    let text = String::from_utf8_lossy(&wrk.stdout).into_owned();
    let value =
        |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or("0").trim().to_owned();
    let rate: f64 = value("Requests/sec:").parse().unwrap_or(0.0);
    let requests = rate * options.seconds as f64;
    let refused = value("Non-2xx or 3xx responses:").parse().unwrap_or(0.0);
    let is_as_wanted = if wanted { refused == 0.0 } else { refused > 0.9 * requests };
    assert!(rate > 0.0 && is_as_wanted, "{}: {text}{}", server.name, String::from_utf8_lossy(&wrk.stderr));
    let p99 = value("99%");
    let digits = p99.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &p99[digits.len()..] {
        "us" => 0.001,
        "ms" => 1.0,
        _ => 1000.0,
    };
    Sample { cpu_us: used_us / requests, p99_ms: digits.parse::<f64>().unwrap_or(0.0) * factor, rate }
}

fn script(dir: &Path, name: &str, token: u64, body: u64) -> PathBuf {
    let file = dir.join(name);
    let text = format!(
        "wrk.method = 'POST'\nwrk.body = string.rep('x', {body})\nwrk.headers['Fencing-Token'] = '{token}'\n\
         wrk.headers['Content-Type'] = 'text/plain'\n"
    );
    std::fs::write(&file, text).expect("a file");
    file
}

/// Runs all servers in turn, round by round, and each second round the other way round; the first one warms up.
fn rounds(servers: &[&Server], script: &Path, options: &Options, wanted: bool) -> Vec<Vec<Sample>> {
    let mut samples: Vec<Vec<Sample>> = servers.iter().map(|_| Vec::new()).collect();
    for round in 0..=options.rounds {
        let mut order: Vec<usize> = (0..servers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for number in order {
            let sample = load(servers[number], script, options, wanted);
            if round > 0 {
                samples[number].push(sample);
            }
        }
    }
    println!("{:22} {:>10} {:>10} {:>12}", "median", "req/s", "p99 ms", "CPU us/req");
    for (server, samples) in servers.iter().zip(&samples) {
        let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
        println!("{:22} {:>10.0} {:>10.2} {:>12.2}", server.name, of(|s| s.rate), of(|s| s.p99_ms), of(|s| s.cpu_us));
    }
    let ratio = |other: usize, value: fn(&Sample) -> f64| {
        median(samples[0].iter().zip(&samples[other]).map(|(ours, theirs)| value(ours) / value(theirs)))
    };
    for (other, server) in servers.iter().enumerate().skip(1) {
        let (cpu, p99) = (ratio(other, |s| s.cpu_us), ratio(other, |s| s.p99_ms));
        let of = options.rounds;
        println!("{} over {:22} CPU {cpu:.2}, p99 {p99:.2} (medians of {of} pairs)", servers[0].name, server.name);
    }
    samples
}

/// One request on a connection of its own, and the status of its answer.
fn ask(stream: &mut BufReader<TcpStream>, head: &str) -> u16 {
    let request = format!("{head}host: gate\r\ncontent-length: 2\r\n\r\nok");
    stream.get_mut().write_all(request.as_bytes()).expect("sent");
    let (mut status, mut len) = (0, 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("an answer");
        if status == 0 {
            status = line.split_whitespace().nth(1).and_then(|status| status.parse().ok()).expect("a status");
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            len = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    stream.read_exact(&mut vec![0; len]).expect("a body");
    status
}

/// How long a new leader's claim and first write take together, in milliseconds, and one `fsync` beside each.
fn successions(gate: &Server, dir: &Path, times: u64) -> (f64, f64) {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", gate.port)).expect("it accepts"));
    stream.get_ref().set_nodelay(true).expect("a socket option");
    let mut file = std::fs::File::create(dir.join("synced")).expect("a file");
    let (mut taken, mut synced) = (Vec::new(), Vec::new());
    for token in 1000..1000 + times {
        let started = Instant::now();
        let claim = format!("POST /-/fences/inventory/claim HTTP/1.1\r\nfencing-token: {token}\r\n");
        assert_eq!(ask(&mut stream, &claim), 200);
        let write = format!("POST /items/1 HTTP/1.1\r\nfencing-token: {token}\r\n");
        assert_eq!(ask(&mut stream, &write), 200);
        taken.push(started.elapsed().as_secs_f64() * 1000.0);
        let started = Instant::now();
        file.write_all(&[0; 4096]).and_then(|()| file.sync_data()).expect("synced");
        synced.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    (median(taken.into_iter()), median(synced.into_iter()))
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, hello, port, ..] = args.as_slice()
        && hello == HELLO
    {
        return serve_hello(port.parse().expect("a port"));
    }
    let options = options();
    if ["wrk", "nginx", "haproxy", "taskset"].iter().any(|tool| Command::new(tool).arg("-v").output().is_err()) {
        println!("proxy: needs wrk, nginx, haproxy and taskset; `make bench-proxy` gets them");
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let upstream = nginx("upstream", dir.path(), "0", "", "location / { return 200 \"ok\"; }");
    let pool =
        format!("upstream u {{ server 127.0.0.1:{}; keepalive 128; keepalive_requests 1000000000; }}", upstream.port);
    let pass = "location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
    let servers = [
        fencegate("fencegate", dir.path(), upstream.port, &[]),
        nginx("nginx", dir.path(), "1", &pool, pass),
        haproxy(dir.path(), upstream.port),
        fencegate("fencegate, check off", dir.path(), upstream.port, &["--no-enforce"]),
        nginx("nginx, return 412", dir.path(), "1", "", "location / { return 412; }"),
        hello(),
    ];
    let Options { rounds: of, seconds, connections, ref bodies } = options;
    let [gate, nginx_proxy, haproxy, unchecked, refuser, hello] = &servers;
    println!("\n{of} rounds of {seconds} s, {connections} connections");
    for (number, body) in bodies.iter().enumerate() {
        println!("\nwrites with bodies of {body} bytes");
        // The check doesn't depend on the body.
        let rivals = [gate, nginx_proxy, haproxy, unchecked];
        let rivals = if number == 0 { &rivals[..] } else { &rivals[..3] };
        rounds(rivals, &script(dir.path(), "write.lua", 7, *body), &options, true);
    }
    println!("\nrefusals, of token 6 where 7 is the mark");
    rounds(&[gate, hello, refuser], &script(dir.path(), "stale.lua", 6, bodies[0]), &options, false);
    let (taken, synced) = successions(gate, dir.path(), 200);
    println!(
        "\na new leader's claim and first write: {taken:.2} ms; one fsync beside it: {synced:.2} ms (medians of 200)"
    );
}
