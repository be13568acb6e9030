//! Where an upstream is, and how it is spoken to.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use hyper::http::uri::Authority;

use super::path::NormalPath;
use super::tls::Tls;

/// The version of HTTP to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Over TLS what the upstream chooses, without it HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge.
    Http2,
}

/// The host part of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name, to be looked up for each connection.
    Name(String),
    /// An address.
    Ip(IpAddr),
}

/// An upstream: `http://127.0.0.1:9000`, `https://[2001:db8::1]/base`.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// The version of HTTP to speak.
    pub protocol: Protocol,
    /// TLS, for `https`.
    pub tls: Option<Tls>,
    /// What comes before each path; empty, or `/base` without a slash at its end.
    pub base: String,
    /// The host and port as `Host` has them.
    pub authority: Authority,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.base)
    }
}

impl Upstream {
    /// Reads an address. `ca`: a PEM file with certificates to trust besides those of the operating system.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, protocol: Protocol, ca: Option<&Path>) -> Result<Upstream, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("{text:?} is not the address of an upstream: http://HOST:PORT or https://HOST"))?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(format!("{text:?}: an upstream is http:// or https://, not {scheme}://")),
        };
        if rest.contains(['?', '#']) {
            return Err(format!("{text:?}: the address of an upstream has no query and no fragment"));
        }
        if rest.contains('@') {
            return Err(format!("{text:?}: the address of an upstream has no user and no password"));
        }
        if ca.is_some() && !is_tls {
            return Err(format!("{text:?}: certificates are for https://"));
        }
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, base) = rest.split_at(slash);
        let default_port = if is_tls { 443 } else { 80 };
        let (host, port) = parse_authority(authority).map_err(|why| format!("{text:?}: {why}"))?;
        let base = base.trim_end_matches('/');
        let base = if base.is_empty() {
            String::new()
        } else {
            NormalPath::parse(base).map_err(|problem| format!("{text:?}: {}", problem.detail()))?.as_str().to_owned()
        };
        let authority = render_authority(&host, port.filter(|port| *port != default_port));
        let authority = Authority::try_from(authority).map_err(|error| format!("{text:?}: {error}"))?;
        let tls = if is_tls { Some(Tls::new(&host, protocol, ca)?) } else { None };
        Ok(Upstream { host, port: port.unwrap_or(default_port), protocol, tls, base, authority })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

fn parse_authority(authority: &str) -> Result<(Host, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("a [ without its ]")?;
            let ip: Ipv6Addr = host.parse().map_err(|_| format!("{host:?} is not an IPv6 address"))?;
            let port = match rest {
                "" => None,
                _ => Some(rest.strip_prefix(':').ok_or("after ] comes :PORT")?),
            };
            (Host::Ip(ip.into()), port)
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            if port.is_some_and(|port| port.contains(':')) {
                return Err("an IPv6 address stands in brackets: [::1]".into());
            }
            (parse_host(host)?, port)
        }
    };
    let port = port.map(|port| match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err(format!("{port:?} is not a port")),
    });
    Ok((host, port.transpose()?))
}

fn parse_host(host: &str) -> Result<Host, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Host::Ip(ip));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let labels = host.strip_suffix('.').unwrap_or(host);
    if labels.len() > 253 || !labels.split('.').all(is_label) {
        return Err(format!("{host:?} is not the name of a host"));
    }
    // Some systems read 127.1 or 2130706433 as an address, others as a name.
    if labels.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("{host:?} is neither an address nor the name of a host"));
    }
    Ok(Host::Name(host.to_ascii_lowercase()))
}

fn render_authority(host: &Host, port: Option<u16>) -> String {
    let host = match host {
        Host::Name(name) => name.clone(),
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        Host::Ip(ip) => ip.to_string(),
    };
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Upstream, String> {
        Upstream::parse(text, Protocol::Auto, None)
    }

    #[test]
    fn addresses() {
        for (text, shown, port) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000", 9000),
            ("HTTP://Example.ORG", "http://example.org", 80),
            ("http://localhost:80/", "http://localhost", 80),
            ("http://[::1]:8080/a/b/", "http://[::1]:8080/a/b", 8080),
            ("http://[2001:DB8::1]", "http://[2001:db8::1]", 80),
            ("https://example.org:443/%61", "https://example.org/a", 443),
            ("https://127.0.0.1", "https://127.0.0.1", 443),
        ] {
            let upstream = parse(text).unwrap();
            assert_eq!((upstream.to_string().as_str(), upstream.port), (shown, port), "{text}");
        }
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "",
            "127.0.0.1:9000",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:70000",
            "http://a:+1",
            "http://a:",
            "http://::1",
            "http://[::1",
            "http://[::1]x",
            "http://a b",
            "http://u:p@a",
            "http://a?b",
            "http://a/b#c",
            "http://a/../b",
            "http://a//b",
            "http://127.1",
            "http://2130706433",
            "http://a..b",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(Upstream::parse("http://a", Protocol::Auto, Some(Path::new("ca.pem"))).is_err());
        assert!(Upstream::parse("https://a", Protocol::Auto, Some(Path::new("/nowhere/ca.pem"))).is_err());
    }
}
