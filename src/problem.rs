//! Everything that the gate refuses or fails at, in one table: kind to status, code, title, verdict, and what was applied.
//!
//! [`Problem`] says what happened in fields; prose is made only where it is rendered, in `server/respond.rs`. The codes double
//! as metric labels. A new kind of refusal is one variant and one row here.

use std::borrow::Cow;
use std::time::Duration;

use crate::fence::{Claim, ClaimError, FenceName, Mark, Refusal, Token, Verdict};

/// The kinds of refusal and failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A token below the mark.
    StaleToken,
    /// A write without a token for the fence that it touches.
    TokenRequired,
    /// A token, holder or credential that can't be understood.
    TokenMalformed,
    /// A fence is named that this resource doesn't have.
    WrongFence,
    /// The mark's token, bound to another holder; or a leader's token under another name than its coordinator's.
    TokenConflict,
    /// A token above the mark that the coordinator doesn't know as a leader's.
    TokenUnissued,
    /// The request itself can't be understood: body, path or parameters.
    BadRequest,
    /// The baton is unknown, used up, or belongs to a stream that has ended.
    BatonInvalid,
    /// The stream was closed after its idle time, or its transaction after its longest time.
    StreamExpired,
    /// The leadership or candidate named is not, or no longer, the caller's.
    LeadershipLost,
    /// Who asks is not known here.
    Unauthenticated,
    /// The presenter is not allowed to do this.
    Forbidden,
    /// The election's next token would be above the highest there can be.
    TokensExhausted,
    /// Nothing by this name or path here.
    NotFound,
    /// The path exists, for another method.
    MethodNotAllowed,
    /// The body is over the limit.
    BodyTooLarge,
    /// A request whose body did not come in time.
    RequestTimeout,
    /// A queue or table of bounded size is full.
    Overloaded,
    /// Another transaction held the database's one write lock for too long.
    Busy,
    /// The mark store or the database can't be written, the coordinator can't store or be asked, or the gate is stopping.
    Unavailable,
    /// The write was started and its end isn't known.
    OutcomeUnknown,
    /// The same, because the answer did not come in time.
    OutcomeTimeout,
    /// An older write may still be applied, so that newer ones have to wait.
    Quarantined,
    /// An `Idempotency-Key` that can't be understood.
    IdempotencyKeyMalformed,
    /// An `Idempotency-Key` on a request that can't be kept whole in one transaction.
    IdempotencyKeyUnusable,
    /// An `Idempotency-Key` that was another request's.
    IdempotencyKeyReused,
    /// The same request was applied before, and its answer was too large to keep.
    AnswerNotKept,
    /// No connection to the upstream: nothing was sent.
    UpstreamUnreachable,
    /// A path that an upstream may understand in another way than the gate.
    AmbiguousPath,
    /// A framing or a method that a proxy can't pass on.
    NotImplemented,
    /// The gate failed in a way that it should not.
    Internal,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// HTTP status.
    pub status: u16,
    /// The `code` member; in lower case with `-` it ends the `type` URN.
    pub code: &'static str,
    /// The `title` member.
    pub title: &'static str,
    /// The `Fencing-Verdict` header; `None` where nothing was judged.
    pub verdict: Option<&'static str>,
    /// Seconds for `Retry-After`, where trying again makes sense.
    pub retry_after_s: Option<u32>,
}

