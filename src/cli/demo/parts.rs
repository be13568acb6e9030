//! The parts that this same program plays in a scenario, as processes of their own: `fencegate __demo-part PART SETTINGS`.
//!
//! A part reports what happens to it on its standard output ([`story::report`](super::story::report)), and complains on its standard
//! error, which is a file. It ends when its work is done or its leadership lost, and is killed with the demonstration at the latest.

use std::ffi::OsString;
use std::future::Future;

use serde::de::DeserializeOwned;

/// The first argument of the program that plays a part.
pub const PART: &str = "__demo-part";

/// Plays a part: the arguments are its name and its settings in JSON.
pub fn run(mut args: impl Iterator<Item = OsString>) -> u8 {
    let (part, settings) = (args.next(), args.next());
    let text = |arg: &Option<OsString>| arg.as_deref().and_then(|arg| arg.to_str()).unwrap_or_default().to_owned();
    let settings = text(&settings);
    let played = match text(&part).as_str() {
        "seller" => play(&settings, super::pause::sell),
        "biller" => play(&settings, super::billing::bill),
        "late-store" => play(&settings, super::late::store::serve),
        "late-naive" => play(&settings, super::late::naive::serve),
        "late-pricer" => play(&settings, super::late::pricer::lead),
        "partition-invoicer" => play(&settings, super::partition::invoicer::lead),
        other => Err(format!("there is no part {other:?}")),
    };
    match played {
        Ok(()) => 0,
        Err(why) => {
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{why}\n"));
            1
        }
    }
}

fn play<S, F>(settings: &str, part: impl FnOnce(S) -> F) -> Result<(), String>
where
    S: DeserializeOwned,
    F: Future<Output = Result<(), String>>,
{
    let settings = serde_json::from_str(settings).map_err(|error| format!("settings: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(part(settings));
    runtime.shutdown_background();
    outcome
}
