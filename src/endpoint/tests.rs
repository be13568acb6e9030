//! Against servers that do as the test says.

use std::sync::LazyLock;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn listen() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = at(&listener, Options::default());
    (listener, endpoint)
}

fn at(listener: &TcpListener, options: Options) -> Endpoint {
    Endpoint::parse(&format!("http://{}", listener.local_addr().unwrap()), options).unwrap()
}

/// Reads one request without a body, or with one of at most a few bytes that came along.
async fn read(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut bytes = [0; 1024];
        let len = stream.read(&mut bytes).await.unwrap();
        assert!(len > 0, "it ended after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&bytes[..len]);
    }
    String::from_utf8(text).unwrap()
}

fn post() -> &'static Call {
    static CALL: LazyLock<Call> = LazyLock::new(|| Call::new(Method::POST, "/a?b=c").with_body("x"));
    &CALL
}

fn get() -> &'static Call {
    static CALL: LazyLock<Call> = LazyLock::new(|| Call::new(Method::GET, "/a"));
    &CALL
}

fn broken(outcome: &Result<Reply, ExchangeError>) -> bool {
    matches!(outcome, Err(ExchangeError::NoAnswer { why: NoAnswer::Broken(_), .. }))
}

#[test]
fn urls() {
    let read = |url| Endpoint::parse(url, Options::default()).map(|endpoint| endpoint.to_string());
    assert_eq!(read("http://gate").unwrap(), "http://gate:80");
    assert_eq!(read("http://gate:7070/a/b//").unwrap(), "http://gate:7070/a/b");
    assert_eq!(read("http://[::1]:7070").unwrap(), "http://[::1]:7070");
    assert_eq!(read("http://[::1]").unwrap(), "http://[::1]:80");
    for bad in [
        "",
        "gate",
        "gate:7070",
        "ftp://gate",
        "http://",
        "http://a b",
        "http://u:p@gate",
        "http://gate?a",
        "http://gate/#a",
        "http://gate:99999",
        "http://gate:",
        "/a",
        "http://gate/a?b",
    ] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_and_the_path_is_below_the_base() {
    let (listener, _) = listen().await;
    let endpoint =
        Endpoint::parse(&format!("http://{}/base/", listener.local_addr().unwrap()), Options::default()).unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..3 {
            let request = read(&mut stream).await;
            assert!(request.starts_with("POST /base/a?b=c HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("host: {}\r\n", endpoint.authority())), "{request}");
            stream.write_all(OK).await.unwrap();
        }
    };
    let ask = async {
        for _ in 0..3 {
            assert_eq!(endpoint.send(post()).await.unwrap().body, "ok");
        }
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn nobody_there_and_no_request_are_told_from_no_answer() {
    let (listener, endpoint) = listen().await;
    let progress = Progress::default();
    let no_path = Call::new(Method::GET, "a");
    assert!(matches!(endpoint.send_watched(&no_path, &progress).await, Err(ExchangeError::Malformed(_))));
    let hangs_up = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
    };
    let (outcome, ()) = tokio::join!(endpoint.send_watched(post(), &progress), hangs_up);
    assert!(broken(&outcome), "{outcome:?}");
    assert!(progress.may_be_sent());
    drop(listener);
    let progress = Progress::default();
    assert!(matches!(endpoint.send_watched(post(), &progress).await, Err(ExchangeError::NotSent { .. })));
    assert!(!progress.may_be_sent());
}

#[tokio::test]
async fn answers_are_bounded_in_time_and_length_and_have_to_be_whole() {
    let (listener, _) = listen().await;
    let endpoint = at(&listener, Options { answer_bytes_max: 2, ..Options::default() });
    let answer = async |bytes: &[u8]| {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
        stream.write_all(bytes).await.unwrap();
        stream
    };
    let (outcome, _stream) = tokio::join!(endpoint.send(post()), answer(OK));
    assert!(outcome.is_ok());
    endpoint.idle().clear();
    let (outcome, _stream) =
        tokio::join!(endpoint.send(post()), answer(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"));
    assert!(matches!(outcome, Err(ExchangeError::NoAnswer { why: NoAnswer::TooLong(2), .. })), "{outcome:?}");
    let hasty = post().clone().within(READY_TIME);
    let (outcome, stream) = tokio::join!(endpoint.send(&hasty), answer(&OK[..20]));
    assert!(matches!(outcome, Err(ExchangeError::NoAnswer { why: NoAnswer::Late(_), .. })), "{outcome:?}");
    drop(stream);
    let breaks_off = async { drop(answer(&OK[..OK.len() - 1]).await) };
    let (outcome, ()) = tokio::join!(endpoint.send(post()), breaks_off);
    assert!(broken(&outcome), "{outcome:?}");
}

/// A server that answers once on each connection, and hangs up when the next request has come. How many requests came.
async fn unfaithful(listener: &TcpListener, connections: usize) -> usize {
    let mut requests = 0;
    for last in (0..connections).rev() {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        requests += 1;
        if last > 0 {
            read(&mut stream).await;
            requests += 1;
        }
    }
    requests
}

#[tokio::test]
async fn only_what_may_be_repeated_is_sent_again_once_it_has_left() {
    let (listener, endpoint) = listen().await;
    let ask = async {
        endpoint.send(get()).await.unwrap();
        endpoint.send(get()).await.expect("it is sent again on a new connection");
    };
    let (requests, ()) = tokio::join!(unfaithful(&listener, 2), ask);
    assert_eq!(requests, 3);
    endpoint.idle().clear();
    let ask = async {
        endpoint.send(post()).await.unwrap();
        let outcome = endpoint.send(post()).await;
        assert!(broken(&outcome), "{outcome:?}");
    };
    tokio::select! {
        _ = unfaithful(&listener, 2) => panic!("it was sent a second time"),
        () = ask => {}
    }
}

#[tokio::test]
async fn a_kept_connection_that_has_ended_costs_nothing() {
    let (listener, endpoint) = listen().await;
    for _ in 0..3 {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            stream
        };
        let (outcome, stream) = tokio::join!(endpoint.send(post()), serve);
        assert!(outcome.is_ok(), "{outcome:?}");
        // The next is asked at once, before whoever speaks on the connection can have heard of its end.
        drop(stream);
        assert!(!endpoint.idle()[0].connection.sender.is_closed());
    }
}

#[tokio::test]
async fn what_can_not_be_repeated_takes_no_connection_that_has_long_been_idle() {
    let (listener, endpoint) = listen().await;
    let answer = async || {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        stream
    };
    let (outcome, _first) = tokio::join!(endpoint.send(get()), answer());
    outcome.unwrap();
    endpoint.idle()[0].since -= 2 * IDLE_MAX_UNREPEATABLE;
    let (outcome, _second) = tokio::join!(endpoint.send(post()), answer());
    outcome.unwrap();
    assert_eq!(endpoint.idle().len(), 2, "the older is kept for what may be repeated");
}
