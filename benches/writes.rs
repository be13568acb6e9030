//! Durable fenced writes a second through the real gate, in interleaved rounds, medians and ratios: against a loop over rusqlite
//! that commits each write on the same disk, the same gate with its check off, the same gate where `fsync` does nothing, and Redis
//! (`appendfsync always`, the token compared and the write made by one script).
//!
//! `cargo bench --bench writes` (`-- --rounds 9 --clients 256 --seconds 2`). Redis is left out where there is no `redis-server`,
//! the gate without `fsync` where there is no C compiler. The load generator is one thread, and shares the processors.
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BODY: &str = r#"{"requests":[{"type":"execute","stmt":{"sql":"INSERT INTO t (v) VALUES (?)","args":[{"type":"text","value":"hello world"}]}},{"type":"close"}]}"#;

struct Options {
    rounds: usize,
    clients: usize,
    time: Duration,
}

fn options() -> Options {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    Options {
        rounds: number("--rounds", 5) as usize,
        clients: number("--clients", 64) as usize,
        time: Duration::from_secs(number("--seconds", 2)),
    }
}

/// A gate process; killed when dropped.
struct Gate(Child, String);

impl Gate {
    /// `preload`: a library that the dynamic linker puts before all others.
    fn start(dir: &Path, args: &[&str], preload: Option<&Path>) -> Gate {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fencegate"));
        if let Some(preload) = preload {
            command.env("LD_PRELOAD", preload);
        }
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--fence", "app", "--log", "warn"])
            .args(args)
            .arg("--sqlite")
            .arg(dir.join("gate.db"))
            .arg("--data-dir")
            .arg(dir.join("data"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the gate starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says where it listens");
        let data = line.split_whitespace().find_map(|word| word.strip_prefix("data=")).expect("an address").to_owned();
        Gate(child, data)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Redis server that has the script; killed when dropped.
struct Redis(Child, String);

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

impl Redis {
    /// `None` where there is no `redis-server`.
    fn start(dir: &Path) -> Option<Redis> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let args = ["--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always", "--save", ""];
        let child = Command::new("redis-server")
            .args(args)
            .args(["--auto-aof-rewrite-percentage", "0", "--port", &port.to_string(), "--dir"])
            .arg(dir)
            .stdout(Stdio::null())
            .spawn();
        let redis = Redis(child.ok()?, format!("127.0.0.1:{port}"));
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(&redis.1).is_err() {
            assert!(Instant::now() < until, "redis-server listens");
            std::thread::yield_now();
        }
        Some(redis)
    }

    /// The write, by the name that the script is known by once it is loaded.
    fn write(&self) -> Vec<u8> {
        let mut stream = std::net::TcpStream::connect(&self.1).expect("it accepts");
        std::io::Write::write_all(&mut stream, &command(&["SCRIPT", "LOAD", SCRIPT])).expect("sent");
        let mut answer = BufReader::new(stream).lines().map(|line| line.expect("text"));
        assert_eq!(answer.next().as_deref(), Some("$40"), "the script is understood");
        let name = answer.next().expect("its name");
        command(&["EVALSHA", &name, "2", "mark", "t", "7", "hello world"])
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A library whose `fsync` does nothing; `None` where there is no C compiler.
fn no_fsync(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("nosync.c"), dir.join("nosync.so"));
    std::fs::write(&source, "int fsync(int f) { return 0; }\nint fdatasync(int f) { return 0; }\n").ok()?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    built.is_ok_and(|status| status.success()).then_some(library)
}

/// Where an answer of HTTP ends, once its head is there.
fn http_len(answer: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let field = b"content-length: ";
    let at = memchr::memmem::find(&answer[..head], field)? + field.len();
    let digits = answer[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(head + 4 + digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

/// Where a number as Redis answers it ends.
fn redis_len(answer: &[u8]) -> Option<usize> {
    memchr::memmem::find(answer, b"\r\n").map(|end| end + 2)
}

/// One request and its answer.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut Vec<u8>,
    len: fn(&[u8]) -> Option<usize>,
) -> std::io::Result<()> {
    stream.write_all(request).await?;
    buffer.clear();
    while len(buffer).is_none_or(|len| buffer.len() < len) {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn request(token: u64, body: &str) -> Vec<u8> {
    format!(
        "POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What a server is asked, and how it answers.
struct Talk<'a> {
    addr: &'a str,
    request: Vec<u8>,
    /// What an answer begins with.
    wanted: &'static [u8],
    len: fn(&[u8]) -> Option<usize>,
}

impl Talk<'_> {
    fn http<'a>(addr: &'a str, token: u64, wanted: &'static [u8]) -> Talk<'a> {
        Talk { addr, request: request(token, BODY), wanted, len: http_len }
    }

    /// Such answers a second, over this many connections.
    fn load(&self, options: &Options) -> f64 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tasks = async {
            let started = Instant::now();
            let tasks: Vec<_> = (0..options.clients)
                .map(|_| {
                    let (addr, request) = (self.addr.to_owned(), self.request.clone());
                    let (time, wanted, len) = (options.time, self.wanted, self.len);
                    tokio::spawn(async move {
                        let mut stream = TcpStream::connect(addr).await.expect("it accepts");
                        stream.set_nodelay(true).expect("a socket option");
                        let (mut buffer, mut count) = (Vec::with_capacity(4096), 0_u64);
                        while started.elapsed() < time {
                            exchange(&mut stream, &request, &mut buffer, len).await.expect("an answer");
                            assert!(buffer.starts_with(wanted), "{}", String::from_utf8_lossy(&buffer));
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            let mut sum = 0;
            for task in tasks {
                sum += task.await.expect("no panic");
            }
            sum as f64 / started.elapsed().as_secs_f64()
        };
        runtime.block_on(tasks)
    }
}

/// Commits a second of a loop that commits each write.
fn plain(dir: &Path, time: Duration) -> f64 {
    let db = Connection::open(dir.join("plain.db")).expect("it opens");
    db.pragma_update(None, "journal_mode", "WAL").expect("WAL");
    db.pragma_update(None, "synchronous", "FULL").expect("FULL");
    db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v TEXT)", []).expect("a table");
    let mut insert = db.prepare("INSERT INTO t (v) VALUES (?)").expect("a statement");
    let (started, mut count) = (Instant::now(), 0_u64);
    while started.elapsed() < time {
        insert.execute(["hello world"]).expect("written");
        count += 1;
    }
    count as f64 / started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A gate with a table.
fn gate(dir: &Path, args: &[&str], preload: Option<&Path>) -> Gate {
    let gate = Gate::start(dir, args, preload);
    let create = BODY.replace("INSERT INTO t (v) VALUES (?)", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)");
    let create = create.replace(r#","args":[{"type":"text","value":"hello world"}]"#, "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let answer = runtime.block_on(async {
        let (mut stream, mut answer) = (TcpStream::connect(&gate.1).await?, Vec::new());
        exchange(&mut stream, &request(7, &create), &mut answer, http_len).await?;
        Ok::<_, std::io::Error>(answer)
    });
    assert!(answer.expect("an answer").starts_with(b"HTTP/1.1 200"));
    gate
}

fn main() {
    let options = options();
    // Beside the build, not in /tmp, which may be memory.
    let dirs = [(); 4].map(|()| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"));
    let [dir, open, unsafe_dir, redis_dir] = dirs.each_ref().map(|dir| dir.path());
    let fenced = gate(dir, &[], None);
    let unchecked = gate(open, &["--no-enforce"], None);
    let unsynced = no_fsync(unsafe_dir).map(|library| gate(unsafe_dir, &[], Some(&library)));
    let redis = Redis::start(redis_dir);
    let (written, stale) = (b"HTTP/1.1 200".as_slice(), b"HTTP/1.1 412".as_slice());
    let mut talks = vec![
        ("fenced", Talk::http(&fenced.1, 7, written)),
        ("refusals", Talk::http(&fenced.1, 6, stale)),
        ("check off", Talk::http(&unchecked.1, 7, written)),
    ];
    talks.extend(unsynced.as_ref().map(|gate| ("fsync off", Talk::http(&gate.1, 7, written))));
    if let Some(redis) = &redis {
        talks.push(("Redis", Talk { addr: &redis.1, request: redis.write(), wanted: b":1", len: redis_len }));
    }
    let mut rates = vec![Vec::new(); talks.len() + 1];
    println!("{} rounds of {:?}, {} clients", options.rounds, options.time, options.clients);
    for round in 1..=options.rounds {
        print!("round {round}:");
        for ((name, talk), rates) in talks.iter().zip(&mut rates) {
            rates.push(talk.load(&options));
            print!(" {name} {:.0}/s,", rates[round - 1]);
        }
        rates[talks.len()].push(plain(dir, options.time));
        println!(" rusqlite loop {:.0}/s", rates[talks.len()][round - 1]);
    }
    let names = talks.iter().map(|(name, _)| *name).chain(["rusqlite loop"]);
    for (name, other) in names.zip(&rates).skip(2) {
        let ratio = median(rates[0].iter().zip(other).map(|(one, other)| one / other).collect());
        println!(
            "fenced over {name:<14} {ratio:.3} (median of {} pairs; {:.0}/s)",
            options.rounds,
            median(other.clone())
        );
    }
    println!("medians: fenced {:.0}/s, refusals {:.0}/s", median(rates[0].clone()), median(rates[1].clone()));
}