impl Kind {
    /// The table.
    pub fn row(self) -> Row {
        let row = |status, code, title| Row { status, code, title, verdict: None, retry_after_s: None };
        let judged = |verdict, row: Row| Row { verdict: Some(verdict), ..row };
        let again = |retry_after_s, row: Row| Row { retry_after_s: Some(retry_after_s), ..row };
        match self {
            Kind::StaleToken => judged("stale", row(412, "STALE_TOKEN", "You've been replaced")),
            Kind::TokenRequired => judged("missing", row(428, "TOKEN_REQUIRED", "A write needs a fencing token")),
            Kind::TokenMalformed => judged("malformed", row(400, "TOKEN_MALFORMED", "Malformed fencing token")),
            Kind::WrongFence => judged("malformed", row(400, "WRONG_FENCE", "Wrong fence")),
            Kind::TokenConflict => judged("conflict", row(409, "TOKEN_CONFLICT", "Another holder has this token")),
            Kind::TokenUnissued => judged("unissued", row(403, "TOKEN_UNISSUED", "This token was not issued")),
            Kind::BadRequest => row(400, "BAD_REQUEST", "Bad request"),
            Kind::BatonInvalid => row(400, "BATON_INVALID", "Unknown stream"),
            Kind::StreamExpired => row(400, "STREAM_EXPIRED", "The stream has expired"),
            Kind::LeadershipLost => row(410, "LEADERSHIP_LOST", "Leadership lost"),
            Kind::Unauthenticated => row(401, "UNAUTHENTICATED", "Not authenticated"),
            Kind::Forbidden => row(403, "FORBIDDEN", "Not allowed"),
            Kind::TokensExhausted => row(409, "TOKENS_EXHAUSTED", "No token is left"),
            Kind::NotFound => row(404, "NOT_FOUND", "Not found"),
            Kind::MethodNotAllowed => row(405, "METHOD_NOT_ALLOWED", "Method not allowed"),
            Kind::BodyTooLarge => row(413, "BODY_TOO_LARGE", "Request body too large"),
            Kind::RequestTimeout => row(408, "REQUEST_TIMEOUT", "The request did not arrive in time"),
            Kind::Overloaded => again(1, row(503, "OVERLOADED", "Too much at once")),
            Kind::Busy => again(1, row(503, "BUSY", "The database is locked by another transaction")),
            Kind::Unavailable => again(1, row(503, "UNAVAILABLE", "Unavailable")),
            Kind::OutcomeUnknown => judged("unknown", row(502, "OUTCOME_UNKNOWN", "The outcome is not known")),
            Kind::OutcomeTimeout => judged("unknown", row(504, "OUTCOME_UNKNOWN", "The outcome is not known")),
            Kind::Quarantined => {
                judged("quarantined", again(1, row(503, "QUARANTINED", "An older write may still be applied")))
            }
            Kind::IdempotencyKeyMalformed => row(400, "IDEMPOTENCY_KEY_MALFORMED", "Malformed idempotency key"),
            Kind::IdempotencyKeyUnusable => row(400, "IDEMPOTENCY_KEY_UNUSABLE", "This can't be kept under a key"),
            Kind::IdempotencyKeyReused => row(422, "IDEMPOTENCY_KEY_REUSED", "The key was another request's"),
            Kind::AnswerNotKept => row(409, "IDEMPOTENCY_ANSWER_NOT_KEPT", "Applied before; the answer was not kept"),
            Kind::UpstreamUnreachable => row(502, "UPSTREAM_UNREACHABLE", "The upstream can't be reached"),
            Kind::AmbiguousPath => row(400, "AMBIGUOUS_PATH", "Ambiguous path"),
            Kind::NotImplemented => row(501, "NOT_IMPLEMENTED", "Not implemented"),
            Kind::Internal => row(500, "INTERNAL", "Internal error"),
        }
    }

    /// Whether the request may have been applied in spite of this answer: `"no"`, `"yes"` or `"unknown"`.
    pub fn applied(self) -> &'static str {
        match self {
            Kind::OutcomeUnknown | Kind::OutcomeTimeout | Kind::Internal => "unknown",
            Kind::AnswerNotKept => "yes",
            _ => "no",
        }
    }

    /// The error type of RFC 9209 for `Proxy-Status`, where the gate answers in an upstream's place.
    pub fn proxy_error(self) -> &'static str {
        match self {
            Kind::OutcomeUnknown => "connection_terminated",
            Kind::OutcomeTimeout => "http_response_timeout",
            Kind::UpstreamUnreachable => "destination_unavailable",
            Kind::Unavailable | Kind::Internal | Kind::Overloaded => "proxy_internal_error",
            Kind::BadRequest | Kind::BodyTooLarge | Kind::NotImplemented | Kind::AmbiguousPath => "http_request_error",
            _ => "http_request_denied",
        }
    }
}

