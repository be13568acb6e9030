//! The servers that are measured, on one processor, and the upstream, on the other one with the load generator.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fencegate::cli::bench::clock::CpuClock;
use hyper::StatusCode;

use crate::common::{STARTS_WITHIN, comes_to, family, free_addr, listening};

#[path = "../common/hello.rs"]
mod hello;

/// Where the upstream and the load generator run.
pub const LOADING: usize = 0;
/// And where what is measured runs.
pub const MEASURED: usize = 1;

/// A server process; killed with all that it started when dropped.
pub struct Server {
    pub name: &'static str,
    pub child: Child,
    pub addr: SocketAddr,
}

impl Server {
    /// The clock of the process that does the work: the only one, or the one that it has started.
    pub fn clock(&self) -> Option<CpuClock> {
        family(self.child.id()).into_iter().next_back().and_then(CpuClock::of)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for pid in family(self.child.id()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

/// Whether a program is there.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A command on one processor.
fn on(processor: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &processor.to_string(), program]);
    command
}

fn start(name: &'static str, processor: usize, addr: SocketAddr, program: &str, args: &[&str]) -> Server {
    let child = on(processor, program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{name} can't be started with taskset: {error}"));
    let server = Server { name, child, addr };
    assert!(comes_to(STARTS_WITHIN, || TcpStream::connect(addr).is_ok()), "{name} does not listen");
    server
}

/// nginx with one worker. `http`: what stands beside the server; `server`: what it does.
pub fn nginx(name: &'static str, dir: &Path, processor: usize, http: &str, server: &str) -> Server {
    let addr = free_addr();
    let dir = dir.join(name.replace([' ', ','], "-"));
    std::fs::create_dir_all(&dir).expect("a directory");
    let at = dir.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/error.log crit;
        events {{ worker_connections 8192; }}
        http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; client_body_buffer_size 128k;
          client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
          {http} server {{ listen {addr}; {server} }} }}"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, config).expect("a file");
    let server = start(name, processor, addr, "nginx", &["-p", &at.to_string(), "-c", &file.to_string_lossy()]);
    // The worker is started after the listener.
    comes_to(Duration::from_secs(5), || family(server.child.id()).len() >= 2);
    server
}

/// nginx as a proxy, with connections to the upstream kept.
pub fn nginx_proxy(dir: &Path, upstream: SocketAddr) -> Server {
    let pool = format!("upstream u {{ server {upstream}; keepalive 128; keepalive_requests 1000000000; }}");
    let pass = "location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
    nginx("nginx", dir, MEASURED, &pool, pass)
}

/// HAProxy with one thread, likewise.
pub fn haproxy(dir: &Path, upstream: SocketAddr) -> Server {
    let addr = free_addr();
    let config = format!(
        "global\n nbthread 1\n maxconn 4000\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n \
         http-reuse always\nfrontend f\n bind {addr}\n default_backend b\nbackend b\n server s {upstream}\n"
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, config).expect("a file");
    start("HAProxy", MEASURED, addr, "haproxy", &["-db", "-f", &file.to_string_lossy()])
}

/// The gate.
pub fn fencegate(name: &'static str, dir: &Path, upstream: SocketAddr, more: &[&str]) -> Server {
    let data = dir.join(name);
    let mut command = on(MEASURED, env!("CARGO_BIN_EXE_fencegate"));
    command
        // What a refusal costs is measured soon after others were served: none is to wait for its turn.
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--limit", "refusals=1000000000"])
        .args(["--log", "warn", "--fence", "inventory", "--upstream", &format!("http://{upstream}")])
        .arg("--data-dir")
        .arg(&data)
        .args(more);
    let (child, addr) = listening(&mut command);
    Server { name, child, addr }
}

/// By this argument this program is a server that answers with a fixed status and body to whatever it is asked, and does nothing else.
const HELLO: &str = "--hello";

/// A bare server of hyper's: this program itself, run anew.
pub fn bare(name: &'static str, processor: usize, status: StatusCode) -> Server {
    let own = std::env::current_exe().expect("this program");
    let addr = free_addr();
    start(name, processor, addr, &own.to_string_lossy(), &[HELLO, &addr.to_string(), status.as_str()])
}

/// Is such a server, where the command line says so.
pub fn serve_hello() -> bool {
    let args: Vec<String> = std::env::args().collect();
    let [_, hello, addr, status, ..] = args.as_slice() else { return false };
    let is_it = hello == HELLO;
    if is_it {
        let listener = std::net::TcpListener::bind(addr).expect("a listener");
        hello::serve(listener, status.parse().expect("a status"));
    }
    is_it
}
