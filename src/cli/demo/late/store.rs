//! A small HTTP key-value service that is slow with some writes, as any service can be: it has a write, and applies it later.
//!
//! It knows nothing of tokens but writes down the one that came with each write: its log, one line for each write in the order in
//! which they were applied, is what judges. SIGUSR1 ends the slowness of what it has: the demonstration decides when, by what has
//! happened, and nobody has to guess a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::web;
use crate::cli::demo::story::{Kind, report};
use crate::fence::Token;

/// In an answer: the highest token that had written there before, so that a writer can say whether it has overwritten a newer value.
pub const WRITTEN_BEFORE: &str = "written-before";
/// The longest value.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The service's settings.
#[derive(Debug, Serialize, Deserialize)]
pub struct Store {
    /// Where it notes what it has applied.
    pub log: PathBuf,
    /// The values that it is slow with.
    pub slow: Vec<String>,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Where.
    pub path: String,
    /// The token that came with it.
    pub token: Option<Token>,
    /// What.
    pub value: String,
}

/// Reads the log.
///
/// # Errors
/// It can't be read, or has other lines.
pub fn read(log: &std::path::Path) -> std::io::Result<Vec<Applied>> {
    let text = std::fs::read_to_string(log)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(std::io::Error::from)).collect()
}

struct Shared {
    slow: Vec<String>,
    released: watch::Receiver<u64>,
    kept: Mutex<Kept>,
}

struct Kept {
    log: File,
    /// The value at each path, and the highest token that came with any there.
    values: HashMap<String, (String, Option<Token>)>,
}

/// The service.
///
/// # Errors
/// It can't listen, or not make its log.
pub async fn serve(settings: Store) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let mut release = signal(SignalKind::user_defined1()).map_err(told)?;
    let log = File::options().append(true).create(true).open(&settings.log).map_err(told)?;
    let (releases, released) = watch::channel(0);
    let kept = Mutex::new(Kept { log, values: HashMap::new() });
    let shared = Arc::new(Shared { slow: settings.slow, released, kept });
    let released = async move {
        while release.recv().await.is_some() {
            releases.send_modify(|times| *times += 1);
        }
    };
    let answered = web::serve(move |request| answer(Arc::clone(&shared), request));
    tokio::select! {
        ended = answered => ended,
        () = released => Ok(()),
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if head.method == Method::GET {
        let kept = shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        return match kept.values.get(&path) {
            Some((value, _)) => web::response(StatusCode::OK, value.clone()),
            None => web::response(StatusCode::NOT_FOUND, ""),
        };
    }
    if head.method != Method::PUT {
        return web::response(StatusCode::METHOD_NOT_ALLOWED, "");
    }
    let token = web::token(&head.headers);
    let Ok(body) = Limited::new(body, VALUE_BYTES_MAX).collect().await else {
        return web::response(StatusCode::BAD_REQUEST, "");
    };
    let value = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    // What has come whole is applied, whether or not its sender still waits: the connection's end doesn't end this task.
    let applied = tokio::spawn(async move { shared.put(Applied { path, token, value }).await });
    match applied.await {
        Ok(Ok(before)) => {
            let mut response = web::response(StatusCode::NO_CONTENT, "");
            if let Some(before) = before.and_then(|before| before.to_string().try_into().ok()) {
                response.headers_mut().insert(WRITTEN_BEFORE, before);
            }
            response
        }
        Ok(Err(error)) => web::response(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(_) => web::response(StatusCode::INTERNAL_SERVER_ERROR, ""),
    }
}

impl Shared {
    /// Applies a write, once it is no longer slow with it; the highest token that had written there before.
    async fn put(&self, write: Applied) -> std::io::Result<Option<Token>> {
        let shown = write.token.map_or_else(|| "no token".to_owned(), |token| format!("token {token}"));
        if self.slow.contains(&write.value) {
            // Seen as of now before it is told: a release that answers to this is not missed.
            let mut released = self.released.clone();
            released.borrow_and_update();
            report(Kind::Works, format!("has the price {} ({shown}), and is slow with it", write.value));
            let _ = released.changed().await;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.values.get(&write.path).and_then(|(_, highest)| *highest);
        let line = serde_json::to_string(&write)? + "\n";
        kept.log.write_all(line.as_bytes())?;
        let overwrites = if before > write.token { ", over a newer one" } else { "" };
        let told = format!("sets the price to {} ({shown}){overwrites}", write.value);
        kept.values.insert(write.path, (write.value, before.max(write.token)));
        report(Kind::Note, told);
        Ok(before)
    }
}
