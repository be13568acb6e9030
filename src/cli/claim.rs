//! `fencegate claim`.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use crate::fence::{FenceName, Holder, Token};

use super::failure::Failure;
use super::http::{Endpoint, segment};
use super::identity::IdentityArgs;
use super::table::cell;

/// Claim a fence for a token, without writing.
///
/// A new leader claims before it reads the state that it will build on: from then on no older leader's write gets in. Exit
/// status 77 where the token is refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate claim orders 7
  fencegate claim orders 7 --holder node-a")]
pub struct ClaimArgs {
    /// The fence.
    fence: FenceName,
    /// The fencing token: the leader's term.
    token: Token,
    /// The leader's own name for itself.
    #[arg(long, value_name = "NAME", env = "FENCING_HOLDER")]
    holder: Option<Holder>,
    /// The gate's data listener.
    #[arg(long, value_name = "URL", env = "FENCEGATE_URL", default_value = "http://127.0.0.1:7070")]
    gate: String,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Claims.
///
/// # Errors
/// [`Failure::Refused`], [`Failure::Unreachable`], …
pub fn run(args: &ClaimArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let gate = Endpoint::open(&args.gate, "--gate", &args.identity.open()?)?;
    let mut headers = vec![("fencing-token", args.token.to_string())];
    headers.extend(args.holder.iter().map(|holder| ("fencing-holder", holder.to_string())));
    let path = format!("/-/fences/{}/claim", segment(&args.fence));
    let claimed = gate.post(&path, &headers, &Value::Null)?;
    if args.json {
        return Ok(writeln!(out, "{claimed}")?);
    }
    let before = match &claimed["previous"] {
        Value::Null => "its first claim".to_owned(),
        previous => format!("before: {}", cell(previous)),
    };
    Ok(writeln!(out, "{}: fence {} is at token {} ({before})", cell(&claimed["verdict"]), args.fence, args.token)?)
}
