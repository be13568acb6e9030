//! Where a load goes: an address on loopback, unless it was said otherwise, and how a request to it is written.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::cli::failure::Failure;
use crate::endpoint::{Endpoint, Options};

/// A server that is spoken to in HTTP/1.1.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it is.
    pub addr: SocketAddr,
    /// `HOST:PORT`, as `Host` has it.
    authority: String,
    /// What stands before every path, without a slash at its end.
    base: String,
    /// Lines that every request has.
    headers: String,
}

/// A header that every request has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header(pub String);

/// Those that `bench` writes itself, or that would change what a request is.
const TAKEN: [&str; 8] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "fencing-token",
    "fencing-holder",
    "expect",
    "upgrade",
];

impl std::str::FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Header, String> {
        let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
        let (name, value) = (name.trim(), value.trim());
        hyper::header::HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header's name"))?;
        hyper::header::HeaderValue::from_str(value).map_err(|_| format!("{name}: the value can't be a header's"))?;
        if TAKEN.iter().any(|taken| name.eq_ignore_ascii_case(taken)) {
            return Err(format!("{name} is written by bench itself"));
        }
        if name.eq_ignore_ascii_case("authorization") && value.to_ascii_lowercase().starts_with("bearer fgt.") {
            return Err("a credential fgt.… presents a token; bench presents its own".into());
        }
        Ok(Header(format!("{name}: {value}\r\n")))
    }
}

impl Target {
    /// Of a gate or an upstream at this URL. `flag` is where the URL came from.
    ///
    /// # Errors
    /// [`Failure::Usage`]: no URL of this kind; a host that isn't found; an address that isn't loopback, where `allow_remote`
    /// doesn't say that it may be.
    pub fn parse(flag: &str, url: &str, headers: &[Header], allow_remote: bool) -> Result<Target, Failure> {
        if url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            // The processor time of TLS would be counted as the gate's and the generator's.
            return Err(Failure::Usage(format!("{flag} {url:?}: bench speaks plain http only")));
        }
        let endpoint = Endpoint::parse(url, Options::default());
        let endpoint = endpoint.map_err(|error| Failure::Usage(format!("{flag} {error}")))?;
        let authority = endpoint.authority().to_owned();
        let whole = endpoint.to_string();
        let base = whole.split_once(&authority).map_or("", |(_, base)| base).to_owned();
        let wrong = |why: String| Failure::Usage(format!("{flag} {url:?}: {why}"));
        let found: Vec<SocketAddr> = authority.to_socket_addrs().map_err(|error| wrong(error.to_string()))?.collect();
        let remote = found.iter().find(|addr| !addr.ip().to_canonical().is_loopback());
        if let Some(remote) = remote.filter(|_| !allow_remote) {
            return Err(wrong(format!(
                "{} is not on this machine; a benchmark is a load like an attack: say --allow-remote if that is yours",
                remote.ip()
            )));
        }
        let addr = found.first().copied().ok_or_else(|| wrong("its host has no address".into()))?;
        let headers = headers.iter().map(|header| header.0.as_str()).collect();
        Ok(Target { addr, authority, base, headers })
    }

    /// Of a gate that `bench` has started.
    pub fn own(addr: SocketAddr, headers: &[Header]) -> Target {
        let headers = headers.iter().map(|header| header.0.as_str()).collect();
        Target { addr, authority: addr.to_string(), base: String::new(), headers }
    }

    /// The same server, without what stands before every path.
    pub fn root(&self) -> Target {
        Target { base: String::new(), ..self.clone() }
    }

    /// A request.
    pub fn request(&self, method: &str, path: &str, token: Option<u64>, body: &Body) -> Vec<u8> {
        let (mut request, after) = self.around_token(method, path, body);
        if let Some(token) = token {
            request.extend_from_slice(format!("fencing-token: {token}\r\n").as_bytes());
        }
        // Behind the line of the token.
        request.extend_from_slice(&after[2..]);
        request
    }

    /// A request for a token that is still to be chosen: what comes before it, and after it.
    pub fn for_token(&self, method: &str, path: &str, body: &Body) -> (Vec<u8>, Vec<u8>) {
        let (mut before, after) = self.around_token(method, path, body);
        before.extend_from_slice(b"fencing-token: ");
        (before, after)
    }

    fn around_token(&self, method: &str, path: &str, body: &Body) -> (Vec<u8>, Vec<u8>) {
        let Target { authority, base, headers, .. } = self;
        let mut before = format!("{method} {base}{path} HTTP/1.1\r\nhost: {authority}\r\n{headers}");
        let mut after = b"\r\n".to_vec();
        if let Some(media_type) = body.media_type {
            before.push_str(&format!("content-type: {media_type}\r\ncontent-length: {}\r\n", body.bytes.len()));
        }
        after.extend_from_slice(b"\r\n");
        after.extend_from_slice(&body.bytes);
        (before.into_bytes(), after)
    }
}

