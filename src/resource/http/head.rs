//! Heads on their way through: what is refused, removed, and added.

use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use hyper::{Method, Version};

use crate::fence::Claim;
use crate::headers::{FENCING_HIGHEST, FENCING_HOLDER, FENCING_TOKEN, FENCING_VERDICT};
use crate::problem::{Kind, Problem};
use crate::resource::Call;

use super::seen::Seen;

/// The fence that the gate decided on, for upstreams that check again.
pub const FENCING_FENCE: HeaderName = HeaderName::from_static("fencing-fence");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers that some upstreams take for the path of the request, past the one that was judged.
const PATH_OVERRIDES: [HeaderName; 2] =
    [HeaderName::from_static("x-original-url"), HeaderName::from_static("x-rewrite-url")];

/// RFC 9110, section 7.6.1: about one connection, not about the message. Whoever speaks on the next one says it anew.
const HOP_BY_HOP: [(Seen, HeaderName); 9] = [
    (Seen::CONNECTION, CONNECTION),
    (Seen::KEEP_ALIVE, KEEP_ALIVE),
    (Seen::TE, TE),
    (Seen::TRANSFER_ENCODING, TRANSFER_ENCODING),
    (Seen::UPGRADE, UPGRADE),
    (Seen::SELDOM, PROXY_CONNECTION),
    (Seen::SELDOM, PROXY_AUTHENTICATE),
    (Seen::SELDOM, PROXY_AUTHORIZATION),
    (Seen::SELDOM, HTTP2_SETTINGS),
];

/// How this proxy calls itself in `Via`.
const PSEUDONYM: &str = "fencegate";
/// A request that has passed this many gates goes in circles.
const GATES_MAX: usize = 8;

fn bad(why: impl Into<String>) -> Problem {
    Problem::new(Kind::BadRequest, why)
}

/// Refuses requests whose end two parties could see in different places, and others that can't be passed on.
///
/// # Errors
/// [`Kind::BadRequest`], [`Kind::NotImplemented`].
pub fn check(call: &Call, seen: Seen) -> Result<(), Problem> {
    let headers = &call.headers;
    if call.method == Method::CONNECT {
        return Err(Problem::new(Kind::NotImplemented, "the gate opens no tunnels: CONNECT is not for it"));
    }
    if seen.has(Seen::CONTENT_LENGTH.or(Seen::TRANSFER_ENCODING)) {
        check_framing(headers, call.version, seen)?;
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("Host is given more than once"));
    }
    match (host, call.uri.authority()) {
        (None, None) if call.version == Version::HTTP_11 => return Err(bad("a request of HTTP/1.1 has a Host")),
        (Some(host), _) if !host.as_bytes().iter().all(|byte| is_authority(*byte)) => {
            return Err(bad("Host is not the name or address of a host"));
        }
        _ => {}
    }
    if seen.has(Seen::VIA) && headers.get_all(VIA).iter().map(gates).sum::<usize>() > GATES_MAX {
        let why = format!("the request has passed more than {GATES_MAX} gates: it goes in circles");
        return Err(Problem { proxy_error: Some("proxy_loop_detected"), ..bad(why) });
    }
    Ok(())
}

fn check_framing(headers: &HeaderMap, version: Version, seen: Seen) -> Result<(), Problem> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(bad("Content-Length is given more than once"));
    }
    if length.is_some_and(|length| length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Err(bad("Content-Length is not a number"));
    }
    if !seen.has(Seen::TRANSFER_ENCODING) {
        return Ok(());
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if version != Version::HTTP_11 {
        return Err(bad("Transfer-Encoding is for HTTP/1.1 only"));
    }
    if length.is_some() {
        return Err(bad("a request has Content-Length or Transfer-Encoding, not both"));
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Problem::new(Kind::NotImplemented, "the only transfer coding here is chunked, given once"));
    }
    Ok(())
}

