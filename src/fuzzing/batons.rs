//! Streams and their batons: a baton is good once, for whom it was given to, and for its own stream.
//!
//! Each two bytes of the input are a step: what is done, and with which of the batons so far.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::problem::Problem;
use crate::resource::sqlite::stream::{Stream, Streams, decode, encode};

use super::{Checked, hold};

/// Most steps.
const STEPS_MAX: usize = 200;
/// Who there is.
const SENDERS: [Option<&str>; 3] = [None, Some("anna"), Some("bert")];

/// A way to take the stream of a baton.
pub type Takes = fn(&Streams, &str, Option<&str>) -> Result<Stream, Problem>;

/// What a plain list of batons says of one.
#[derive(Debug, Clone, Copy)]
struct Known {
    by: Option<&'static str>,
    /// Which stream it is for, as it is marked.
    mark: i64,
}

/// Streams beside what is known of them.
struct Model {
    streams: Streams,
    takes: Takes,
    /// Whether streams can be closed to make room for others.
    is_small: bool,
    good: HashMap<String, Known>,
    /// All that were ever given out.
    all: Vec<String>,
    marks: i64,
}

impl Model {
    fn new(takes: Takes, is_small: bool) -> Model {
        let streams = Streams::new(if is_small { 4 } else { STEPS_MAX });
        Model { streams, takes, is_small, good: HashMap::new(), all: Vec::new(), marks: 0 }
    }

    fn give(&mut self, stream: Stream, known: Known) -> Checked {
        match self.streams.put(stream) {
            Some(baton) => {
                let told = decode(&baton).map(|(id, secret)| encode(id, &secret));
                hold!(told.as_ref() == Some(&baton), "{baton} is read as another one, {told:?}");
                hold!(!self.all.contains(&baton), "{baton} was given out before");
                self.good.insert(baton.clone(), known);
                self.all.push(baton);
            }
            None => hold!(self.is_small, "there was room, and a stream was closed"),
        }
        Ok(())
    }

    /// Shows a baton. `keeps`: a stream that is taken is put back.
    fn show(&mut self, baton: &str, by: Option<&'static str>, keeps: bool) -> Checked {
        let known = self.good.get(baton).copied().filter(|known| known.by == by);
        match ((self.takes)(&self.streams, baton, by), known) {
            (Ok(stream), Some(known)) => {
                hold!(stream.last_rowid == known.mark, "{baton} gives stream {} for {known:?}", stream.last_rowid);
                self.good.remove(baton);
                if keeps {
                    return self.give(stream, known);
                }
                self.streams.forget(&stream);
            }
            (Ok(stream), None) => {
                return Err(format!("{baton} isn't good for {by:?}, and gives stream {}", stream.last_rowid));
            }
            (Err(_), Some(_)) if self.is_small => drop(self.good.remove(baton)),
            (Err(problem), Some(known)) => return Err(format!("{baton}, {known:?}, is refused: {problem}")),
            (Err(_), None) => {}
        }
        Ok(())
    }

    fn step(&mut self, what: u8, which: u8) -> Checked {
        let by = SENDERS[usize::from(what >> 4) % SENDERS.len()];
        let chosen = || self.all.get(usize::from(which) % self.all.len().max(1)).cloned();
        match what % 8 {
            0 | 1 => {
                self.marks += 1;
                let mut stream = Stream::of(by.map(str::to_owned));
                stream.last_rowid = self.marks;
                self.give(stream, Known { by, mark: self.marks })
            }
            2 | 3 => chosen().map_or(Ok(()), |baton| self.show(&baton, by, true)),
            4 => chosen().map_or(Ok(()), |baton| self.show(&baton, by, false)),
            5 => {
                // One that differs from a good one in a bit.
                let Some(mut baton) = chosen().map(String::into_bytes) else { return Ok(()) };
                let at = usize::from(which) % baton.len();
                baton[at] ^= 1 << (which % 7);
                let Ok(baton) = String::from_utf8(baton) else { return Ok(()) };
                hold!(!self.good.contains_key(&baton), "two good batons differ in a bit");
                self.show(&baton, by, true)
            }
            6 => {
                // Streams that hold nothing are kept, however long they are unused.
                let now = Instant::now();
                let gone = self.streams.sweep(now + Duration::from_secs(1), now);
                hold!(gone == 0, "{gone} streams without a transaction were closed");
                Ok(())
            }
            // The number of a stream is no secret; all that keeps it is the rest.
            _ => self.show(&encode(u64::from(which), &[which; 16]), by, true),
        }
    }
}

/// A baton that is taken was given out to this sender, for this stream, and wasn't shown before; and as long as there is room, such a
/// one is taken. Any text is a baton in one spelling at most.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(takes: Takes, input: &[u8]) -> Checked {
    let Some((first, steps)) = input.split_first() else { return Ok(()) };
    let text = String::from_utf8_lossy(input);
    if let Some((id, secret)) = decode(&text) {
        hold!(encode(id, &secret) == *text, "{text:?} is another spelling of a baton");
    }
    let mut model = Model::new(takes, first % 2 == 1);
    for step in steps.chunks_exact(2).take(STEPS_MAX) {
        model.step(step[0], step[1])?;
    }
    if !model.is_small {
        for (baton, known) in model.good.clone() {
            model.show(&baton, known.by, false)?;
        }
        hold!(model.streams.is_empty(), "{} streams are left that nobody has a baton for", model.streams.len());
    }
    Ok(())
}

/// The property, of the gate's own table.
///
/// # Errors
/// How it doesn't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(Streams::take, input)
}
