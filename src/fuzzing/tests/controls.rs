//! Each property with a mistake in what it looks at: it must see it.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use tokio::io::{AsyncReadExt as _, DuplexStream};

use crate::access::credential::{Credential, CredentialError};
use crate::config::{Config, ConfigError, KindConfig, Place, file};
use crate::fence::claim::PresentedTokens;
use crate::fence::{FenceName, Presented, Token};
use crate::resource::http::Template;
use crate::resource::http::decode::Kept;
use crate::resource::http::head;
use crate::resource::http::message::Broken;
use crate::resource::http::seen::Seen;
use crate::resource::sqlite::hrana::{Pipeline, ProtocolError, Request, Version};
use crate::resource::sqlite::stream::{Stream, Streams};
use crate::resource::{Call, Received};

use super::super::{Checked, answers, batons, config, credentials, headers, hrana, json, paths, plain, requests, sql};

/// The property holds for what is right, and doesn't for what is wrong.
#[allow(clippy::needless_pass_by_value, reason = "what two calls give, where they are made")]
fn seen(right: Checked, wrong: Checked) {
    assert_eq!(right, Ok(()));
    println!("{}", wrong.expect_err("the mistake has to be seen"));
}

#[test]
fn headers_that_are_read_carelessly() {
    fn bare(number: u64) -> Option<Option<Presented>> {
        Some(Some(Presented { tokens: PresentedTokens::Bare(Token::new(number).ok()?), holder: None }))
    }
    // `+7` and `07` are numbers to Rust; the second of two headers isn't looked at; the bearer isn't, either.
    fn careless(headers: &HeaderMap, _: Option<&FenceName>) -> Option<Option<Presented>> {
        let Some(value) = headers.get("fencing-token") else { return Some(None) };
        bare(value.to_str().ok()?.trim().parse().ok()?)
    }
    for input in [
        "orders\nFencing-Token: 07",
        "orders\nFencing-Token: +7",
        "orders\nFencing-Token: 7 ",
        "orders\nFencing-Token: 7\nFencing-Token: 8",
        "orders\nAuthorization: Bearer fgt.7",
        "orders\nFencing-Token: 7\nAuthorization: Bearer fgt.8",
        "orders\nFencing-Token: 7\nFencing-Holder: \u{e4}",
    ] {
        seen(headers::check(input.as_bytes()), headers::agrees(careless, input.as_bytes()));
    }
}

#[test]
fn credentials_that_nobody_signed() {
    /// Reads what it says, and never looks at the signature.
    fn careless(_: &credentials::World, text: &str) -> Result<Credential, CredentialError> {
        use base64::Engine as _;
        let form = CredentialError::Form("");
        let payload = text.split('.').nth(1).ok_or(form.clone())?;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).map_err(|_| form.clone())?;
        serde_json::from_slice(&bytes).map_err(|_| form)
    }
    let world = credentials::world().unwrap();
    for good in world.signed() {
        assert!(credentials::gate(world, good).is_ok());
        let last = if good.ends_with('A') { 'Q' } else { 'A' };
        let forged = format!("{}{last}", &good[..good.len() - 1]);
        seen(credentials::check(forged.as_bytes()), credentials::agrees(careless, forged.as_bytes()));
    }
    let other = r#"{"aud":"another","fence":"stock/7","token":"7","exp":2000000060}"#;
    let kid = "{\"alg\":\"EdDSA\"}";
    let signed = format!("sign\n{kid}\n{other}");
    seen(credentials::check(signed.as_bytes()), credentials::agrees(careless, signed.as_bytes()));
}

/// A path as it is, with the fence made of what stands there.
fn as_it_is(template: &Template, path: &str) -> Option<paths::Made> {
    made(template, path.to_owned(), path)
}

/// Decodes for the fence, and forwards what came.
fn decoded_for_the_fence(template: &Template, path: &str) -> Option<paths::Made> {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8().ok()?.into_owned();
    made(template, path.to_owned(), &decoded)
}

/// Decodes for both, and follows nothing.
fn decoded(template: &Template, path: &str) -> Option<paths::Made> {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8().ok()?.into_owned();
    made(template, decoded.clone(), &decoded)
}

fn made(template: &Template, forwarded: String, path: &str) -> Option<paths::Made> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let numbers = template.segments();
    let taken: Option<Vec<(usize, &str)>> =
        numbers.iter().map(|number| Some((*number, *segments.get(number - 1)?))).collect();
    let fence = match taken.map(|taken| template.together(&taken)) {
        None => paths::Fence::Above,
        Some(None) => paths::Fence::Refused,
        Some(Some(name)) => paths::Fence::Name(name.to_string()),
    };
    Some(paths::Made { forwarded, fence })
}

