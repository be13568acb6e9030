//! The reverse proxy, between clients that show every byte and upstreams that do what a test tells them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fencegate::fence::drain::{OnUnknown, Policy};
use fencegate::resource::http::fences::{Fences, Scope};
use fencegate::resource::http::{Http, Limits, Options, Protocol, Rules, Template, Upstream};
use fencegate::resource::{FenceInfo, Resource};
use fencegate::server::{Guard, Mount, Server, Setup};

use crate::process::{Answer, Client};
use crate::upstream::pass_time;

mod bodies;
mod forward;
mod inflight;
mod peers;
mod refusals;
mod replaced;
mod upgrade;

/// Longer than anything here takes unless it hangs.
pub const LONG: Duration = Duration::from_secs(60);

/// What a test can choose of a gate.
pub struct Plan {
    pub upstream: String,
    pub protocol: Protocol,
    pub ca: Option<std::path::PathBuf>,
    pub mount: &'static str,
    pub fence: &'static str,
    pub lower: bool,
    pub reads: Vec<String>,
    pub writes: Vec<String>,
    pub limits: Limits,
    pub policy: Policy,
}

impl Plan {
    pub fn to(upstream: impl Into<String>) -> Plan {
        Plan {
            upstream: upstream.into(),
            protocol: Protocol::Auto,
            ca: None,
            mount: "/",
            fence: "stock",
            lower: false,
            reads: Vec::new(),
            writes: Vec::new(),
            limits: Limits::default(),
            policy: Policy { drain_ms: 5_000, settle_ms: 60_000, on_unknown: OnUnknown::Wait, enforce: true },
        }
    }

    pub fn raw(upstream: &Raw) -> Plan {
        Plan::to(format!("http://{}", upstream.addr))
    }

    pub fn start(&self) -> Gate {
        Gate::start(self)
    }
}

/// A gate in this process, with one HTTP resource. It goes on until the process ends.
pub struct Gate {
    pub http: Arc<Http>,
    pub data: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Gate {
    fn start(plan: &Plan) -> Gate {
        let dir = tempfile::tempdir().unwrap();
        let template = Template::parse_with(plan.fence, plan.lower).unwrap();
        let owner = template.clone();
        let owns = Box::new(move |name: &str| owner.owns(name));
        let fences =
            Fences::open(dir.path(), vec![Scope { resource: "stock".into(), policy: plan.policy, owns, trust: None }])
                .unwrap();
        let options = Options {
            name: "stock".into(),
            mount: plan.mount.into(),
            upstream: Upstream::parse(&plan.upstream, plan.protocol, plan.ca.as_deref()).unwrap(),
            fence: template,
            rules: Rules::parse(&plan.reads, &plan.writes).unwrap(),
            limits: plan.limits,
            fences,
            scope: 0,
            enforce: plan.policy.enforce,
        };
        let http = Arc::new(Http::open(options).unwrap());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::start(Setup {
            listen: any,
            admin: any,
            admin_hosts: Vec::new(),
            resources: vec![Mount { path: plan.mount.into(), resource: Arc::<Http>::clone(&http) }],
            coordinator: None,
            guard: Guard::default(),
            connections: 1000,
            admin_connections: 100,
            header_time: LONG,
            send_time: LONG,
            refusals: 1_000_000,
            drain: Duration::from_secs(1),
            threads: 1,
        })
        .unwrap();
        let data = server.data_addr();
        std::thread::spawn(move || server.run());
        Gate { http, data, _dir: dir }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.data).unwrap()
    }

    pub fn info(&self, fence: &str) -> FenceInfo {
        self.http.fence(fence).unwrap()
    }

    /// Waits until a fence is in some state.
    pub fn until(&self, fence: &str, is: impl Fn(&FenceInfo) -> bool) -> FenceInfo {
        let started = Instant::now();
        loop {
            let info = self.info(fence);
            if is(&info) {
                return info;
            }
            assert!(started.elapsed() < LONG, "it stays {info:?}");
            pass_time(1);
        }
    }

    /// A fence on which nothing is in flight and nothing is unknown.
    pub fn until_known(&self, fence: &str) {
        let info = self.until(fence, |info| info.in_flight == 0);
        assert_eq!(info.quarantine, None, "its end is known");
    }

    /// A fence on which nothing is in flight, and a write ended that nobody knows the end of.
    pub fn until_unknown(&self, fence: &str) {
        let info = self.until(fence, |info| info.in_flight == 0);
        assert!(info.quarantine.is_some(), "its end isn't known");
    }
}

/// An upstream that does nothing by itself.
pub struct Raw {
    listener: TcpListener,
    pub addr: SocketAddr,
}

impl Raw {
    pub fn start() -> Raw {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        Raw { listener, addr }
    }

    /// The next connection of the gate's.
    pub fn accept(&self) -> Peer {
        self.listener.set_nonblocking(false).unwrap();
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Peer { stream: BufReader::new(stream) }
    }

    /// Whether the gate has made a connection that nobody has accepted.
    pub fn was_asked(&self) -> bool {
        self.listener.set_nonblocking(true).unwrap();
        self.listener.accept().is_ok()
    }
}

/// One connection between the gate and a raw upstream.
pub struct Peer {
    pub stream: BufReader<TcpStream>,
}

impl Peer {
    /// Reads the head of a request.
    pub fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.stream.read_line(&mut head).unwrap() > 0, "it ended after {head:?}");
        }
        head
    }

    /// Reads so many bytes.
    pub fn take(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Reads up to this text.
    pub fn take_until(&mut self, text: &str) -> String {
        let mut read = String::new();
        while !read.contains(text) {
            assert!(self.stream.read_line(&mut read).unwrap() > 0, "it ended after {read:?}");
        }
        read
    }

    pub fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Answers with a short body.
    pub fn answer(&mut self, status: &str, body: &str) {
        self.send(&format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    }

    /// Reads to the end, whatever comes. `Err`: it was a reset.
    pub fn end(&mut self) -> Result<Vec<u8>, std::io::Error> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).map(|_| rest)
    }

    /// It was cut off with a reset.
    pub fn was_cut(&mut self) {
        let error = self.end().expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// The head of a write with this token; a body of `len` bytes is to follow.
pub fn put(path: &str, token: u64, len: usize) -> Vec<u8> {
    format!("PUT {path} HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\ncontent-length: {len}\r\n\r\n").into_bytes()
}

/// The value of a header in a head.
pub fn header<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// Says what a problem answer says.
pub fn problem(answer: &Answer) -> (u16, String, String) {
    let json = answer.json();
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("applied"))
}
