//! Other versions of HTTP, and TLS, on either side.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use fencegate::fence::drain::{OnUnknown, Policy};
use fencegate::resource::http::Protocol;

use super::{Gate, LONG, Plan, problem, put};

/// Tells what it was asked, in JSON, and gives the trailers back.
async fn echo(
    request: Request<Incoming>,
) -> Result<Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await;
    let trailers = body.as_ref().ok().and_then(|body| body.trailers().cloned());
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let headers: serde_json::Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().into()))
        .collect();
    let told = serde_json::json!({
        "version": format!("{:?}", parts.version),
        "uri": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    let told = Bytes::from(told.to_string());
    let Some(trailers) = trailers else {
        return Ok(Response::new(Full::new(told).boxed_unsync()));
    };
    let frames = [Ok(Frame::data(told)), Ok(Frame::trailers(trailers))];
    let stream = StreamBody::new(Frames(frames.into_iter().collect()));
    Ok(Response::new(stream.boxed_unsync()))
}

struct Frames(std::collections::VecDeque<Result<Frame<Bytes>, Infallible>>);

impl futures_core::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

/// Tells a test that it was dropped.
struct Told(mpsc::Sender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// Answers nothing, and tells when it is given up.
fn hang(request: &Request<Incoming>, told: &mpsc::Sender<()>) -> bool {
    let hangs = request.uri().path().ends_with("/hang");
    if hangs {
        let _ = told.send(());
    }
    hangs
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, is_http2: bool, told: mpsc::Sender<()>) {
    let service = service_fn(move |request| {
        let told = told.clone();
        async move {
            if hang(&request, &told) {
                let _told = Told(told);
                std::future::pending::<()>().await;
            }
            echo(request).await
        }
    });
    let io = TokioIo::new(stream);
    if is_http2 {
        let _ = hyper::server::conn::http2::Builder::new(Local).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// TLS with a certificate for this name, which is its own authority and is written to a file.
fn acceptor(name: &str, file: &Path, is_http2: bool) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(file, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let protocols: &[&[u8]] = if is_http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// An upstream that echoes, at this address; `tls` with the names of its certificate, whose authority is written to a file.
fn upstream(listen: SocketAddr, is_http2: bool, tls: Option<(&str, &Path)>) -> std::io::Result<SocketAddr> {
    telling_upstream(listen, is_http2, tls).map(|(addr, _)| addr)
}

/// The same; it tells when a request to `/hang` comes, and when that is given up.
fn telling_upstream(
    listen: SocketAddr,
    is_http2: bool,
    tls: Option<(&str, &Path)>,
) -> std::io::Result<(SocketAddr, mpsc::Receiver<()>)> {
    let (told, tells) = mpsc::channel();
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let acceptor = tls.map(|(name, file)| acceptor(name, file, is_http2));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, told) = (acceptor.clone(), told.clone());
                tokio::task::spawn_local(async move {
                    match acceptor {
                        None => serve(stream, is_http2, told).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            serve(stream, is_http2, told).await;
                        }
                    }
                });
            }
        });
    });
    Ok((addr, tells))
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Three writes over HTTP/1.1; what the upstream saw of the last.
fn ask(gate: &Gate) -> Value {
    let mut client = gate.client();
    for round in 0..3 {
        let answer = client.request("PUT", "/a?b", &[("fencing-token", "7")], b"hello").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        gate.until_known("stock");
        if round == 2 {
            return answer.json();
        }
        assert_eq!(client.get("/read").status, 200);
        let deleted = client.request("DELETE", "/a", &[("fencing-token", "7")], b"").unwrap();
        assert_eq!(deleted.status, 200);
    }
    unreachable!()
}

