//! One connection of the load generator, without waiting: whoever drives it knows when there is something to read or room to write.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::answer::Answer;
use super::work::Expect;

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// On its way to be connected; a request may wait for that.
    Connecting,
    /// Nothing is under way.
    Idle,
    /// A request is being sent, or its answer awaited.
    Busy,
}

/// What came of a look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing that counts.
    Nothing,
    /// A whole answer. The connection may have ended with it.
    Answered {
        /// Its status.
        status: u16,
        /// Whether a statement in it failed.
        is_spoilt: bool,
    },
    /// It has ended with a request under way.
    Broken,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    addr: SocketAddr,
    /// The socket; `None` between two of them.
    pub stream: Option<TcpStream>,
    /// Where it stands.
    pub stage: Stage,
    answer: Answer,
    out: Arc<[u8]>,
    sent: usize,
    is_spoilt: bool,
    /// Whether a request waits for the connection to be there, or is under way.
    pub has_request: bool,
    /// When the operation was due or, in a closed loop, begun.
    pub due: Instant,
    /// When the request was handed to this connection.
    pub begun: Instant,
    /// Which request of the operation it is.
    pub step: usize,
}

/// How long a connection may take at first.
const CONNECT_TIME: Duration = Duration::from_secs(5);

impl Conn {
    /// Connects, and waits for it.
    ///
    /// # Errors
    /// Nobody is there, or not in time.
    pub fn open(addr: SocketAddr) -> std::io::Result<Conn> {
        let stream = TcpStream::connect_timeout(&addr, CONNECT_TIME)?;
        ready(&stream)?;
        let now = Instant::now();
        Ok(Conn {
            addr,
            stream: Some(stream),
            stage: Stage::Idle,
            answer: Answer::default(),
            out: Arc::new([]),
            sent: 0,
            is_spoilt: false,
            has_request: false,
            due: now,
            begun: now,
            step: 0,
        })
    }

    /// Begins anew, without waiting: a server ends connections as it likes, many after a number of requests.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        self.close();
        self.answer.reset();
        let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.addr.into()) {
            Ok(()) => {}
            // EINPROGRESS, which the standard library has no name for.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let stream = TcpStream::from(socket);
        ready(&stream)?;
        self.stream = Some(stream);
        self.stage = Stage::Connecting;
        Ok(())
    }

    /// Hands it the next request. It goes out at once, or as soon as it can.
    pub fn begin(&mut self, request: Arc<[u8]>, now: Instant) -> Event {
        (self.out, self.sent, self.is_spoilt, self.has_request) = (request, 0, false, true);
        self.begun = now;
        self.answer.reset();
        if self.stage == Stage::Connecting {
            return Event::Nothing;
        }
        self.stage = Stage::Busy;
        self.write()
    }

    /// There is room to write. Where it was still to be connected, it is now, or isn't going to be.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn writable(&mut self) -> std::io::Result<Event> {
        if self.stage == Stage::Connecting {
            if let Some(error) = self.stream.as_ref().map(TcpStream::take_error).transpose()?.flatten() {
                return Err(error);
            }
            self.stage = if self.has_request { Stage::Busy } else { Stage::Idle };
        }
        Ok(if self.stage == Stage::Busy { self.write() } else { Event::Nothing })
    }

    /// Whether it waits for room to write.
    pub fn wants_to_write(&self) -> bool {
        self.stage == Stage::Connecting || self.stage == Stage::Busy && self.sent < self.out.len()
    }

    fn write(&mut self) -> Event {
        let Some(stream) = &mut self.stream else { return Event::Broken };
        while self.sent < self.out.len() {
            match stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Event::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The other side may have answered and closed without reading all: what it said is still to be read.
                Err(_) => self.sent = self.out.len(),
            }
        }
        Event::Nothing
    }

    /// There is something to read, or it has ended.
    pub fn readable(&mut self, buffer: &mut [u8], expect: Expect) -> Event {
        loop {
            let Some(stream) = &mut self.stream else { return Event::Nothing };
            let count = match stream.read(buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Event::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.ended(false),
            };
            if count == 0 {
                return self.ended(true);
            }
            if self.stage != Stage::Busy {
                // An answer to nothing.
                return self.ended(false);
            }
            let spoilt = &mut self.is_spoilt;
            let taken = self.answer.take(&buffer[..count], |body| *spoilt |= expect.is_spoilt(body));
            match taken {
                Err(_) => return self.ended(false),
                Ok(taken) if self.answer.is_done() => return self.answered(taken == count),
                Ok(_) if count < buffer.len() => return Event::Nothing,
                Ok(_) => {}
            }
        }
    }

    fn answered(&mut self, is_clean: bool) -> Event {
        // With a rest unsent, it can't be said where the next request would begin.
        if self.answer.closes() || !is_clean || self.sent < self.out.len() {
            self.close();
        }
        self.has_request = false;
        self.stage = Stage::Idle;
        Event::Answered { status: self.answer.status(), is_spoilt: self.is_spoilt }
    }

    /// Without leaving its port taken for a minute: thousands of connections would use up what there are.
    fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// `is_orderly`: the other side has closed, and said so.
    fn ended(&mut self, is_orderly: bool) -> Event {
        let was_busy = self.has_request;
        self.close();
        if self.stage == Stage::Busy && is_orderly && self.answer.closed().is_ok() {
            return self.answered(true);
        }
        self.stage = Stage::Idle;
        self.has_request = false;
        if was_busy { Event::Broken } else { Event::Nothing }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.close();
    }
}

fn ready(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)
}
