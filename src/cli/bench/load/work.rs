//! What is sent, and what is expected as the answer.

use std::sync::Arc;

/// The requests of one connection, one operation after the other.
#[derive(Debug, Clone)]
pub enum Work {
    /// The same request each time.
    Same(Arc<[u8]>),
    /// Each operation with a token above the one before, over one connection only: several would refuse each other's.
    Rising(Rising),
    /// Each request with another number in it.
    Scattered(Scattered),
}

/// Operations whose token rises.
#[derive(Debug, Clone)]
pub struct Rising {
    /// What comes before and after the token, in the requests of one operation.
    pub steps: Vec<(Vec<u8>, Vec<u8>)>,
    /// The token of the next operation.
    pub token: u64,
    /// The highest token that may be presented.
    pub last: u64,
}

/// Requests that have a number in them, from 0 to `count - 1`, in an order that no cache can guess.
#[derive(Debug, Clone)]
pub struct Scattered {
    /// What comes before and after the number.
    pub around: (Vec<u8>, Vec<u8>),
    /// How many digits it has: zeros stand before a small one, so that all requests are equally long.
    pub digits: usize,
    /// How many numbers there are.
    pub count: u64,
    /// Where the order has come to; not 0.
    pub state: u64,
}

impl Scattered {
    fn next(&mut self) -> Arc<[u8]> {
        // G. Marsaglia's xorshift64.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let (number, digits) = (self.state % self.count.max(1), self.digits);
        let (before, after) = &self.around;
        [before, format!("{number:0digits$}").as_bytes(), after].concat().into()
    }
}

impl Work {
    /// How many requests one operation has.
    pub fn steps(&self) -> usize {
        match self {
            Work::Same(_) | Work::Scattered(_) => 1,
            Work::Rising(rising) => rising.steps.len(),
        }
    }

    /// A request of the present operation.
    pub fn request(&mut self, step: usize) -> Arc<[u8]> {
        match self {
            Work::Same(bytes) => Arc::clone(bytes),
            Work::Rising(rising) => {
                let (before, after) = &rising.steps[step];
                [before, rising.token.to_string().as_bytes(), after].concat().into()
            }
            Work::Scattered(scattered) => scattered.next(),
        }
    }

    /// The present operation has ended.
    pub fn advance(&mut self) {
        if let Work::Rising(rising) = self {
            rising.token += 1;
        }
    }

    /// Whether there is no operation any more.
    pub fn is_over(&self) -> bool {
        matches!(self, Work::Rising(rising) if rising.token > rising.last)
    }
}

/// Which answers are the expected ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A status from 200 to 299.
    Success,
    /// The same, of a pipeline of Hrana in which every statement succeeded.
    Sql,
    /// 412, of a stale token.
    Stale,
}

/// What a pipeline's answer has in it where a statement failed.
const SQL_ERROR: &[u8] = b"\"type\":\"error\"";

impl Expect {
    /// Whether an answer with this status is expected.
    pub fn is_met(self, status: u16) -> bool {
        match self {
            Expect::Success | Expect::Sql => (200..300).contains(&status),
            Expect::Stale => status == 412,
        }
    }

    /// Whether this piece of a body says that it went wrong.
    pub fn is_spoilt(self, body: &[u8]) -> bool {
        self == Expect::Sql && memchr::memmem::find(body, SQL_ERROR).is_some()
    }
}
