//! An upstream that does to each write what a header of it says: takes its time, answers early, breaks off, applies when nobody
//! waits any more. It keeps a log of what it applied, in order, in a file that outlives it.
//!
//! It is a process of its own, this test binary once more, so that it can be killed.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::future::pending;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::Port;
pub use super::applied::Applied;
use crate::process::{Answer, Client};

const ADDR_VARIABLE: &str = "FENCEGATE_TEST_HOSTILE_ADDR";
const LOG_VARIABLE: &str = "FENCEGATE_TEST_HOSTILE_LOG";
const READY: &str = "the hostile upstream is ready";
/// How long half an answer is where nothing else is said.
pub const HALF: usize = 32;

// --- the test's side -----------------------------------------------------------------------------------------------------

/// A running hostile upstream. Killed when dropped; its log stays.
pub struct Hostile {
    port: Port,
    log: PathBuf,
    child: Option<Child>,
}

impl Hostile {
    pub fn start(dir: &Path) -> Hostile {
        let mut hostile = Hostile { port: Port::reserve(), log: dir.join("applied.log"), child: None };
        hostile.restart();
        hostile
    }

    /// `http://ADDR`.
    pub fn url(&self) -> String {
        format!("http://{}", self.port.addr)
    }

    /// Starts it again, on the same port and log.
    pub fn restart(&mut self) {
        self.kill();
        let mut child = Command::new(std::env::current_exe().expect("this program has a file"))
            .args(["upstream::hostile::this_is_the_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(ADDR_VARIABLE, self.port.addr.to_string())
            .env(LOG_VARIABLE, &self.log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started once more");
        let stdout = child.stdout.take().expect("piped");
        let is_ready = BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line.contains(READY));
        assert!(is_ready, "the hostile upstream did not start");
        self.child = Some(child);
    }

    pub fn pid(&self) -> Option<rustix::process::Pid> {
        self.child.as_ref().map(rustix::process::Pid::from_child)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it can be waited for");
        }
    }

    /// All that was applied, in order.
    pub fn applied(&self) -> Vec<Applied> {
        let text = std::fs::read_to_string(&self.log).expect("the log is there");
        text.lines().map(Applied::parse).collect()
    }

    /// The tokens that were applied on a fence, in order.
    pub fn tokens(&self, fence: &str) -> Vec<u64> {
        self.applied().iter().filter(|applied| applied.fence == fence).map(|applied| applied.token).collect()
    }

    fn control(&self, method: &str, path: &str) -> Answer {
        let mut client = Client::connect(self.port.addr).expect("it listens");
        let answer = client.request(method, &format!("/hostile/{path}"), &[], b"").expect("it answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }

    /// Returns when a script stands at this place.
    pub fn reached(&self, place: &str) {
        self.control("GET", &format!("reached/{place}"));
    }

    /// Asks the same; the answer comes when a script stands there.
    pub fn asks_whether_reached(&self, place: &str) -> Client {
        let mut client = Client::connect(self.port.addr).expect("it listens");
        let ask = format!("GET /hostile/reached/{place} HTTP/1.1\r\nhost: hostile\r\n\r\n");
        client.send(ask.as_bytes()).expect("sent");
        client
    }

    /// Lets the scripts that stand at this place go on, and those that come later.
    pub fn open(&self, place: &str) {
        self.control("POST", &format!("open/{place}"));
    }

    /// Closes the connections that have no request.
    pub fn close_idle(&self) {
        self.control("POST", "close-idle");
    }

    /// How many connections have brought it requests.
    pub fn connections(&self) -> usize {
        String::from_utf8_lossy(&self.control("GET", "connections").body).parse().expect("a number")
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.kill();
    }
}

// --- the upstream's side -------------------------------------------------------------------------------------------------

/// Not a test, but the process: it serves where a test has started it as one.
#[test]
#[expect(clippy::disallowed_methods, reason = "it has nothing to tidy up, and no main to return to")]
fn this_is_the_process() {
    let (Ok(addr), Ok(log)) = (std::env::var(ADDR_VARIABLE), std::env::var(LOG_VARIABLE)) else { return };
    // It ends with whoever started it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let addr: SocketAddr = addr.parse().expect("an address");
    let lines = std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()).into();
    let log = OpenOptions::new().create(true).append(true).open(log).expect("the log can be written");
    let listener = TcpListener::bind(addr).expect("the port is free");
    listener.set_nonblocking(true).expect("an option of sockets");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("registered");
        writeln!(std::io::stdout(), "{READY}").expect("told");
        let state = Arc::new(State { log: Mutex::new(log), lines, ..State::default() });
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(stream, Arc::clone(&state)));
        }
    });
}

struct State {
    log: Mutex<File>,
    /// Lines in the log.
    lines: AtomicUsize,
    used: AtomicUsize,
    connections: Mutex<Vec<Arc<Connection>>>,
    reached: watch::Sender<HashMap<String, usize>>,
    open: watch::Sender<HashSet<String>>,
}

