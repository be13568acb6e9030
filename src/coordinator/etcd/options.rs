//! Where etcd is and who we are to it, as one address: `etcd://HOST:PORT,HOST:PORT/PREFIX?NAME=VALUE&…`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use percent_encoding::percent_decode_str;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long one member may take to answer, where the address doesn't say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// The shortest and the longest that it may say.
pub const TIMEOUT_BOUNDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
/// The variable with the user's password, where the address names no other place.
pub const PASSWORD_VARIABLE: &str = "FENCEGATE_ETCD_PASSWORD";

/// etcd's port for clients (etcd's documentation, `--listen-client-urls`).
const PORT: u16 = 2379;

/// Where etcd is and who we are to it. [`Options::parse`] makes it from an address.
///
/// It holds no secrets: passwords and keys stay in their files and variables until
/// [`Etcd::open`](super::Etcd::open) reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The members to ask, each `host:port`, at least one. The first one first.
    pub members: Vec<String>,
    /// TLS; without it, none.
    pub tls: Option<Tls>,
    /// What comes before the election's name in each key: nothing, or something that ends in a slash.
    pub prefix: String,
    /// Who to log in as.
    pub user: Option<User>,
    /// How long one member may take to answer before the next is asked.
    pub timeout: Duration,
}

/// How to know the members, and to be known to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the certificates that the members' are signed by; the system's own where it isn't given.
    pub ca: Option<PathBuf>,
    /// PEM files of the client's certificate, with what it was signed by, and of its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name that the members' certificates are for, where it isn't their host's.
    pub server_name: Option<String>,
}

/// A user of etcd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Where its password is.
    pub password: Password,
}

/// Where a password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// In this file; a line's end after it is no part of it.
    File(PathBuf),
    /// In this environment variable.
    Variable(String),
}

/// What is wrong with an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Another scheme, or none.
    #[error("an etcd coordinator is written etcd://HOST:PORT, or etcds://HOST:PORT with TLS")]
    Scheme,
    /// A name or password before an `@`. The address is not repeated: it may have a password in it.
    #[error(
        "there is an @ in the address: write the user behind it, as etcd://HOST:PORT?user=NAME&password_file=FILE, and never the password itself"
    )]
    Credentials,
    /// No host, or one that is none.
    #[error(
        "{0:?} is no member of a cluster: write HOST or HOST:PORT, several with commas between, IPv6 as [::1]:2379"
    )]
    Member(String),
    /// An option there isn't.
    #[error(
        "there is no option {0:?}: there are ca, cert, key, server_name (etcds:// only), user, password_file, password_env and timeout, as in etcds://HOST:PORT?ca=FILE&user=NAME"
    )]
    Unknown(String),
    /// An option twice, or without a value.
    #[error("{0} is given twice, or without a value: write {0}=VALUE")]
    Value(String),
    /// A percent sign that doesn't begin UTF-8.
    #[error("{0} is no UTF-8 once its %XX are decoded: write a percent sign itself as %25")]
    Encoding(String),
    /// An option of TLS without TLS.
    #[error("{0} is for TLS: write etcds:// in place of etcd://")]
    NeedsTls(&'static str),
    /// A certificate without its key, or a key without its certificate.
    #[error("a client's certificate needs its key, and a key its certificate: write cert=FILE&key=FILE")]
    HalfIdentity,
    /// A password without a user, or in two places.
    #[error(
        "write user=NAME, and at most one of password_file=FILE and password_env=VARIABLE (default: {PASSWORD_VARIABLE})"
    )]
    Password,
    /// A timeout that is none, or out of bounds.
    #[error("timeout={0:?} is no time from 50ms to 60s: write timeout=2s, for example")]
    Timeout(String),
    /// Too long, or with what keys of elections should not have.
    #[error("the prefix is longer than 1024 bytes")]
    Prefix,
}

/// What the options name and isn't there, or is something else.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file that can't be read.
    #[error("can't read {what} in {}: {error}", path.display())]
    File {
        /// What it should have.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it can't be read.
        error: std::io::Error,
    },
    /// A file without what it should have.
    #[error("there is no {what} in PEM form in {}", path.display())]
    Pem {
        /// What it should have.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// A user without a password.
    #[error("user {user:?} has no password: set the environment variable {variable}, or write password_file=FILE")]
    NoPassword {
        /// The user.
        user: String,
        /// The variable that isn't set, or isn't UTF-8.
        variable: String,
    },
}

impl Options {
    /// Reads an address, for example `etcd://10.0.0.1,10.0.0.2:2379,10.0.0.3/prod` or
    /// `etcds://etcd.example:2379?ca=ca.pem&user=app&password_file=etcd.password`. The documentation's page on etcd
    /// (`docs/etcd.md`) has every option.
    ///
    /// # Errors
    /// Says what is wrong and how to write it. Never has a password in it.
    pub fn parse(address: &str) -> Result<Options, OptionsError> {
        let (with_tls, rest) = match (address.strip_prefix("etcd://"), address.strip_prefix("etcds://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(OptionsError::Scheme),
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (members, prefix) = place.split_once('/').unwrap_or((place, ""));
        if members.contains('@') {
            return Err(OptionsError::Credentials);
        }
        let members: Vec<String> = members.split(',').map(member).collect::<Result<_, _>>()?;
        let given = Given::parse(query)?;
        let tls = given.tls()?;
        if let (false, Some(name)) = (with_tls, given.first_of_tls()) {
            return Err(OptionsError::NeedsTls(name));
        }
        let mut prefix = decode("the prefix", prefix)?;
        if prefix.len() > 1024 {
            return Err(OptionsError::Prefix);
        }
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        Ok(Options { members, tls: with_tls.then_some(tls), prefix, user: given.user()?, timeout: given.timeout()? })
    }

    /// Reads the files and variables that the options name.
    pub(super) fn read(&self) -> Result<ConnectOptions, OpenError> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(self.timeout)
            // A member that has lost its cluster's leader says so, where it would otherwise answer nothing.
            .with_require_leader(true);
        if let Some(tls) = &self.tls {
            connect = connect.with_tls(tls.read()?);
        }
        if let Some(user) = &self.user {
            connect = connect.with_user(user.name.clone(), user.read()?).with_auto_token_refresh(true);
        }
        Ok(connect)
    }
}

/// The options behind the `?`, decoded.
#[derive(Default)]
struct Given<'a>(Vec<(&'a str, String)>);

