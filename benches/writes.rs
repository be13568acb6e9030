//! Durable fenced writes a second through the real gate, against a loop over rusqlite that commits each write, on the same
//! disk, in interleaved rounds; medians and the ratio.
//!
//! `cargo bench --bench writes` (`-- --rounds 9 --clients 256 --seconds 2`)
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::io::{BufRead, BufReader};
use std::path::Path;
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
    fn start(dir: &Path, args: &[&str]) -> Gate {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fencegate"))
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

/// One request and its answer; the status.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> std::io::Result<u16> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(buffer);
        let Some(head) = text.find("\r\n\r\n") else { continue };
        let length = text[..head].lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if buffer.len() >= head + 4 + length.unwrap_or(0) {
            return Ok(text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0));
        }
    }
}

fn request(token: u64, body: &str) -> Vec<u8> {
    format!(
        "POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Answers of this status a second, over this many connections.
fn load(addr: &str, options: &Options, token: u64, wanted: u16) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = async {
        let started = Instant::now();
        let tasks: Vec<_> = (0..options.clients)
            .map(|_| {
                let (addr, time, request) = (addr.to_owned(), options.time, request(token, BODY));
                tokio::spawn(async move {
                    let mut stream = TcpStream::connect(addr).await.expect("it accepts");
                    stream.set_nodelay(true).expect("a socket option");
                    let (mut buffer, mut count) = (Vec::with_capacity(4096), 0_u64);
                    while started.elapsed() < time {
                        let status = exchange(&mut stream, &request, &mut buffer).await.expect("an answer");
                        assert_eq!(status, wanted, "{}", String::from_utf8_lossy(&buffer));
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

fn main() {
    let options = options();
    // Beside the build, not in /tmp, which may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let gate = Gate::start(dir.path(), &[]);
    let open = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let unchecked = Gate::start(open.path(), &["--no-enforce"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for addr in [&gate.1, &unchecked.1] {
        let create = BODY.replace("INSERT INTO t (v) VALUES (?)", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)");
        let create = create.replace(r#","args":[{"type":"text","value":"hello world"}]"#, "");
        let created = runtime.block_on(async {
            let mut stream = TcpStream::connect(addr).await?;
            exchange(&mut stream, &request(7, &create), &mut Vec::new()).await
        });
        assert_eq!(created.expect("an answer"), 200);
    }
    let (mut fenced, mut open, mut loops, mut stale) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    println!("{} rounds of {:?}, {} clients", options.rounds, options.time, options.clients);
    for round in 1..=options.rounds {
        fenced.push(load(&gate.1, &options, 7, 200));
        loops.push(plain(dir.path(), options.time));
        open.push(load(&unchecked.1, &options, 7, 200));
        stale.push(load(&gate.1, &options, 6, 412));
        println!(
            "round {round}: fenced {:.0}/s, check off {:.0}/s, rusqlite loop {:.0}/s, refusals {:.0}/s",
            fenced[round - 1],
            open[round - 1],
            loops[round - 1],
            stale[round - 1]
        );
    }
    let ratio = |one: &[f64], other: &[f64]| median(one.iter().zip(other).map(|(one, other)| one / other).collect());
    println!("fenced over rusqlite loop   {:.2} (median of {} pairs)", ratio(&fenced, &loops), options.rounds);
    println!("fenced over check off       {:.3}", ratio(&fenced, &open));
    println!("medians: fenced {:.0}/s, refusals {:.0}/s", median(fenced), median(stale));
}
