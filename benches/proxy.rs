//! What a proxied, fenced write costs, against nginx and HAProxy on the same work in interleaved rounds: CPU time of the proxy for each
//! request, and the 99th percentile of the latency. Load generator and upstream run on one processor, the proxy on another.
//!
//! `make bench-proxy`, or `cargo bench --bench proxy` with wrk, nginx, haproxy and taskset at hand
//! (`-- --rounds 9 --seconds 3 --connections 64 --body 128`)
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Options {
    rounds: usize,
    seconds: u64,
    connections: u64,
    body: u64,
}

fn options() -> Options {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    Options {
        rounds: usize::try_from(number("--rounds", 7)).expect("a small number"),
        seconds: number("--seconds", 2),
        connections: number("--connections", 64),
        body: number("--body", 128),
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

/// A port that was free a moment ago.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
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
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "{name} does not listen");
        std::thread::yield_now();
    }
    server
}

fn nginx(name: &'static str, dir: &Path, processor: &str, http: &str, server: &str) -> Server {
    let port = port();
    let dir = dir.join(name);
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
    let port = port();
    let config = format!(
        "global\n nbthread 1\n maxconn 20000\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n \
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

/// One round against one server: CPU microseconds a request, 99th percentile in milliseconds, requests a second.
#[derive(Clone, Copy)]
struct Sample {
    cpu_us: f64,
    p99_ms: f64,
    rate: f64,
}

fn load(server: &Server, script: &Path, options: &Options) -> Sample {
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
    assert!(rate > 0.0 && !text.contains("Non-2xx"), "{}: {text}{}", server.name, String::from_utf8_lossy(&wrk.stderr));
    let p99 = value("99%");
    let digits = p99.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &p99[digits.len()..] {
        "us" => 0.001,
        "ms" => 1.0,
        _ => 1000.0,
    };
    let requests = rate * options.seconds as f64;
    Sample { cpu_us: used_us / requests, p99_ms: digits.parse::<f64>().unwrap_or(0.0) * factor, rate }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
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
    ];
    let script = dir.path().join("write.lua");
    let mut file = std::fs::File::create(&script).expect("a file");
    writeln!(
        file,
        "wrk.method = 'POST'\nwrk.body = string.rep('x', {})\nwrk.headers['Fencing-Token'] = '7'\nwrk.headers['Content-Type'] = 'text/plain'",
        options.body
    )
    .expect("written");
    let Options { rounds, seconds, connections, body } = options;
    println!("{rounds} rounds of {seconds} s, {connections} connections, bodies of {body} bytes");
    let mut samples: Vec<Vec<Sample>> = servers.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for (server, samples) in servers.iter().zip(&mut samples) {
            let sample = load(server, &script, &options);
            // The first round warms up.
            if round > 0 {
                samples.push(sample);
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
        println!(
            "fencegate over {:22} CPU {:.2}, p99 {:.2} (medians of {rounds} pairs)",
            server.name,
            ratio(other, |s| s.cpu_us),
            ratio(other, |s| s.p99_ms)
        );
    }
}