/// Of each byte, whether a host and its port can have it.
static AUTHORITY: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0_u8);
    loop {
        table[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%');
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// What a host and its port are made of.
pub fn is_authority(byte: u8) -> bool {
    AUTHORITY[usize::from(byte)]
}

fn gates(via: &HeaderValue) -> usize {
    let Ok(via) = via.to_str() else { return 0 };
    via.split(',').filter(|hop| hop.split_whitespace().nth(1) == Some(PSEUDONYM)).count()
}

/// Removes what is about the connection: the headers that are always, and those that `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap, seen: Seen) {
    if !seen.has(Seen::HOP_BY_HOP) {
        return;
    }
    if seen.has(Seen::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            // Mostly it says only this, and that is a name of no other header, or of one that is removed anyway.
            .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
            .filter_map(|name| name.parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for (_, name) in HOP_BY_HOP.iter().filter(|(bit, _)| seen.has(*bit)) {
        headers.remove(name);
    }
}

/// What a request's headers say about it that the gate has to know after they are changed.
#[derive(Debug, Default)]
pub struct Asked {
    /// The protocol that it wants to change to.
    pub upgrade: Option<HeaderValue>,
    /// Whether it takes trailers.
    pub takes_trailers: bool,
}

impl Asked {
    /// Looks. An upgrade that can't be passed on is an offer that a server may leave alone (RFC 9110, section 7.8): to one of
    /// several protocols, and to HTTP/2, after which requests would go past the gate.
    pub fn of(call: &Call, seen: Seen) -> Asked {
        if !seen.has(Seen::UPGRADE.or(Seen::TE)) {
            return Asked::default();
        }
        let says = |name: &HeaderName, token: &str| {
            call.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| {
                value.split(',').any(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(token))
            })
        };
        let mut upgrades = call.headers.get_all(UPGRADE).iter();
        let is_one = |upgrade: &&HeaderValue| {
            !upgrade.as_bytes().contains(&b',') && !upgrade.as_bytes().to_ascii_lowercase().starts_with(b"h2")
        };
        let upgrade = upgrades.next().filter(is_one).filter(|_| upgrades.next().is_none());
        // Without the connection option, or in HTTP/2, the header says nothing.
        let upgrade = upgrade.filter(|_| call.version == Version::HTTP_11 && says(&CONNECTION, "upgrade"));
        Asked { upgrade: upgrade.cloned(), takes_trailers: says(&TE, "trailers") }
    }
}

/// Makes the headers of a request those that are forwarded, but for what it gains.
pub fn forward(call: &mut Call, seen: Seen, claim: Option<&Claim>) {
    let headers = &mut call.headers;
    remove_hop_by_hop(headers, seen);
    if seen.has(Seen::PATH_OVERRIDE) {
        PATH_OVERRIDES.iter().for_each(|name| drop(headers.remove(name)));
    }
    if seen.has(Seen::EXPECT) {
        // The gate has met this expectation by reading the body.
        if headers.get(EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            headers.remove(EXPECT);
        }
    }
    if seen.has(Seen::AUTHORIZATION) && headers.get(AUTHORIZATION).is_some_and(is_for_the_gate) {
        headers.remove(AUTHORIZATION);
    }
    if call.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    set_token(headers, seen, claim);
}

/// Whether `Authorization` is meant for the gate, and for nobody behind it.
pub(crate) fn is_for_the_gate(authorization: &HeaderValue) -> bool {
    authorization.to_str().ok().and_then(|value| value.split_once(' ')).is_some_and(|(scheme, credential)| {
        scheme.eq_ignore_ascii_case("bearer") && crate::access::shown::is_ours(credential.trim_start_matches(' '))
    })
}

/// HTTP/2 has a line for each cookie, and everybody else one for all (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(all) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(COOKIE, all);
        }
    }
}

/// Leaves the token that was judged, for upstreams that check it again. What the client said of it is of no meaning there unless it
/// was.
pub(crate) fn set_token(headers: &mut HeaderMap, seen: Seen, claim: Option<&Claim>) {
    if seen.has(Seen::FENCING) {
        headers.remove(FENCING_HOLDER);
        headers.remove(FENCING_FENCE);
    }
    let Some(claim) = claim else {
        if seen.has(Seen::FENCING_TOKEN) {
            headers.remove(FENCING_TOKEN);
        }
        return;
    };
    // A token has one spelling: where the client sent it bare, it stands there already.
    let is_bare = |token: &HeaderValue| token.as_bytes().iter().all(u8::is_ascii_digit);
    if !headers.get(FENCING_TOKEN).is_some_and(is_bare) {
        headers.insert(FENCING_TOKEN, HeaderValue::from(claim.token.get()));
    }
}

