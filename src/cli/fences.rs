//! `fencegate fences list|show|history|reset|release`.

use std::io::{BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::fence::{FenceName, Token};

use super::failure::Failure;
use super::http::{Endpoint, segment};
use super::identity::IdentityArgs;
use super::table::{self, cell, time};

/// Look at fences, their history, and their operators' tools.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate fences list
  fencegate fences show orders
  fencegate fences history orders --limit 20
  fencegate fences reset orders --to 41 --reason \"etcd restored from a backup\"")]
pub struct FencesArgs {
    #[command(subcommand)]
    action: Action,
    /// The gate's admin listener.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "FENCEGATE_ADMIN_URL",
        default_value = "http://127.0.0.1:7071"
    )]
    admin_url: String,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// All fences with their marks.
    List {
        /// Only names that start with this.
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// One fence, and who was refused on it.
    Show {
        /// The fence.
        fence: FenceName,
    },
    /// Who was at which token when, newest first.
    History {
        /// The fence.
        fence: FenceName,
        /// Most events to show.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Set a mark, lower or higher or none. Open transactions on the fence end.
    ///
    /// For one case: the coordinator's numbers went back, so that its new leaders are refused. Whoever holds a token from the new
    /// mark up can write afterwards: stop old leaders first. The reason is kept in the history.
    Reset {
        /// The fence.
        fence: FenceName,
        /// The new mark: a token, or none.
        #[arg(long, value_name = "TOKEN|none")]
        to: String,
        /// Why; kept in the history.
        #[arg(long, value_name = "WHY")]
        reason: String,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
    },
    /// End a fence's quarantine now.
    Release {
        /// The fence.
        fence: FenceName,
        /// Why; kept in the history.
        #[arg(long, value_name = "WHY")]
        reason: String,
    },
}

/// Most events that the gate tells at once.
const PAGE_MAX: u64 = 1000;

/// Runs it.
///
/// # Errors
/// [`Failure::Unreachable`], …
pub fn run(args: &FencesArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let admin = Endpoint::open(&args.admin_url, "--admin-url", &args.identity.open()?)?;
    let path = |fence: &str, rest: &str| format!("/v1/fences/{}{rest}", segment(fence));
    match &args.action {
        Action::List { prefix } => list(&admin, prefix, args.json, out),
        Action::Show { fence } => {
            let info = admin.get(&path(fence, ""))?;
            if args.json { Ok(writeln!(out, "{info}")?) } else { Ok(show(&info, out)?) }
        }
        Action::History { fence, limit } => {
            let history = history(&admin, &path(fence, "/history"), *limit)?;
            if args.json { Ok(writeln!(out, "{history}")?) } else { Ok(events(&history, out)?) }
        }
        Action::Reset { fence, to, reason, yes } => {
            let highest = match to.as_str() {
                "none" => Value::Null,
                token => {
                    let token: Token =
                        token.parse().map_err(|error| Failure::Usage(format!("--to {token:?}: {error}")))?;
                    json!(token)
                }
            };
            if !yes {
                confirm(&admin.get(&path(fence, ""))?, to)?;
            }
            let reset = admin.post(&path(fence, "/reset"), &[], &json!({ "highest": highest, "reason": reason }))?;
            if args.json {
                return Ok(writeln!(out, "{reset}")?);
            }
            Ok(writeln!(out, "fence {fence}: the mark was {}, and is {to}", cell(&reset["previous"]))?)
        }
        Action::Release { fence, reason } => {
            let released = admin.post(&path(fence, "/release"), &[], &json!({ "reason": reason }))?;
            if args.json {
                return Ok(writeln!(out, "{released}")?);
            }
            let said = if released["released"] == true { "was released" } else { "was not quarantined" };
            Ok(writeln!(out, "fence {fence} {said}")?)
        }
    }
}

/// Asks on the terminal, by the fence's name.
fn confirm(info: &Value, to: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::Usage("reset asks on a terminal; without one, say --yes".into()));
    }
    let mut err = std::io::stderr();
    let name = cell(&info["fence"]);
    writeln!(
        err,
        "Fence {name} is at {}; this sets it to {to}. Older leaders with a token from there up can write again.",
        cell(&info["highest"])
    )?;
    write!(err, "Type the fence's name to go on: ")?;
    err.flush()?;
    let mut typed = String::new();
    stdin.lock().read_line(&mut typed)?;
    if typed.trim() == name { Ok(()) } else { Err(Failure::Usage("not confirmed; nothing was changed".into())) }
}

