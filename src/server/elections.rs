//! `/-/elections/…`: the embedded coordinator over HTTP. For its users: `docs/elections.md`.

use std::time::Duration;

use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::digits;
use super::respond::{self, Answer, Style};
use super::routes::{self, GET, POST, Row, row};
use crate::coordinator::embedded::{CandidateId, Entry, Limits, Place, Standing, Status, TTL_DEFAULT, WAIT_MAX};
use crate::coordinator::{Bid, CoordinatorError, Embedded, Leader};
use crate::fence::{FenceName, Holder, Token};
use crate::problem::{Kind, Problem};

/// The body of `campaign`.
#[derive(Debug, Default, Deserialize)]
struct Campaign {
    holder: Option<Holder>,
    #[serde(default, deserialize_with = "whole")]
    ttl_ms: Option<u64>,
    #[serde(default, deserialize_with = "whole")]
    wait_ms: Option<u64>,
    candidate: Option<String>,
    enter: Option<bool>,
}

/// A whole number, also where it is written with a fraction of nothing: for JSON, 10 and 10.0 are one number, and there are
/// languages that know no others. Up to what floats have exactly.
fn whole<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    const EXACT: f64 = (1u64 << 53) as f64;
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let whole = number.as_f64().filter(|float| float.fract() == 0.0 && (0.0..=EXACT).contains(float));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole, not negative and exact")]
    let read = number.as_u64().or(whole.map(|float| float as u64));
    read.map(Some).ok_or_else(|| serde::de::Error::custom(format!("{number} is no whole number of milliseconds")))
}

/// The body of `renew` and `resign`.
#[derive(Debug, Deserialize)]
struct Candidacy {
    candidate: String,
}

/// The query of `observe`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Observe {
    until: Until,
    wait: Duration,
}

/// What to wait for.
#[derive(Debug, PartialEq, Eq)]
enum Until {
    /// A leader with a token higher than this; any leader.
    After(Option<Token>),
    /// That the one with this token doesn't lead any more.
    Not(Token),
}

impl Default for Until {
    fn default() -> Until {
        Until::After(None)
    }
}

/// Who leads, and how long its lease lasts.
#[derive(Debug)]
pub struct Leads<'a> {
    /// Its token.
    pub token: Token,
    /// Its name for itself.
    pub holder: Option<&'a Holder>,
    /// The lease's length, from each renewal.
    pub ttl: Duration,
}

