//! Who may do what: principals, the rights that they are granted, and the one place where a request's sender becomes one.
//!
//! - [`right`]: rights, patterns, grants
//! - [`secret`]: the secrets that principals present, and their hashes, which is all that the gate has of them
//! - [`shown`]: what a request shows of itself in `Authorization`
//! - [`credential`]: signed leadership credentials
//! - [`caller`]: who sends a request to one resource, and what that may do there
//!
//! Without principals in the configuration there is no [`Access`], and none of this runs.
//!
//! **Invariant.** Where there is an [`Access`], nothing is done for a request that no grant allows: every route asks
//! [`Caller::may`] or one of its kind with the fences that it touches, as the resource has found them, before it touches them.
//! In particular nobody writes to a fence without the right `write` there: a write needs a claim on its fence, in its request or at
//! the beginning of its transaction; each claim that a request presents is one that its sender may make; and a transaction goes on
//! for nobody but who began it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hyper::HeaderMap;
use subtle::ConstantTimeEq as _;

use crate::problem::{Kind, Problem};

pub mod caller;
pub mod credential;
pub mod right;
pub mod secret;
pub mod shown;

pub use caller::{Caller, Who};
pub use right::{Grant, Pattern, Right, Rights};
pub use secret::{Secret, SecretHash};

use credential::Verifier;
use shown::Shown;

/// How a principal is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// By a secret with this hash.
    Secret(SecretHash),
    /// By a client certificate with this name, such as `dns:node-a.example`.
    Certificate(String),
    /// By showing nothing.
    Anonymous,
}

/// Somebody who may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name, for logs and for answers; no secret.
    pub name: String,
    /// How it is known.
    pub proof: Proof,
    /// What it may do. What no grant allows, it may not.
    pub grants: Vec<Grant>,
}

/// The principals of a gate.
#[derive(Debug, Default)]
pub struct Access {
    principals: Vec<Arc<Principal>>,
    /// By the start of the hash of its secret. To find one so tells a guesser about hashes, and nothing about secrets.
    by_secret: HashMap<[u8; 8], Arc<Principal>>,
    anonymous: Option<Arc<Principal>>,
    verifier: Verifier,
    /// Resources that take tokens from signed credentials only.
    credential_only: HashSet<String>,
}

impl Access {
    /// These principals.
    ///
    /// # Errors
    /// A sentence that says which two can't be told from each other, with the index of the second.
    pub fn new(principals: Vec<Principal>) -> Result<Access, (usize, String)> {
        let mut access = Access::default();
        for (index, principal) in principals.into_iter().enumerate() {
            let principal = Arc::new(principal);
            let clash = access.principals.iter().find(|one| one.name == principal.name || one.proof == principal.proof);
            if let Some(clash) = clash {
                let why = format!("principal {:?} has the name or the proof of {:?}", principal.name, clash.name);
                return Err((index, why));
            }
            match &principal.proof {
                Proof::Secret(hash) => drop(access.by_secret.insert(hash.start(), Arc::clone(&principal))),
                Proof::Certificate(_) => {}
                Proof::Anonymous => access.anonymous = Some(Arc::clone(&principal)),
            }
            access.principals.push(principal);
        }
        Ok(access)
    }

    /// The same, where these resources take tokens from signed credentials only.
    #[must_use]
    pub fn with_credential_only(self, resources: HashSet<String>) -> Access {
        Access { credential_only: resources, ..self }
    }

    /// The same, where signed credentials are checked so.
    #[must_use]
    pub fn with_credentials(self, verifier: Verifier) -> Access {
        Access { verifier, ..self }
    }

    /// All principals, in the order of the configuration.
    pub fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.principals.iter().map(|principal| &**principal)
    }

    /// Whether this resource takes tokens from signed credentials only.
    pub fn is_credential_only(&self, resource: &str) -> bool {
        self.credential_only.contains(resource)
    }

    /// Whether one of them is known by its certificate.
    pub fn has_certificates(&self) -> bool {
        self.principals.iter().any(|principal| matches!(principal.proof, Proof::Certificate(_)))
    }

    /// Who has sent a request with these headers, over a connection with a client certificate of these names. A secret that is
    /// shown has to be good: nobody falls back to who they would be without it.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`]: nobody that is known. [`Kind::TokenMalformed`]: a `fgt.` credential that is none.
    pub fn identify(&self, headers: &HeaderMap, names: &[String]) -> Result<Who, Problem> {
        let shown = shown::read(headers)?;
        match shown {
            Shown::Secret(secret) => match self.secret(&secret) {
                Some(principal) => Ok(Who::Principal(Arc::clone(principal))),
                None => Err(unauthenticated("no principal has this secret")),
            },
            Shown::Credential(text) => match self.verifier.verify(&text, credential::now()) {
                Ok(leader) => Ok(Who::Leader(leader)),
                Err(error) => Err(unauthenticated(error.to_string())),
            },
            Shown::Unreadable => {
                Err(unauthenticated("the secret in Authorization is cut off or changed: it is no fgs.…"))
            }
            Shown::Nothing | Shown::Other => {
                let by_name = || self.principals.iter().find(|principal| has_name(principal, names));
                by_name().or(self.anonymous.as_ref()).map(|principal| Who::Principal(Arc::clone(principal))).ok_or_else(
                    || match shown {
                        Shown::Other => unauthenticated("the Authorization is none of this gate's kinds"),
                        _ if names.is_empty() => unauthenticated(
                            "this gate wants to know who asks: Authorization: Bearer fgs.…, or a client certificate",
                        ),
                        _ => unauthenticated("no principal has a name of this client certificate"),
                    },
                )
            }
        }
    }

    /// Who has this secret. The time that it takes depends on nothing but the secret's hash, of which a guesser chooses nothing.
    fn secret(&self, secret: &Secret) -> Option<&Arc<Principal>> {
        let hash = secret.hash();
        let found = self.by_secret.get(&hash.start())?;
        match &found.proof {
            Proof::Secret(known) => bool::from(known.as_bytes().ct_eq(hash.as_bytes())).then_some(found),
            _ => None,
        }
    }

    /// The same sender as a resource sees it.
    pub fn caller(&self, who: &Who, resource: &str) -> Caller {
        Caller::new(who.clone(), resource, self.is_credential_only(resource))
    }
}

fn has_name(principal: &Principal, names: &[String]) -> bool {
    matches!(&principal.proof, Proof::Certificate(name) if names.contains(name))
}

fn unauthenticated(why: impl Into<String>) -> Problem {
    Problem::new(Kind::Unauthenticated, why)
}

#[cfg(test)]
mod tests;
