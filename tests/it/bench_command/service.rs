//! An HTTP service that notes what reaches it.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::process::Client;

/// A running service. It goes on until the process ends.
pub struct Service {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// What reached it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Methods and paths.
    pub requests: BTreeSet<(String, String)>,
    /// Tokens.
    pub tokens: BTreeSet<u64>,
    pub count: u64,
}

/// What it does.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// Answers 200.
    Kind,
    /// Answers 200, and from this request on not at all.
    HangsFrom(u64),
    /// Answers 404.
    Empty,
}

impl Service {
    pub fn start(manner: Manner) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, manner, &seen));
            }
        });
        Service { addr, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, manner: Manner, seen: &Mutex<Seen>) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut client = Client::over(stream);
    // What comes is read as an answer is: a first line, headers, a body of the length that is said.
    while let Ok(request) = client.read_answer() {
        let mut words = request.head.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.requests.insert((method.to_owned(), path.to_owned()));
            seen.tokens.extend(request.header("fencing-token").and_then(|token| token.parse::<u64>().ok()));
            seen.count += 1;
            seen.count
        };
        let answer: &[u8] = match manner {
            Manner::HangsFrom(from) if number >= from => continue,
            // The gate's own paths are not here.
            Manner::Kind | Manner::HangsFrom(_) if !path.starts_with("/-/") => {
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            }
            _ => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        };
        if writer.write_all(answer).is_err() {
            return;
        }
    }
}
