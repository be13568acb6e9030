//! The admin listener: what operators see and do.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use metrics::{counter, gauge};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Who;
use crate::fence::{FenceName, Token};
use crate::problem::{Kind, Problem};
use crate::resource::threads::now_ms;
use crate::resource::{Look, Received};

use super::data::{no_fence, readyz, segments, small_body};
use super::events::EventBody;
use super::http::{AnswerBody, Whole};
use super::respond::{self, Answer, Style, timestamp};
use super::routes::{self, GET, POST, Row, row};
use super::{Gate, console, digits, guard, listing, openapi, origin};

/// Fences of one resource that have metrics of their own: the number of series stays bounded.
const METRIC_FENCES_MAX: usize = 100;
/// Most rows of one page.
const PAGE_MAX: usize = 1000;
/// Most fences that one asks for by name at once.
const NAMES_MAX: usize = 200;

/// An answer in memory, or a stream of events.
pub type AdminAnswer = Response<Either<Full<Bytes>, EventBody>>;

impl AnswerBody for Either<Full<Bytes>, EventBody> {
    fn of(whole: Bytes) -> Either<Full<Bytes>, EventBody> {
        Either::Left(Full::new(whole))
    }

    fn whole(&self) -> Option<Whole<'_>> {
        match self {
            Either::Left(whole) => whole.whole(),
            Either::Right(_) => None,
        }
    }
}

/// Answers one request.
pub async fn handle(gate: &Gate, request: Request<Received>) -> AdminAnswer {
    let refused = |problem| respond::problem(&problem, Style::Problem).map(Either::Left);
    let mut answer = admit(gate, request).await.unwrap_or_else(refused);
    origin::harden(&mut answer);
    answer
}

async fn admit(gate: &Gate, request: Request<Received>) -> Result<AdminAnswer, Problem> {
    // Where a secret is asked for, which no browser adds by itself, a name that isn't known gives nobody anything.
    let names = gate.guard.access.is_none().then_some(&*gate.admin_hosts);
    origin::check(&request, names)?;
    let segments = segments(request.uri().path())?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let who = guard::admin(gate, &request, &segments)?;
    let path = request.uri().path();
    let nothing = || Problem::new(Kind::NotFound, format!("{path} is not here; / lists what is"));
    let (row, named) = routes::find(ROUTES, &segments).ok_or_else(nothing)?;
    match row.for_method(request.method())? {
        Route::Events => events(gate, who),
        route => answer(gate, route, named, request, who.as_ref()).await.map(|answer| answer.map(Either::Left)),
    }
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The console, or the list of paths.
    Page,
    /// A file of the console.
    ConsoleFile,
    /// Whether the gate runs.
    Healthz,
    /// Whether it takes requests.
    Readyz,
    /// Metrics.
    Metrics,
    /// What stands here.
    OpenApi,
    /// What the gate serves.
    Status,
    /// What needs attention.
    Overview,
    /// Fences.
    Fences,
    /// One fence.
    Fence,
    /// Its history.
    History,
    /// Its mark is set.
    Reset,
    /// Its quarantine is ended.
    Release,
    /// What happens.
    Events,
}

/// Everything that is here.
pub const ROUTES: &[Row<Route>] = &[
    row("/", GET, Route::Page),
    row("/console/{file}", GET, Route::ConsoleFile),
    row("/healthz", GET, Route::Healthz),
    row("/readyz", GET, Route::Readyz),
    row("/metrics", GET, Route::Metrics),
    row("/v1/openapi.json", GET, Route::OpenApi),
    row("/v1/status", GET, Route::Status),
    row("/v1/overview", GET, Route::Overview),
    row("/v1/fences", GET, Route::Fences),
    row("/v1/fences/{fence}", GET, Route::Fence),
    row("/v1/fences/{fence}/history", GET, Route::History),
    row("/v1/fences/{fence}/reset", POST, Route::Reset),
    row("/v1/fences/{fence}/release", POST, Route::Release),
    // Nobody asks for the head of what has no end.
    row("/v1/events", "GET", Route::Events),
];

