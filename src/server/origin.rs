//! Who may ask the admin listener through a browser: only its own pages.
//!
//! A page of another site that a browser shows can send requests here too, with the reach of whoever sits before it: to a listener on
//! loopback, for example. Nothing here rests on cookies or on anything else that a browser adds by itself. Three things keep such
//! pages out, and each by itself is enough for what it is about:
//!
//! - A *name* in `Host` that isn't known to be the gate's is refused. An attacker's site can have its own name point to this listener's
//!   address (DNS rebinding), and is then, for the browser, the page's own server; but the name stays the attacker's.
//! - What a browser says about where a request comes from (`Sec-Fetch-Site`, `Origin`) is heeded. Only following a link is allowed.
//! - A browser asks for a change with `application/json`, which a form can't send, and for which a script of another origin needs a
//!   permission (CORS) that is never given. Others are known by having neither `Origin` nor `Sec-Fetch-Site`: a browser says one of them
//!   with every POST (Fetch standard, "append a request `Origin` header").

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response};

use crate::problem::{Kind, Problem};

/// The host in an authority, without its port; an IPv6 address with its brackets.
fn host_of(authority: &str) -> &str {
    let end = if authority.starts_with('[') { authority.rfind("]:").map(|end| end + 1) } else { authority.find(':') };
    end.map_or(authority, |end| &authority[..end])
}

/// Whether a request for this host can only be meant for this listener: an address, `localhost`, or a name that the operator gave.
fn is_own(authority: &str, names: &[String]) -> bool {
    let host = host_of(authority);
    let host = host.strip_suffix('.').unwrap_or(host);
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    // `localhost` and what is below it is loopback's, whatever DNS says (RFC 6761, section 6.3).
    host.parse::<Ipv4Addr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Refuses what a page of another site sends. `names`: those that the listener has, besides its addresses and `localhost`; `None` where any
/// will do.
///
/// # Errors
/// [`Kind::Forbidden`]; [`Kind::BadRequest`] for a change that isn't asked for with `application/json`.
pub fn check<B>(request: &Request<B>, names: Option<&[String]>) -> Result<(), Problem> {
    let header = |name: &HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
    let forbidden = |why: String| Err(Problem::new(Kind::Forbidden, why));
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return Ok(());
    }
    // Only HTTP/1.0 leaves both out, which no browser speaks.
    let authority = request.uri().authority().map(|authority| authority.as_str()).or(header(&HOST));
    if let (Some(authority), Some(names)) = (authority, names)
        && !is_own(authority, names)
    {
        return forbidden(format!(
            "this listener is asked under the name {:?}, which it isn't known to have; where it is one of its own, say so with \
             admin_hosts in the configuration, or FENCEGATE_ADMIN_HOSTS",
            host_of(authority)
        ));
    }
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let follows_link = is_get && header(&SEC_FETCH_MODE) == Some("navigate");
    if let Some(site) = header(&SEC_FETCH_SITE)
        && !matches!(site, "same-origin" | "none")
        && !follows_link
    {
        return forbidden("this comes from a page of another site".to_owned());
    }
    if let Some(origin) = header(&ORIGIN)
        && (authority.is_none() || origin.split_once("://").map(|(_, from)| from) != authority)
    {
        return forbidden(format!("this comes from a page of {origin}"));
    }
    Ok(())
}

/// Refuses a change that a browser doesn't ask for with `application/json`.
///
/// # Errors
/// [`Kind::BadRequest`].
pub fn check_media_type<B>(request: &Request<B>) -> Result<(), Problem> {
    if [ORIGIN, SEC_FETCH_SITE].iter().all(|said| !request.headers().contains_key(said)) {
        return Ok(());
    }
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    if media_type.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Kind::BadRequest, "a page asks for a change with Content-Type: application/json"))
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Says to browsers what may be done with an answer of the admin listener: nothing but what its own page does. There are no CORS
/// headers, so that no other origin reads it.
pub fn harden<B>(answer: &mut Response<B>) {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (name, value) in [
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().method(method).uri("/v1/fences/app/reset");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let checked = check(&request, Some(&["gate.internal".to_owned()]));
        let checked = checked.and_then(|()| if method == "POST" { check_media_type(&request) } else { Ok(()) });
        checked.err().map(|problem| problem.kind.row().status)
    }

    #[test]
    fn only_hosts_that_are_its_own() {
        for own in [
            "127.0.0.1:7071",
            "10.1.2.3",
            "[::1]:7071",
            "localhost:7071",
            "LOCALHOST",
            "a.localhost:1",
            "gate.internal:7071",
        ] {
            assert_eq!(checked("GET", &[("host", own)]), None, "{own}");
        }
        for other in [
            "evil.example:7071",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "internal",
            "1.2.3",
            "[evil]:7071",
            "[::1].evil.example",
            "evil.example#127.0.0.1",
            "gate.internal.evil.example",
            "",
            "0x7f000001",
            "[127.0.0.1]",
        ] {
            assert_eq!(checked("GET", &[("host", other)]), Some(403), "{other}");
        }
        assert_eq!(checked("GET", &[]), None, "HTTP/1.0");
    }

    #[test]
    fn only_its_own_pages_post() {
        let json = ("content-type", "application/json; charset=utf-8");
        let host = ("host", "127.0.0.1:7071");
        assert_eq!(checked("POST", &[host, json]), None, "curl");
        assert_eq!(
            checked("POST", &[host, json, ("origin", "http://127.0.0.1:7071"), ("sec-fetch-site", "same-origin")]),
            None
        );
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:8080"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(checked("POST", &[host, json, (name, value)]), Some(403), "{name}: {value}");
            assert_eq!(checked("GET", &[host, (name, value)]), Some(403), "{name}: {value}");
        }
        let navigates = ("sec-fetch-mode", "navigate");
        assert_eq!(checked("GET", &[host, ("sec-fetch-site", "cross-site"), navigates]), None, "a link");
        assert_eq!(checked("POST", &[host, json, ("sec-fetch-site", "cross-site"), navigates]), Some(403), "a form");
        for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json", ""] {
            let media_type = ("content-type", media_type);
            assert_eq!(checked("POST", &[host, media_type]), None, "no browser: {media_type:?}");
            for said in [("origin", "http://127.0.0.1:7071"), ("sec-fetch-site", "same-origin")] {
                assert_eq!(checked("POST", &[host, said, media_type]), Some(400), "{media_type:?}");
            }
        }
    }
}
