//! Loads against a server in this process that answers as a test tells it to.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A server that stalls between two times after its first request, and answers at once otherwise.
struct Server {
    addr: SocketAddr,
    requests: Arc<AtomicU64>,
}

/// `stall`: from when to when after the first request. `answer`: by the number of the request.
fn server(stall: Option<(Duration, Duration)>, answer: fn(u64) -> &'static str) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&requests);
    let first = Arc::new(Mutex::new(None::<Instant>));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (seen, first) = (Arc::clone(&seen), Arc::clone(&first));
            std::thread::spawn(move || talk(stream, &seen, &first, stall, answer));
        }
    });
    Server { addr, requests }
}

fn talk(
    mut stream: std::net::TcpStream,
    seen: &AtomicU64,
    first: &Mutex<Option<Instant>>,
    stall: Option<(Duration, Duration)>,
    answer: fn(u64) -> &'static str,
) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
        let number = seen.fetch_add(1, Ordering::SeqCst);
        let since = first.lock().unwrap().get_or_insert_with(Instant::now).elapsed();
        if let Some((from, to)) = stall
            && (from..to).contains(&since)
        {
            let (_open, never) = channel::<()>();
            let _ = never.recv_timeout(to - since);
        }
        let text = answer(number);
        if stream.write_all(text.as_bytes()).is_err() || text.contains("close") {
            return;
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const STALE: &str = "HTTP/1.1 412 No\r\ncontent-length: 0\r\n\r\n";

fn load(addr: SocketAddr, pace: Pace) -> Load {
    let work = Work::Same(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".as_slice().into());
    Load {
        addr,
        work,
        expect: Expect::Success,
        connections: 4,
        threads: 1,
        pace,
        warm_up: 20 * MS,
        duration: 200 * MS,
        answer_time: Duration::from_secs(30),
    }
}

#[test]
fn everything_that_counts_is_counted_once() {
    for (threads, pace) in [(1, Pace::Closed), (3, Pace::Closed), (1, Pace::Open(500.0)), (2, Pace::Open(500.0))] {
        let server = server(None, |number| if number % 2 == 0 { OK } else { STALE });
        let load = Load { threads, ..load(server.addr, pace) };
        let sample = load.run(&Stop::default(), CpuClock::of(std::process::id())).unwrap();
        let answered = sample.answered();
        assert_eq!(sample.latency.len(), answered, "{pace:?}");
        assert!(sample.answers.keys().all(|status| [200, 412].contains(status)));
        assert_eq!(sample.unexpected, sample.answers.get(&412).copied().unwrap_or(0));
        assert_eq!((sample.broken, sample.unfinished), (0, 0));
        assert!(answered <= server.requests.load(Ordering::SeqCst));
        assert!(sample.per_second > 0.0 && sample.gate_cpu_us().is_some_and(|cpu| cpu > 0.0));
        if pace != Pace::Closed {
            assert_eq!(answered, 100, "500 a second for 200 ms");
        }
    }
}

/// The server stalls for 300 ms of a second. Of the requests that are due at a fixed rate, three in ten fall into that, and wait for
/// half of it on average. A closed loop just doesn't send them: it sees four slow answers among thousands.
#[test]
fn an_open_loop_sees_a_stall_that_a_closed_one_omits() {
    let stall = Some((200 * MS, 500 * MS));
    let run = |pace| {
        let load = Load { duration: 1000 * MS, warm_up: Duration::ZERO, ..load(server(stall, |_| OK).addr, pace) };
        load.run(&Stop::default(), None).unwrap()
    };
    let open = run(Pace::Open(500.0));
    let at = |quantile| Duration::from_nanos(open.latency.value_at_quantile(quantile));
    assert_eq!(open.latency.len(), 500);
    // Uniform between 0 and 300 ms in the upper three tenths; a busy machine adds to it.
    assert!(at(0.85) > 130 * MS, "{:?}", at(0.85));
    assert!(at(0.99) > 270 * MS, "{:?}", at(0.99));
    let closed = run(Pace::Closed);
    let slow = closed.latency.len() - closed.latency.count_between(0, tally::ns(150 * MS));
    assert!(slow * 10 < closed.latency.len(), "{slow} slow ones of {}", closed.latency.len());
}

/// A rate that is kept is told as what it is. Of several tries, since the machine may be busy.
#[test]
fn a_rate_that_is_kept_is_told_as_it_is() {
    let server = server(None, |_| OK);
    let told = (0..20).map(|_| load(server.addr, Pace::Open(100.0)).run(&Stop::default(), None).unwrap().per_second);
    let nearest = told.map(|rate| (rate - 100.0).abs()).fold(f64::INFINITY, f64::min);
    assert!(nearest < 3.0, "{nearest} from it");
}

#[test]
fn what_was_due_and_never_sent_counts_as_long_as_it_waited() {
    // One connection, and a server that takes longer than the whole load for its second answer.
    let server = server(Some((100 * MS, 700 * MS)), |_| OK);
    let load = Load {
        connections: 1,
        warm_up: Duration::ZERO,
        duration: 300 * MS,
        answer_time: 2000 * MS,
        ..load(server.addr, Pace::Open(100.0))
    };
    let sample = load.run(&Stop::default(), None).unwrap();
    assert_eq!(sample.latency.len(), 30, "all that was due");
    assert!(sample.latency.max() >= tally::ns(400 * MS), "{}", sample.latency.max());
}

#[test]
fn a_server_that_hangs_ends_the_load() {
    let server = server(Some((Duration::ZERO, Duration::from_secs(20))), |_| OK);
    let load = Load { answer_time: 100 * MS, ..load(server.addr, Pace::Closed) };
    let error = load.run(&Stop::default(), None).unwrap_err();
    assert!(matches!(error, LoadError::Late { count: 1..=4, .. }), "{error}");
}

#[test]
fn servers_that_end_connections_are_connected_to_again() {
    let server =
        server(None, |number| if number % 3 == 0 { "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbye" } else { OK });
    let sample = load(server.addr, Pace::Closed).run(&Stop::default(), None).unwrap();
    assert_eq!((sample.broken, sample.unexpected), (0, 0));
    assert!(sample.answered() > 0, "{}", sample.answered());
}

#[test]
fn a_rising_token_is_presented_once_by_each_request_and_no_higher_than_allowed() {
    let tokens = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Arc::clone(&tokens);
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        while let Ok(count) = stream.read(&mut buffer)
            && count > 0
        {
            seen.0.lock().unwrap().push(String::from_utf8_lossy(&buffer[..count]).trim().to_owned());
            let _ = stream.write_all(OK.as_bytes());
        }
        seen.1.notify_all();
    });
    let step = |name: &str| (format!("{name} ").into_bytes(), b"\r\n\r\n".to_vec());
    let work = Work::Rising(Rising { steps: vec![step("claim"), step("write")], token: 8, last: 10 });
    let load = Load { connections: 1, warm_up: Duration::ZERO, work, ..load(addr, Pace::Closed) };
    let sample = load.run(&Stop::default(), None).unwrap();
    assert_eq!((sample.answered(), sample.token), (3, Some(10)));
    let expected = ["claim 8", "write 8", "claim 9", "write 9", "claim 10", "write 10"];
    assert_eq!(*tokens.0.lock().unwrap(), expected);
}

#[test]
fn nobody_there_is_told() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = load(addr, Pace::Closed).run(&Stop::default(), None).unwrap_err();
    assert!(matches!(error, LoadError::Unreachable { .. }), "{error}");
}