fn events(gate: &Gate, who: Option<Who>) -> Result<AdminAnswer, Problem> {
    let mut answer = Response::new(Either::Right(EventBody::new(gate, who)?));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// The answer of a path whose answer has an end. `named`: what its braces stand for.
async fn answer(
    gate: &Gate,
    route: Route,
    named: &str,
    request: Request<Received>,
    who: Option<&Who>,
) -> Result<Answer, Problem> {
    match route {
        Route::Page => Ok(console::page(request.headers(), WELCOME)),
        Route::ConsoleFile => {
            let path = request.uri().path();
            let none = || Problem::new(Kind::NotFound, format!("{path} is no file of the console"));
            console::file(path, request.headers()).ok_or_else(none)
        }
        Route::Healthz => Ok(respond::json(StatusCode::OK, &json!({ "status": "ok" }))),
        Route::Readyz => Ok(readyz(gate)),
        Route::Metrics => Ok(metrics(gate)),
        Route::OpenApi => Ok(openapi::answer(openapi::ADMIN)),
        Route::Status => Ok(status(gate, who)),
        Route::Overview => Ok(listing::overview(gate)),
        Route::Fences => {
            let query = Query::parse(request.uri().query())?;
            match query.names.as_slice() {
                [] => listing::page(gate, &query.look, who).await,
                names => Ok(listing::named(gate, names, who)),
            }
        }
        Route::Fence => fence(gate, named).await,
        Route::History => history(gate, named, &Query::parse(request.uri().query())?).await,
        Route::Reset | Route::Release => {
            origin::check_media_type(&request)?;
            let body = small_body(request.into_body()).await?;
            if route == Route::Reset { reset(gate, named, &body).await } else { release(gate, named, &body).await }
        }
        Route::Events => Err(Problem::new(Kind::Internal, "what has no end is answered elsewhere")),
    }
}

const WELCOME: &str = "fencegate, admin listener\n\n\
    GET  /v1/status                    what this gate serves\n\
    GET  /v1/overview                  how many fences, and which need attention\n\
    GET  /v1/fences                    all fences with their marks (prefix=, part=, after=, limit=; name=)\n\
    GET  /v1/fences/FENCE              one fence, and who was refused on it\n\
    GET  /v1/fences/FENCE/history      its history (before=, limit=)\n\
    POST /v1/fences/FENCE/reset        {\"highest\": \"5\" or null, \"reason\": \"...\"}\n\
    POST /v1/fences/FENCE/release      {\"reason\": \"...\"}\n\
    GET  /v1/events                    what happens, as server-sent events\n\
    GET  /v1/openapi.json              all of this, for programs\n\
    GET  /metrics                      Prometheus\n\
    GET  /healthz, /readyz\n";

/// The parameters of a query, those known here.
#[derive(Default)]
struct Query {
    look: Look,
    names: Vec<String>,
    before: Option<i64>,
}

impl Query {
    fn parse(query: Option<&str>) -> Result<Query, Problem> {
        let mut parsed = Query { look: Look::first(100), ..Query::default() };
        let mut seen = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !["prefix", "part", "after", "name", "before", "limit"].contains(&key) {
                continue;
            }
            let bad = |what: &str| Problem::new(Kind::BadRequest, format!("{key}: {what}"));
            let value = value.replace('+', " ");
            let value = percent_encoding::percent_decode_str(&value).decode_utf8().map_err(|_| bad("not UTF-8"))?;
            if key == "name" {
                if parsed.names.len() == NAMES_MAX {
                    return Err(bad("too many"));
                }
                parsed.names.push(value.into_owned());
                continue;
            }
            // Which of the two was meant, nobody knows.
            if seen.contains(&key) {
                return Err(bad("is given more than once"));
            }
            seen.push(key);
            let number = || digits(&value).ok_or_else(|| bad("not a whole number"));
            match key {
                "prefix" => parsed.look.prefix = value.into_owned(),
                "part" => parsed.look.part = value.into_owned(),
                "after" => parsed.look.after = value.into_owned(),
                "before" => parsed.before = Some(number()?.parse().map_err(|_| bad("more than there can be"))?),
                // What is too large for any number is more than a page has, too.
                _ => parsed.look.limit = number()?.parse().unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX),
            }
        }
        Ok(parsed)
    }
}

fn text(media_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

fn metrics(gate: &Gate) -> Answer {
    gauge!("fencegate_uptime_seconds").set(gate.started.elapsed().as_secs_f64());
    for places in [&gate.data_places, &gate.admin_places] {
        gauge!("fencegate_connections", "listener" => places.listener()).set(places.taken() as f64);
    }
    for mount in &gate.mounts {
        let resource = mount.resource.name().to_owned();
        for (name, value) in mount.resource.gauges() {
            gauge!(name, "resource" => resource.clone()).set(value);
        }
        for info in mount.resource.fences(&Look::first(METRIC_FENCES_MAX)).fences {
            let labels = [("resource", resource.clone()), ("fence", info.fence.to_string())];
            gauge!("fencegate_fence_highest", &labels).set(info.highest.map_or(0.0, |token| token.get() as f64));
            gauge!("fencegate_fence_in_flight", &labels).set(info.in_flight as f64);
            counter!("fencegate_fence_refused_total", &labels).absolute(info.refused);
        }
    }
    text("text/plain; version=0.0.4; charset=utf-8", gate.metrics.render())
}

fn status(gate: &Gate, who: Option<&Who>) -> Answer {
    let resources: Vec<Value> = gate
        .mounts
        .iter()
        .filter(|mount| who.is_none_or(|who| who.knows(mount.resource.name())))
        .map(|mount| {
            let resource = &mount.resource;
            json!({
                "name": resource.name(),
                "kind": resource.kind(),
                "path": mount.path,
                "guarantee": resource.guarantee().as_str(),
                "fences": resource.tally().fences,
                "file": resource.location(),
                "trouble": resource.trouble(),
            })
        })
        .collect();
    respond::json(
        StatusCode::OK,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_ms": u64::try_from(gate.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "ready": gate.ready.load(std::sync::atomic::Ordering::SeqCst),
            "data": gate.data_addr,
            "scheme": if gate.guard.tls.is_some() { "https" } else { "http" },
            "admin": gate.admin_addr,
            "resources": resources,
        }),
    )
}

