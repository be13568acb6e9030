//! What can go wrong between a leader and its gate, sorted by what the leader has to know: whether it still leads, and whether what
//! it asked for was done.

use std::time::Duration;

use super::lease::Lost;
use super::sql::ValueError;
use crate::endpoint::ExchangeError;
use crate::fence::{FenceName, Token};

/// Why a request through the gate gave no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody with a higher token has claimed the fence. Nothing was applied, and nothing with this token ever will be: the
    /// leadership is given up. Campaign anew.
    #[error("you've been replaced: token {presented} is no longer the highest that fence {fence} has admitted{}", highest_text(.highest))]
    Replaced {
        /// The fence.
        fence: FenceName,
        /// The token that was presented.
        presented: Token,
        /// The fence's mark, where the gate has told it.
        highest: Option<Token>,
    },
    /// The leadership is over, or has to be taken for over. Where this is the end of a request that was under way, `applied` says
    /// what became of it.
    #[error("{why} ({applied})")]
    Lost {
        /// Why it is over.
        why: Lost,
        /// Whether this request was applied.
        applied: Applied,
    },
    /// It was surely not applied, and may be tried again. It has been, for as long as [`Gate::with_retry_for`] allows, where
    /// trying again could help.
    ///
    /// [`Gate::with_retry_for`]: super::Gate::with_retry_for
    #[error("not applied: {message}")]
    NotApplied {
        /// Why not.
        why: NotApplied,
        /// A sentence for people.
        message: String,
        /// How long the gate asks to wait before the next try.
        retry_after: Option<Duration>,
    },
    /// It may or may not have been applied. A write to a database was tried again, under its key, for as long as the gate surely
    /// knows that and [`Gate::with_retry_for`] allows; nothing else is ever tried again by itself then: read what has become of it,
    /// or make the write one that does no harm when it comes twice.
    ///
    /// [`Gate::with_retry_for`]: super::Gate::with_retry_for
    #[error("it isn't known whether this was applied: {message}")]
    Unknown {
        /// Why nobody knows.
        why: Unknown,
        /// A sentence for people.
        message: String,
    },
    /// It was applied, and its answer is lost: it broke off on its way, and the gate had no room to keep it
    /// (`idempotency_answer_bytes`).
    #[error("this was applied, but its answer is lost: {message}")]
    AnswerLost {
        /// A sentence for people.
        message: String,
    },
    /// The gate refuses it, for a reason that doesn't pass. Nothing was applied.
    #[error("refused: {message}")]
    Refused {
        /// For what reason.
        why: Refused,
        /// The gate's code, such as `TOKEN_CONFLICT`.
        code: String,
        /// A sentence for people.
        message: String,
        /// The fence that it is about, where it is about one.
        fence: Option<FenceName>,
    },
    /// A statement failed. It was undone, and with it its batch; a transaction goes on without it.
    #[error("{code}: {message}")]
    Sql {
        /// SQLite's name of the error, such as `SQLITE_CONSTRAINT`, or one of the gate's.
        code: String,
        /// A sentence for people.
        message: String,
        /// Which statement of a batch, from 0.
        statement: usize,
    },
    /// A value of a row is of another type than was asked for.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A request that can't be made. Nothing was sent.
    #[error("{0}")]
    Misuse(String),
}

/// Whether a request was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// Surely not.
    No,
    /// The gate has said so. It was applied in the fence's order: before anything that a successor writes.
    Yes,
    /// It may be.
    Unknown,
}

/// Why something was surely not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotApplied {
    /// No connection to the gate: nothing was sent.
    GateOutOfReach,
    /// The gate has too much to do (`OVERLOADED`).
    Overloaded,
    /// Another client's transaction holds the database's write lock (`BUSY`).
    Busy,
    /// The gate can't store, or is stopping (`UNAVAILABLE`).
    Unavailable,
    /// An older leader's write may still be applied, and newer ones have to wait for it (`QUARANTINED`).
    Quarantined,
    /// The gate has no connection to the service behind it (`UPSTREAM_UNREACHABLE`).
    UpstreamUnreachable,
    /// The request did not arrive at the gate in time.
    TooSlow,
    /// The transaction has ended without a commit: it took too long, its connection broke, the gate was restarted. Nothing of it
    /// was applied; begin again.
    TransactionEnded,
}

/// Why nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unknown {
    /// The connection to the gate broke after the request was sent.
    Broken,
    /// No answer came in time.
    Late,
    /// The gate doesn't know itself: the service behind it gave no whole answer, or the system failed in the middle of a commit.
    Gate,
    /// What answered isn't a gate, or not as a gate would: something stands between, or the URL is wrong.
    NotAGate,
    /// The answer is longer than is taken.
    AnswerTooLong,
}

