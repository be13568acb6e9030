//! An upstream that is known by its name: the name can't be looked up, comes back, and leads elsewhere.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use crate::gate::LONG;
use crate::process::{Answer, Client, Gate, until};

use super::names::{NAME, Names, Says};
use super::{Place, skip};

const FIRST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Says its name, on both addresses' port.
struct Service(SocketAddr);

impl Service {
    fn start(addr: SocketAddr, name: &'static str) -> Option<Service> {
        let listener = TcpListener::bind(addr).ok()?;
        let addr = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream, name));
            }
        });
        Some(Service(addr))
    }

    /// Two on one port.
    fn two() -> [Service; 2] {
        let two = || {
            let first = Service::start((FIRST, 0).into(), "first")?;
            let second = Service::start((SECOND, first.0.port()).into(), "second")?;
            Some([first, second])
        };
        (0..100).find_map(|_| two()).expect("two free ports")
    }
}

fn answer(stream: TcpStream, name: &str) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|len| len > 0) {
        if line.ends_with("\r\n\r\n") || line == "\r\n" {
            let len = name.len();
            let _ = write!(stream.get_mut(), "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n{name}");
        }
        line.clear();
    }
}

/// A gate before what is called [`NAME`].
struct World {
    names: Names,
    gate: Gate,
    _services: [Service; 2],
    _dir: tempfile::TempDir,
}

impl World {
    fn start(more: &str) -> Option<World> {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(names) = Names::start(dir.path(), Says::Address(FIRST)) else {
            skip("outside::lookups", "a name server of one's own takes root");
            return None;
        };
        let services = Service::two();
        let gate = gate(dir.path(), &names, services[0].0.port(), more);
        Some(World { names, gate, _services: services, _dir: dir })
    }

    fn write(&self, client: &mut Client) -> Answer {
        client.request("PUT", "/7/doc", &[("fencing-token", "5")], b"").expect("an answer")
    }

    fn read(&self) -> Answer {
        self.gate.client().get("/7/doc")
    }
}

fn gate(dir: &Path, names: &Names, port: u16, more: &str) -> Gate {
    let config = dir.join("gate.toml");
    let resource = format!(
        "[[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"http://{NAME}:{port}\"\nfence = \"stock/{{1}}\"\n\
         connect_time = \"1s\"\n{more}\n"
    );
    std::fs::write(&config, resource).expect("written");
    Place { resolver: Some(&names.resolver), ..Place::default() }.start(dir, &config)
}

fn assert_unreachable(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (502, "UPSTREAM_UNREACHABLE"), "{answer:?}");
    assert_eq!(answer.json()["applied"], "no");
}

#[test]
fn a_name_that_is_gone_and_back() {
    let Some(mut world) = World::start("") else { return };
    let mut kept = world.gate.client();
    assert_eq!(world.write(&mut kept).body, b"first");
    for says in [Says::NoSuchName, Says::Failure, Says::Nothing] {
        world.names.say(says);
        // What is connected goes on; who needs a new connection is told that nothing was sent.
        let busy: Vec<Answer> = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..16).map(|_| scope.spawn(|| world.read())).collect();
            readers.into_iter().map(|reader| reader.join().expect("it doesn't panic")).collect()
        });
        for answer in busy.iter().filter(|answer| answer.status != 200) {
            assert_unreachable(answer);
            let told = answer.header("proxy-status").expect("it says who it is");
            let expected = if says == Says::Nothing { "connection_timeout" } else { "dns_error" };
            assert!(told.contains(expected) || told.contains("dns_error"), "{says:?}: {told}");
        }
        world.names.say(Says::Address(FIRST));
        until("it is back", || world.read().status == 200);
    }
    assert_eq!(world.write(&mut kept).body, b"first");
    assert!(world.gate.is_running());
}

#[test]
fn a_name_server_that_says_nothing_is_asked_by_few() {
    let Some(world) = World::start("") else { return };
    world.names.say(Says::Nothing);
    let threads = || std::fs::read_dir(format!("/proc/{}/task", world.gate.pid())).expect("it runs").count();
    let before = threads();
    let started = Instant::now();
    // Each gives up in a second; the resolver goes on for longer, and must not be started anew for everybody who comes.
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..64).map(|_| scope.spawn(|| world.read())).collect();
        readers.into_iter().map(|reader| reader.join().expect("it doesn't panic")).collect()
    });
    let (asking, asked) = (threads(), world.names.asked());
    assert!(started.elapsed() < LONG, "it took {:?}", started.elapsed());
    answers.iter().for_each(assert_unreachable);
    assert!(asking <= before + 8, "{before} threads before, {asking} while nothing is said");
    assert!(asked <= 64, "{asked} questions for 64 requests at once");
    world.names.say(Says::Address(FIRST));
    until("it is back", || world.read().status == 200);
}

#[test]
fn a_name_that_leads_elsewhere_is_followed() {
    let Some(world) = World::start("name_time = \"500ms\"") else { return };
    let mut kept = world.gate.client();
    assert_eq!(world.write(&mut kept).body, b"first");
    world.names.say(Says::Address(SECOND));
    // Although the first one goes on answering on the connection that there is.
    until("it is followed", || world.write(&mut kept).body == b"second");
    assert_eq!(world.read().body, b"second");
}
