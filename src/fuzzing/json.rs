//! Texts as JSON strings. The input is the text.

use serde_json::Value;

use crate::json::{escaped, optional, string};

use super::{Checked, hold};

/// A way to write a text.
pub type Writes = fn(&mut Vec<u8>, &str);

/// What is written is one JSON string, as serde has it, and read again it is the text.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(writes: Writes, input: &[u8]) -> Checked {
    let text = String::from_utf8_lossy(input);
    let mut whole = Vec::new();
    writes(&mut whole, &text);
    let by_serde = serde_json::to_vec(&*text).map_err(|error| error.to_string())?;
    hold!(whole == by_serde, "{text:?} is not written as serde writes it");
    let read: Result<Value, _> = serde_json::from_slice(&whole);
    hold!(read.as_ref().ok().and_then(Value::as_str) == Some(&*text), "{text:?} is read again as {read:?}");
    // A line of the cursor's answer, or of the events, ends only where its writer ends it.
    hold!(whole.iter().all(|byte| *byte >= b' '), "{text:?} has a control byte when it is written");
    Ok(())
}

/// The property, of all that the gate writes texts with.
///
/// # Errors
/// How it doesn't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(string, input)?;
    agrees(|out, text| optional(out, Some(text)), input)?;
    let as_part: Writes = |out, text| {
        out.push(b'"');
        escaped(out, text);
        out.push(b'"');
    };
    agrees(as_part, input)
}