impl Default for State {
    fn default() -> State {
        State {
            log: Mutex::new(File::open("/dev/null").expect("there is always one")),
            lines: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            connections: Mutex::default(),
            reached: watch::Sender::default(),
            open: watch::Sender::default(),
        }
    }
}

#[derive(Default)]
struct Connection {
    cut: Notify,
    /// Whether it has brought a request.
    is_used: AtomicBool,
    /// Scripts under way.
    requests: AtomicUsize,
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let mut start = [0; 4];
    let is_http2 = matches!(stream.peek(&mut start).await, Ok(4) if start == *b"PRI ");
    let connection = Arc::new(Connection::default());
    state.connections.lock().unwrap().push(Arc::clone(&connection));
    let service = service_fn(|request| answer(Arc::clone(&state), Arc::clone(&connection), request));
    let io = TokioIo::new(stream);
    if is_http2 {
        let served = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service);
        tokio::select! { _ = served => {}, () = connection.cut.notified() => {} }
    } else {
        let served = http1::Builder::new().serve_connection(io, service).with_upgrades();
        tokio::select! { _ = served => {}, () = connection.cut.notified() => {} }
    }
    state.connections.lock().unwrap().retain(|other| !Arc::ptr_eq(other, &connection));
}

/// The body of an answer, as the script sends it.
struct Sent(mpsc::Receiver<Result<Bytes, std::io::Error>>);

impl Body for Sent {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|sent| sent.map(|bytes| bytes.map(Frame::data)))
    }
}

fn broken_off() -> std::io::Error {
    std::io::Error::other("broken off")
}

fn whole(status: StatusCode, text: String) -> Response<Sent> {
    let (sender, receiver) = mpsc::channel(1);
    let mut response = Response::new(Sent(receiver));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, text.len().into());
    if !text.is_empty() {
        sender.try_send(Ok(text.into())).expect("there is room for one");
    }
    response
}

