//! What went wrong with a request to etcd, and whether to ask again.

use std::error::{self, Error as _};
use std::io;

use etcd_client::Error;
use tokio_rustls::rustls;

use crate::coordinator::CoordinatorError;

/// Why one request, or all tries of it, came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It never got there, or was surely not done. Another member may do it.
    Unreached(String),
    /// It may or may not have been done. Another member may say.
    Broken(String),
    /// It never got there: the member and we don't take each other for who we are. Another member may.
    Distrusted(String),
    /// It never got there, or nothing was heard of it, in the time that there was.
    Late(String),
    /// Who we are, or what we may do: every member would say the same.
    Denied(String),
    /// It can't be done as things are, and asking again doesn't help.
    Refused(String),
    /// There is no such lease.
    NoLease,
}

// The numbers of gRPC's status codes (grpc.io, "Status codes and their use in gRPC").
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const UNIMPLEMENTED: i32 = 12;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

// Texts of etcd's that share a code with others of another meaning: `api/v3rpc/rpctypes/error.go` of etcd 3.4 to 3.6.
const NO_LEADER: &str = "etcdserver: no leader";
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
const LEASE_EXPIRED: &str = "lease not found";
const AUTH_OLD_REVISION: &str = "etcdserver: revision of auth store is old";
const TOO_MANY_REQUESTS: &str = "etcdserver: too many requests";

impl Failure {
    /// What this member (`host:port`) answered, or didn't.
    pub(super) fn of(member: &str, error: &Error) -> Failure {
        let text = format!("{member}: {}", chain(error));
        match error {
            Error::GRpcStatus(status) if is_tls(status) => Failure::Distrusted(text),
            Error::GRpcStatus(status) => match (i32::from(status.code()), status.message()) {
                (NOT_FOUND, LEASE_NOT_FOUND) => Failure::NoLease,
                (UNAVAILABLE, NO_LEADER) => Failure::Unreached(text),
                (UNAVAILABLE, _) if never_connected(status) => Failure::Unreached(text),
                (RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS) => Failure::Unreached(text),
                (INVALID_ARGUMENT, AUTH_OLD_REVISION) => Failure::Broken(text),
                (PERMISSION_DENIED | UNAUTHENTICATED | INVALID_ARGUMENT | FAILED_PRECONDITION, _) => {
                    Failure::Denied(text)
                }
                (RESOURCE_EXHAUSTED | NOT_FOUND | UNIMPLEMENTED, _) => Failure::Refused(text),
                _ => Failure::Broken(text),
            },
            // etcd-client's own word for a keep-alive that was answered with a TTL of 0.
            Error::LeaseKeepAliveError(message) if message == LEASE_EXPIRED => Failure::NoLease,
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => Failure::Refused(text),
            _ => Failure::Broken(text),
        }
    }

    /// Whether another try may help.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Failure::Unreached(_) | Failure::Distrusted(_) | Failure::Broken(_) | Failure::Late(_))
    }

    /// Whether it may have been done all the same.
    pub(super) fn may_be_done(&self) -> bool {
        matches!(self, Failure::Broken(_) | Failure::Late(_))
    }

    /// The same for whoever asked for something to be read.
    pub(super) fn reading(self) -> CoordinatorError {
        match self {
            Failure::Denied(text) => CoordinatorError::Denied(text),
            Failure::NoLease => CoordinatorError::Lost,
            Failure::Unreached(text)
            | Failure::Distrusted(text)
            | Failure::Broken(text)
            | Failure::Late(text)
            | Failure::Refused(text) => CoordinatorError::Unavailable(text),
        }
    }

    /// The same for whoever asked for something to be changed.
    pub(super) fn changing(self) -> CoordinatorError {
        match self {
            Failure::Broken(text) | Failure::Late(text) => CoordinatorError::OutcomeUnknown(text),
            failure => failure.reading(),
        }
    }

    /// What it says.
    pub(super) fn text(&self) -> &str {
        match self {
            Failure::Unreached(text)
            | Failure::Distrusted(text)
            | Failure::Broken(text)
            | Failure::Late(text)
            | Failure::Denied(text)
            | Failure::Refused(text) => text,
            Failure::NoLease => LEASE_EXPIRED,
        }
    }
}

/// Whether there was no connection to send anything on.
fn never_connected(status: &(dyn error::Error + 'static)) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound};
    let none = [AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound];
    input_output(status).is_some_and(|error| none.contains(&error.kind()))
}

/// Whether one side has not accepted who the other is, before anything was sent that counts.
fn is_tls(status: &(dyn error::Error + 'static)) -> bool {
    let inner = input_output(status).and_then(io::Error::get_ref);
    inner.is_some_and(|error| error.is::<rustls::Error>())
}

/// What the system said, the first in the chain.
fn input_output<'a>(status: &'a (dyn error::Error + 'static)) -> Option<&'a io::Error> {
    let mut source = Some(status);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

/// An error and what it came of, each text once.
fn chain(error: &Error) -> String {
    let (mut text, mut source) = match error {
        // Its own text repeats code, details and metadata.
        Error::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        Error::TransportError(error) => (error.to_string(), error.source()),
        error => (error.to_string(), error.source()),
    };
    while let Some(error) = source {
        let next = error.to_string();
        // gRPC's and HTTP/2's own layers each repeat what the one below says.
        if !next.is_empty() && !text.contains(&next) {
            text = if text.is_empty() { next } else { format!("{text}: {next}") };
        }
        source = error.source();
    }
    text
}