#[test]
fn http2_by_prior_knowledge() {
    let addr = upstream(local(), true, None).unwrap();
    let gate = Plan { protocol: Protocol::Http2, ..Plan::to(format!("http://{addr}/base")) }.start();
    let seen = ask(&gate);
    assert_eq!((&seen["version"], &seen["body"]), (&"HTTP/2.0".into(), &"hello".into()));
    assert_eq!(seen["uri"], format!("http://{addr}/base/a?b"));
    assert_eq!((&seen["headers"]["fencing-token"], &seen["headers"]["via"]), (&"7".into(), &"1.1 fencegate".into()));
    assert_eq!(seen["headers"].get("host"), None);
    // A body larger than any window.
    let body = vec![b'x'; 3_000_000];
    let answer = gate.client().request("PUT", "/a", &[("fencing-token", "7")], &body).unwrap();
    assert_eq!(answer.json()["body"].as_str().map(str::len), Some(body.len()));
    gate.until_known("stock");
    assert_eq!(
        gate.client()
            .request("GET", "/a", &[("fencing-token", "7"), ("connection", "upgrade"), ("upgrade", "x")], b"")
            .unwrap()
            .status,
        501
    );
}

#[test]
fn http2_that_is_none() {
    let addr = upstream(local(), false, None).unwrap();
    let gate = Plan { protocol: Protocol::Http2, ..Plan::to(format!("http://{addr}")) }.start();
    let answer = gate.client().request("PUT", "/a", &[("fencing-token", "7")], b"x").unwrap();
    assert_eq!(answer.status, 502);
}

#[test]
fn http2_writes_are_cut_off() {
    let (addr, tells) = telling_upstream(local(), true, None).unwrap();
    let policy = Policy { drain_ms: 300, settle_ms: 60_000, on_unknown: OnUnknown::Wait, enforce: true };
    let plan = Plan { protocol: Protocol::Http2, policy, ..Plan::to(format!("http://{addr}")) };
    // By a newer token, with and without a body on its way.
    for len in [0, 5] {
        let gate = plan.start();
        let (mut old, mut new) = (gate.client(), gate.client());
        old.send(&put("/hang", 7, len)).unwrap();
        tells.recv_timeout(LONG).unwrap();
        assert_eq!(gate.info("stock").in_flight, 1);
        let claimed = new.request("POST", "/-/fences/stock/claim", &[("fencing-token", "8")], b"").unwrap();
        assert_eq!(claimed.code(), "QUARANTINED");
        assert_eq!(problem(&old.read_answer().unwrap()), (504, "OUTCOME_UNKNOWN".into(), "unknown".into()));
        tells.recv_timeout(LONG).unwrap();
        gate.until_unknown("stock");
    }
    // By a client that vanishes in the middle of its body.
    let gate = plan.start();
    let mut client = gate.client();
    client.send(&put("/hang", 7, 10)).unwrap();
    client.send(b"hello").unwrap();
    tells.recv_timeout(LONG).unwrap();
    drop(client);
    tells.recv_timeout(LONG).unwrap();
    gate.until_unknown("stock");
}

#[test]
fn https() {
    let dir = tempfile::tempdir().unwrap();
    for (name, host, is_http2) in
        [("localhost", "localhost", true), ("localhost", "localhost", false), ("127.0.0.1", "127.0.0.1", true)]
    {
        let ca = dir.path().join("ca.pem");
        let addr = upstream(local(), is_http2, Some((name, &ca))).unwrap();
        let plan = Plan { ca: Some(ca.clone()), ..Plan::to(format!("https://{host}:{}", addr.port())) };
        let seen = ask(&plan.start());
        assert_eq!(seen["version"], if is_http2 { "HTTP/2.0" } else { "HTTP/1.1" });
        let plan = Plan {
            ca: Some(ca.clone()),
            protocol: Protocol::Http1,
            ..Plan::to(format!("https://{host}:{}", addr.port()))
        };
        assert_eq!(ask(&plan.start())["version"], "HTTP/1.1");
        if !is_http2 {
            let plan =
                Plan { ca: Some(ca), protocol: Protocol::Http2, ..Plan::to(format!("https://{host}:{}", addr.port())) };
            let answer = plan.start().client().request("PUT", "/a", &[("fencing-token", "7")], b"").unwrap();
            assert!(answer.header("proxy-status").unwrap().contains("error=tls_"), "{answer:?}");
        }
    }
}

