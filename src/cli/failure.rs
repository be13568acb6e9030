//! How a command fails, and with which exit status.

use std::fmt;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The gate refused.
    Refused(String),
    /// The gate can't be reached.
    Unreachable(String),
    /// The arguments are wrong.
    Usage(String),
    /// The configuration is wrong.
    Config(String),
    /// Anything else.
    Other(String),
    /// With an exit status of its own. What there is to say, if it isn't said yet.
    Exit(u8, Option<String>),
    /// Whoever read the output has gone: not an error to speak of.
    BrokenPipe,
}

impl Failure {
    /// With this exit status, for this reason.
    pub fn exit(status: u8, why: impl Into<String>) -> Failure {
        Failure::Exit(status, Some(why.into()))
    }

    /// The exit status: 77, 69, 64, 78 as in BSD's sysexits, else 1; 0 for a reader that has gone.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) => 77,
            Failure::Unreachable(_) => 69,
            Failure::Usage(_) => 64,
            Failure::Config(_) => 78,
            Failure::Other(_) => 1,
            Failure::Exit(status, _) => *status,
            Failure::BrokenPipe => 0,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(message)
            | Failure::Unreachable(message)
            | Failure::Usage(message)
            | Failure::Config(message)
            | Failure::Other(message)
            | Failure::Exit(_, Some(message)) => f.write_str(message),
            Failure::Exit(status, None) => write!(f, "exit status {status}"),
            Failure::BrokenPipe => f.write_str("whoever read the output has gone"),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::Other(error.to_string()),
        }
    }
}
