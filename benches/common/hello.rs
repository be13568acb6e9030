//! A bare server of hyper's, that answers with a fixed status and body to whatever it is asked, and does nothing else.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;

/// Connections that were accepted so far.
pub static ACCEPTED: AtomicU64 = AtomicU64::new(0);

/// A service that answers 200 to everything, on a thread of this process.
#[allow(dead_code, reason = "where it is a process of its own, it isn't wanted")]
pub fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || serve(listener, StatusCode::OK));
    addr
}

/// Serves, on this thread, until the process ends.
pub fn serve(listener: TcpListener, status: StatusCode) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    listener.set_nonblocking(true).expect("a socket option");
    let serving = async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            ACCEPTED.fetch_add(1, Ordering::Relaxed);
            stream.set_nodelay(true).expect("a socket option");
            let service = service_fn(move |_| async move {
                let mut answer = Response::new(http_body_util::Full::new(bytes::Bytes::from_static(b"no")));
                *answer.status_mut() = status;
                Ok::<_, Infallible>(answer)
            });
            tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    };
    runtime.block_on(tasks.run_until(serving))
}