/// One connection over TLS that is upgraded, and gives back what it gets.
async fn upgraded(stream: tokio_rustls::server::TlsStream<TcpStream>) {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await.unwrap());
    }
    to.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

#[test]
fn upgrades_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let acceptor = acceptor("localhost", &ca, true);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind(local())).unwrap();
    let addr = listener.local_addr().unwrap();
    runtime.spawn(async move {
        let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "only that can be upgraded");
        upgraded(stream).await;
    });
    let gate = Plan { ca: Some(ca), ..Plan::to(format!("https://localhost:{}", addr.port())) }.start();
    let mut client = gate.client();
    client
        .send(b"GET /a HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
        .unwrap();
    assert!(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    client.send(b"hello").unwrap();
    assert_eq!(client.read_bytes(5).unwrap(), b"hello");
    client.half_close();
    gate.until_known("stock");
}

#[test]
fn certificates_that_are_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (dir.path().join("ca.pem"), dir.path().join("other.pem"));
    let addr = upstream(local(), false, Some(("localhost", &ca))).unwrap();
    upstream(local(), false, Some(("localhost", &other))).unwrap();
    let plain = upstream(local(), false, None).unwrap();
    for (upstream, ca, error) in [
        (format!("https://localhost:{}", addr.port()), &other, "tls_certificate_error"),
        (format!("https://127.0.0.1:{}", addr.port()), &ca, "tls_certificate_error"),
        (format!("https://localhost:{}", plain.port()), &ca, "tls_protocol_error"),
    ] {
        let gate = Plan { ca: Some(ca.clone()), ..Plan::to(upstream.as_str()) }.start();
        let answer = gate.client().request("PUT", "/a", &[("fencing-token", "7")], b"x").unwrap();
        assert_eq!(problem(&answer), (502, "UPSTREAM_UNREACHABLE".into(), "no".into()), "{upstream}");
        assert!(answer.header("proxy-status").unwrap().contains(error), "{answer:?}");
        gate.until_known("stock");
    }
}

#[test]
fn ipv6() {
    let Ok(addr) = upstream("[::1]:0".parse().unwrap(), false, None) else { return };
    let seen = ask(&Plan::to(format!("http://[::1]:{}", addr.port())).start());
    assert_eq!(seen["headers"]["host"], format!("[::1]:{}", addr.port()));
}

/// Sends one request over HTTP/2 and reads the answer.
async fn http2(gate: SocketAddr, request: Request<StreamBody<Frames>>) -> (Response<()>, Bytes, Option<HeaderMap>) {
    let stream = TcpStream::connect(gate).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (Response::from_parts(parts, ()), body.to_bytes(), trailers)
}

#[test]
fn http2_from_clients() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for is_http2 in [true, false] {
        let addr = upstream(local(), is_http2, None).unwrap();
        let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Auto };
        let gate = Plan { protocol, ..Plan::to(format!("http://{addr}")) }.start();
        let trailers: HeaderMap = [("checksum".parse().unwrap(), "5".parse().unwrap())].into_iter().collect();
        let frames = [Ok(Frame::data(Bytes::from_static(b"hello"))), Ok(Frame::trailers(trailers.clone()))];
        let request = Request::put(format!("http://gate:1/{}", "a?b"))
            .version(Version::HTTP_2)
            .header("fencing-token", "7")
            .header("te", "trailers")
            .header("trailer", "checksum")
            .body(StreamBody::new(Frames(frames.into_iter().collect())))
            .unwrap();
        let (answer, body, back) = runtime.block_on(http2(gate.data, request));
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
        assert_eq!(answer.headers()["fencing-verdict"], "advanced");
        let seen: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(seen["body"], "hello");
        let headers = &seen["headers"];
        assert_eq!((&headers["x-forwarded-host"], &headers["via"]), (&"gate:1".into(), &"2.0 fencegate".into()));
        if is_http2 {
            assert_eq!((back, headers["te"].as_str()), (Some(trailers), Some("trailers")));
        } else {
            assert_eq!(headers["transfer-encoding"], "chunked");
        }
        gate.until_known("stock");
    }
}