/// Makes what a leader is given besides its token: its credentials. `None` where there are none.
pub type Issue<'a> = &'a (dyn Fn(&FenceName, &Leads<'_>) -> Option<Value> + Sync);

/// What stands at a path.
#[derive(Debug, Clone, Copy)]
pub enum Route {
    /// Who leads.
    Status,
    /// Waits for that.
    Observe,
    /// Enters.
    Campaign,
    /// Keeps the lease.
    Renew,
    /// Leaves.
    Resign,
}

/// The paths of elections on the data listener.
pub const ROUTES: &[Row<Route>] = &[
    row("/-/elections/{election}", GET, Route::Status),
    row("/-/elections/{election}/observe", GET, Route::Observe),
    row("/-/elections/{election}/campaign", POST, Route::Campaign),
    row("/-/elections/{election}/renew", POST, Route::Renew),
    row("/-/elections/{election}/resign", POST, Route::Resign),
];

/// Answers one request below `/-/elections/`. `path` has the percent-decoded segments after that: the election, and what to do
/// there. Takes as long as the request asks to wait, at most [`WAIT_MAX`]; dropping the future gives the wait up.
pub async fn handle(
    coordinator: &Embedded,
    method: &Method,
    path: &[String],
    query: Option<&str>,
    body: &[u8],
    issue: Issue<'_>,
) -> Answer {
    let outcome = match route(path, method) {
        Err(problem) => Err(problem),
        Ok((election, route)) => {
            let outcome = match route {
                Route::Status => status(coordinator, &election).await,
                Route::Observe => observe(coordinator, &election, query).await,
                Route::Campaign => campaign(coordinator, &election, body, issue).await,
                Route::Renew => renew(coordinator, &election, body, issue).await,
                Route::Resign => resign(coordinator, &election, body).await,
            };
            // Whatever is wrong, it is about this election.
            outcome.map_err(|problem| Problem { fence: Some(election), ..problem })
        }
    };
    let mut answer = outcome.unwrap_or_else(|problem| respond::problem(&problem, Style::Problem));
    // An answer may hold a candidate id, and all are out of date in a moment.
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// What a request asks for, and of which election.
fn route(path: &[String], method: &Method) -> Result<(FenceName, Route), Problem> {
    let segments: Vec<&str> = ["-", "elections"].into_iter().chain(path.iter().map(String::as_str)).collect();
    let nothing = "an election is at /-/elections/{election}, with campaign, renew, resign and observe below; a / in its name is %2F";
    let (row, election) = routes::find(ROUTES, &segments).ok_or_else(|| Problem::new(Kind::NotFound, nothing))?;
    let election = election.parse().map_err(|error| bad(format!("not an election: {error}")))?;
    Ok((election, row.for_method(method)?))
}

async fn campaign(
    coordinator: &Embedded,
    election: &FenceName,
    body: &[u8],
    issue: Issue<'_>,
) -> Result<Answer, Problem> {
    // Every member has a default, so no body at all is as good as an empty object.
    let campaign: Campaign = if body.is_empty() { Campaign::default() } else { parse(body)? };
    let wait = wait(campaign.wait_ms.unwrap_or(0))?;
    let ttl = campaign.ttl_ms.map_or(TTL_DEFAULT, Duration::from_millis);
    // One that goes on keeps the lease that it has entered with; what it asks for must be one all the same.
    let Limits { ttl_min: min, ttl_max: max, .. } = Limits::default();
    if !(min..=max).contains(&ttl) {
        return Err(CoordinatorError::Ttl { asked: ttl, min, max }.problem(election));
    }
    let bid = Bid { holder: campaign.holder, ttl };
    let entry = match campaign.candidate {
        Some(text) if campaign.enter == Some(true) => Entry::As(candidate(&text)?, bid),
        Some(text) => Entry::Known(candidate(&text)?),
        None => Entry::New(bid),
    };
    let standing = coordinator.enter(election, entry, wait).await.map_err(told(election))?;
    let status = match standing.place {
        Place::Leading { .. } => StatusCode::OK,
        Place::Waiting { .. } => StatusCode::ACCEPTED,
    };
    Ok(respond::json(status, &standing_body(election, &standing, issue)))
}

async fn renew(coordinator: &Embedded, election: &FenceName, body: &[u8], issue: Issue<'_>) -> Result<Answer, Problem> {
    let Candidacy { candidate: text } = parse(body)?;
    let standing = coordinator.renew(election, candidate(&text)?).await.map_err(told(election))?;
    Ok(respond::json(StatusCode::OK, &standing_body(election, &standing, issue)))
}

async fn resign(coordinator: &Embedded, election: &FenceName, body: &[u8]) -> Result<Answer, Problem> {
    let Candidacy { candidate: text } = parse(body)?;
    coordinator.resign(election, candidate(&text)?).await.map_err(told(election))?;
    Ok(respond::json(StatusCode::OK, &json!({ "election": election, "resigned": true })))
}

async fn status(coordinator: &Embedded, election: &FenceName) -> Result<Answer, Problem> {
    let status = coordinator.status(election).await.map_err(told(election))?;
    Ok(respond::json(StatusCode::OK, &status_body(election, &status)))
}

async fn observe(coordinator: &Embedded, election: &FenceName, query: Option<&str>) -> Result<Answer, Problem> {
    let Observe { until, wait } = Observe::parse(query.unwrap_or_default())?;
    let status = match until {
        Until::After(after) => coordinator.watch(election, after, wait).await,
        Until::Not(token) => coordinator.watch_while(election, token, wait).await,
    };
    let status = status.map_err(told(election))?;
    Ok(respond::json(StatusCode::OK, &status_body(election, &status)))
}

fn standing_body(election: &FenceName, standing: &Standing, issue: Issue<'_>) -> Value {
    let Standing { candidate, holder, ttl, place } = standing;
    let (candidate, ttl_ms) = (candidate.to_string(), millis(*ttl));
    match place {
        Place::Leading { token } => {
            let mut body = json!({
                "election": election, "candidate": candidate, "state": "leading",
                "token": token, "holder": holder, "ttl_ms": ttl_ms,
            });
            // It may outlast the lease: whoever is deposed has a stale token, credential or not.
            let leads = Leads { token: *token, holder: holder.as_ref(), ttl: *ttl };
            if let Some(credentials) = issue(election, &leads) {
                body["credentials"] = credentials;
            }
            body
        }
        Place::Waiting { position, leader } => json!({
            "election": election, "candidate": candidate, "state": "waiting", "token": null, "holder": holder,
            "position": position, "leader": leader.as_ref().map(leader_body), "ttl_ms": ttl_ms,
        }),
    }
}

fn status_body(election: &FenceName, status: &Status) -> Value {
    let leader = status.leader.as_ref().map(|(leader, left)| {
        let mut body = leader_body(leader);
        body["ttl_left_ms"] = millis(*left).into();
        body
    });
    json!({
        "election": election, "leader": leader, "candidates": status.waiting, "waiting": status.waiting_holders,
        "last_token": status.last_token,
    })
}

fn leader_body(leader: &Leader) -> Value {
    json!({ "token": leader.token, "holder": leader.holder })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn told(election: &FenceName) -> impl Fn(CoordinatorError) -> Problem {
    move |error| error.problem(election)
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // Left to itself, serde takes an array for an object with its members in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(bad("the body must be a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| bad(format!("the body is not the JSON object wanted here: {error}")))
}

fn candidate(text: &str) -> Result<CandidateId, Problem> {
    text.parse().map_err(|error: crate::coordinator::embedded::CandidateIdError| bad(error.to_string()))
}

fn wait(wait_ms: u64) -> Result<Duration, Problem> {
    let wait = Duration::from_millis(wait_ms);
    if wait > WAIT_MAX { Err(bad(format!("wait_ms is at most {}", WAIT_MAX.as_millis()))) } else { Ok(wait) }
}

impl Observe {
    /// Reads `after=TOKEN&wait_ms=…` or `while=TOKEN&wait_ms=…`; other parameters are ignored.
    fn parse(query: &str) -> Result<Observe, Problem> {
        let (mut after, mut not, mut wait_ms) = (None, None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "after" => &mut after,
                "while" => &mut not,
                "wait_ms" => &mut wait_ms,
                _ => continue,
            };
            if slot.replace(percent_decode_str(value).decode_utf8_lossy()).is_some() {
                return Err(bad(format!("{name} is given more than once")));
            }
        }
        let number = |text: &str| {
            digits(text)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| bad("wait_ms is a whole number of milliseconds"))
        };
        let token = |name: &str, text: &str| text.parse().map_err(|error| bad(format!("{name}: {error}")));
        let until = match (after, not) {
            (Some(_), Some(_)) => return Err(bad("either after or while: not both")),
            (None, Some(text)) => Until::Not(token("while", &text)?),
            (after, None) => Until::After(after.map(|text| token("after", &text)).transpose()?),
        };
        Ok(Observe { until, wait: wait(wait_ms.map_or(Ok(0), |text| number(&text))?)? })
    }
}

#[cfg(test)]
mod tests;
