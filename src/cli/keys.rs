//! `fencegate keys`.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::access::credential::SigningKey;

use super::failure::Failure;

/// Make the keys that leadership credentials are signed with.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate keys new lead
  fencegate keys new /etc/fencegate/lead")]
pub struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key pair: NAME.key, which only its owner can read, signs; NAME.pub is for the gates that check.
    New {
        /// The files' name, without its ending.
        name: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Makes it.
///
/// # Errors
/// A system without randomness; files that are there already.
pub fn run(args: &KeysArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Action::New { name, json } = &args.action;
    let with = |ending: &str| {
        let mut file = name.clone().into_os_string();
        file.push(ending);
        PathBuf::from(file)
    };
    let (private, public) = (with(".key"), with(".pub"));
    let key = SigningKey::create(&private, &public).map_err(Failure::Other)?;
    let id = key.public().id();
    if *json {
        return Ok(writeln!(out, "{}", json!({ "id": id, "private": private, "public": public }))?);
    }
    writeln!(out, "# {} signs: keep it secret. This is for the gates that check, as key {id}:", private.display())?;
    Ok(writeln!(out, "[[credential_key]]\nfile = {:?}", public.display().to_string())?)
}