/// Makes the headers of an upstream's answer, all of which go end to end, those that the client gets.
pub fn answer(headers: &mut HeaderMap, seen: Seen, version: Version) {
    if seen.has(Seen::VERDICT) {
        // They are the gate's to say.
        headers.remove(FENCING_VERDICT);
        headers.remove(FENCING_HIGHEST);
    }
    headers.append(VIA, via(version));
}

/// What this hop adds to `Via`.
pub fn via(version: Version) -> HeaderValue {
    // Constants: their text is checked when they are compiled.
    const OLD: HeaderValue = HeaderValue::from_static("1.0 fencegate");
    const USUAL: HeaderValue = HeaderValue::from_static("1.1 fencegate");
    const NEW: HeaderValue = HeaderValue::from_static("2.0 fencegate");
    match version {
        Version::HTTP_10 => OLD,
        Version::HTTP_2 => NEW,
        _ => USUAL,
    }
}

/// Removes from trailers what is no trailer's to say (RFC 9110, section 6.5.1), for readers that merge them into the headers.
pub fn trailers(mut trailers: HeaderMap) -> HeaderMap {
    let seen = Seen::of(&trailers);
    remove_hop_by_hop(&mut trailers, seen);
    for name in [
        CONTENT_LENGTH,
        HOST,
        TRAILER,
        AUTHORIZATION,
        EXPECT,
        FENCING_TOKEN,
        FENCING_FENCE,
        FENCING_HOLDER,
        FENCING_VERDICT,
        FENCING_HIGHEST,
    ] {
        trailers.remove(name);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn what_frames_a_body_in_two_ways_is_refused() {
        let kind = |lines: &[(&'static str, &'static str)], version| {
            let headers = map(lines);
            check_framing(&headers, version, Seen::of(&headers)).err().map(|problem| problem.kind)
        };
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        assert_eq!(kind(&[("content-length", "5")], new), None);
        assert_eq!(kind(&[("transfer-encoding", "Chunked")], new), None);
        for lines in [
            &[("content-length", "5"), ("content-length", "5")][..],
            &[("content-length", "5"), ("content-length", "6")],
            &[("content-length", "5, 5")],
            &[("content-length", "+5")],
            &[("content-length", "")],
            &[("content-length", "0x5")],
            &[("content-length", "5"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(kind(lines, new), Some(Kind::BadRequest), "{lines:?}");
        }
        for lines in [
            &[("transfer-encoding", "gzip, chunked")][..],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "identity")],
            &[("transfer-encoding", "xchunked")],
            &[("transfer-encoding", "")],
        ] {
            assert_eq!(kind(lines, new), Some(Kind::NotImplemented), "{lines:?}");
        }
        assert_eq!(kind(&[("transfer-encoding", "chunked")], old), Some(Kind::BadRequest));
    }

    #[test]
    fn hop_by_hop_headers_are_removed() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("x-other", "2"),
            ("x-end-to-end", "3"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic x"),
            ("upgrade", "websocket"),
            ("fencing-verdict", "admitted"),
            ("fencing-highest", "9"),
        ]);
        let seen = Seen::of(&headers);
        remove_hop_by_hop(&mut headers, seen);
        answer(&mut headers, seen, Version::HTTP_11);
        assert_eq!(headers, map(&[("x-end-to-end", "3"), ("via", "1.1 fencegate")]));
    }

    #[test]
    fn cookies_stand_in_one_line() {
        let mut headers = map(&[("cookie", "a=b"), ("cookie", "c=d"), ("x", "y")]);
        join_cookies(&mut headers);
        assert_eq!(headers, map(&[("cookie", "a=b; c=d"), ("x", "y")]));
    }

    #[test]
    fn our_own_hops_are_counted() {
        assert_eq!(gates(&HeaderValue::from_static("1.1 fencegate, 1.1 other, 2.0 fencegate (x)")), 2);
        assert_eq!(gates(&HeaderValue::from_static("fencegate, 1.1 fencegate2")), 0);
    }

    #[test]
    fn trailers_say_nothing_of_the_message() {
        let left = trailers(map(&[("checksum", "1"), ("fencing-token", "9"), ("content-length", "5"), ("host", "x")]));
        assert_eq!(left, map(&[("checksum", "1")]));
    }
}
