//! The data listener: resources at their mount points, and the reserved paths under `/-/`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Version};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::access::{Caller, Right, credential};
use crate::fence::{Claim, FenceName};
use crate::problem::{Kind, Problem};
use crate::resource::seat::{Seat, Waiting};
use crate::resource::{Answering, Body, Boxed, Call, Judged, Quarantined, Received, Resource, Served, headers};

use super::elections::Leads;
use super::http::{AnswerBody, Whole};
use super::respond::{self, Answer, Style};
use super::routes::{self, GET, POST, Row, row};
use super::tls::Secured;
use super::{Gate, elections, guard, openapi, pace};
use crate::headers::{FENCING_HIGHEST, FENCING_VERDICT};

/// Largest body on the reserved paths, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Most mount points that one is told of who asks for something else.
const MOUNTS_TOLD_MAX: usize = 20;

/// What is to be done for a request.
#[allow(clippy::large_enum_variant, reason = "it is looked at once, where it is made")]
enum Route<'a> {
    /// Nothing more: here is its answer, and whether that is a refusal.
    Done(Response<Body>, bool),
    /// The resource of this number is about to answer. True where the connection has to end if it refuses.
    Resource(usize, bool, Boxed<'a, Result<Served, Problem>>),
    /// The gate itself has to.
    Reserved(Request<Received>),
}

/// Answers one request.
///
/// # Errors
/// None.
pub async fn handle(
    gate: Arc<Gate>,
    request: Request<Received>,
    peer: SocketAddr,
) -> Result<Response<Body>, Infallible> {
    let (answer, is_refusal) = match route(&gate, request, peer) {
        Route::Done(answer, is_refusal) => (answer, is_refusal),
        Route::Resource(index, ends_connection, served) => {
            let served = served.await;
            let is_refusal = served.as_ref().is_err_and(is_refusal);
            (told(&gate, index, served, ends_connection), is_refusal)
        }
        Route::Reserved(request) => {
            // Large and rare: not in every request's future.
            let answer = Box::pin(reserved(&gate, request)).await;
            let is_refusal = answer.as_ref().is_err_and(is_refusal);
            let answer = answer.unwrap_or_else(|problem| respond::problem(&problem, Style::Problem));
            (answer.map(Body::Whole), is_refusal)
        }
    };
    if is_refusal && let Some(wait) = gate.pace.wait(gate.data_places.is_crowded()) {
        // As with the reserved paths.
        Box::pin(hold_back(wait)).await;
    }
    Ok(answer)
}

/// Holds a refusal back, unless its connection's place is needed.
async fn hold_back(wait: Duration) {
    match Seat::here() {
        None => tokio::time::sleep(wait).await,
        Some(seat) => tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = Waiting::first(&seat) => {}
        },
    }
}

/// Whether a problem is its client's, of which it can make as many as it likes.
fn is_refusal(problem: &Problem) -> bool {
    (400..500).contains(&problem.kind.row().status)
}

impl AnswerBody for Body {
    fn of(whole: Bytes) -> Body {
        Body::Whole(Full::new(whole))
    }

    fn whole(&self) -> Option<Whole<'_>> {
        match self {
            Body::Whole(whole) => whole.whole(),
            Body::Repeated(repeated) => Some(Whole { body: repeated.body().clone(), lines: repeated.lines() }),
            Body::Streamed(_) => None,
        }
    }

    fn complete(mut answer: Response<Body>) -> Response<Body> {
        if let Body::Repeated(repeated) = answer.body() {
            let (mut headers, body) = (repeated.headers().clone(), repeated.body().clone());
            headers.extend(std::mem::take(answer.headers_mut()));
            (*answer.headers_mut(), *answer.body_mut()) = (headers, Body::of(body));
        }
        answer
    }
}

