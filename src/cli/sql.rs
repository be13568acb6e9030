//! `fencegate sql`.

use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::failure::Failure;
use super::http::Endpoint;
use super::table;

/// Run SQL through a gate.
///
/// Each argument is one statement; `-` reads a script from standard input. Reads need no token. Exit status 77 where the gate
/// refuses the token, 1 where a statement fails.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate sql \"SELECT * FROM jobs\"
  fencegate sql --token 7 \"INSERT INTO jobs VALUES (1)\" \"SELECT count(*) FROM jobs\"
  fencegate sql --token 'shop=7, scheduler=12' - < migration.sql")]
pub struct SqlArgs {
    /// Statements, or - for a script on standard input.
    #[arg(required = true, value_name = "SQL")]
    sql: Vec<String>,
    /// The fencing token: 7, or fence=token for several fences.
    #[arg(long, value_name = "TOKEN", env = "FENCING_TOKEN")]
    token: Option<String>,
    /// The leader's own name for itself.
    #[arg(long, value_name = "NAME", env = "FENCING_HOLDER")]
    holder: Option<String>,
    /// Where the resource is mounted.
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// The gate's data listener.
    #[arg(long, value_name = "URL", env = "FENCEGATE_URL", default_value = "http://127.0.0.1:7070")]
    gate: String,
    /// Print the gate's JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// [`Failure::Refused`], [`Failure::Other`] for a statement that failed, …
pub fn run(args: &SqlArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let gate = Endpoint::parse(&args.gate, "--gate")?;
    let mut requests = Vec::with_capacity(args.sql.len() + 1);
    for sql in &args.sql {
        requests.push(if sql == "-" {
            let mut script = String::new();
            std::io::stdin().lock().read_to_string(&mut script)?;
            json!({ "type": "sequence", "sql": script })
        } else {
            json!({ "type": "execute", "stmt": { "sql": sql } })
        });
    }
    requests.push(json!({ "type": "close" }));
    let mut headers = Vec::new();
    headers.extend(args.token.iter().map(|token| ("fencing-token", token.clone())));
    headers.extend(args.holder.iter().map(|holder| ("fencing-holder", holder.clone())));
    let path = format!("{}/v3/pipeline", args.path.trim_end_matches('/'));
    let body = json!({ "baton": null, "requests": requests }).to_string().into_bytes();
    let answer = gate.send(Method::POST, &path, &headers, body)?.json()?;
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    if args.json {
        writeln!(out, "{answer}")?;
    }
    let mut first = true;
    for result in &results {
        if let Some(message) = result["error"]["message"].as_str() {
            out.flush()?;
            return Err(Failure::Other(format!("{}: {message}", table::cell(&result["error"]["code"]))));
        }
        let response = &result["response"];
        if args.json || response["type"] == "close" {
            continue;
        }
        if !std::mem::take(&mut first) {
            writeln!(out)?;
        }
        print(&response["result"], out)?;
    }
    Ok(())
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
