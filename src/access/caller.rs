//! Who sends a request to one resource, and what that may do there.

use std::fmt;
use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};

use crate::fence::claim::PresentedTokens;
use crate::fence::{Claim, ClaimError, FenceName};
use crate::headers::{FENCING_HOLDER, FENCING_TOKEN};
use crate::problem::{Kind, Problem};

use super::credential::Leader;
use super::{Grant, Principal, Right};

/// Who sends a request.
#[derive(Debug, Clone)]
pub enum Who {
    /// One of the configuration's principals.
    Principal(Arc<Principal>),
    /// Whoever has a signed leadership credential.
    Leader(Arc<Leader>),
}

/// Who sends a request to one resource.
#[derive(Debug, Clone)]
pub struct Caller {
    who: Who,
    resource: Box<str>,
    /// Tokens are to come from signed credentials.
    credential_only: bool,
}

impl Who {
    /// Whether one of the grants has this right and is such a one. A leader has none.
    fn granted(&self, right: Right, is_such: impl Fn(&Grant) -> bool) -> bool {
        match self {
            Who::Principal(principal) => principal.grants.iter().any(|grant| grant.rights.has(right) && is_such(grant)),
            Who::Leader(_) => false,
        }
    }

    /// Whether a leader may do this on this fence; `resource`: where it is, if it is anywhere.
    fn led(&self, right: Right, resource: Option<&str>, fence: &str) -> bool {
        let Who::Leader(leader) = self else { return false };
        let key = &leader.key;
        let is_there = resource.map_or(key.resource.is_all(), |resource| key.resource.fits(resource));
        is_there && key.rights.has(right) && leader.credential.fence.as_str() == fence
    }

    /// Whether it may do this on this fence of this resource.
    pub fn may(&self, right: Right, resource: &str, fence: &str) -> bool {
        self.granted(right, |grant| grant.resource.fits(resource) && grant.fence.fits(fence))
            || self.led(right, Some(resource), fence)
    }

    /// Whether it may do this on whatever fence this resource can have.
    pub fn may_everywhere(&self, right: Right, resource: &str) -> bool {
        self.granted(right, |grant| grant.resource.fits(resource) && grant.fence.is_all())
    }

    /// Whether it may do this on whatever fence of whatever resource.
    pub fn may_all(&self, right: Right) -> bool {
        self.granted(right, |grant| grant.resource.is_all() && grant.fence.is_all())
    }

    /// Whether it may do this on a fence that no resource here has.
    pub fn may_unbound(&self, right: Right, fence: &str) -> bool {
        self.granted(right, |grant| grant.resource.is_all() && grant.fence.fits(fence)) || self.led(right, None, fence)
    }

    /// Whether it has any right on this resource.
    pub fn knows(&self, resource: &str) -> bool {
        match self {
            Who::Principal(principal) => principal.grants.iter().any(|grant| grant.resource.fits(resource)),
            Who::Leader(leader) => leader.key.resource.fits(resource),
        }
    }

    /// Says that it may not.
    pub fn forbidden(&self, right: Right, what: &str) -> Problem {
        Problem::new(Kind::Forbidden, format!("{self} has no right to {} {what}", right.as_str()))
    }

