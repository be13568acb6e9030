//! The servers that are measured, each on a fresh directory of the same disk, each durable at every answer, and how they are talked to.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{self, STARTS_WITHIN, comes_to, free_addr, listening};
use crate::load::{self, Talk};

/// A server's process; killed when dropped.
pub struct Server {
    child: Child,
    pub addr: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGINT, by which PostgreSQL ends its own processes, too.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        comes_to(Duration::from_secs(3), || matches!(self.child.try_wait(), Ok(Some(_))));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(child: Child, addr: SocketAddr) -> Server {
    assert!(comes_to(STARTS_WITHIN, || TcpStream::connect(addr).is_ok()), "nothing listens on {addr}");
    Server { child, addr }
}

fn ask(addr: SocketAddr, messages: &[Vec<u8>], len: fn(&[u8]) -> Option<usize>) -> Vec<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).expect("it accepts");
    messages.iter().map(|message| load::ask(&mut stream, message, len)).collect()
}

// ---- the gate ----

const CREATE: &str = r#"{"requests":[{"type":"execute","stmt":{"sql":"CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"}},{"type":"close"}]}"#;
const INSERT: &str = r#"{"requests":[{"type":"execute","stmt":{"sql":"INSERT INTO t (v) VALUES (?)","args":[{"type":"text","value":"hello world"}]}},{"type":"close"}]}"#;

fn hrana(token: u64, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\ncontent-length: {len}\r\n\r\n{body}")
        .into_bytes()
}

/// Where an answer of HTTP ends, once its head is there.
fn http_len(answer: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let field = b"content-length: ";
    let at = memchr::memmem::find(&answer[..head], field)? + field.len();
    let digits = answer[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(head + 4 + digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

/// A gate with a table. `preload`: a library that the dynamic linker puts before all others.
pub fn gate(dir: &Path, args: &[&str], preload: Option<&Path>) -> Server {
    let file = dir.join("gate.db");
    // What a refusal costs is measured beside writes: none is to wait for its turn.
    let own = ["--sqlite", &file.to_string_lossy(), "--limit", "refusals=1000000000"];
    let server = gate_with(dir, &[&own[..], args].concat(), preload);
    create(&server);
    server
}

/// Makes the table.
pub fn create(server: &Server) {
    let answers = ask(server.addr, &[hrana(7, CREATE)], http_len);
    assert!(answers[0].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answers[0]));
}

/// A gate with these arguments.
pub fn gate_with(dir: &Path, args: &[&str], preload: Option<&Path>) -> Server {
    let mut command = preloading(env!("CARGO_BIN_EXE_fencegate"), preload);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--fence", "app", "--log", "error"])
        .args(args)
        .arg("--data-dir")
        .arg(dir.join("data"));
    let (child, addr) = listening(&mut command);
    Server { child, addr }
}

fn preloading(program: &str, preload: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    command.envs(preload.map(|preload| ("LD_PRELOAD", preload)));
    command
}

/// Writes with this token, each answered so.
pub fn through_gate(server: &Server, token: u64, wanted: &str) -> Talk {
    Talk {
        addr: server.addr,
        pid: server.child.id(),
        hello: Vec::new(),
        request: hrana(token, INSERT),
        number_at: &[],
        wanted: format!("HTTP/1.1 {wanted}").into_bytes(),
        len: http_len,
    }
}

/// A library whose `fsync` does nothing; `None` where there is no C compiler.
pub fn no_fsync(dir: &Path) -> Option<PathBuf> {
    library(dir, "int fsync(int f) { return 0; }\nint fdatasync(int f) { return 0; }\n")
}

/// A library whose `fsync` takes so much longer, likewise.
pub fn slow_fsync(dir: &Path, longer: Duration) -> Option<PathBuf> {
    let (s, ns) = (longer.as_secs(), longer.subsec_nanos());
    library(
        dir,
        &format!(
            "#include <sys/syscall.h>\n#include <time.h>\n#include <unistd.h>\n\
             static void longer(void) {{ struct timespec t = {{ {s}, {ns} }}; nanosleep(&t, 0); }}\n\
             int fsync(int f) {{ longer(); return syscall(SYS_fsync, f); }}\n\
             int fdatasync(int f) {{ longer(); return syscall(SYS_fdatasync, f); }}\n"
        ),
    )
}

fn library(dir: &Path, text: &str) -> Option<PathBuf> {
    let (source, library) = (dir.join("sync.c"), dir.join("sync.so"));
    std::fs::write(&source, text).ok()?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    built.is_ok_and(|status| status.success()).then_some(library)
}

// ---- Redis ----

/// Refuses what is below the mark; else raises the mark and writes.
const SCRIPT: &str = "local mark = tonumber(redis.call('GET', KEYS[1]) or '0')
local token = tonumber(ARGV[1])
if token < mark then return 0 end
if token > mark then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('RPUSH', KEYS[2], ARGV[2])
return 1";

/// A command as Redis reads it.
fn command(words: &[&str]) -> Vec<u8> {
    let each: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{each}", words.len()).into_bytes()
}

/// Where a number as Redis answers it ends, or a text.
fn redis_len(answer: &[u8]) -> Option<usize> {
    let line = memchr::memmem::find(answer, b"\r\n")? + 2;
    if answer[0] != b'$' {
        return Some(line);
    }
    memchr::memmem::find(&answer[line..], b"\r\n").map(|end| line + end + 2)
}

/// Redis with the script, by which each write is compared and made; `None` where there is no `redis-server`.
pub fn redis(dir: &Path, preload: Option<&Path>) -> Option<(Server, Talk)> {
    let addr = free_addr();
    let child = preloading("redis-server", preload)
        .args(["--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always", "--save", ""])
        .args(["--auto-aof-rewrite-percentage", "0", "--port", &addr.port().to_string(), "--dir"])
        .arg(dir)
        .stdout(Stdio::null())
        .spawn();
    let server = wait_for(child.ok()?, addr);
    let answers = ask(addr, &[command(&["SCRIPT", "LOAD", SCRIPT])], redis_len);
    let name = String::from_utf8_lossy(&answers[0]).lines().nth(1).expect("the script's name").to_owned();
    let talk = Talk {
        addr,
        pid: server.child.id(),
        hello: Vec::new(),
        request: command(&["EVALSHA", &name, "2", "mark", "t", "7", "hello world"]),
        number_at: &[],
        wanted: b":1\r\n".into(),
        len: redis_len,
    };
    Some((server, talk))
}

// ---- PostgreSQL ----

/// One statement: the mark is compared and raised, and the write made where that went well.
const FENCED: &str = "WITH mark AS (UPDATE mark SET token = $1 WHERE token <= $1 RETURNING token) \
    INSERT INTO t (v) SELECT $2::text FROM mark";

/// A message of PostgreSQL's protocol (version 3).
fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
    [&[kind][..], &len, &body].concat()
}

/// Where an answer ends: with the message that says that the server is ready.
fn postgres_len(answer: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let head = answer.get(at..at + 5)?;
        at += 1 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if head[0] == b'Z' {
            return Some(at);
        }
    }
}

