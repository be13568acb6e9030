//! Accepting connections and speaking HTTP/1.1 on them, with limits.

use std::convert::Infallible;
use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Largest head of a request: request line and headers, in bytes. Larger ones are answered 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long to wait after the operating system has no file descriptor left for a connection.
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(50);

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Most connections open at once.
    pub connections: usize,
    /// How long a connection may take to send the next request's headers: so long an unused one is kept.
    pub header_time: Duration,
}

/// Accepts and serves connections until `stopping` says so; then lets requests in work finish for as long as `drain`.
///
/// # Errors
/// A listener that can't be registered with the runtime.
pub async fn accept<S, F, B>(
    listener: TcpListener,
    settings: Settings,
    mut stopping: watch::Receiver<bool>,
    drain: Duration,
    serve: S,
) -> std::io::Result<()>
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(settings.connections));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Mostly EMFILE: existing connections go on, and closing ones make room.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(OUT_OF_FILES_PAUSE).await;
                    continue;
                }
            },
            () = stopped(&mut stopping) => break,
        };
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            connections.spawn(turn_away(stream));
            continue;
        };
        let (serve, stopping) = (serve.clone(), stopping.clone());
        connections.spawn(async move {
            connection(stream, settings.header_time, stopping, serve).await;
            drop(permit);
        });
    }
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, rest).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
    Ok(())
}

async fn connection<S, F, B>(stream: TcpStream, header_time: Duration, mut stopping: watch::Receiver<bool>, serve: S)
where
    S: Fn(Request<Incoming>) -> F + Send + Sync,
    F: Future<Output = Response<B>> + Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // An answer is one write; waiting for more to send along only delays it.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let response = serve(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header_time).max_buf_size(HEAD_BYTES_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Waits until the gate stops. Nobody left to say so counts as that, too.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Tells a client that there is no room, and closes.
async fn turn_away(mut stream: TcpStream) {
    use tokio::io::AsyncWriteExt;
    let answer =
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(answer)).await;
}
