//! Check-then-forward, as most tutorials do it: a proxy that refuses a token below the highest that it has seen, and forwards the rest.
//!
//! **This is not how fencegate works; it is what it is compared with.** Its check is right, under a lock, and a new leader can claim
//! before it writes. What is wrong is that the check and the write are two steps: a write that has passed the check may still be on its
//! way when a newer one, which passes too, is applied.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::web;
use crate::cli::demo::story::{Kind, report};
use crate::endpoint::{Call, Endpoint, Options};
use crate::fence::Token;
use crate::headers::{FENCING_HIGHEST, FENCING_VERDICT};

/// The longest body.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The proxy's settings.
#[derive(Debug, Serialize, Deserialize)]
pub struct Naive {
    /// The service behind it.
    pub upstream: String,
}

struct Shared {
    upstream: Endpoint,
    highest: Mutex<Option<Token>>,
}

/// The proxy.
///
/// # Errors
/// It can't listen.
pub async fn serve(settings: Naive) -> Result<(), String> {
    let upstream = Endpoint::parse(&settings.upstream, Options::default()).map_err(|error| error.to_string())?;
    let shared = Arc::new(Shared { upstream, highest: Mutex::default() });
    web::serve(move |request| answer(Arc::clone(&shared), request)).await
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Some(token) = web::token(&head.headers) else {
        return web::response(StatusCode::PRECONDITION_REQUIRED, "");
    };
    // Step one: check.
    if let Err(highest) = shared.check(token) {
        let mut response = web::response(StatusCode::PRECONDITION_FAILED, "{\"title\":\"stale token\"}");
        if let Ok(highest) = highest.to_string().try_into() {
            response.headers_mut().insert(FENCING_HIGHEST, highest);
        }
        return response;
    }
    if head.uri.path().starts_with("/-/") {
        // A claim: nothing to forward.
        let mut response = web::response(StatusCode::OK, "{}");
        response.headers_mut().insert(FENCING_VERDICT, HeaderValue::from_static("admitted"));
        return response;
    }
    report(Kind::Note, format!("checks token {token}: none was higher, so the write goes on to the store"));
    // Step two: forward. Whatever happens between the two, and on the way, nobody looks at.
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return web::response(StatusCode::BAD_REQUEST, "");
    };
    let mut call = Call::new(head.method, head.uri.path()).with_body(body.to_bytes());
    call.headers = head.headers.into_iter().filter_map(|(name, value)| Some((name?, value))).collect();
    for framing in ["host", "content-length", "transfer-encoding", "connection"] {
        call.headers.remove(framing);
    }
    match shared.upstream.send(&call).await {
        Ok(reply) => {
            let mut response = Response::new(Full::new(reply.body));
            *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
            *response.headers_mut() = reply.headers;
            response
        }
        Err(error) => web::response(StatusCode::BAD_GATEWAY, error.to_string()),
    }
}

impl Shared {
    /// Raises the mark, or says what it is.
    fn check(&self, token: Token) -> Result<(), Token> {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        match *highest {
            Some(mark) if token < mark => Err(mark),
            _ => {
                *highest = Some(token);
                Ok(())
            }
        }
    }
}
