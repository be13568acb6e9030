//! What a request gains on its way through: from whom, to whom and how it came, and whose token was judged.
//!
//! HTTP/1.1 has it written behind the client's headers, HTTP/2 among them. Mostly it says what the request before said; so it is kept
//! as it is written.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Version;
use hyper::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue, VIA};

use crate::fence::Claim;
use crate::headers::FENCING_HOLDER;
use crate::resource::Call;

use super::head::{FENCING_FENCE, is_authority, via};
use super::seen::Seen;
use super::sending::write_line;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What a request gains.
#[derive(Debug, Default)]
pub struct Gained {
    /// Nothing where the client's headers have it already.
    way: Option<Arc<Way>>,
    claims: Option<Arc<[Claim]>>,
}

/// From whom, to whom and how requests came.
#[derive(Debug)]
struct Way {
    ip: IpAddr,
    is_secure: bool,
    version: Version,
    host: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The same as HTTP/1.1 has it.
    text: Vec<u8>,
}

impl Way {
    fn of(ip: IpAddr, is_secure: bool, version: Version, host: Option<&str>) -> Way {
        let proto = if is_secure { "https" } else { "http" };
        let shown = host.filter(|host| host.bytes().all(is_authority));
        let mut element = match ip {
            IpAddr::V4(ip) => format!("for={ip}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
        };
        if let Some(host) = shown {
            element.push_str(&format!(";host=\"{host}\""));
        }
        element.push_str(&format!(";proto={proto}"));
        let text = |text: String| HeaderValue::try_from(text).expect("addresses and such hosts are visible ASCII");
        let mut headers = vec![
            (FORWARDED, text(element)),
            (X_FORWARDED_FOR, text(ip.to_string())),
            (X_FORWARDED_PROTO, HeaderValue::from_static(proto)),
        ];
        headers.extend(shown.map(|host| (X_FORWARDED_HOST, text(host.to_owned()))));
        headers.push((VIA, via(version)));
        let mut text = Vec::new();
        headers.iter().for_each(|(name, value)| write_line(&mut text, name.as_str(), value.as_bytes()));
        Way { ip, is_secure, version, host: host.map(str::to_owned), headers, text }
    }
}

thread_local! {
    /// That of the last request of this thread: mostly, the next one came the same way.
    static LAST: RefCell<Option<Arc<Way>>> = const { RefCell::new(None) };
}

fn way(call: &Call) -> Arc<Way> {
    let (ip, version, host) = (call.peer.ip().to_canonical(), call.version, call.authority());
    let is_secure = call.is_secure;
    LAST.with_borrow_mut(|last| {
        let is_same = |way: &&mut Arc<Way>| {
            way.ip == ip && way.version == version && way.is_secure == is_secure && way.host.as_deref() == host
        };
        match last.as_mut().filter(is_same) {
            Some(way) => Arc::clone(way),
            None => Arc::clone(last.insert(Arc::new(Way::of(ip, is_secure, version, host)))),
        }
    })
}

impl Gained {
    /// What a request gains whose `claims` were judged. Where it came through other proxies, their lists are added to.
    pub fn of(call: &mut Call, seen: Seen, claims: Option<&Arc<[Claim]>>) -> Gained {
        let (way, claims) = (way(call), claims.cloned());
        if !seen.has(Seen::FORWARDED) {
            return Gained { way: Some(way), claims };
        }
        for (name, value) in &way.headers {
            if *name == FORWARDED || *name == X_FORWARDED_FOR {
                add_to_list(&mut call.headers, name, value);
            } else if *name == VIA {
                call.headers.append(VIA, value.clone());
            } else {
                // These two say how the first of all proxies was asked.
                call.headers.entry(name).or_insert_with(|| value.clone());
            }
        }
        Gained { way: None, claims }
    }

    /// The claim that an upstream can check again.
    fn claim(&self) -> Option<&Claim> {
        self.claims.as_ref()?.first()
    }

    /// Writes it as HTTP/1.1 has it.
    pub fn write(&self, to: &mut Vec<u8>) {
        if let Some(way) = &self.way {
            to.extend_from_slice(&way.text);
        }
        let Some(claim) = self.claim() else { return };
        write_line(to, FENCING_FENCE.as_str(), claim.fence.as_bytes());
        if let Some(holder) = &claim.holder {
            write_line(to, FENCING_HOLDER.as_str(), holder.as_bytes());
        }
    }

    /// Puts it among the headers.
    pub fn put(&self, headers: &mut HeaderMap) {
        for (name, value) in self.way.iter().flat_map(|way| &way.headers) {
            headers.append(name, value.clone());
        }
        let Some(claim) = self.claim() else { return };
        let fence = HeaderValue::try_from(claim.fence.as_str()).expect("the name of a fence is visible ASCII");
        headers.append(FENCING_FENCE, fence);
        if let Some(holder) = &claim.holder {
            let holder = HeaderValue::try_from(holder.as_str()).expect("the name of a holder is printable ASCII");
            headers.append(FENCING_HOLDER, holder);
        }
    }
}

/// Adds to a list, in one line: some readers look at the first one only.
fn add_to_list(headers: &mut HeaderMap, name: &HeaderName, item: &HeaderValue) {
    let mut list = Vec::with_capacity(item.len());
    for value in headers.get_all(name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(item.as_bytes());
    if let Ok(list) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
        headers.insert(name, list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_added_to() {
        let mut headers = HeaderMap::new();
        for hop in ["10.0.0.1", "10.0.0.2"] {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(hop));
        }
        add_to_list(&mut headers, &X_FORWARDED_FOR, &HeaderValue::from_static("::1"));
        assert_eq!(headers.get_all(X_FORWARDED_FOR).iter().collect::<Vec<_>>(), ["10.0.0.1, 10.0.0.2, ::1"]);
    }

    #[test]
    fn both_versions_of_http_say_the_same() {
        let claim = Claim {
            fence: "stock".parse().expect("a fence"),
            token: "7".parse().expect("a token"),
            holder: Some("me too".parse().expect("a holder")),
        };
        let way = Way::of(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), false, Version::HTTP_11, Some("gate:1"));
        let gained = Gained { way: Some(Arc::new(way)), claims: Some(Arc::new([claim])) };
        let (mut text, mut headers, mut written) = (Vec::new(), HeaderMap::new(), Vec::new());
        gained.write(&mut text);
        gained.put(&mut headers);
        headers.iter().for_each(|(name, value)| write_line(&mut written, name.as_str(), value.as_bytes()));
        assert_eq!(text, written);
        assert_eq!(
            std::str::from_utf8(&text).expect("text"),
            "forwarded: for=\"[::1]\";host=\"gate:1\";proto=http\r\nx-forwarded-for: ::1\r\nx-forwarded-proto: http\r\n\
             x-forwarded-host: gate:1\r\nvia: 1.1 fencegate\r\nfencing-fence: stock\r\nfencing-holder: me too\r\n"
        );
    }
}
