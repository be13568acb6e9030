//! `Destination`: the second path of WebDAV's `COPY` and `MOVE` (RFC 4918, section 10.3).
//!
//! What is written there is written under the request's token. So it has to belong to the request's own fence, and is forwarded
//! in its normal form, as a path of the upstream.
//!
//! It is the only such header that the gate knows. An upstream that takes the path of a write from elsewhere (a header of its own,
//! the query, the body) can be led past the fence of the request's path; such requests need one fence for all of the upstream.

use hyper::header::{HeaderName, HeaderValue};

use crate::problem::{Kind, Problem};
use crate::resource::Call;

use super::path::NormalPath;
use super::resource::Http;
use super::template::Yielded;

const DESTINATION: HeaderName = HeaderName::from_static("destination");

fn bad(why: impl Into<String>) -> Problem {
    Problem::new(Kind::BadRequest, why)
}

/// Checks a write's destination, if it has one, and puts the upstream's form of it in its place.
///
/// # Errors
/// One that can't be understood, that is on another server or below another mount point, or of another fence.
pub fn check(http: &Http, call: &mut Call, fence: &Result<Yielded, Problem>) -> Result<(), Problem> {
    let mut given = call.headers.get_all(DESTINATION).iter();
    let Some(destination) = given.next() else { return Ok(()) };
    if given.next().is_some() {
        return Err(bad("Destination is given more than once"));
    }
    let text = destination.to_str().map_err(|_| bad("Destination is no URI"))?;
    let path = local(text, call.authority())?;
    let below = match http.mount.as_str() {
        "/" => path,
        mount => path.strip_prefix(mount).ok_or_else(|| bad(format!("Destination is not below {mount}")))?,
    };
    let below = NormalPath::parse(if below.is_empty() { "/" } else { below })?;
    let target = http.template.fence(&below)?;
    if let (Ok(Yielded::Name(fence)), Yielded::Name(other)) = (fence, &target)
        && fence == other
    {
        let upstream = http.upstream();
        let forwarded = format!("{upstream}{}", below.as_str());
        let value = HeaderValue::try_from(forwarded).map_err(|_| bad("Destination is no URI"))?;
        call.headers.insert(DESTINATION, value);
        return Ok(());
    }
    let of = |yielded: &Yielded| match yielded {
        Yielded::Name(name) => format!("fence {name}"),
        Yielded::Above => "no one fence".into(),
    };
    let own = fence.as_ref().map_or_else(|_| "no fence".into(), of);
    let why = format!("the path belongs to {own}, its Destination to {}: one write has one fence here", of(&target));
    Err(Problem::new(Kind::WrongFence, why))
}

/// The path of a URI that is on this server.
fn local<'a>(uri: &'a str, authority: Option<&str>) -> Result<&'a str, Problem> {
    if uri.contains(['?', '#']) {
        return Err(bad("Destination has a query or a fragment"));
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        // The reference to a network path, `//host/path`, is an empty segment to the rest of this check.
        return if uri.starts_with('/') { Ok(uri) } else { Err(bad("Destination is neither a URI nor a path")) };
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(bad("Destination is not a URI of HTTP"));
    }
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
        return Err(bad(format!("Destination is on another server, {host:?}")));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_this_server() {
        let local = |uri| local(uri, Some("gate:7070")).ok();
        assert_eq!(local("http://gate:7070/a/b"), Some("/a/b"));
        assert_eq!(local("HTTPS://Gate:7070/a"), Some("/a"));
        assert_eq!(local("/a"), Some("/a"));
        assert_eq!(local("http://gate:7070"), Some(""));
        for uri in
            ["http://gate/a", "http://gate:7070@evil/a", "a/b", "", "ftp://gate:7070/a", "/a?b", "/a#b", "http:/a"]
        {
            assert_eq!(local(uri), None, "{uri}");
        }
    }
}