/// Where Debian keeps the server's programs, or else the path does.
fn postgres_program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin").join(name)).filter(|file| file.exists()).max();
    newest.unwrap_or_else(|| PathBuf::from(name))
}

/// It doesn't run as root: then it is run as nobody.
fn as_user(program: &str, dir: &Path) -> Command {
    let mut command = Command::new(postgres_program(program));
    if rustix::process::geteuid().is_root() {
        let nobody = 65534;
        std::os::unix::fs::chown(dir, Some(nobody), Some(nobody)).expect("given away");
        command.uid(nobody).gid(nobody);
    }
    command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// PostgreSQL as it comes; `None` where there is none.
pub fn postgres(dir: &Path) -> Option<(Server, Talk)> {
    let data = dir.join("data");
    let made = as_user("initdb", dir).args(["-A", "trust", "-U", "postgres", "-D"]).arg(&data).status();
    if !made.is_ok_and(|status| status.success()) {
        return None;
    }
    let addr = free_addr();
    let options = ["-h", "127.0.0.1", "-k", "", "-c", "max_connections=1100", "-p", &addr.port().to_string(), "-D"];
    let child = as_user("postgres", dir).args(options).arg(OsStr::new(&data)).spawn();
    let server = wait_for(child.ok()?, addr);
    let startup = message(0, &[&196_608_u32.to_be_bytes(), b"user\0postgres\0database\0postgres\0\0"])[1..].to_vec();
    // It listens before it lets anybody in: until then it answers with an error.
    let lets_in = || {
        let (mut stream, mut first) = (TcpStream::connect(addr).expect("it accepts"), [0]);
        stream.write_all(&startup).and_then(|()| stream.read_exact(&mut first)).is_ok() && first == *b"R"
    };
    assert!(comes_to(STARTS_WITHIN, lets_in), "PostgreSQL lets nobody in");
    let create = "CREATE TABLE mark (token bigint); INSERT INTO mark VALUES (7); CREATE TABLE t (id bigserial PRIMARY KEY, v text)\0";
    ask(addr, &[startup.clone(), message(b'Q', &[create.as_bytes()])], postgres_len);
    let sync = message(b'S', &[]);
    let parse = [message(b'P', &[b"write\0", FENCED.as_bytes(), b"\0\0\0"]), sync.clone()].concat();
    let args: [&[u8]; 4] = [&1_u32.to_be_bytes(), b"7", &11_u32.to_be_bytes(), b"hello world"];
    let bind = message(b'B', &[b"\0write\0\0\0\0\x02", &args.concat(), b"\0\0"]);
    let talk = Talk {
        addr,
        pid: server.child.id(),
        hello: vec![startup, parse],
        request: [bind, message(b'E', &[b"\0\0\0\0\0"]), sync].concat(),
        number_at: &[],
        wanted: b"2\0\0\0\x04C\0\0\0\x0fINSERT 0 1\0".into(),
        len: postgres_len,
    };
    Some((server, talk))
}

// ---- etcd ----

/// A field of a protocol buffer that has bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).ok().filter(|len| *len < 0x80).expect("short");
    [&[number << 3 | 2, len], bytes].concat()
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

/// Where the stream's number is in a frame.
const STREAM_AT: usize = 5;

/// The head of a call, on stream 1.
fn grpc_head() -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let path = [&[0x04][..], &text("/etcdserverpb.KV/Txn")].concat();
    let authority = [&[0x01][..], &text("etcd")].concat();
    let kind = [&[0x0f, 0x10][..], &text("application/grpc")].concat();
    let te = [&[0x00][..], &text("te"), &text("trailers")].concat();
    frame(1, 4, 1, &[&[0x83, 0x86][..], &path, &authority, &kind, &te].concat())
}

