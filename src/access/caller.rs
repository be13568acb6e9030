//! Who sends a request to one resource, and what that may do there.

use std::fmt;
use std::sync::Arc;

use crate::fence::{Claim, FenceName};
use crate::problem::{Kind, Problem};

use super::{Principal, Right};

/// Who sends a request.
#[derive(Debug, Clone)]
pub enum Who {
    /// One of the configuration's principals.
    Principal(Arc<Principal>),
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
    /// Whether it may do this on this fence of this resource.
    pub fn may(&self, right: Right, resource: &str, fence: &str) -> bool {
        match self {
            Who::Principal(principal) => principal
                .grants
                .iter()
                .any(|grant| grant.rights.has(right) && grant.resource.fits(resource) && grant.fence.fits(fence)),
        }
    }

    /// Whether it may do this on whatever fence this resource can have.
    pub fn may_everywhere(&self, right: Right, resource: &str) -> bool {
        match self {
            Who::Principal(principal) => principal
                .grants
                .iter()
                .any(|grant| grant.rights.has(right) && grant.resource.fits(resource) && grant.fence.is_all()),
        }
    }

    /// Whether it may do this on whatever fence of whatever resource.
    pub fn may_all(&self, right: Right) -> bool {
        match self {
            Who::Principal(principal) => principal
                .grants
                .iter()
                .any(|grant| grant.rights.has(right) && grant.resource.is_all() && grant.fence.is_all()),
        }
    }

    /// Whether it may do this on a fence that no resource here has.
    pub fn may_unbound(&self, right: Right, fence: &str) -> bool {
        match self {
            Who::Principal(principal) => principal
                .grants
                .iter()
                .any(|grant| grant.rights.has(right) && grant.resource.is_all() && grant.fence.fits(fence)),
        }
    }

    /// Whether it has any right on this resource.
    pub fn knows(&self, resource: &str) -> bool {
        match self {
            Who::Principal(principal) => principal.grants.iter().any(|grant| grant.resource.fits(resource)),
        }
    }

    /// Says that it may not.
    pub fn forbidden(&self, right: Right, what: &str) -> Problem {
        Problem::new(Kind::Forbidden, format!("{self} has no right to {} {what}", right.as_str()))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Principal(principal) => write!(f, "principal {:?}", principal.name),
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
    /// be allowed.
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub fn may_read_database(&self, fences: &[FenceName]) -> Result<(), Problem> {
        match &self.who {
            Who::Principal(_) => fences.iter().try_for_each(|fence| self.may(Right::Read, fence)),
        }
    }

    /// Allows to present these claims, to do this.
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub fn may_present(&self, right: Right, claims: &[Claim]) -> Result<(), Problem> {
        for claim in claims {
            self.may(right, &claim.fence)?;
            if self.credential_only {
                let why = format!(
                    "resource {} takes tokens from signed leadership credentials only, and this is a bare one",
                    self.resource
                );
                return Err(Problem { fence: Some(claim.fence.clone()), ..Problem::new(Kind::Forbidden, why) });
            }
        }
        Ok(())
    }

    /// What binds a transaction to who began it: the same text for the same sender, and for nobody else.
    pub fn id(&self) -> String {
        match &self.who {
            Who::Principal(principal) => format!("principal {}", principal.name),
        }
    }
}