fn list(admin: &Endpoint, prefix: &str, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("/v1/fences?limit=1000&prefix={}&after={}", segment(prefix), segment(&after)))?;
        all.extend(page["fences"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    if json {
        return Ok(writeln!(out, "{}", json!({ "fences": all }))?);
    }
    Ok(table(out, &all)?)
}

/// The newest events of a fence, from as many pages as it takes.
fn history(admin: &Endpoint, path: &str, limit: u64) -> Result<Value, Failure> {
    let (mut all, mut before) = (Vec::new(), String::new());
    loop {
        let left = limit - all.len() as u64;
        let mut page = admin.get(&format!("{path}?limit={}{before}", left.min(PAGE_MAX)))?;
        let events = page["events"].as_array().cloned().unwrap_or_default();
        let is_last = events.is_empty() || events.len() as u64 >= left;
        all.extend(events);
        match page["next"].as_str().filter(|_| !is_last) {
            Some(next) => before = format!("&before={next}"),
            None => {
                page["events"] = all.into();
                return Ok(page);
            }
        }
    }
}

/// A table of fences.
///
/// # Errors
/// An output that can't be written to.
pub fn table(out: &mut dyn Write, fences: &[Value]) -> std::io::Result<()> {
    let row = |fence: &Value| {
        let mut row = ["fence", "highest", "holder"].map(|key| cell(&fence[key])).to_vec();
        row.push(time(&fence["advanced_at"]));
        row.extend(["in_flight", "refused"].map(|key| cell(&fence[key])));
        row
    };
    let rows: Vec<_> = fences.iter().map(row).collect();
    table::print(out, &["FENCE", "HIGHEST", "HOLDER", "SINCE", "IN FLIGHT", "REFUSED"], &rows)
}

fn show(info: &Value, out: &mut dyn Write) -> std::io::Result<()> {
    for (label, key) in [
        ("fence", "fence"),
        ("resource", "resource"),
        ("guarantee", "guarantee"),
        ("highest", "highest"),
        ("holder", "holder"),
        ("since", "advanced_at"),
        ("in flight", "in_flight"),
        ("quarantined", "quarantined_until"),
    ] {
        writeln!(out, "{label:<12} {}", cell(&info[key]))?;
    }
    let refusals = info["refusals"].as_array().map_or(&[][..], Vec::as_slice);
    if refusals.is_empty() {
        return writeln!(out, "nobody was refused");
    }
    writeln!(out, "\nrefused:")?;
    let row = |refusal: &Value| {
        let mut row = ["verdict", "token", "holder", "count"].map(|key| cell(&refusal[key])).to_vec();
        row.extend(["first_at", "last_at"].map(|key| time(&refusal[key])));
        row
    };
    let rows: Vec<_> = refusals.iter().map(row).collect();
    table::print(out, &["VERDICT", "TOKEN", "HOLDER", "TIMES", "FIRST", "LAST"], &rows)
}

fn events(history: &Value, out: &mut dyn Write) -> std::io::Result<()> {
    let row = |event: &Value| {
        let mut row = vec![time(&event["at"])];
        row.extend(["event", "token", "previous", "holder", "reason"].map(|key| cell(&event[key])));
        row
    };
    let rows: Vec<_> = history["events"].as_array().into_iter().flatten().map(row).collect();
    table::print(out, &["AT", "EVENT", "TOKEN", "BEFORE", "HOLDER", "REASON"], &rows)
}
