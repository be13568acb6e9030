//! Answers on their way from the database threads to the requests that wait for them.
//!
//! To wake a request that another thread runs costs a system call. A shared transaction ends for many requests at once, so they
//! travel together: of those who wait on one thread, the first is handed the rest, and passes them on from its own thread, where
//! that costs none. What is left to do for a request, once it is decided, is done there, too: its memory goes back to the thread
//! that took it, which is several times cheaper than giving it to another one.
//!
//! **Invariant.** Every request is ended, and everybody told who still waits, whatever becomes of the request that carries the others:
//! dropping `Rest` passes them on, and dropping [`Decided`] ends the request.

use std::sync::Arc;
use std::thread::ThreadId;

use tokio::sync::oneshot;

use crate::problem::Problem;

use super::shared::{Reply, Shared, Work};

/// The answer to one request, or why there is none.
pub type Answer = Result<Reply, Problem>;

/// A request whose outcome is decided, and durable, and that has to be ended still.
#[derive(Debug)]
pub struct Decided {
    shared: Arc<Shared>,
    /// Gone once it is ended.
    work: Option<(Box<Work>, Result<(), Problem>)>,
}

impl Decided {
    /// This outcome of this request.
    pub fn new(shared: &Arc<Shared>, work: Box<Work>, outcome: Result<(), Problem>) -> Decided {
        Decided { shared: Arc::clone(shared), work: Some((work, outcome)) }
    }
}

impl Drop for Decided {
    fn drop(&mut self) {
        if let Some((work, outcome)) = self.work.take() {
            // Nobody is there to be told.
            let _ = self.shared.end(work, outcome);
        }
    }
}

/// What becomes an answer.
#[derive(Debug)]
pub enum Parcel {
    /// It is one.
    Answer(Answer),
    /// Once the request is ended.
    Decided(Decided),
}

impl Parcel {
    fn open(self) -> Answer {
        match self {
            Parcel::Answer(answer) => answer,
            Parcel::Decided(mut decided) => {
                let (work, outcome) = decided.work.take().expect("it is taken only here and by drop");
                decided.shared.end(work, outcome)
            }
        }
    }
}

/// What a request that waits is handed: its own answer, and perhaps those of others.
#[derive(Debug)]
pub struct Delivery {
    own: Parcel,
    rest: Rest,
}

impl Delivery {
    /// The request's own answer. The others are passed on.
    pub fn open(self) -> Answer {
        drop(self.rest);
        self.own.open()
    }
}

/// Answers for others on the same thread.
#[derive(Debug, Default)]
struct Rest(Vec<(Waiting, Parcel)>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|(waiting, parcel)| waiting.hand(parcel, Rest::default()));
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

    /// Whether nobody waits any more.
    pub fn is_given_up(&self) -> bool {
        self.to.is_closed()
    }

    /// Tells the answer. Where the client has gone, nobody needs it.
    pub fn tell(self, answer: Answer) {
        self.hand(Parcel::Answer(answer), Rest::default());
    }

    fn hand(self, own: Parcel, rest: Rest) {
        // What comes back is dropped, and so passed on.
        let _ = self.to.send(Delivery { own, rest });
    }
}

/// Answers that are told at once.
#[derive(Debug, Default)]
pub struct Answers {
    threads: Vec<(ThreadId, Vec<(Waiting, Parcel)>)>,
}

impl Answers {
    /// Adds an answer.
    pub fn put(&mut self, waiting: Waiting, parcel: Parcel) {
        match self.threads.iter_mut().find(|(thread, _)| *thread == waiting.thread) {
            Some((_, answers)) => answers.push((waiting, parcel)),
            None => self.threads.push((waiting.thread, vec![(waiting, parcel)])),
        }
    }

    /// Tells them all.
    pub fn tell(self) {
        for (_, mut answers) in self.threads {
            if let Some((carrier, own)) = answers.pop() {
                carrier.hand(own, Rest(answers));
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    use super::*;
    use crate::fence::Verdict;
    use crate::problem::Kind;
    use crate::resource::sqlite::Limits;
    use crate::resource::sqlite::fences::{FenceSet, TableFences};
    use crate::resource::sqlite::program::{Format, Hint, Program, Run};
    use crate::resource::sqlite::shared::Believed;
    use crate::resource::sqlite::stream::Stream;

    fn answer(text: &str) -> Parcel {
        Parcel::Answer(Err(Problem::new(Kind::Internal, text)))
    }

    fn told(mut arrives: oneshot::Receiver<Delivery>) -> Option<String> {
        arrives.try_recv().ok().map(|delivery| delivery.open().expect_err("only problems here").detail().into_owned())
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

    /// A request that asks for nothing, counted in its fence's `in_flight`.
    pub fn work(shared: &Arc<Shared>, reply: Option<Waiting>) -> Box<Work> {
        let mut presented = FenceSet::default();
        presented.insert(FenceSet::OWN);
        Box::new(Work {
            claims: Arc::new([]),
            presented,
            believed: Believed { fences: FenceSet::default(), resets: None, why: None },
            stream: Stream::default(),
            key: None,
            replayed: false,
            program: Program { requests: Vec::new(), format: Format::Pipeline },
            hint: Hint::default(),
            run: Run::once(),
            checkpoint: None,
            alone: false,
            verdict: Verdict::Admitted,
            previous: None,
            reply,
            queued: Instant::now(),
            room: shared.budget.room(FenceSet::OWN),
            in_flight: shared.in_flight(presented),
        })
    }

    /// What the threads of a database share that has no threads.
    pub fn shared(limits: Limits) -> Arc<Shared> {
        let fences = TableFences::new("app".parse().expect("a name"), &[]).expect("few");
        Arc::new(Shared::new("app".into(), "app.db".into(), fences, limits, true, None))
    }

    fn decided(shared: &Arc<Shared>) -> Parcel {
        Parcel::Decided(Decided::new(shared, work(shared, None), Ok(())))
    }

    #[test]
    fn a_request_is_ended_though_its_client_has_gone() {
        let shared = shared(Limits::default());
        let in_flight = || shared.states[FenceSet::OWN].in_flight.load(Ordering::Relaxed);
        let mut answers = Answers::default();
        let [gone, mut stays, unread] = [(); 3].map(|()| {
            let (waiting, arrives) = Waiting::here();
            answers.put(waiting, decided(&shared));
            arrives
        });
        drop(gone);
        answers.tell();
        assert_eq!(in_flight(), 3);
        drop(unread);
        assert_eq!(in_flight(), 1);
        assert!(stays.try_recv().expect("passed on").open().is_ok());
        assert_eq!(in_flight(), 0);
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