fn route(gate: &Gate, mut request: Request<Received>, peer: SocketAddr) -> Route<'_> {
    let path = request.uri().path();
    if path == "/-" || path.starts_with("/-/") {
        return Route::Reserved(request);
    }
    let Some((index, below)) = mounted(gate, path) else { return Route::Done(nothing_here(gate, path), true) };
    let resource = &gate.mounts[index].resource;
    let caller = guard::caller(gate, &**resource, &mut request);
    let (caller, refusal) = match caller {
        Ok(caller) => (caller, None),
        Err(problem) => (None, Some(problem)),
    };
    let call = call(below, request, peer, caller);
    let ends_connection = call.version == Version::HTTP_11 && call.body.ends_connection();
    if let Some(problem) = refusal {
        return Route::Done(told(gate, index, Err(problem), ends_connection), true);
    }
    match resource.call(call) {
        Answering::Now(served) => {
            let is_refusal = served.as_ref().is_err_and(is_refusal);
            Route::Done(told(gate, index, served, ends_connection), is_refusal)
        }
        Answering::Later(served) => Route::Resource(index, ends_connection, served),
    }
}

/// The mount point that a path is below, and where in the path that below it begins.
fn mounted(gate: &Gate, path: &str) -> Option<(usize, usize)> {
    gate.mounts.iter().enumerate().find_map(|(index, mount)| {
        let below = if mount.path == "/" { path } else { path.strip_prefix(mount.path.as_str())? };
        (below.is_empty() || below.starts_with('/')).then_some((index, path.len() - below.len()))
    })
}

/// What one says where no resource is mounted. A libSQL driver whose URL is `http://gate/shop`, without a slash at its end, asks
/// for `/v3/pipeline`: it is told so, in the form that it reads.
fn nothing_here(gate: &Gate, path: &str) -> Response<Body> {
    let mounts: Vec<String> = gate
        .mounts
        .iter()
        .take(MOUNTS_TOLD_MAX)
        .map(|mount| format!("{}/", mount.path.trim_end_matches('/')))
        .collect();
    let is_sql = ["/v2", "/v3"].iter().any(|version| path.starts_with(version));
    let hint = if is_sql { "; a libSQL driver's URL needs the slash at its end" } else { "" };
    let why = format!("no resource is mounted at {path}; there is {}{hint}", mounts.join(", "));
    respond::problem(&Problem::new(Kind::NotFound, why), if is_sql { Style::Sql } else { Style::Problem })
        .map(Body::Whole)
}

/// What a resource is told of a request, `below` being where in its path that below the mount point begins.
fn call(below: usize, request: Request<Received>, peer: SocketAddr, caller: Option<Box<Caller>>) -> Call {
    let (mut parts, body) = request.into_parts();
    // hyper puts it there where the client's connection can become something else.
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let is_secure = parts.extensions.get::<Arc<Secured>>().is_some();
    let hyper::http::request::Parts { method, uri, version, headers, .. } = parts;
    Call { method, uri, below, version, headers, peer, is_secure, caller, body, upgrade }
}