async fn fence(gate: &Gate, name: &str) -> Result<Answer, Problem> {
    let resource = gate.resource_of(name).ok_or_else(|| no_fence(name))?;
    let info = resource.fence(name).ok_or_else(|| no_fence(name))?;
    let knocks = resource.knocks(&info.fence).await?;
    let refusals: Vec<Value> = knocks
        .into_iter()
        .map(|knock| {
            json!({
                "verdict": knock.verdict.as_str(),
                "token": knock.token,
                "holder": knock.holder,
                "count": knock.count,
                "first_at": timestamp(knock.first_at_ms),
                "last_at": timestamp(knock.last_at_ms),
            })
        })
        .collect();
    let mut body = listing::info_json(&**resource, &info);
    body["refusals"] = refusals.into();
    body["at"] = timestamp(now_ms()).into();
    Ok(respond::json(StatusCode::OK, &body))
}

async fn history(gate: &Gate, name: &str, query: &Query) -> Result<Answer, Problem> {
    let resource = gate.resource_of(name).ok_or_else(|| no_fence(name))?;
    let fence: FenceName = name.parse().map_err(|_| no_fence(name))?;
    let before = query.before.unwrap_or(i64::MAX);
    let mut events = resource.history(&fence, before, query.look.limit + 1).await?;
    let more = events.len() > query.look.limit;
    events.truncate(query.look.limit);
    let next = events.last().filter(|_| more).map(|event| event.id.to_string());
    let events: Vec<Value> = events
        .into_iter()
        .map(|event| {
            json!({
                "id": event.id.to_string(),
                "at": timestamp(event.at_ms),
                "event": event.event,
                "token": event.token,
                "previous": event.previous,
                "holder": event.holder,
                "reason": event.reason,
            })
        })
        .collect();
    Ok(respond::json(StatusCode::OK, &json!({ "fence": fence, "events": events, "next": next })))
}

#[derive(Deserialize)]
struct ResetBody {
    #[serde(default, deserialize_with = "present")]
    highest: Option<Option<Token>>,
    reason: String,
}

/// Tells a member that is null from one that isn't there.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Token>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct ReleaseBody {
    reason: String,
}

/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 1000;

fn reason(text: &str) -> Result<String, Problem> {
    let is_one = !text.trim().is_empty() && !text.chars().any(char::is_control);
    if !is_one || text.chars().count() > REASON_CHARS_MAX {
        let why = format!(
            "a reason is needed, of at most {REASON_CHARS_MAX} characters on one line; it is kept in the history"
        );
        return Err(Problem::new(Kind::BadRequest, why));
    }
    Ok(text.trim().to_owned())
}

fn body<'a, T: Deserialize<'a>>(bytes: &'a [u8], wanted: &str) -> Result<T, Problem> {
    let bad = |why: String| Problem::new(Kind::BadRequest, format!("the body must be {wanted}: {why}"));
    // Left to itself, serde takes an array for an object with its members in order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(bad("this is no JSON object".into()));
    }
    serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))
}

async fn reset(gate: &Gate, name: &str, bytes: &[u8]) -> Result<Answer, Problem> {
    let resource = gate.resource_of(name).ok_or_else(|| no_fence(name))?;
    let fence: FenceName = name.parse().map_err(|_| no_fence(name))?;
    let wanted = r#"{"highest": "5" or null, "reason": "..."}"#;
    let ResetBody { highest, reason: text } = body(bytes, wanted)?;
    let Some(to) = highest else {
        return Err(Problem::new(Kind::BadRequest, format!("the body must be {wanted}: highest is missing")));
    };
    let previous = resource.reset(&fence, to, reason(&text)?).await?;
    Ok(respond::json(StatusCode::OK, &json!({ "fence": fence, "highest": to, "previous": previous })))
}

async fn release(gate: &Gate, name: &str, bytes: &[u8]) -> Result<Answer, Problem> {
    let resource = gate.resource_of(name).ok_or_else(|| no_fence(name))?;
    let fence: FenceName = name.parse().map_err(|_| no_fence(name))?;
    let ReleaseBody { reason: text } = body(bytes, r#"{"reason": "..."}"#)?;
    let released = resource.release(&fence, reason(&text)?).await?;
    Ok(respond::json(StatusCode::OK, &json!({ "fence": fence, "released": released })))
}
