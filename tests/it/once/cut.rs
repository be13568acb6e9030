//! What lies between a client and its gate, and loses answers.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{INSERT, try_post};
use super::{again, body, count, found, post, rig};
use crate::process::{Answer, Client, Gate};

/// Passes requests on to a gate, and of pipelines loses as many answers as it is told: the gate has answered, and the client's
/// connection is closed.
#[derive(Clone)]
pub struct Cut {
    pub addr: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    to: Mutex<SocketAddr>,
    left: AtomicUsize,
    lost: Mutex<Vec<Answer>>,
    /// What is done when an answer has been lost, before its client can notice.
    then: Mutex<Box<dyn FnMut() + Send>>,
    hidden: Mutex<Option<&'static str>>,
}

impl Cut {
    pub fn before(gate: &Gate) -> Cut {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let inner = Inner {
            to: Mutex::new(gate.data),
            left: AtomicUsize::new(0),
            lost: Mutex::default(),
            then: Mutex::new(Box::new(|| ())),
            hidden: Mutex::new(None),
        };
        let cut = Cut { addr: listener.local_addr().expect("bound"), inner: Arc::new(inner) };
        let inner = Arc::clone(&cut.inner);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inner = Arc::clone(&inner);
                std::thread::spawn(move || inner.pass_on(stream));
            }
        });
        cut
    }

    pub fn lose(&self, answers: usize) {
        self.inner.left.store(answers, Ordering::SeqCst);
    }

    /// The gate is another one now.
    pub fn lead_to(&self, gate: &Gate) {
        *self.inner.to.lock().expect("no panic") = gate.data;
    }

    /// Does this after an answer was lost.
    pub fn then(&self, act: impl FnMut() + Send + 'static) {
        *self.inner.then.lock().expect("no panic") = Box::new(act);
    }

    /// Takes this header out of all answers.
    pub fn hide(&self, header: &'static str) {
        *self.inner.hidden.lock().expect("no panic") = Some(header);
    }

    pub fn lost(&self) -> Vec<Answer> {
        self.inner.lost.lock().expect("no panic").clone()
    }
}

impl Inner {
    fn pass_on(&self, stream: TcpStream) {
        let mut client = Client::over(stream);
        while let Ok(head) = client.read_head() {
            let len = head.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
            let Ok(body) = client.read_bytes(len) else { return };
            let is_pipeline = head.head.starts_with("POST") && head.head.contains("/pipeline ");
            let to = *self.to.lock().expect("no panic");
            let Ok(mut gate) = Client::connect(to) else { return };
            let whole = [head.head.as_bytes(), &body].concat();
            let Ok(answer) = gate.send(&whole).and_then(|()| gate.read_answer()) else { return };
            let one_less = |left: usize| left.checked_sub(1);
            if is_pipeline && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                self.lost.lock().expect("no panic").push(answer);
                (self.then.lock().expect("no panic"))();
                return;
            }
            let hidden = *self.hidden.lock().expect("no panic");
            let stays = |line: &&str| hidden.is_none_or(|name| !line.to_lowercase().starts_with(name));
            let head: String = answer.head.split_inclusive("\r\n").filter(stays).collect();
            if client.send(&[head.as_bytes(), &answer.body].concat()).is_err() {
                return;
            }
        }
    }
}

/// Writes until an answer comes, as any client does that repeats what got none.
fn write_until_answered(addr: SocketAddr, headers: &[(&str, &str)], body: &str) -> Answer {
    loop {
        let mut client = Client::connect(addr).expect("it accepts connections");
        if let Ok(answer) = client.request("POST", "/v3/pipeline", headers, body.as_bytes()) {
            return answer;
        }
    }
}

#[test]
fn a_retry_after_a_lost_answer_gets_the_first_answer() {
    let (_dir, gate) = rig("");
    let cut = Cut::before(&gate);
    cut.lose(2);
    let keyed = [("fencing-token", "5"), ("idempotency-key", "\"k\"")];
    let answer = write_until_answered(cut.addr, &keyed, &body(&[INSERT]));
    assert_eq!(cut.lost().len(), 2);
    again(&answer, &cut.lost()[0]);
    assert_eq!(count(&gate), "1");
    // Without the key the same client writes as often as it asks.
    cut.lose(2);
    let answer = write_until_answered(cut.addr, &keyed[..1], &body(&[INSERT]));
    assert_eq!((answer.status, count(&gate).as_str()), (200, "4"));
}

#[test]
fn what_has_no_rows_to_count_is_applied_once_as_well() {
    let (_dir, gate) = rig("");
    let set = body(&["UPDATE t SET v = v + 1 RETURNING v"]);
    assert_eq!(gate.client().sql(Some("5"), &["INSERT INTO t VALUES (0)"]).status, 200);
    let cut = Cut::before(&gate);
    cut.lose(1);
    assert!(try_post(&mut Client::connect(cut.addr).expect("it listens"), "5", "k", &set).is_err());
    again(&post(cut.addr, "5", "k", &set), &cut.lost()[0]);
    assert_eq!(found(&gate, "SELECT v FROM t"), "1");
}