/// For what reason the gate refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// Another holder presents the same token (`TOKEN_CONFLICT`): two coordinators, or one token used twice.
    Conflict,
    /// The coordinator never issued this token (`TOKEN_UNISSUED`).
    Unissued,
    /// The write touches another fence, too, that this leadership isn't for (`TOKEN_REQUIRED`).
    OtherFence,
    /// What is at this path has another fence (`WRONG_FENCE`).
    WrongFence,
    /// Credentials are lacking (`UNAUTHENTICATED`).
    Unauthenticated,
    /// The credentials don't suffice (`FORBIDDEN`).
    Forbidden,
    /// There is nothing at this path, or no fence of this name, or not for this method.
    NotFound,
    /// The request or its answer is over a limit of the gate's.
    TooLarge,
    /// It can't be understood.
    Malformed,
}

impl std::fmt::Display for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Applied::No => "this was not applied",
            Applied::Yes => "this was still applied",
            Applied::Unknown => "this may or may not have been applied",
        })
    }
}

fn highest_text(highest: &Option<Token>) -> String {
    highest.map(|highest| format!(", which is {highest}")).unwrap_or_default()
}

impl Error {
    /// Whether this leader has to stop: what it holds in memory isn't true any more.
    pub fn is_over(&self) -> bool {
        matches!(self, Error::Replaced { .. } | Error::Lost { .. })
    }

    /// Whether the request was applied in spite of the error, as far as this error is about a request.
    pub fn applied(&self) -> Applied {
        match self {
            Error::Lost { applied, .. } => *applied,
            Error::Unknown { .. } => Applied::Unknown,
            // Rows have come, so that what they come from was done.
            Error::Value(_) | Error::AnswerLost { .. } => Applied::Yes,
            Error::Replaced { .. }
            | Error::NotApplied { .. }
            | Error::Refused { .. }
            | Error::Sql { .. }
            | Error::Misuse(_) => Applied::No,
        }
    }

    /// Whether the same may be asked again by itself, and how long the gate asks to wait before. A request that may be repeated is
    /// also asked again where it isn't known what became of it.
    pub(super) fn again(&self, repeatable: bool) -> Option<Duration> {
        match self {
            Error::NotApplied { why: NotApplied::TransactionEnded, .. } => None,
            Error::NotApplied { retry_after, .. } => Some(retry_after.unwrap_or_default()),
            Error::Unknown { why: Unknown::Broken | Unknown::Late | Unknown::Gate, .. } if repeatable => {
                Some(Duration::ZERO)
            }
            _ => None,
        }
    }

    /// The same where the leadership turns out to be over at the end of the request: that comes first, unless this says it already
    /// or says more.
    pub(super) fn when_lost(self, why: Lost) -> Error {
        match self {
            Error::NotApplied { .. } | Error::Unknown { .. } | Error::AnswerLost { .. } => {
                Error::Lost { why, applied: self.applied() }
            }
            other => other,
        }
    }

    /// The same at the end of a request that was sent before, with this error, which leaves in doubt whether it was applied: so does
    /// this then, unless it says what became of both.
    pub(super) fn after(self, doubt: Option<Error>) -> Error {
        let Some(doubt) = doubt else { return self };
        match self {
            Error::Replaced { .. } => Error::Lost { why: Lost::Replaced, applied: Applied::Unknown },
            Error::Lost { why, applied: Applied::No } => Error::Lost { why, applied: Applied::Unknown },
            Error::NotApplied { .. } | Error::Refused { .. } => doubt,
            other => other,
        }
    }

    /// The same where it happened inside a transaction that hasn't been asked to commit: so nothing of it can be applied.
    pub(super) fn before_commit(self) -> Error {
        match self {
            Error::Lost { why, .. } => Error::Lost { why, applied: Applied::No },
            Error::Unknown { message, .. } => {
                Error::NotApplied { why: NotApplied::TransactionEnded, message, retry_after: None }
            }
            other => other,
        }
    }
}

impl From<ExchangeError> for Error {
    fn from(error: ExchangeError) -> Error {
        use crate::endpoint::NoAnswer;
        let message = error.to_string();
        match error {
            ExchangeError::Malformed(_) => Error::Misuse(message),
            ExchangeError::NotSent { .. } => {
                Error::NotApplied { why: NotApplied::GateOutOfReach, message, retry_after: None }
            }
            ExchangeError::NoAnswer { why, .. } => {
                let why = match why {
                    NoAnswer::Broken(_) => Unknown::Broken,
                    NoAnswer::Late(_) => Unknown::Late,
                    NoAnswer::TooLong(_) => Unknown::AnswerTooLong,
                };
                Error::Unknown { why, message }
            }
        }
    }
}