/// What a client is told of what a resource says.
fn told(gate: &Gate, index: usize, served: Result<Served, Problem>, ends_connection: bool) -> Response<Body> {
    let (resource, counters) = (&gate.mounts[index].resource, &gate.counters[index]);
    match served {
        Ok(served) => {
            pace::served();
            counters.served(served.judged.as_ref().map(|judged| judged.verdict));
            let mut answer = served.response;
            if let Some(judged) = &served.judged {
                put_verdict(&mut answer, judged);
            }
            answer
        }
        Err(problem) => {
            counters.refused(&problem);
            tracing::debug!(resource = resource.name(), %problem, "refused");
            let mut answer = refused(&**resource, &problem);
            if ends_connection {
                // Said, so that the client's next request doesn't run into a closed door.
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    }
}

/// The answer to a request that a resource refused, or that failed there.
fn refused(resource: &dyn Resource, problem: &Problem) -> Response<Body> {
    respond::refusal(problem, if resource.kind() == "sqlite" { Style::Sql } else { Style::Proxied })
}

/// A refusal that names no fence is about the one that a bare token speaks for: its mark is told, too.
fn about(problem: Problem, resource: &dyn Resource, own: Option<&FenceName>) -> Problem {
    let Some(own) = own.filter(|_| problem.fence.is_none()) else { return problem };
    let highest = resource.fence(own).and_then(|info| info.highest);
    Problem { fence: Some(own.clone()), highest, ..problem }
}

/// Says what was decided: `Fencing-Verdict`, and `Fencing-Highest` as a bare number for one fence, in the form
/// `orders=7, jobs=12` for several.
fn put_verdict<B>(answer: &mut Response<B>, judged: &Judged) {
    let headers = answer.headers_mut();
    headers.insert(FENCING_VERDICT, HeaderValue::from_static(judged.verdict.as_str()));
    let highest = match &*judged.claims {
        [claim] => HeaderValue::from(claim.token.get()),
        claims => {
            let each: Vec<String> = claims.iter().map(|claim| format!("{}={}", claim.fence, claim.token)).collect();
            HeaderValue::try_from(each.join(", ")).expect("fence names and numbers are visible ASCII")
        }
    };
    headers.insert(FENCING_HIGHEST, highest);
}

/// What stands at a reserved path.
#[derive(Debug, Clone, Copy)]
pub enum Reserved {
    /// Whether the gate runs.
    Healthz,
    /// Whether it takes requests.
    Readyz,
    /// What stands here.
    OpenApi,
    /// A fence's mark.
    Fence,
    /// A claim on it.
    Claim,
}

/// The reserved paths, but those of elections ([`elections::ROUTES`]).
pub const ROUTES: &[Row<Reserved>] = &[
    row("/-/healthz", GET, Reserved::Healthz),
    row("/-/readyz", GET, Reserved::Readyz),
    row("/-/openapi.json", GET, Reserved::OpenApi),
    row("/-/fences/{fence}", GET, Reserved::Fence),
    row("/-/fences/{fence}/claim", POST, Reserved::Claim),
];

/// The reserved paths.
async fn reserved(gate: &Gate, request: Request<Received>) -> Result<Answer, Problem> {
    let path = request.uri().path();
    let segments = segments(path)?;
    if let [_, first, election @ ..] = segments.as_slice()
        && first == "elections"
    {
        return self::election(gate, election, request).await;
    }
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let nothing = || Problem::new(Kind::NotFound, format!("{path} is not one of the gate's own paths"));
    let (row, name) = routes::find(ROUTES, &segments).ok_or_else(nothing)?;
    match row.for_method(request.method())? {
        Reserved::Healthz => Ok(respond::json(StatusCode::OK, &json!({ "status": "ok" }))),
        Reserved::Readyz => Ok(readyz(gate)),
        Reserved::OpenApi => Ok(openapi::answer(openapi::DATA)),
        Reserved::Fence => {
            guard::fence(gate, &request, Right::Observe, name)?;
            fence(gate, name)
        }
        Reserved::Claim => claim(gate, name, request).await,
    }
}

async fn election(gate: &Gate, path: &[String], request: Request<Received>) -> Result<Answer, Problem> {
    let Some(coordinator) = &gate.coordinator else {
        return Err(Problem::new(Kind::NotFound, "this gate has no embedded coordinator"));
    };
    if let Some(election) = path.first() {
        guard::election(gate, &request, election)?;
    }
    let (parts, body) = request.into_parts();
    let body = small_body(body).await?;
    let issue = |election: &FenceName, leads: &Leads<'_>| credentials(gate, election, leads);
    Ok(elections::handle(coordinator, &parts.method, path, parts.uri.query(), &body, &issue).await)
}

/// The credentials of a leader whom the embedded coordinator has elected, for each fence that the election is for. They last as long as
/// its lease does without being renewed.
fn credentials(gate: &Gate, election: &FenceName, leads: &Leads<'_>) -> Option<Value> {
    let signer = gate.guard.signer.as_ref()?;
    let mut fences: Vec<FenceName> = gate.fences_of(election).into_iter().map(|(_, fence)| fence).collect();
    if fences.is_empty() {
        fences.push(election.clone());
    }
    let sign = |fence: FenceName| {
        let signed = signer.sign(&fence, leads.token, leads.holder, leads.ttl, credential::now());
        (fence.to_string(), Value::from(signed))
    };
    Some(Value::Object(fences.into_iter().map(sign).collect()))
}

/// Splits a path at its slashes and decodes each part.
///
/// # Errors
/// A part that isn't UTF-8 once it is decoded.
pub fn segments(path: &str) -> Result<Vec<String>, Problem> {
    let decode = |part: &str| percent_decode_str(part).decode_utf8().map(|part| part.into_owned());
    let parts = path.strip_prefix('/').unwrap_or(path).split('/').map(decode).collect::<Result<_, _>>();
    parts.map_err(|_| Problem::new(Kind::BadRequest, "the path's percent-encoding is not UTF-8"))
}

/// Whether the gate takes requests.
pub fn readyz(gate: &Gate) -> Answer {
    if gate.ready.load(Ordering::SeqCst) {
        respond::json(StatusCode::OK, &json!({ "ready": true }))
    } else {
        respond::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "ready": false, "why": "stopping" }))
    }
}