    /// Makes what a leader's credential says what its request presents, and takes the credential away: from here on it is a token
    /// like any other. What the request presents besides has to agree.
    ///
    /// # Errors
    /// [`Kind::TokenMalformed`].
    pub fn present(&self, headers: &mut HeaderMap) -> Result<(), Problem> {
        let Who::Leader(leader) = self else { return Ok(()) };
        let credential = &leader.credential;
        let is_same = |tokens: PresentedTokens| match tokens {
            PresentedTokens::Bare(token) => token == credential.token,
            PresentedTokens::Named(named) => named == [(credential.fence.clone(), credential.token)],
        };
        // Whatever else there is has to say the same, each time that it says it.
        for token in headers.get_all(FENCING_TOKEN) {
            let tokens = token.to_str().map_err(|_| ClaimError::NotText("Fencing-Token"))?;
            if !is_same(PresentedTokens::parse(tokens)?) {
                return Err(ClaimError::Disagree.into());
            }
        }
        let holder = credential.sub.as_ref().map(|holder| holder.as_bytes());
        if headers.get_all(FENCING_HOLDER).iter().any(|given| Some(given.as_bytes()) != holder) {
            return Err(ClaimError::Disagree.into());
        }
        let ascii = "fence names, holders and numbers are visible ASCII";
        let token = HeaderValue::try_from(format!("{}={}", credential.fence, credential.token)).expect(ascii);
        headers.insert(FENCING_TOKEN, token);
        if let Some(holder) = &credential.sub {
            headers.insert(FENCING_HOLDER, HeaderValue::try_from(holder.as_str()).expect(ascii));
        }
        headers.remove(AUTHORIZATION);
        Ok(())
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Principal(principal) => write!(f, "principal {:?}", principal.name),
            Who::Leader(leader) => write!(f, "the leader of fence {}", leader.credential.fence),
        }
    }
}

impl Caller {
    pub(super) fn new(who: Who, resource: &str, credential_only: bool) -> Caller {
        Caller { who, resource: resource.into(), credential_only }
    }

    /// Allows a deed on one fence.
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub fn may(&self, right: Right, fence: &FenceName) -> Result<(), Problem> {
        if self.who.may(right, &self.resource, fence) {
            return Ok(());
        }
        let problem = self.who.forbidden(right, &format!("fence {fence} of resource {}", self.resource));
        Err(Problem { fence: Some(fence.clone()), ..problem })
    }

    /// Allows a deed whose fence isn't known, or that touches all that the resource can have.
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub fn may_everywhere(&self, right: Right) -> Result<(), Problem> {
        if self.who.may_everywhere(right, &self.resource) {
            return Ok(());
        }
        Err(self.who.forbidden(right, &format!("whatever fence resource {} may have", self.resource)))
    }

    /// Allows to read a database with these fences. SQL can read all of it, whatever it says at its beginning: so all of it has to
    /// be allowed. Who leads one of its fences reads what it builds on.
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub fn may_read_database(&self, fences: &[FenceName]) -> Result<(), Problem> {
        match &self.who {
            Who::Leader(leader) if fences.contains(&leader.credential.fence) => {
                self.may(Right::Read, &leader.credential.fence)
            }
            _ => fences.iter().try_for_each(|fence| self.may(Right::Read, fence)),
        }
    }

    /// Allows to present these claims, to do this.
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub fn may_present(&self, right: Right, claims: &[Claim]) -> Result<(), Problem> {
        claims.iter().try_for_each(|claim| {
            self.may(right, &claim.fence)?;
            let forbidden =
                |why: String| Err(Problem { fence: Some(claim.fence.clone()), ..Problem::new(Kind::Forbidden, why) });
            match &self.who {
                // Its request presents what its credential says; this is the second look.
                Who::Leader(leader) => {
                    let credential = &leader.credential;
                    let is_own = claim.token == credential.token && claim.holder == credential.sub;
                    if is_own { Ok(()) } else { forbidden("the credential is for another token or holder".to_owned()) }
                }
                Who::Principal(_) if self.credential_only => forbidden(format!(
                    "resource {} takes tokens from signed leadership credentials only, and this is a bare one",
                    self.resource
                )),
                Who::Principal(_) => Ok(()),
            }
        })
    }

    /// What binds a transaction to who began it: the same text for the same sender, and for nobody else.
    pub fn id(&self) -> String {
        match &self.who {
            Who::Principal(principal) => format!("principal {}", principal.name),
            // Not the credential itself: it is renewed while the leader leads.
            Who::Leader(leader) => {
                let credential = &leader.credential;
                let holder = credential.sub.as_ref().map_or("", |holder| holder.as_str());
                format!("leader {} {} {holder}", credential.fence, credential.token)
            }
        }
    }
}
