//! A name server that knows one thing, and says it, or doesn't.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What it says of every name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Here it is.
    Address(Ipv4Addr),
    /// There is no such name.
    NoSuchName,
    /// It can't tell.
    Failure,
    /// Nothing.
    Nothing,
}

struct State {
    says: Mutex<Says>,
    asked: AtomicUsize,
    is_over: AtomicBool,
}

/// A name server on an address of its own, and the file that names it.
pub struct Names {
    state: Arc<State>,
    pub resolver: PathBuf,
}

/// Where upstreams are that are looked up here.
pub const NAME: &str = "upstream.fencegate.test";

impl Names {
    /// `None` where only root may do this, and isn't here: port 53, and a mount.
    pub fn start(dir: &Path, says: Says) -> Option<Names> {
        let may_mount = Command::new("unshare").args(["--mount", "true"]).output();
        if !may_mount.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let id = std::process::id().to_be_bytes();
        // An address of this test's own: the port is the same for all.
        let (socket, addr) = (0..=255).find_map(|last| {
            let addr = Ipv4Addr::new(127, 53 + id[2] % 64, id[3], last);
            UdpSocket::bind(SocketAddr::from((addr, 53))).ok().map(|socket| (socket, addr))
        })?;
        let resolver = dir.join("resolv.conf");
        std::fs::write(&resolver, format!("nameserver {addr}\noptions timeout:1 attempts:2\n")).expect("written");
        let state = State { says: Mutex::new(says), asked: AtomicUsize::new(0), is_over: AtomicBool::new(false) };
        let state = Arc::new(state);
        let own = Arc::clone(&state);
        std::thread::spawn(move || serve(&socket, &own));
        Some(Names { state, resolver })
    }

    pub fn say(&self, says: Says) {
        *self.state.says.lock().unwrap() = says;
    }

    /// How many questions have come.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
    }
}

fn serve(socket: &UdpSocket, state: &State) {
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("an option of sockets");
    let mut message = [0; 512];
    while !state.is_over.load(Ordering::SeqCst) {
        let Ok((len, from)) = socket.recv_from(&mut message) else { continue };
        state.asked.fetch_add(1, Ordering::SeqCst);
        let says = *state.says.lock().unwrap();
        if let Some(answer) = answer(&message[..len], says) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// RFC 1035, section 4.1: a header of twelve bytes, the question, the answer.
fn answer(question: &[u8], says: Says) -> Option<Vec<u8>> {
    let name = question.get(12..)?;
    let end = 12 + name.iter().position(|byte| *byte == 0)? + 5;
    let asks_for_ipv4 = question.get(end - 4..end)? == [0, 1, 0, 1];
    let (code, address) = match says {
        Says::Address(address) => (0, Some(address).filter(|_| asks_for_ipv4)),
        Says::NoSuchName => (3, None),
        Says::Failure => (2, None),
        Says::Nothing => return None,
    };
    let mut answer = question[..2].to_vec();
    // An answer, recursion wanted and available; one question, one answer or none.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    if let Some(address) = address {
        // The name is the one at byte 12; an address of the internet, good for no time, of four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