#[test]
fn paths_that_are_read_carelessly() {
    let all: [(paths::Reads, &[&str]); 3] = [
        (
            as_it_is,
            &["{1}\n/a/../b", "{1}\n/%61bcdefgh", "{2}\n/x//b", "{1}\n/a;x", "{1}\n/a%2f..%2fb", "{2}\n/a\\b/c"],
        ),
        (decoded_for_the_fence, &["{1}\n/a%2fb", "{2}\n/%2e%2e/a/b", "{1}\n/a;v=1/b", "{2}\n/.;x/a/b"]),
        (decoded, &["{1}\n/a%3fb", "{2}\n/%252e%252e/b/c", "{1}\n/%2561", "{1}\n/a/%2e%2e/b", "{2}\n/a%5cb/c"]),
    ];
    for (careless, inputs) in all {
        for input in inputs {
            seen(paths::check(input.as_bytes()), paths::agrees(careless, input.as_bytes()));
        }
    }
}

#[test]
fn bodies_that_are_read_carelessly() {
    /// Forgets the arguments by name, and who doesn't want rows.
    fn careless(text: &str, version: Version) -> Result<Pipeline, ProtocolError> {
        let mut read = hrana::gate(text, version)?;
        for request in &mut read.requests {
            if let Request::Execute(stmt) = request {
                stmt.args.named.clear();
                stmt.want_rows = true;
            }
        }
        Ok(read)
    }
    for stmt in [
        r#"{"sql":"SELECT :a","named_args":[{"name":"a","value":{"type":"null"}}]}"#,
        r#"{"sql":"SELECT 1","want_rows":false}"#,
    ] {
        let body = format!(r#"{{"requests":[{{"type":"execute","stmt":{stmt}}}]}}"#);
        seen(hrana::check(body.as_bytes()), hrana::agrees(careless, body.as_bytes()));
    }
}

#[test]
fn batons_that_are_taken_from_anybody() {
    fn careless(streams: &Streams, baton: &str, _: Option<&str>) -> Result<Stream, crate::problem::Problem> {
        let by = |name: Option<&str>| streams.take(baton, name);
        by(None).or_else(|_| by(Some("anna"))).or_else(|_| by(Some("bert")))
    }
    // Anna begins, bert goes on.
    let steps = [0, 0x10, 0, 0x22, 0];
    seen(batons::check(&steps), batons::agrees(careless, &steps));
}

#[test]
fn configurations_that_are_read_carelessly() {
    fn nowhere(path: &std::path::Path, text: &str) -> Result<Config, ConfigError> {
        let whole = |error: ConfigError| ConfigError { place: Place::Whole(path.to_owned()), ..error };
        file::parse(path, text).map_err(whole)
    }
    fn twice(path: &std::path::Path, text: &str) -> Result<Config, ConfigError> {
        let mut config = file::parse(path, text)?;
        let again = config.resources.iter().cloned().map(|mut resource| {
            (resource.name, resource.path) = ("other".into(), "/other".into());
            resource
        });
        config.resources = config.resources.iter().cloned().chain(again).collect();
        Ok(config)
    }
    fn crowded(path: &std::path::Path, text: &str) -> Result<Config, ConfigError> {
        let mut config = file::parse(path, text)?;
        for resource in &mut config.resources {
            let KindConfig::Sqlite(sqlite) = &mut resource.kind else { continue };
            let tables = (0..100).map(|number| crate::resource::sqlite::TableFence {
                pattern: format!("t{number}"),
                fence: format!("f{number}").parse().expect("a name"),
            });
            sqlite.tables.extend(tables);
        }
        Ok(config)
    }
    let wrong = b"[[resource]]\nname = \"a b\"\nkind = \"sqlite\"\nfile = \"a.db\"\n";
    seen(config::check(wrong), config::agrees(nowhere, wrong));
    let right = b"[[resource]]\nname = \"a\"\nkind = \"sqlite\"\nfile = \"a.db\"\n";
    seen(config::check(right), config::agrees(twice, right));
    seen(config::check(right), config::agrees(crowded, right));
}

#[test]
fn sql_with_the_check_off() {
    let mut world = sql::World::open(false).unwrap();
    // A stale token, each line by itself: a write, and one that is hidden in a script.
    for input in [&b"11INSERT INTO t (v) VALUES ('z')"[..], b"14SELECT 1; DROP TABLE flat"] {
        let mut gate = sql::World::open(true).unwrap();
        seen(gate.holds(input), world.holds(input));
    }
}

/// Not even with the check off a write without its token goes through: so here it gets to the database by another way.
#[test]
fn sql_that_nobody_may_run() {
    fn runs(file: &std::path::Path, sql: &str) -> Checked {
        let past = || rusqlite::Connection::open(file)?.execute_batch(sql);
        past().map_err(|error| error.to_string())
    }
    let mut gate = sql::World::open(true).unwrap();
    // No token; that of another fence; a leader that was deposed in its transaction.
    for input in [
        &b"01INSERT INTO t (v) VALUES ('z')"[..],
        b"51INSERT INTO bill VALUES (9, 'q')",
        b"51UPDATE fencegate_marks SET token = 1",
        b"61INSERT INTO t (v) VALUES ('q')",
    ] {
        seen(gate.holds(input), gate.holds_where(input, &runs));
    }
    // What it may write is no damage.
    assert_eq!(gate.holds_where(b"51DELETE FROM flat", &runs), Ok(()));
}

#[test]
fn answers_that_are_read_carelessly() {
    /// Believes a length, wherever it stands, and whatever stands beside it.
    fn careless(pieces: &[&[u8]], _: bool, _: &mut Kept) -> Result<answers::Answer, Broken> {
        let text = String::from_utf8_lossy(&pieces.concat()).to_lowercase();
        let (head, rest) = text.split_once("\r\n\r\n").ok_or(Broken::Incomplete)?;
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let length: usize = length.unwrap_or(rest.len());
        let body = rest.as_bytes().get(..length).ok_or(Broken::Incomplete)?.to_vec();
        let left = rest.len() - length;
        Ok(answers::Answer { status: 200, headers: Vec::new(), body, trailers: Vec::new(), left, is_reusable: true })
    }
    for head in ["content-length: 3\r\ntransfer-encoding: chunked", "content-length: 3\r\ncontent-length: 4", "x: y"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n1\r\nx\r\n0\r\n\r\n");
        seen(answers::check(answer.as_bytes()), answers::agrees(careless, answer.as_bytes()));
    }
}

#[test]
fn requests_that_are_passed_on_carelessly() {
    /// As they came.
    fn untouched(_: &mut Call, _: Seen) -> bool {
        true
    }
    /// Not looked at before.
    fn unchecked(call: &mut Call, seen: Seen) -> bool {
        head::forward(call, seen, None);
        call.headers.append("content-length", HeaderValue::from_static("1"));
        true
    }
    let request = |lines: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: gate\r\n{lines}\r\n\r\n{body}");
    for (careless, request) in [
        (untouched as requests::Passes, request("fencing-token: 7\r\ncontent-length: 0", "")),
        (untouched, request("transfer-encoding: chunked", "1\r\nx\r\n0\r\n\r\n")),
        (unchecked, request("content-length: 5", "hello")),
    ] {
        seen(requests::check(request.as_bytes()), requests::agrees(careless, request.as_bytes()));
    }
}

#[test]
fn texts_that_are_written_carelessly() {
    fn careless(out: &mut Vec<u8>, text: &str) {
        out.extend_from_slice(format!("\"{text}\"").as_bytes());
    }
    for text in ["a\"b", "a\\", "a\nb", "\u{1}"] {
        seen(json::check(text.as_bytes()), json::agrees(careless, text.as_bytes()));
    }
}

#[test]
fn connections_that_are_read_carelessly() {
    /// The request that this begins with, read line by line, with the last length that is given and without a look at anything else.
    fn first(bytes: &[u8]) -> Option<(hyper::Request<Bytes>, usize)> {
        let end = bytes.windows(2).position(|two| two == b"\n\n" || two == b"\n\r")?;
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let end = end + if bytes[end + 1] == b'\r' { 3 } else { 2 };
        let mut lines = text.lines();
        let mut words = lines.next()?.split_whitespace();
        let mut request = hyper::Request::builder().method(words.next()?).uri(words.next()?);
        let mut length = 0;
        for line in lines {
            let (name, value) = line.split_once(':')?;
            if name.trim().eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
            request = request.header(name.trim(), value.trim());
        }
        let body = Bytes::copy_from_slice(bytes.get(end..end + length)?);
        Some((request.body(body).ok()?, end + length))
    }
    fn careless(mut stream: DuplexStream, asked: plain::Asked) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let (mut bytes, mut at) = (Vec::new(), 0);
            let _ = stream.read_to_end(&mut bytes).await;
            while let Some((request, len)) = first(&bytes[at..]) {
                at += len;
                let _ = plain::answer(Arc::clone(&asked), request.map(Received::whole)).await;
            }
        })
    }
    let then = "GET /b HTTP/1.1\r\nHost: x\r\n\r\n";
    for input in [
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 3\r\n\r\nhello",
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc",
        "GET /a HTTP/1.1\r\nHost: x\r\nA: b\r\n c: d\r\n\r\n",
        "GET /c HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let input = format!("\u{7f}{input}{then}");
        let wrong = plain::agrees(careless, input.as_bytes());
        assert!(wrong.as_ref().is_err_and(|why| why.contains("was asked, and to hyper")), "{wrong:?}");
        seen(plain::check(input.as_bytes()), wrong);
    }
}