async fn answer(
    state: Arc<State>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Sent>, Infallible> {
    if let Some(command) = request.uri().path().strip_prefix("/hostile/") {
        return Ok(control(&state, &connection, command).await);
    }
    if !connection.is_used.swap(true, Ordering::SeqCst) {
        state.used.fetch_add(1, Ordering::SeqCst);
    }
    connection.requests.fetch_add(1, Ordering::SeqCst);
    let (sender, receiver) = oneshot::channel();
    // The script goes on, whatever becomes of the connection.
    let script = Script::new(state, connection, request, sender);
    tokio::spawn(script.run());
    match receiver.await {
        Ok(response) => Ok(response),
        Err(_) => pending().await,
    }
}

async fn control(state: &State, own: &Arc<Connection>, command: &str) -> Response<Sent> {
    let text = match command.split_once('/').unwrap_or((command, "")) {
        ("open", place) => {
            state.open.send_if_modified(|open| open.insert(place.to_owned()));
            String::new()
        }
        ("reached", place) => {
            let mut reached = state.reached.subscribe();
            reached.wait_for(|reached| reached.contains_key(place)).await.expect("the sender lives");
            String::new()
        }
        ("close-idle", _) => {
            for connection in state.connections.lock().unwrap().iter() {
                if !Arc::ptr_eq(connection, own) && connection.requests.load(Ordering::SeqCst) == 0 {
                    connection.cut.notify_one();
                }
            }
            String::new()
        }
        ("connections", _) => state.used.load(Ordering::SeqCst).to_string(),
        _ => return whole(StatusCode::NOT_FOUND, "no such command".into()),
    };
    whole(StatusCode::OK, text)
}

/// What is done about one request: words in its header `hostile`, in order.
///
/// | word | meaning |
/// |---|---|
/// | `limit:MS` | `apply` fails from so long after the request came |
/// | `read` | read the body to its end; where it breaks off, the script ends |
/// | `wait:MS` | let time pass |
/// | `at:PLACE` | stand there until a test opens it |
/// | `apply` | write the request into the log |
/// | `answer`, `answer:STATUS` | the whole answer: 200, or 500 where `apply` failed |
/// | `half`, `half:BYTES`, `rest` | the answer's head and half of its body; the other half |
/// | `break` | end the answer's body with an error: over HTTP/2, only that stream |
/// | `cut` | close the connection |
/// | `upgrade` | answer 101, then apply each byte as a write and send it back |
///
/// A script that ends without an answer leaves the other side waiting.
struct Script {
    state: Arc<State>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    sender: Option<oneshot::Sender<Response<Sent>>>,
    body: Option<mpsc::Sender<Result<Bytes, std::io::Error>>>,
    arrived: Instant,
    limit: Duration,
    has_failed: bool,
    is_late: bool,
    half: usize,
    bytes: usize,
}

impl Script {
    fn new(
        state: Arc<State>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
        sender: oneshot::Sender<Response<Sent>>,
    ) -> Script {
        Script {
            state,
            connection,
            request,
            sender: Some(sender),
            body: None,
            arrived: Instant::now(),
            limit: Duration::MAX,
            has_failed: false,
            is_late: false,
            half: 0,
            bytes: 0,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).and_then(|value| value.to_str().ok())
    }

    async fn run(mut self) {
        let is_read = matches!(*self.request.method(), Method::GET | Method::HEAD);
        let usual = if is_read { "answer" } else { "read apply answer" };
        let script = self.header("hostile").filter(|script| !script.is_empty()).unwrap_or(usual).to_owned();
        for word in script.split_whitespace() {
            let (word, value) = word.split_once(':').unwrap_or((word, ""));
            if !self.step(word, value).await {
                break;
            }
        }
        self.connection.requests.fetch_sub(1, Ordering::SeqCst);
        // What has been sent so far stays so: nothing that is dropped here may end an answer.
        if self.body.is_some() || self.sender.is_some() {
            pending::<()>().await;
        }
    }

    async fn step(&mut self, word: &str, value: &str) -> bool {
        let ms = || Duration::from_millis(value.parse().expect("a number of milliseconds"));
        match word {
            "limit" => self.limit = ms(),
            "read" => return self.read().await,
            "wait" => drop(tokio::time::timeout(ms(), pending::<()>()).await),
            "at" => self.stand(value).await,
            "apply" => self.apply(),
            "answer" => self.answer(value),
            "half" => self.half(value.parse().unwrap_or(HALF)).await,
            "rest" => {
                // The head has said yes: what was not applied after all can only be broken off.
                let rest = if self.has_failed { Err(broken_off()) } else { Ok(vec![b'.'; self.half].into()) };
                self.send(rest).await;
                self.body = None;
            }
            "break" => {
                self.send(Err(broken_off())).await;
                self.is_late = true;
            }
            "cut" => {
                self.connection.cut.notify_one();
                self.is_late = true;
            }
            "upgrade" => self.upgrade().await,
            _ => panic!("no word of a script: {word:?}"),
        }
        true
    }

    async fn read(&mut self) -> bool {
        while let Some(frame) = self.request.body_mut().frame().await {
            match frame {
                Ok(frame) => self.bytes += frame.data_ref().map_or(0, Bytes::len),
                Err(_) => return false,
            }
        }
        true
    }

    async fn stand(&mut self, place: &str) {
        self.state.reached.send_modify(|reached| *reached.entry(place.to_owned()).or_default() += 1);
        let mut open = self.state.open.subscribe();
        open.wait_for(|open| open.contains(place)).await.expect("the sender lives");
    }

    fn apply(&mut self) {
        let field = |name: &str| self.header(name).unwrap_or("-");
        let late = if self.is_late { "late" } else { "-" };
        let path = self.request.uri().path();
        let line =
            format!("{}\t{}\t{}\t{path}\t{late}\n", field("fencing-fence"), field("fencing-token"), field("write-id"));
        let mut log = self.state.log.lock().unwrap();
        if self.arrived.elapsed() > self.limit {
            self.has_failed = true;
        } else {
            log.write_all(line.as_bytes()).expect("the log can be written");
            self.state.lines.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn answer(&mut self, status: &str) {
        let usual = if self.has_failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        let status = status.parse().unwrap_or(usual);
        let text = serde_json::json!({
            "bytes": self.bytes,
            "token": self.header("fencing-token"),
            "fence": self.header("fencing-fence"),
            "path": self.request.uri().to_string(),
            "lines": self.state.lines.load(Ordering::SeqCst),
        });
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(whole(status, text.to_string()));
        }
    }

    async fn half(&mut self, len: usize) {
        self.half = len;
        let (body, receiver) = mpsc::channel(1);
        let mut response = Response::new(Sent(receiver));
        response.headers_mut().insert(CONTENT_LENGTH, (2 * len).into());
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(response);
        }
        self.body = Some(body);
        self.send(Ok(vec![b'.'; len].into())).await;
    }

    /// Gives a piece of the answer's body to the connection.
    async fn send(&self, piece: Result<Bytes, std::io::Error>) {
        if let Some(body) = &self.body {
            let _ = body.send(piece).await;
        }
    }

    async fn upgrade(&mut self) {
        let upgraded = hyper::upgrade::on(&mut self.request);
        let mut response = whole(StatusCode::SWITCHING_PROTOCOLS, String::new());
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().insert(CONNECTION, UPGRADE.as_str().parse().expect("a header"));
        response.headers_mut().insert(UPGRADE, "hostile".parse().expect("a header"));
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(response);
        }
        let Ok(upgraded) = upgraded.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte).await {
            self.apply();
            if stream.write_all(&byte).await.is_err() {
                break;
            }
        }
    }
}
