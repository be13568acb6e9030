//! `fencegate sql`.

use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::fence::claim::PresentedTokens;
use crate::fence::{ClaimError, Holder};

use super::failure::Failure;
use super::http::{self, Endpoint};
use super::identity::IdentityArgs;
use super::{keyed, table};

/// Run SQL through a gate.
///
/// Each argument is one statement, and the first that fails is the last that is run; `-` reads a script from standard input. Reads
/// need no token. Exit status 77 where the gate refuses the token, 1 where a statement fails.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate sql \"SELECT * FROM jobs\"
  fencegate sql --token 7 \"INSERT INTO jobs VALUES (1)\" \"SELECT * FROM jobs\"
  fencegate sql --token 'shop=7, scheduler=12' - < migration.sql")]
pub struct SqlArgs {
    /// Statements, or - for a script on standard input.
    #[arg(required = true, value_name = "SQL")]
    sql: Vec<String>,
    /// The fencing token: 7, or fence=token for several fences.
    #[arg(long, value_name = "TOKEN", env = "FENCING_TOKEN", value_parser = tokens)]
    token: Option<String>,
    /// The leader's own name for itself.
    #[arg(long, value_name = "NAME", env = "FENCING_HOLDER")]
    holder: Option<Holder>,
    /// Where the resource is mounted.
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// The gate's data listener.
    #[arg(long, value_name = "URL", env = "FENCEGATE_URL", default_value = "http://127.0.0.1:7070")]
    gate: String,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Print the gate's JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// [`Failure::Refused`], [`Failure::Other`] for a statement that failed, …
pub fn run(args: &SqlArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let gate = Endpoint::open(&args.gate, "--gate", &args.identity.open()?)?;
    let work = work(&args.sql)?;
    // Asked before the stream is closed: what a transaction without COMMIT did is rolled back then, which must not look like success.
    let requests = json!([work, { "type": "get_autocommit" }, { "type": "close" }]);
    let mut headers = Vec::new();
    headers.extend(args.token.iter().map(|token| ("fencing-token", token.clone())));
    headers.extend(args.holder.iter().map(|holder| ("fencing-holder", holder.to_string())));
    let mount = args.path.trim_end_matches('/');
    let body = json!({ "baton": null, "requests": requests }).to_string().into_bytes();
    let answer = match args.token {
        Some(_) => keyed::send(&gate, mount, &headers, body),
        // It can only read.
        None => gate.send(&Method::POST, &format!("{mount}/v3/pipeline"), &headers, body),
    };
    let answer = http::json(&answer?)?;
    if args.json {
        writeln!(out, "{answer}")?;
    }
    let work = &answer["results"][0];
    let failed = |error: &Value| {
        let message = error["message"].as_str()?;
        Some(Failure::Other(format!("{}: {message}", table::cell(&error["code"]))))
    };
    let result = &work["response"]["result"];
    for (index, step) in result["step_results"].as_array().into_iter().flatten().enumerate() {
        if step.is_null() || args.json {
            continue;
        }
        if index > 0 {
            writeln!(out)?;
        }
        print(step, out)?;
    }
    out.flush()?;
    let mut errors = result["step_errors"].as_array().into_iter().flatten();
    if let Some(failure) = failed(&work["error"]).or_else(|| errors.find_map(failed)) {
        return Err(failure);
    }
    if answer["results"][1]["response"]["is_autocommit"] == false {
        let why = "a transaction was left open and has been rolled back; end it with COMMIT";
        return Err(Failure::Other(why.into()));
    }
    Ok(())
}

/// What `Fencing-Token` can be, as it is written.
fn tokens(text: &str) -> Result<String, ClaimError> {
    PresentedTokens::parse(text).map(|_| text.to_owned())
}

/// What to run: a script from standard input, or statements, each only where the one before it went well.
fn work(sql: &[String]) -> Result<Value, Failure> {
    if sql == ["-"] {
        let mut script = String::new();
        std::io::stdin().lock().read_to_string(&mut script)?;
        return Ok(json!({ "type": "sequence", "sql": script }));
    }
    if sql.iter().any(|sql| sql == "-") {
        return Err(Failure::Usage("- reads a script from standard input, and stands alone".into()));
    }
    let step = |(index, sql): (usize, &String)| match index.checked_sub(1) {
        Some(before) => json!({ "stmt": { "sql": sql }, "condition": { "type": "ok", "step": before } }),
        None => json!({ "stmt": { "sql": sql } }),
    };
    let steps: Vec<Value> = sql.iter().enumerate().map(step).collect();
    Ok(json!({ "type": "batch", "batch": { "steps": steps } }))
}

fn print(result: &Value, out: &mut dyn Write) -> std::io::Result<()> {
    let cols = result["cols"].as_array().map_or(&[][..], Vec::as_slice);
    if cols.is_empty() {
        return match result["affected_row_count"].as_u64() {
            Some(1) => writeln!(out, "1 row changed"),
            Some(rows) => writeln!(out, "{rows} rows changed"),
            None => writeln!(out, "done"),
        };
    }
    let names: Vec<&str> = cols.iter().map(|col| col["name"].as_str().unwrap_or("?")).collect();
    let row = |row: &Value| row.as_array().into_iter().flatten().map(value).collect();
    let rows: Vec<Vec<String>> = result["rows"].as_array().into_iter().flatten().map(row).collect();
    table::print(out, &names, &rows)?;
    writeln!(out, "({} {})", rows.len(), if rows.len() == 1 { "row" } else { "rows" })
}

/// A Hrana value for people.
fn value(value: &Value) -> String {
    match value["type"].as_str() {
        Some("null") => "NULL".into(),
        Some("blob") => {
            let bytes = STANDARD.decode(value["base64"].as_str().unwrap_or_default()).unwrap_or_default();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{hex}'")
        }
        _ => table::cell(&value["value"]),
    }
}