/// What a request brings.
#[derive(Debug, Clone, Default)]
pub struct Body {
    /// `None`: nothing, and no header says so.
    pub media_type: Option<&'static str>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Body {
    /// A body of plain text, so many bytes long.
    pub fn text(size: usize) -> Body {
        Body { media_type: Some("text/plain"), bytes: vec![b'x'; size] }
    }

    /// No bytes, and a header that says so: for a POST.
    pub fn empty() -> Body {
        Body { media_type: Some("text/plain"), bytes: Vec::new() }
    }

    /// A pipeline of Hrana with this statement; a `?` in it stands for a text of `size` bytes.
    pub fn sql(sql: &str, size: usize) -> Body {
        let mut stmt = serde_json::json!({ "sql": sql });
        if sql.contains('?') {
            stmt["args"] = serde_json::json!([{ "type": "text", "value": "x".repeat(size) }]);
        }
        let requests = serde_json::json!([{ "type": "execute", "stmt": stmt }, { "type": "close" }]);
        let body = serde_json::json!({ "requests": requests });
        Body { media_type: Some("application/json"), bytes: body.to_string().into_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_unless_told() {
        let parse =
            |url: &str, remote| Target::parse("--upstream", url, &[], remote).map(|target| target.addr.to_string());
        for (url, addr) in [
            ("http://127.0.0.1:9000", "127.0.0.1:9000"),
            ("http://127.1.2.3:9000/base", "127.1.2.3:9000"),
            ("http://[::1]:9000", "[::1]:9000"),
        ] {
            assert_eq!(parse(url, false).unwrap(), addr);
        }
        for url in ["http://192.0.2.1:80", "http://[2001:db8::1]", "http://0.0.0.0:80", "http://[::ffff:192.0.2.1]:80"]
        {
            let Err(Failure::Usage(why)) = parse(url, false) else { panic!("{url}") };
            assert!(why.contains("--allow-remote"), "{why}");
            assert!(parse(url, true).is_ok(), "{url}");
        }
        for url in ["https://127.0.0.1", "127.0.0.1:9000", "http://u:p@127.0.0.1", "http://127.0.0.1/?a"] {
            assert!(matches!(parse(url, true), Err(Failure::Usage(_))), "{url}");
        }
    }

    #[test]
    fn a_request_is_written_as_it_should_be() {
        let header = "X-Key: v".parse::<Header>().unwrap();
        let target = Target::parse("--gate", "http://127.0.0.1:7070/behind/", &[header], false).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let get = text(target.request("GET", "/a", None, &Body::default()));
        assert_eq!(get, "GET /behind/a HTTP/1.1\r\nhost: 127.0.0.1:7070\r\nX-Key: v\r\n\r\n");
        let post = text(target.request("POST", "/a", Some(7), &Body::text(3)));
        let (before, after) = target.for_token("POST", "/a", &Body::text(3));
        assert_eq!(post, format!("{}7{}", text(before), text(after)));
        assert!(post.ends_with("content-length: 3\r\nfencing-token: 7\r\n\r\nxxx"), "{post}");
        for bad in ["no colon", "Host: x", "Fencing-Token: 9", "a b: c", "x: \u{7}", "Authorization: Bearer fgt.7"] {
            assert!(bad.parse::<Header>().is_err(), "{bad}");
        }
    }
}
