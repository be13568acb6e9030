//! A second reader of HTTP/1.1, slow, and as strict as RFC 9112 lets one be: where a message's body begins and ends, and what goes on to
//! others. It gives nothing for what it isn't sure of.

use super::Answer;

/// A head: its first line, its headers with names in lower case, and how many bytes it has.
pub type Head = (Vec<u8>, Vec<(String, Vec<u8>)>, usize);

/// Splits a head into its lines: each ends with a line feed, and before it perhaps a carriage return.
pub fn head(bytes: &[u8]) -> Option<Head> {
    let (mut lines, mut at) = (Vec::new(), 0);
    loop {
        let end = at + bytes.get(at..)?.iter().position(|byte| *byte == b'\n')?;
        let line = bytes[at..end].strip_suffix(b"\r").unwrap_or(&bytes[at..end]);
        at = end + 1;
        if line.is_empty() && lines.is_empty() {
            // Empty lines before a message are skipped (RFC 9112, section 2.2).
            continue;
        }
        if line.is_empty() {
            break;
        }
        lines.push(line.to_vec());
    }
    let first = lines.remove(0);
    let headers = lines.iter().map(|line| header(line)).collect::<Option<Vec<_>>>()?;
    Some((first, headers, at))
}

fn header(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = String::from_utf8(line[..colon].to_vec()).ok()?.to_ascii_lowercase();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = &line[colon + 1..];
    let start = value.iter().take_while(|byte| is_blank(byte)).count();
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    (!name.is_empty() && name.chars().all(is_token)).then(|| (name, value[start..end.max(start)].to_vec()))
}

/// The values of a header, each list taken apart at its commas.
fn options(headers: &[(String, Vec<u8>)], name: &str) -> Vec<String> {
    let values = headers.iter().filter(|(other, _)| other == name);
    let texts = values.map(|(_, value)| String::from_utf8_lossy(value).to_ascii_lowercase());
    texts.flat_map(|text| text.split(',').map(|option| option.trim().to_owned()).collect::<Vec<_>>()).collect()
}

fn is_number(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(u8::is_ascii_digit)
}

/// How a body is framed.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// It has so many bytes.
    Length(usize),
    /// It comes in chunks.
    Chunks,
    /// Nothing says so.
    Unsaid,
}

/// What the headers say; nothing where they contradict each other. `both`: whether a length beside chunks is only left aside.
pub fn framing(headers: &[(String, Vec<u8>)], both: bool) -> Option<Framing> {
    let of = |name: &str| headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value).collect::<Vec<_>>();
    let (codings, lengths) = (of("transfer-encoding"), of("content-length"));
    if lengths.iter().any(|length| !is_number(length)) || lengths.windows(2).any(|two| !same_number(two[0], two[1])) {
        return None;
    }
    match (&codings[..], &lengths[..]) {
        ([], []) => Some(Framing::Unsaid),
        ([], [length, ..]) => String::from_utf8_lossy(length).parse().ok().map(Framing::Length),
        ([coding], lengths) if coding.eq_ignore_ascii_case(b"chunked") && (both || lengths.is_empty()) => {
            Some(Framing::Chunks)
        }
        _ => None,
    }
}

fn same_number(one: &[u8], other: &[u8]) -> bool {
    let bare = |text: &[u8]| text.iter().skip_while(|digit| **digit == b'0').copied().collect::<Vec<_>>();
    bare(one) == bare(other)
}

/// A body of chunks: itself, its trailers, and how many bytes it took.
pub type Chunks = (Vec<u8>, Vec<(String, Vec<u8>)>, usize);

/// Reads chunks and trailers. Nothing where they don't end.
pub fn chunks(bytes: &[u8]) -> Option<Chunks> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = bytes.get(at..)?;
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let size = line.split(';').next().unwrap_or_default().trim_end();
        if size.is_empty() || size.len() > 16 || !size.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(size, 16).ok()?;
        at += end + 2;
        if size == 0 {
            break;
        }
        let end = at.checked_add(size)?;
        body.extend_from_slice(bytes.get(at..end)?);
        if bytes.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        at = end + 2;
    }
    // As a head, of which nothing but headers are left.
    let mut trailers = Vec::new();
    loop {
        let end = at + bytes.get(at..)?.iter().position(|byte| *byte == b'\n')?;
        let line = bytes[at..end].strip_suffix(b"\r").unwrap_or(&bytes[at..end]);
        at = end + 1;
        if line.is_empty() {
            break;
        }
        trailers.push(header(line)?);
    }
    trailers.sort_by(|one, other| one.0.cmp(&other.0));
    Some((body, trailers, at))
}

const ABOUT_THE_CONNECTION: [&str; 9] = [
    "connection",
    "transfer-encoding",
    "upgrade",
    "te",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
];

/// What goes on to others.
fn end_to_end(headers: &[(String, Vec<u8>)], is_chunked: bool) -> Vec<(String, Vec<u8>)> {
    let hops = options(headers, "connection");
    let mut has_length = false;
    let goes_on = |(name, _): &&(String, Vec<u8>)| {
        if name == "content-length" {
            return !is_chunked && !std::mem::replace(&mut has_length, true);
        }
        !ABOUT_THE_CONNECTION.contains(&name.as_str()) && !hops.contains(name)
    };
    let mut all: Vec<_> = headers.iter().filter(goes_on).cloned().collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

/// The answer that this is.
pub fn answer(bytes: &[u8], is_to_head: bool) -> Option<Answer> {
    let (mut first, mut headers, mut at) = head(bytes)?;
    let status = |first: &[u8]| String::from_utf8_lossy(first.get(9..12)?).parse::<u16>().ok();
    while (100..200).contains(&status(&first)?) && status(&first) != Some(101) {
        let (next, of_next, len) = head(&bytes[at..])?;
        (first, headers, at) = (next, of_next, at + len);
    }
    let (status, is_new) = (status(&first)?, first.starts_with(b"HTTP/1.1"));
    let says = options(&headers, "connection");
    let says = |word: &str| says.iter().any(|option| option == word);
    let mut is_reusable = if is_new { !says("close") } else { says("keep-alive") && !says("close") };
    let framing = framing(&headers, true)?;
    let is_chunked = framing == Framing::Chunks;
    is_reusable &= !(is_chunked && headers.iter().any(|(name, _)| name == "content-length"));
    if is_chunked && !is_new {
        return None;
    }
    let rest = &bytes[at..];
    let has_no_body = is_to_head || matches!(status, 101 | 204 | 304);
    let (body, trailers, len) = match framing {
        _ if has_no_body => (Vec::new(), Vec::new(), 0),
        Framing::Length(length) => (rest.get(..length)?.to_vec(), Vec::new(), length),
        Framing::Chunks => chunks(rest)?,
        Framing::Unsaid => {
            is_reusable = false;
            (rest.to_vec(), Vec::new(), rest.len())
        }
    };
    let headers = end_to_end(&headers, is_chunked);
    let left = rest.len() - len;
    Some(Answer { status, headers, body, trailers, left, is_reusable: is_reusable && status != 101 })
}
