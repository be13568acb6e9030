//! One request, and its whole answer: before and between what is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::LoadError;
use super::answer::Answer;

/// Most of a body that is kept, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Once {
    /// Its status.
    pub status: u16,
    /// Its body, up to a megabyte.
    pub body: Vec<u8>,
}

impl Once {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What a refusal says for itself.
    pub fn reason(&self) -> String {
        let body = self.json();
        let text = |key: &str| body[key].as_str().map(str::to_owned);
        text("message").or_else(|| text("detail")).unwrap_or_else(|| format!("status {}", self.status))
    }
}

/// Sends it on a connection of its own.
///
/// # Errors
/// [`LoadError::Unreachable`], [`LoadError::Late`], [`LoadError::System`] for what is no answer.
pub fn once(addr: SocketAddr, request: &[u8], answer_time: Duration) -> Result<Once, LoadError> {
    let gone = |error: std::io::Error| LoadError::Unreachable { addr, why: error.to_string() };
    let mut stream = TcpStream::connect_timeout(&addr, answer_time).map_err(gone)?;
    let until = Instant::now() + answer_time;
    let broken = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            LoadError::Late { count: 1, limit: answer_time }
        }
        _ => LoadError::System(format!("{addr} did not answer ({error})")),
    };
    stream.set_nodelay(true).and_then(|()| stream.set_write_timeout(Some(answer_time))).map_err(broken)?;
    stream.write_all(request).map_err(broken)?;
    let (mut answer, mut body, mut buffer) = (Answer::default(), Vec::new(), vec![0; 64 * 1024]);
    while !answer.is_done() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LoadError::Late { count: 1, limit: answer_time });
        }
        stream.set_read_timeout(Some(left)).map_err(broken)?;
        let count = stream.read(&mut buffer).map_err(broken)?;
        let ended = if count == 0 {
            answer.closed()
        } else {
            answer
                .take(&buffer[..count], |part| {
                    let room = BODY_BYTES_MAX.saturating_sub(body.len()).min(part.len());
                    body.extend_from_slice(&part[..room]);
                })
                .map(drop)
        };
        ended.map_err(|why| LoadError::System(format!("{addr}: {why}")))?;
    }
    Ok(Once { status: answer.status(), body })
}
