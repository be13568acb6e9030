//! The guard of both listeners: who sends a request, and whether that may do what it asks. Where the configuration has no
//! principals, everybody may.
//!
//! What a request to a resource touches, only the resource knows: it is told who asks ([`Call::caller`](crate::resource::Call)),
//! and asks back. All other routes are judged here, before they are taken; a route that this file doesn't know is for those only
//! who may do everything.

use std::sync::Arc;

use hyper::{Method, Request};
use metrics::counter;

use crate::access::credential::Signer;
use crate::access::{Access, Caller, Right, Who};
use crate::fence::{Claim, FenceName};
use crate::problem::{Kind, Problem};
use crate::resource::Resource;
use crate::tls::server::ServerTls;

use super::Gate;
use super::tls::Secured;

/// The fences that an election of the embedded coordinator gives tokens for, each with its resource's name.
pub type ElectionFences = Arc<dyn Fn(&FenceName) -> Vec<(String, FenceName)> + Send + Sync>;

/// What guards a gate.
#[derive(Clone, Default)]
#[allow(missing_debug_implementations, reason = "it has a closure")]
pub struct Guard {
    /// Signs the credentials of those whom the embedded coordinator elects.
    pub signer: Option<Arc<Signer>>,
    /// Who may do what; `None`: everybody everything.
    pub access: Option<Arc<Access>>,
    /// TLS on the data listener.
    pub tls: Option<Arc<ServerTls>>,
    /// TLS on the admin listener.
    pub admin_tls: Option<Arc<ServerTls>>,
    /// Which election is for which fences; `None`: each for the fence of its name.
    pub elections: Option<ElectionFences>,
}

impl Guard {
    /// Who sends a request. `None` where nobody is asked.
    fn who<B>(&self, request: &Request<B>) -> Result<Option<Who>, Problem> {
        let Some(access) = &self.access else { return Ok(None) };
        let secured = request.extensions().get::<Arc<Secured>>();
        let names = secured.map_or(&[][..], |secured| &secured.names);
        access.identify(request.headers(), names).map(Some)
    }
}

/// Counts a refusal.
fn counted<T>(listener: &'static str, outcome: Result<T, Problem>) -> Result<T, Problem> {
    if let Err(problem) = &outcome {
        let code = problem.kind.row().code;
        tracing::debug!(listener, %problem, "refused");
        counter!("fencegate_access_refusals_total", "listener" => listener, "code" => code).increment(1);
    }
    outcome
}

/// Who sends a request to a resource. What a leadership credential says is what the request presents from here on.
///
/// # Errors
/// [`Kind::Unauthenticated`]; [`Kind::TokenMalformed`].
pub fn caller<B>(
    gate: &Gate,
    resource: &dyn Resource,
    request: &mut Request<B>,
) -> Result<Option<Box<Caller>>, Problem> {
    let Some(access) = &gate.guard.access else { return Ok(None) };
    let Some(who) = counted("data", gate.guard.who(request))? else { return Ok(None) };
    who.present(request.headers_mut())?;
    Ok(Some(Box::new(access.caller(&who, resource.name()))))
}

/// Allows a deed on a fence that the path names. One that no resource has is not refused: there is nothing.
///
/// # Errors
/// [`Kind::Unauthenticated`], [`Kind::Forbidden`].
pub fn fence<B>(gate: &Gate, request: &Request<B>, right: Right, name: &str) -> Result<(), Problem> {
    let allow = || {
        let Some(who) = gate.guard.who(request)? else { return Ok(()) };
        allow_fence(gate, &who, right, name)
    };
    counted("data", allow())
}

/// Allows to present a claim at the route for that, as far as its sender may present any.
///
/// # Errors
/// [`Kind::Forbidden`].
pub fn claim(caller: Option<&Caller>, claim: &Claim) -> Result<(), Problem> {
    match caller {
        Some(caller) => counted("data", caller.may_present(Right::Claim, std::slice::from_ref(claim))),
        None => Ok(()),
    }
}

fn allow_fence(gate: &Gate, who: &Who, right: Right, name: &str) -> Result<(), Problem> {
    let Some(resource) = gate.resource_of(name) else { return Ok(()) };
    if who.may(right, resource.name(), name) {
        return Ok(());
    }
    let problem = who.forbidden(right, &format!("fence {name} of resource {}", resource.name()));
    Err(Problem { fence: name.parse().ok(), ..problem })
}

/// Allows a request to the embedded coordinator. To stand in an election is to claim: its winner has the token, and where the
/// coordinator is asked, the mark rises with the election. So it takes the right on every fence that the election is for; and where it
/// is for none here, on the fence of its name in whatever resource.
///
/// # Errors
/// [`Kind::Unauthenticated`], [`Kind::Forbidden`].
pub fn election<B>(gate: &Gate, request: &Request<B>, election: &str) -> Result<(), Problem> {
    let right = if is_get(request.method()) { Right::Observe } else { Right::Claim };
    let allow = || {
        let Some(who) = gate.guard.who(request)? else { return Ok(()) };
        let Ok(name) = election.parse::<FenceName>() else { return Ok(()) };
        let fences = gate.fences_of(&name);
        let is_allowed = match fences.as_slice() {
            [] => who.may_unbound(right, &name),
            fences => fences.iter().all(|(resource, fence)| who.may(right, resource, fence)),
        };
        if is_allowed { Ok(()) } else { Err(who.forbidden(right, &format!("every fence of election {name}"))) }
    };
    counted("data", allow())
}

fn is_get(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Allows a request to the admin listener, and says who sends it: what lists many fences shows that one only its own.
///
/// # Errors
/// [`Kind::Unauthenticated`], [`Kind::Forbidden`].
pub fn admin<B>(gate: &Gate, request: &Request<B>, segments: &[&str]) -> Result<Option<Who>, Problem> {
    let is_get = is_get(request.method());
    // The console's own page has no data, and asks for the secret; nor has the document, which is the same in every gate. What these
    // paths don't take is refused without asking who it is that asks.
    if matches!(segments, ["healthz" | "readyz" | ""] | ["console", _] | ["v1", "openapi.json"]) {
        return Ok(None);
    }
    let allow = || {
        let Some(who) = gate.guard.who(request)? else { return Ok(None) };
        let all = |right, what: &str| {
            if who.may_all(right) { Ok(()) } else { Err(who.forbidden(right, what)) }
        };
        match segments {
            ["v1", "fences", name, "reset" | "release"] => allow_fence(gate, &who, Right::Operate, name)?,
            ["v1", "fences", name] | ["v1", "fences", name, "history"] if is_get => {
                allow_fence(gate, &who, Right::Observe, name)?;
            }
            // They show what may be seen.
            ["v1", "status" | "fences" | "events"] if is_get => {}
            ["v1", ..] | ["metrics"] if is_get => all(Right::Observe, "every fence, as this path shows them")?,
            // Nothing is there.
            _ if is_get => {}
            _ => all(Right::Operate, "every fence, as this path needs it")?,
        }
        Ok(Some(who))
    };
    counted("admin", allow())
}

/// Whether one may see a fence. Where nobody is asked, everybody may.
pub fn sees(who: Option<&Who>, resource: &str, fence: &str) -> bool {
    who.is_none_or(|who| who.may(Right::Observe, resource, fence))
}

/// Whether a problem is one of this file's.
pub fn is_access(problem: &Problem) -> bool {
    matches!(problem.kind, Kind::Unauthenticated | Kind::Forbidden)
}
