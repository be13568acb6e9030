//! What `lead` tells of itself: sentences for people or JSON lines, on standard error or in a file.
//!
//! A thread of its own writes them. Whoever reads them may be slow or stopped; the lease must be kept all the same.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::fence::{FenceName, Token};

/// How many lines may wait to be written; more are dropped.
const WAITING_MAX: usize = 1000;
/// How long the end of the program waits for the last lines to be written.
const FINISH_TIME: Duration = Duration::from_secs(1);
/// How long a process that is about to stop waits for that.
const FLUSH_TIME: Duration = Duration::from_millis(100);

/// Where events go.
#[derive(Debug)]
pub struct Events {
    lines: SyncSender<Line>,
    written: Receiver<()>,
    election: FenceName,
    /// Whether standard error gets JSON instead of sentences.
    json: bool,
    has_file: bool,
}

#[derive(Debug, Default)]
struct Line {
    to_people: Option<String>,
    to_file: Option<String>,
    is_last: bool,
    /// Told when everything before it is written.
    written: Option<SyncSender<()>>,
}

impl Events {
    /// Starts the thread. `file`: JSON lines are added to it, whatever standard error gets.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn start(election: &FenceName, json: bool, file: Option<&Path>) -> std::io::Result<Events> {
        let mut file = file.map(|file| File::options().append(true).create(true).open(file)).transpose()?;
        let (lines, waiting) = sync_channel::<Line>(WAITING_MAX);
        let (done, written) = sync_channel(1);
        let has_file = file.is_some();
        std::thread::Builder::new().name("events".into()).spawn(move || {
            // One write a line, so that lines of several processes don't mix. Nobody can be told that this fails.
            for line in waiting {
                if let Some(written) = line.written {
                    let _ = written.send(());
                }
                if line.is_last {
                    break;
                }
                if let Some(text) = line.to_people {
                    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
                }
                if let (Some(text), Some(file)) = (line.to_file, &mut file) {
                    let _ = file.write_all(format!("{text}\n").as_bytes());
                }
            }
            let _ = done.send(());
        })?;
        Ok(Events { lines, written, election: election.clone(), json, has_file })
    }

    /// Tells of one event. `sentence` is what people are told, if anything; `members` go into the JSON object beside `time`,
    /// `event`, `election` and `token`.
    pub fn tell(&self, event: &str, token: Option<Token>, members: Value, sentence: Option<String>) {
        let mut object = json!({
            "time": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            "event": event, "election": self.election, "token": token,
        });
        if let (Value::Object(object), Value::Object(members)) = (&mut object, members) {
            object.extend(members);
        }
        let to_people =
            if self.json { Some(object.to_string()) } else { sentence.map(|text| format!("fencegate: {text}")) };
        let to_file = self.has_file.then(|| object.to_string());
        let _ = self.lines.try_send(Line { to_people, to_file, ..Line::default() });
    }

    /// A writer for log lines, which go the same way to standard error.
    pub fn log(&self) -> impl Fn() -> LogLine + Send + Sync + 'static {
        let lines = self.lines.clone();
        move || LogLine { lines: lines.clone(), text: Vec::new() }
    }

    /// Waits, but not for long, until what was told is written: before this process stops, and its threads with it.
    pub fn flush(&self) {
        let (written, told) = sync_channel(1);
        if self.lines.try_send(Line { written: Some(written), ..Line::default() }).is_ok() {
            let _ = told.recv_timeout(FLUSH_TIME);
        }
    }

    /// Waits, but not for long, until what was told is written.
    pub fn finish(self) {
        // The log has senders, too, for as long as the program runs: dropping this one would end nothing.
        let _ = self.lines.try_send(Line { is_last: true, ..Line::default() });
        let _ = self.written.recv_timeout(FINISH_TIME);
    }
}

/// One line of the log, sent when it is whole.
#[derive(Debug)]
pub struct LogLine {
    lines: SyncSender<Line>,
    text: Vec<u8>,
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text).trim_end().to_owned();
        if !text.is_empty() {
            let _ = self.lines.try_send(Line { to_people: Some(text), ..Line::default() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_one_object_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        for token in [7, 8] {
            let events = Events::start(&"orders".parse().unwrap(), false, Some(&path)).unwrap();
            events.tell("elected", Token::new(token).ok(), json!({ "holder": "a" }), None);
            events.finish();
        }
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[1]["event"], &lines[1]["token"]), (&json!("elected"), &json!("8")));
        assert_eq!((&lines[1]["election"], &lines[1]["holder"]), (&json!("orders"), &json!("a")));
        assert!(lines[1]["time"].as_str().unwrap().ends_with('Z'));
    }
}