/// One refusal or failure, with its particulars.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", kind.row().title, self.detail())]
pub struct Problem {
    /// What kind.
    pub kind: Kind,
    /// A sentence for people: what is wrong and what to do. `None` where it follows from the tokens and the fence: a flood of stale
    /// writes isn't worth the putting together of a sentence for each.
    pub detail: Option<String>,
    /// The fence that it is about.
    pub fence: Option<FenceName>,
    /// The token that was presented for that fence.
    pub presented: Option<Token>,
    /// The fence's mark after the request.
    pub highest: Option<Token>,
    /// Overrides the table's `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Overrides [`Kind::proxy_error`], where more is known.
    pub proxy_error: Option<&'static str>,
    /// The methods that the path takes, for `Allow`.
    pub allow: Option<&'static str>,
    /// What was decided on the request's claims before it failed otherwise, where the table has no verdict of its own.
    pub verdict: Option<Verdict>,
}

impl Problem {
    /// A problem of this kind with a sentence for people.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem {
            kind,
            detail: Some(detail.into()),
            fence: None,
            presented: None,
            highest: None,
            retry_after: None,
            proxy_error: None,
            allow: None,
            verdict: None,
        }
    }

    /// A path that takes only these methods.
    pub fn method_not_allowed(allow: &'static str) -> Problem {
        let why = format!("this path takes {allow}");
        Problem { allow: Some(allow), ..Problem::new(Kind::MethodNotAllowed, why) }
    }

    /// A sentence for people: what is wrong and what to do.
    pub fn detail(&self) -> Cow<'_, str> {
        match (&self.detail, self.presented, self.highest, &self.fence) {
            (Some(detail), ..) => Cow::Borrowed(detail),
            (None, Some(presented), Some(highest), Some(fence)) => Cow::Owned(format!(
                "token {presented} is lower than {highest}, the highest that fence {fence} has admitted"
            )),
            (None, ..) => Cow::Borrowed(self.kind.row().title),
        }
    }

    /// The same, of a request whose claims were admitted before it failed: the answer says so, too.
    #[must_use]
    pub fn after(mut self, verdict: Verdict, claims: &[Claim]) -> Problem {
        self.verdict = Some(verdict);
        if let Some(claim) = claims.first().filter(|_| self.highest.is_none()) {
            // It was admitted, so that its token was the mark.
            self.highest = Some(claim.token);
            self.presented.get_or_insert(claim.token);
            self.fence.get_or_insert_with(|| claim.fence.clone());
        }
        self
    }

    /// The same, about this fence and its mark.
    pub fn about(self, fence: &FenceName, mark: Option<&Mark>) -> Problem {
        Problem { fence: Some(fence.clone()), highest: mark.map(|mark| mark.token), ..self }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let Refusal { verdict, fence, presented, highest, .. } = refusal;
        let problem = match verdict {
            Verdict::Stale => Problem { detail: None, ..Problem::new(Kind::StaleToken, String::new()) },
            Verdict::Conflict | Verdict::Admitted | Verdict::Advanced | Verdict::Unissued => {
                let other = highest.holder.as_ref().map_or("?", |holder| holder.as_str());
                let why = format!(
                    "token {presented} on fence {fence} belongs to holder {other}; two leaders present one token"
                );
                Problem::new(Kind::TokenConflict, why)
            }
        };
        Problem { presented: Some(presented), ..problem.about(&fence, Some(&highest)) }
    }
}

impl From<ClaimError> for Problem {
    fn from(error: ClaimError) -> Problem {
        Problem::new(Kind::TokenMalformed, error.to_string())
    }
}
