//! The arguments, and what of them doesn't fit together.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Plan;
use super::load::Pace;
use super::target::Header;
use crate::cli::failure::Failure;
use crate::fence::FenceName;

/// Measure what fencing costs, on this machine.
///
/// Without --upstream and --gate: writes to a SQLite database that is made for this and removed afterwards. Measures, in turn and
/// several times over, a loop without any gate, a gate with its check off and one with its check on, the refusal of stale tokens, and
/// the takeover by new leaders; and says what the check costs, or that the machine is too noisy to tell.
///
/// What bench hasn't made, it doesn't write to, unless --write-to-it says so.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate bench
  fencegate bench --rate 5000 --report bench.html
  fencegate bench --upstream http://127.0.0.1:9000 --path /stock/1
  fencegate bench --upstream http://127.0.0.1:9000 --write-to-it --method PUT
  fencegate bench --gate http://127.0.0.1:7070 --fence orders --sql 'SELECT 1'

Exit status 0 also where nothing can be concluded: it says so.")]
pub struct BenchArgs {
    /// Measure an HTTP service: itself, and through gates that are started for this. Without --write-to-it, by GETs.
    #[arg(long, value_name = "URL", conflicts_with = "gate")]
    upstream: Option<String>,
    /// Measure a gate that runs: its data listener. Without --write-to-it, by reads and refusals.
    #[arg(long, value_name = "URL", requires = "fence")]
    gate: Option<String>,
    /// The fence at the running gate.
    #[arg(long, value_name = "NAME", requires = "gate")]
    fence: Option<FenceName>,
    /// The path that is read and written; with --sql, where the database is mounted.
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// The statement for a database behind the running gate; a ? in it stands for a text of --size bytes.
    #[arg(long, value_name = "SQL", requires = "gate")]
    sql: Option<String>,
    /// A header that every request has, such as a credential's. May be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<Header>,
    /// Write to the service, or through the running gate: thousands of times a second, what --path and --method or --sql say.
    #[arg(long)]
    write_to_it: bool,
    /// The method of writes to a service [default: POST].
    #[arg(long, value_name = "METHOD", requires = "write_to_it", conflicts_with = "sql", value_parser = method)]
    method: Option<String>,
    /// Raise the running gate's mark by up to so many tokens, to measure takeovers. Deposes whoever leads with a lower token.
    #[arg(long, value_name = "N", requires = "write_to_it", requires = "gate", value_parser = clap::value_parser!(u64).range(1..1_000_000_000))]
    advance_by: Option<u64>,
    /// Do so even if the fence has a holder.
    #[arg(long, requires = "advance_by")]
    depose: bool,
    /// The running gate's process number, for its processor time.
    #[arg(long, value_name = "PID", requires = "gate")]
    gate_pid: Option<u32>,
    /// Put the load on an address that is not on this machine.
    #[arg(long)]
    allow_remote: bool,
    /// Connections.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Threads of the load generator.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Send so many requests a second, whether they are answered or not; latencies count from when each is due [default: each
    /// connection sends as soon as it is answered].
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// How long each is measured in each round.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// For how long before that nothing counts.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// How often each is measured, exactly [default: 7 times, and then what is compared more often until the difference is known
    /// to a percentage point, or --time is over].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// For how long what is compared may be measured again; the first 7 rounds are run in any case.
    #[arg(long, value_name = "TIME", default_value = "60s", conflicts_with = "rounds", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Bytes of each value written.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    size: u32,
    /// How long an answer may take; one that takes longer ends the run.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    answer_time: Duration,
    /// Where the temporary folder is made, and with it the databases [default: the system's folder for such].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Write a page with curves to this file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// So often everything is measured where nothing else is asked for: a median of seven is known to lie between the lowest and the
/// highest with a confidence of 98%.
const ROUNDS: usize = 7;
/// The longest that a whole run may take by choice.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest that one thing is measured at once.
const DURATION_MAX: Duration = Duration::from_secs(600);
/// And the shortest.
const DURATION_MIN: Duration = Duration::from_millis(10);

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=10_000_000.0).contains(&rate) { Ok(rate) } else { Err("write a number from 0.1 to 10000000".into()) }
}

fn method(text: &str) -> Result<String, String> {
    let reads = ["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"];
    let is_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_word && !reads.contains(&text) {
        return Ok(text.to_owned());
    }
    Err("write the method of a write, such as POST or PUT".into())
}

/// What is measured.
#[derive(Debug)]
pub enum What<'a> {
    /// A database of its own.
    Sqlite,
    /// An HTTP service.
    Upstream(super::subject::upstream::Asked<'a>),
    /// A gate that runs.
    Gate(super::subject::gate::Asked<'a>),
}

impl BenchArgs {
    /// How it is measured.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn plan(&self) -> Result<Plan, Failure> {
        let usage = |why: &str| Err(Failure::Usage(why.to_owned()));
        if self.duration < DURATION_MIN || self.duration > DURATION_MAX || self.warm_up > DURATION_MAX {
            return usage("--duration is from 10ms to 10m, and --warm-up up to 10m");
        }
        if self.answer_time < DURATION_MIN || self.answer_time > DURATION_MAX {
            return usage("--answer-time is from 10ms to 10m");
        }
        if self.time > TIME_MAX {
            return usage("--time is up to 24h");
        }
        if self.threads > self.connections {
            return usage("each of the --threads needs one of the --connections at least");
        }
        Ok(Plan {
            connections: self.connections as usize,
            threads: self.threads as usize,
            pace: self.rate.map_or(Pace::Closed, Pace::Open),
            warm_up: self.warm_up,
            duration: self.duration,
            rounds: self.rounds.map_or(ROUNDS, |rounds| rounds as usize),
            time: self.rounds.is_none().then_some(self.time),
            size: self.size as usize,
            answer_time: self.answer_time,
        })
    }

    /// What is measured.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn what(&self) -> Result<What<'_>, Failure> {
        let usage = |why: &str| Err(Failure::Usage(why.to_owned()));
        let is_path =
            self.path.starts_with('/') && self.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !is_path {
            return usage("--path starts with a slash, and is percent-encoded where need be");
        }
        let (headers, allow_remote) = (&self.headers[..], self.allow_remote);
        let method = (self.write_to_it && self.sql.is_none()).then(|| self.method.as_deref().unwrap_or("POST"));
        if let Some(url) = &self.upstream {
            return Ok(What::Upstream(super::subject::upstream::Asked {
                url,
                path: &self.path,
                method,
                headers,
                allow_remote,
            }));
        }
        if let (Some(url), Some(fence)) = (&self.gate, &self.fence) {
            return Ok(What::Gate(super::subject::gate::Asked {
                url,
                fence,
                path: &self.path,
                sql: self.sql.as_deref(),
                method,
                writes: self.write_to_it,
                advance_by: self.advance_by,
                depose: self.depose,
                pid: self.gate_pid,
                headers,
                allow_remote,
            }));
        }
        if self.write_to_it || self.allow_remote || !headers.is_empty() || self.path != "/" {
            return usage("--write-to-it, --path, --header and --allow-remote are for --upstream or --gate");
        }
        Ok(What::Sqlite)
    }

    /// Where the temporary folder is made.
    pub fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}
