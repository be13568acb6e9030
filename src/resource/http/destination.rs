//! `Destination` (WebDAV, RFC 4918): the second path that a MOVE or COPY writes to.
//!
//! It is judged as the first one is: brought into the one normal form, below the same mount point, of the same fence. What is
//! forwarded is made from that form, as an address of the upstream's, since there it has to name the upstream's own server.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::fence::FenceName;
use crate::problem::{Kind, Problem};

use super::path::NormalPath;
use super::template::{Template, Yielded};
use super::upstream::Upstream;

const DESTINATION: HeaderName = HeaderName::from_static("destination");

/// Where requests come in and go out.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The mount point.
    pub mount: &'a str,
    /// The authority that the client asked.
    pub authority: Option<&'a str>,
    /// How fences are named after paths.
    pub template: &'a Template,
    /// Where requests go.
    pub upstream: &'a Upstream,
}

fn bad(why: impl Into<String>) -> Problem {
    Problem::new(Kind::BadRequest, why)
}

/// Makes the header, where there is one, what the upstream is to see. `fence`: that of the request's own path.
///
/// # Errors
/// [`Kind::WrongFence`] for a destination of another fence; [`Kind::AmbiguousPath`]; [`Kind::BadRequest`] for one that is not
/// below the mount point on this server.
pub fn rewrite(headers: &mut HeaderMap, place: Place<'_>, fence: Option<&FenceName>) -> Result<(), Problem> {
    let mut given = headers.get_all(DESTINATION).iter();
    let Some(value) = given.next() else { return Ok(()) };
    if given.next().is_some() {
        return Err(bad("Destination is given more than once"));
    }
    let value = value.to_str().map_err(|_| bad("Destination has bytes that a URI can't have"))?;
    let path = NormalPath::parse(below(value, place)?)?;
    let named = place.template.fence(&path)?;
    if fence.is_none_or(|fence| named != Yielded::Name(fence.clone())) {
        let named = match &named {
            Yielded::Name(name) => format!("belongs to fence {name}"),
            Yielded::Above => "belongs to no one fence".to_owned(),
        };
        let own = fence.map_or_else(|| "none".to_owned(), FenceName::to_string);
        let why =
            format!("Destination {named}, the request's own path to {own}; nothing is written from one into another");
        return Err(Problem { fence: fence.cloned(), ..Problem::new(Kind::WrongFence, why) });
    }
    let Upstream { base, .. } = place.upstream;
    let forwarded = format!("{}://{}{base}{}", place.upstream.scheme(), place.upstream.authority(), path.as_str());
    let forwarded =
        HeaderValue::try_from(forwarded).map_err(|_| bad("Destination has bytes that a header can't have"))?;
    headers.insert(DESTINATION, forwarded);
    Ok(())
}

/// The path below the mount point.
fn below<'a>(value: &'a str, place: Place<'_>) -> Result<&'a str, Problem> {
    let path = if value.starts_with('/') && !value.starts_with("//") {
        value
    } else {
        let is_web = |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        let Some((_, rest)) = value.split_once("://").filter(|(scheme, _)| is_web(scheme)) else {
            return Err(bad("Destination is neither an address of http nor a path that starts with one slash"));
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // The scheme may be that of a proxy in front, which speaks TLS; the host is what it was asked for.
        if place.authority.is_none_or(|own| !own.eq_ignore_ascii_case(authority)) {
            return Err(bad("Destination is on another server than the request"));
        }
        path
    };
    if path.contains(['?', '#']) {
        return Err(bad("Destination has a query or a fragment"));
    }
    let below = if place.mount == "/" { Some(path) } else { path.strip_prefix(place.mount) };
    below
        .filter(|below| below.starts_with('/'))
        .ok_or_else(|| bad(format!("Destination is not below {}, where the request's own path is", place.mount)))
}

#[cfg(test)]
mod tests {
    use super::super::upstream::Protocol;
    use super::*;

    fn rewritten(destination: &str, mount: &str, fence: Option<&str>) -> Result<String, Kind> {
        let template = Template::parse("dav/{1}").unwrap();
        let upstream = Upstream::parse("http://127.0.0.1:9000/base", Protocol::Auto, None).unwrap();
        let place = Place { mount, authority: Some("gate:7070"), template: &template, upstream: &upstream };
        let mut headers = HeaderMap::new();
        headers.insert(DESTINATION, destination.parse().unwrap());
        let fence: Option<FenceName> = fence.map(|fence| fence.parse().unwrap());
        rewrite(&mut headers, place, fence.as_ref()).map_err(|problem| problem.kind)?;
        Ok(headers[DESTINATION].to_str().unwrap().to_owned())
    }

    #[test]
    fn within_its_fence_it_becomes_an_address_of_the_upstreams() {
        for destination in ["/dav/a/x%7e", "http://gate:7070/dav/a/x~", "HTTPS://GATE:7070/dav/a/x~", "/dav/%61/x~"] {
            let forwarded = rewritten(destination, "/dav", Some("dav/a"));
            assert_eq!(forwarded.as_deref(), Ok("http://127.0.0.1:9000/base/a/x~"), "{destination}");
        }
        assert_eq!(rewritten("/a/", "/", Some("dav/a")).as_deref(), Ok("http://127.0.0.1:9000/base/a/"));
    }

    #[test]
    fn anything_else_is_refused() {
        for (destination, kind) in [
            ("/dav/b/x", Kind::WrongFence),
            ("/dav/", Kind::WrongFence),
            ("http://gate:7070/dav/b/x", Kind::WrongFence),
            ("/dav/a/../b/x", Kind::AmbiguousPath),
            ("/dav/a/%2e%2e/b/x", Kind::AmbiguousPath),
            ("/dav/a%2Fx", Kind::AmbiguousPath),
            ("/dav//a/x", Kind::AmbiguousPath),
            ("/dav", Kind::BadRequest),
            ("/davos/a/x", Kind::BadRequest),
            ("/a/x", Kind::BadRequest),
            ("/%64av/a/x", Kind::BadRequest),
            ("//gate:7070/dav/a/x", Kind::BadRequest),
            ("http://other/dav/a/x", Kind::BadRequest),
            ("http://user@gate:7070/dav/a/x", Kind::BadRequest),
            ("http://gate:7070", Kind::BadRequest),
            ("http://127.0.0.1:9000/base/a/x", Kind::BadRequest),
            ("ftp://gate:7070/dav/a/x", Kind::BadRequest),
            ("/dav/a/x?y", Kind::BadRequest),
            ("/dav/a/x#y", Kind::BadRequest),
            ("dav/a/x", Kind::BadRequest),
            ("", Kind::BadRequest),
        ] {
            assert_eq!(rewritten(destination, "/dav", Some("dav/a")), Err(kind), "{destination:?}");
        }
        assert_eq!(rewritten("/dav/a/x", "/dav", None), Err(Kind::WrongFence), "the request's own path has no fence");
    }

    #[test]
    fn twice_is_refused_and_none_is_fine() {
        let template = Template::parse("dav/{1}").unwrap();
        let upstream = Upstream::parse("http://127.0.0.1:9000", Protocol::Auto, None).unwrap();
        let place = Place { mount: "/", authority: None, template: &template, upstream: &upstream };
        let mut headers = HeaderMap::new();
        rewrite(&mut headers, place, None).unwrap();
        headers.append(DESTINATION, "/a/x".parse().unwrap());
        headers.append(DESTINATION, "/b/x".parse().unwrap());
        let fence = "dav/a".parse().unwrap();
        assert_eq!(rewrite(&mut headers, place, Some(&fence)).unwrap_err().kind, Kind::BadRequest);
    }
}