const OPTIONS: [&str; 8] = ["ca", "cert", "key", "server_name", "user", "password_file", "password_env", "timeout"];
const OPTIONS_OF_TLS: [&str; 4] = ["ca", "cert", "key", "server_name"];

impl<'a> Given<'a> {
    fn parse(query: &'a str) -> Result<Given<'a>, OptionsError> {
        let mut given = Given::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if !OPTIONS.contains(&name) {
                // Only the name: the value of `password=` is not to be repeated.
                return Err(OptionsError::Unknown(name.to_owned()));
            }
            if value.is_empty() || given.get(name).is_some() {
                return Err(OptionsError::Value(name.to_owned()));
            }
            given.0.push((name, decode(name, value)?));
        }
        Ok(given)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    fn first_of_tls(&self) -> Option<&'static str> {
        OPTIONS_OF_TLS.into_iter().find(|name| self.get(name).is_some())
    }

    fn tls(&self) -> Result<Tls, OptionsError> {
        let client = match (self.get("cert"), self.get("key")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err(OptionsError::HalfIdentity),
        };
        let server_name = self.get("server_name").map(str::to_owned);
        Ok(Tls { ca: self.get("ca").map(PathBuf::from), client, server_name })
    }

    fn user(&self) -> Result<Option<User>, OptionsError> {
        let password = match (self.get("password_file"), self.get("password_env")) {
            (Some(_), Some(_)) => return Err(OptionsError::Password),
            (Some(file), None) => Some(Password::File(file.into())),
            (None, Some(variable)) => Some(Password::Variable(variable.to_owned())),
            (None, None) => None,
        };
        match (self.get("user"), password) {
            (None, Some(_)) => Err(OptionsError::Password),
            (None, None) => Ok(None),
            (Some(name), password) => {
                let password = password.unwrap_or_else(|| Password::Variable(PASSWORD_VARIABLE.to_owned()));
                Ok(Some(User { name: name.to_owned(), password }))
            }
        }
    }

    fn timeout(&self) -> Result<Duration, OptionsError> {
        let Some(text) = self.get("timeout") else { return Ok(TIMEOUT_DEFAULT) };
        let (min, max) = TIMEOUT_BOUNDS;
        let timeout = humantime::parse_duration(text).ok().filter(|timeout| (min..=max).contains(timeout));
        timeout.ok_or_else(|| OptionsError::Timeout(text.to_owned()))
    }
}

fn decode(what: &str, text: &str) -> Result<String, OptionsError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| OptionsError::Encoding(what.to_owned()))
}

/// `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`, always with its port.
fn member(text: &str) -> Result<String, OptionsError> {
    let wrong = || OptionsError::Member(text.to_owned());
    let (host, port) = match text.split_once(']') {
        Some((host, rest)) if host.starts_with('[') => {
            let is_address = host[1..].parse::<std::net::Ipv6Addr>().is_ok();
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) };
            (is_address.then(|| format!("{host}]")), port)
        }
        Some(_) => (None, None),
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            ((!host.is_empty() && host.bytes().all(allowed)).then(|| host.to_owned()), port)
        }
    };
    let is_number = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port {
        None => PORT,
        Some(port) => Some(port).filter(is_number).and_then(|port| port.parse().ok()).ok_or_else(wrong)?,
    };
    Ok(format!("{}:{port}", host.ok_or_else(wrong)?))
}

impl Tls {
    fn read(&self) -> Result<TlsOptions, OpenError> {
        let mut tls = match &self.ca {
            // Who names a CA means this one, and no other.
            Some(path) => TlsOptions::new().ca_certificate(Certificate::from_pem(certificates(path)?)),
            None => TlsOptions::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &self.client {
            let pem = read("a private key", key)?;
            PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| OpenError::Pem { what: "private key", path: key.clone() })?;
            tls = tls.identity(Identity::from_pem(certificates(certificate)?, pem));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }
}

/// The bytes of a PEM file that has certificates and nothing broken among them.
fn certificates(path: &Path) -> Result<Vec<u8>, OpenError> {
    let pem = read("certificates", path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    if found.is_ok_and(|found| !found.is_empty()) {
        Ok(pem)
    } else {
        Err(OpenError::Pem { what: "certificate", path: path.to_owned() })
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, OpenError> {
    std::fs::read(path).map_err(|error| OpenError::File { what, path: path.to_owned(), error })
}

impl User {
    fn read(&self) -> Result<String, OpenError> {
        match &self.password {
            Password::File(path) => {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|error| OpenError::File { what: "a password", path: path.clone(), error })?;
                Ok(text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text)).to_owned())
            }
            Password::Variable(variable) => std::env::var(variable)
                .map_err(|_| OpenError::NoPassword { user: self.name.clone(), variable: variable.clone() }),
        }
    }
}

/// The address again, as far as it tells nothing that isn't for everybody.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "etcds" } else { "etcd" };
        write!(f, "{scheme}://{}", self.members.join(","))?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests;
