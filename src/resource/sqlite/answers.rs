//! Answers on their way from the database threads to the requests that wait for them.
//!
//! To wake a request that another thread runs costs a system call. A shared transaction ends for many requests at once, so their
//! answers travel together: of those who wait on one thread, the first is handed the rest, and passes them on from its own thread,
//! where that costs none.
//!
//! **Invariant.** An answer reaches whoever waits for it, whatever becomes of the request that carries it: dropping [`Rest`] is what
//! passes it on.

use std::thread::ThreadId;

use tokio::sync::oneshot;

use crate::problem::Problem;

use super::shared::Reply;

/// The answer to one request, or why there is none.
pub type Answer = Result<Reply, Problem>;

/// What a request that waits is handed: its own answer, and perhaps those of others.
#[derive(Debug)]
pub struct Delivery {
    answer: Answer,
    rest: Rest,
}

impl Delivery {
    /// The request's own answer. The others are passed on.
    pub fn open(self) -> Answer {
        drop(self.rest);
        self.answer
    }
}

/// Answers for others on the same thread.
#[derive(Debug, Default)]
struct Rest(Vec<(Waiting, Answer)>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|(waiting, answer)| waiting.tell(answer));
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Waiting {
    to: oneshot::Sender<Delivery>,
    /// The thread that it was queued on: only a guess at where it will be woken, for no more than speed.
    thread: ThreadId,
}

impl Waiting {
    /// A request that waits on the present thread, and where its answer arrives.
    pub fn here() -> (Waiting, oneshot::Receiver<Delivery>) {
        let (to, arrives) = oneshot::channel();
        (Waiting { to, thread: std::thread::current().id() }, arrives)
    }

    /// Tells the answer. Where the client has gone, nobody needs it.
    pub fn tell(self, answer: Answer) {
        self.hand(answer, Rest::default());
    }

    fn hand(self, answer: Answer, rest: Rest) {
        // What comes back is dropped, and so passed on.
        let _ = self.to.send(Delivery { answer, rest });
    }
}

/// Answers that are told at once.
#[derive(Debug, Default)]
pub struct Answers {
    threads: Vec<(ThreadId, Vec<(Waiting, Answer)>)>,
}

impl Answers {
    /// Adds an answer.
    pub fn put(&mut self, waiting: Waiting, answer: Answer) {
        match self.threads.iter_mut().find(|(thread, _)| *thread == waiting.thread) {
            Some((_, answers)) => answers.push((waiting, answer)),
            None => self.threads.push((waiting.thread, vec![(waiting, answer)])),
        }
    }

    /// Tells them all.
    pub fn tell(self) {
        for (_, mut answers) in self.threads {
            if let Some((carrier, answer)) = answers.pop() {
                carrier.hand(answer, Rest(answers));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Kind;

    fn answer(text: &str) -> Answer {
        Err(Problem::new(Kind::Internal, text))
    }

    fn told(mut arrives: oneshot::Receiver<Delivery>) -> Option<String> {
        arrives.try_recv().ok().map(|delivery| delivery.open().expect_err("only problems here").detail)
    }

    #[test]
    fn the_first_passes_the_others_on() {
        let mut answers = Answers::default();
        let arrivals = ["a", "b", "c"].map(|text| {
            let (waiting, arrives) = Waiting::here();
            answers.put(waiting, answer(text));
            arrives
        });
        answers.tell();
        let [a, b, c] = arrivals;
        assert_eq!(told(c).as_deref(), Some("c"));
        assert_eq!((told(a).as_deref(), told(b).as_deref()), (Some("a"), Some("b")));
    }

    #[test]
    fn nobody_misses_an_answer_because_its_carrier_has_gone() {
        for opened in [false, true] {
            let mut answers = Answers::default();
            let [first, second, carrier] = ["a", "b", "c"].map(|text| {
                let (waiting, arrives) = Waiting::here();
                answers.put(waiting, answer(text));
                arrives
            });
            if opened {
                // Handed over, and then dropped unread.
                answers.tell();
                drop(carrier);
            } else {
                drop(carrier);
                answers.tell();
            }
            assert_eq!((told(first).as_deref(), told(second).as_deref()), (Some("a"), Some("b")));
        }
    }

    #[test]
    fn each_thread_has_its_own_carrier() {
        let mut answers = Answers::default();
        let (waiting, here) = Waiting::here();
        answers.put(waiting, answer("here"));
        let (waiting, there) = std::thread::spawn(Waiting::here).join().expect("no panic");
        answers.put(waiting, answer("there"));
        answers.tell();
        assert_eq!((told(there).as_deref(), told(here).as_deref()), (Some("there"), Some("here")));
    }
}
