//! What the two small HTTP servers of this scenario have in common.

use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::fence::Token;
use crate::headers::FENCING_TOKEN;

/// Listens on a free port of this machine, says where on standard output (`listening URL`), and serves for as long as it is let.
///
/// # Errors
/// It can't listen.
pub async fn serve<S, F>(answer: S) -> Result<(), String>
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let told = |error: std::io::Error| error.to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(told)?;
    let line = format!("{LISTENING}http://{}\n", listener.local_addr().map_err(told)?);
    std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).map_err(told)?;
    loop {
        let (stream, _) = listener.accept().await.map_err(told)?;
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answered = answer(request);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        tokio::spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
    }
}

/// How the line begins that says where.
pub const LISTENING: &str = "listening ";

/// The token that a request presents, for one fence: `7`, or `prices=7`.
pub fn token(headers: &HeaderMap) -> Option<Token> {
    headers.get(FENCING_TOKEN)?.to_str().ok()?.rsplit('=').next()?.parse().ok()
}

/// A response.
pub fn response(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