/// Its body, and with it its end.
fn grpc_body(txn: &[u8]) -> Vec<u8> {
    let len = u32::try_from(txn.len()).expect("short").to_be_bytes();
    frame(0, 1, 1, &[&[0][..], &len, txn].concat())
}

/// Where an answer ends: with the trailers. What comes before it belongs to nothing in particular.
fn grpc_len(answer: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let head = answer.get(at..at + 9)?;
        at += 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if head[3] == 1 && head[4] & 1 == 1 {
            return Some(at);
        }
    }
}

/// One member of etcd as it comes; `None` where there is none. Its transaction writes where the mark is the token.
pub fn etcd(dir: &Path) -> Option<(Server, Talk)> {
    let (child, addr) = common::etcd(dir, &[])?;
    let server = wait_for(child, addr);
    let put = |key: &[u8], value: &[u8]| field(2, &field(2, &[field(1, key), field(2, value)].concat()));
    let is_mark = field(1, &[vec![0x10, 3], field(3, b"mark"), field(7, b"7")].concat());
    // The preface, settings, theirs confirmed, and room for all answers that there will be.
    let room = frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes());
    let preface =
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[]), &frame(4, 1, 0, &[]), &room].concat();
    let hello = [preface, grpc_head(), grpc_body(&put(b"mark", b"7"))].concat();
    // It accepts before it leads.
    let leads = || memchr::memmem::find(&ask(addr, std::slice::from_ref(&hello), grpc_len)[0], SUCCEEDED).is_some();
    assert!(comes_to(STARTS_WITHIN, leads), "etcd elects no leader");
    let (head, body) = (grpc_head(), grpc_body(&[is_mark, put(b"t", b"hello world")].concat()));
    let number_at: &[usize] = Box::leak(Box::new([STREAM_AT, head.len() + STREAM_AT]));
    let request = [head, body].concat();
    let talk = Talk {
        addr,
        pid: server.child.id(),
        hello: vec![hello],
        request,
        number_at,
        wanted: SUCCEEDED.into(),
        len: grpc_len,
    };
    Some((server, talk))
}

/// What the answer of a transaction says that has written: it succeeded, and here is the answer to its one put.
const SUCCEEDED: &[u8] = &[0x10, 0x01, 0x1a];