/// What one says where no resource can have a fence of this name.
pub fn no_fence(name: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("no resource here has a fence named {name:?}"))
}

/// A quarantine's end as JSON has it: a time, or the last one there is where only an operator ends it.
pub fn quarantined_until(quarantine: Option<Quarantined>) -> Option<String> {
    match quarantine? {
        Quarantined::UntilMs(at) => Some(respond::timestamp(at)),
        Quarantined::Held => Some("9999-12-31T23:59:59.999Z".to_owned()),
    }
}

fn fence(gate: &Gate, name: &str) -> Result<Answer, Problem> {
    let info = gate.mounts.iter().find_map(|mount| mount.resource.fence(name)).ok_or_else(|| no_fence(name))?;
    Ok(respond::json(
        StatusCode::OK,
        &json!({
            "fence": info.fence,
            "highest": info.highest,
            "holder": info.holder,
            "advanced_at": info.advanced_at_ms.map(respond::timestamp),
            "in_flight": info.in_flight,
            "quarantined_until": quarantined_until(info.quarantine),
        }),
    ))
}

async fn claim(gate: &Gate, name: &str, mut request: Request<Received>) -> Result<Answer, Problem> {
    guard::fence(gate, &request, Right::Claim, name)?;
    let resource = gate.resource_of(name).ok_or_else(|| no_fence(name))?;
    let caller = guard::caller(gate, &**resource, &mut request)?;
    let fence: FenceName = name.parse().map_err(|_| no_fence(name))?;
    let refused = |problem: Problem| about(problem, &**resource, Some(&fence));
    let presented = headers::presented(request.headers(), Some(&fence)).map_err(|error| refused(error.into()))?;
    let Some(presented) = presented else {
        return Err(refused(Problem::new(Kind::TokenRequired, "a claim needs the header Fencing-Token")));
    };
    let mut claims = presented.tokens.claims(&fence, presented.holder.as_ref());
    if let Some(other) = claims.iter().find(|claim| claim.fence != fence) {
        let why = format!("the path names fence {fence}, the token is for {}", other.fence);
        return Err(refused(Problem::new(Kind::WrongFence, why)));
    }
    let claim = claims.pop().expect("a presented token makes at least one claim");
    guard::claim(caller.as_deref(), &claim)?;
    let Claim { token, .. } = claim;
    let claimed = resource.claim(claim.clone()).await?;
    let mut answer = respond::json(
        StatusCode::OK,
        &json!({
            "fence": fence,
            "token": token,
            "highest": token,
            "previous": claimed.previous,
            "verdict": claimed.verdict.as_str(),
        }),
    );
    put_verdict(&mut answer, &Judged { verdict: claimed.verdict, claims: Arc::new([claim]) });
    // Whoever claims learns before its first write whether it can be sent again.
    headers::tell_keys_kept(answer.headers_mut(), resource.keys_kept_for());
    Ok(answer)
}

/// Reads a small body.
///
/// # Errors
/// One that is too large or breaks off.
pub async fn small_body(body: Received) -> Result<Bytes, Problem> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Problem::new(Kind::BodyTooLarge, format!("a body here has at most {BODY_BYTES_MAX} bytes")))
        }
        Err(error) => Err(Problem::new(Kind::BadRequest, format!("the body broke off: {error}"))),
    }
}
