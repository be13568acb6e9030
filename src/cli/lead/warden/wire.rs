//! What `lead` and its warden tell each other: one line of JSON a message, over a pair of sockets.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// What `lead` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Start the command. It is known to lead until this time on the clock that goes on while the machine is suspended.
    Start {
        /// Variables to set, and with `None` to take out.
        env: Vec<(String, Option<String>)>,
        /// The process group that has the terminal and gives it to the command, if so.
        terminal_of: Option<i32>,
        /// Until when.
        until: Duration,
    },
    /// It is known to lead until then.
    Alive {
        /// Until when.
        until: Duration,
    },
    /// Pass a signal on to the command's process group.
    Signal(i32),
    /// Stop everything that runs, as Ctrl-Z does.
    Suspend,
    /// Let it go on.
    Resume,
    /// End it: SIGTERM, and SIGKILL after the time of grace.
    End,
}

/// What the warden tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The command was started, in the process group of this number.
    Started(i32),
    /// It couldn't be: not even the program that becomes it.
    Failed(String),
    /// The command was stopped by this signal, and not because the warden was asked to.
    Stopped(i32),
    /// Everything is stopped.
    Suspended,
    /// The command has ended.
    Ended(Status),
    /// What is left was sent SIGTERM.
    Terminating(Why),
    /// The time of grace is over: these processes were sent SIGKILL.
    Killing(Vec<i32>),
    /// These were sent SIGKILL a while ago and are still there; none where they can't be seen.
    Stuck(Vec<i32>),
    /// Nothing is left of the command, nor of whatever it started.
    Gone,
}

/// Why the warden ends what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It was told to.
    Told,
    /// The time until which it is known to lead has passed.
    Lease,
    /// `lead` is gone.
    Orphaned,
    /// The command has ended, and left these.
    LeftBehind,
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// With an exit status.
    Code(u8),
    /// By a signal.
    Signal(i32),
}

impl Status {
    /// The exit status that says so, as shells have it: 128+n for signal n.
    pub fn exit_code(self) -> u8 {
        match self {
            Status::Code(code) => code,
            Status::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// The receiving side.
#[derive(Debug)]
pub struct Receiver(Lines<BufReader<OwnedReadHalf>>);

/// The sending side.
#[derive(Debug)]
pub struct Sender(OwnedWriteHalf);

/// Both sides of one end.
///
/// # Errors
/// The socket can't be given to the runtime.
pub fn split(socket: std::os::unix::net::UnixStream) -> io::Result<(Sender, Receiver)> {
    socket.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(socket)?.into_split();
    Ok((Sender(write), Receiver(BufReader::new(read).lines())))
}

impl Sender {
    /// Sends one message.
    ///
    /// # Errors
    /// The other side is gone.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.write_all(&line).await
    }
}

impl Receiver {
    /// The next message; `None` where the other side is gone or talks nonsense. Dropping this future loses nothing.
    pub async fn receive<T: for<'a> Deserialize<'a>>(&mut self) -> Option<T> {
        let line = self.0.next_line().await.ok()??;
        serde_json::from_str(&line).ok()
    }
}
