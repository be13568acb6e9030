//! The load generator: one thread, `epoll`, and for each request one read and one write. It is the same for every server, since it
//! takes processor time from all of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// What a server is asked, and how it answers.
pub struct Talk {
    pub addr: SocketAddr,
    /// The server's process.
    pub pid: u32,
    /// Said first on every connection, each answered before the next.
    pub hello: Vec<Vec<u8>>,
    pub request: Vec<u8>,
    /// Where the request has its number, in four bytes, if it has one: 3, and then two more each time.
    pub number_at: &'static [usize],
    /// What an answer says.
    pub wanted: Vec<u8>,
    /// Where an answer ends, as far as that is known.
    pub len: fn(&[u8]) -> Option<usize>,
}

/// What was measured.
#[derive(Clone, Copy)]
pub struct Rate {
    /// Answers a second.
    pub per_s: f64,
    /// Processor time for each: the load generator's, in microseconds.
    pub load_us: f64,
    /// The server's, likewise.
    pub server_us: f64,
}

impl Rate {
    /// As `scripts/peers` reads it.
    pub fn json(&self) -> Value {
        json!({ "per_second": self.per_s, "cpu_us": self.server_us, "generator_us": self.load_us })
    }
}

struct Conn {
    stream: TcpStream,
    /// What there is of an answer.
    answer: Vec<u8>,
    request: Vec<u8>,
    number: u32,
}

/// Processor time of this thread, in seconds.
fn own_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Processor time of a process and those it has started, in seconds, to a hundredth.
fn cpu_of(pid: u32) -> f64 {
    let of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        ticks.sum::<f64>() / 100.0
    };
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    of(pid) + children.split_whitespace().filter_map(|child| child.parse().ok()).map(of).sum::<f64>()
}

/// One request and its answer, waiting for it.
pub fn ask(stream: &mut TcpStream, request: &[u8], len: fn(&[u8]) -> Option<usize>) -> Vec<u8> {
    stream.write_all(request).expect("sent");
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while len(&answer).is_none_or(|len| answer.len() < len) {
        let got = stream.read(&mut piece).expect("an answer");
        assert!(got > 0, "the server closed the connection");
        answer.extend_from_slice(&piece[..got]);
    }
    answer
}

impl Conn {
    fn open(talk: &Talk) -> Conn {
        let mut stream = TcpStream::connect(talk.addr).expect("it accepts");
        stream.set_nodelay(true).expect("a socket option");
        for hello in &talk.hello {
            ask(&mut stream, hello, talk.len);
        }
        stream.set_nonblocking(true).expect("a socket option");
        Conn { stream, answer: Vec::with_capacity(4096), request: talk.request.clone(), number: 1 }
    }

    fn send(&mut self, talk: &Talk) {
        self.number += 2;
        for at in talk.number_at {
            self.request[*at..*at + 4].copy_from_slice(&self.number.to_be_bytes());
        }
        let sent = self.stream.write(&self.request).expect("sent");
        assert_eq!(sent, self.request.len(), "a request fits into a socket");
    }

    /// Reads what is there; true where that completes an answer.
    fn receive(&mut self, talk: &Talk, piece: &mut [u8]) -> bool {
        let got = match self.stream.read(piece) {
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("no answer: {error}"),
        };
        assert!(got > 0, "the server closed the connection");
        let end = |answer: &[u8]| (talk.len)(answer).filter(|len| answer.len() >= *len);
        let check = |answer: &[u8]| {
            let is_it = memchr::memmem::find(answer, &talk.wanted).is_some();
            assert!(is_it, "{}", String::from_utf8_lossy(answer));
        };
        // Mostly it comes in one piece, and is looked at where it is.
        if self.answer.is_empty() && end(&piece[..got]) == Some(got) {
            check(&piece[..got]);
            return true;
        }
        self.answer.extend_from_slice(&piece[..got]);
        let Some(end) = end(&self.answer) else { return false };
        check(&self.answer[..end]);
        self.answer.drain(..end);
        true
    }
}

/// Asks on this many connections for as long as `time`, the next as soon as the last is answered.
pub fn load(talk: &Talk, clients: usize, time: Duration) -> Rate {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    let mut conns: Vec<Conn> = (0..clients).map(|_| Conn::open(talk)).collect();
    for (number, conn) in conns.iter().enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, &conn.stream, data, epoll::EventFlags::IN).expect("watched");
    }
    let (mut events, mut piece) = (Vec::with_capacity(clients), vec![0; 64 * 1024]);
    let (server_before, own_before, started) = (cpu_of(talk.pid), own_cpu(), Instant::now());
    conns.iter_mut().for_each(|conn| conn.send(talk));
    let (mut count, mut waiting) = (0_u64, clients);
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    while waiting > 0 {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&second)).expect("events");
        let is_over = started.elapsed() >= time;
        for event in &events {
            let conn = &mut conns[usize::try_from(event.data.u64()).expect("a connection's number")];
            if !conn.receive(talk, &mut piece) {
                continue;
            }
            count += 1;
            if is_over { waiting -= 1 } else { conn.send(talk) }
        }
    }
    let each = |seconds: f64| seconds * 1e6 / count as f64;
    let per_s = count as f64 / started.elapsed().as_secs_f64();
    Rate { per_s, load_us: each(own_cpu() - own_before), server_us: each(cpu_of(talk.pid) - server_before) }
}
