//! Paths and the fences that are named after them.
//!
//! The lines of the input: a fence's template, after a `~` where the upstream takes `A` and `a` for the same path; a path; and perhaps
//! another path, to be compared with it.

use std::hash::{DefaultHasher, Hash, Hasher};

use hyper::Method;
use hyper::http::uri::PathAndQuery;

use crate::resource::http::path::NormalPath;
use crate::resource::http::template::Yielded;
use crate::resource::http::{Rules, Template};

use super::{Checked, hold};

mod upstreams;

use upstreams::UPSTREAMS;

/// What is made of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// What is forwarded.
    pub forwarded: String,
    /// The fence.
    pub fence: Fence,
}

/// The fence of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// This one.
    Name(String),
    /// It ends above the segments that names are made of.
    Above,
    /// None can be named after it.
    Refused,
}

/// A way to read paths: nothing for one that is refused.
pub type Reads = fn(&Template, &str) -> Option<Made>;

/// As the gate does.
pub fn gate(template: &Template, path: &str) -> Option<Made> {
    let normal = NormalPath::parse(path).ok()?;
    let fence = match template.fence(&normal) {
        Ok(Yielded::Name(name)) => Fence::Name(name.to_string()),
        Ok(Yielded::Above) => Fence::Above,
        Err(_) => Fence::Refused,
    };
    Some(Made { forwarded: normal.as_str().to_owned(), fence })
}

/// The template, and the paths of an input.
fn read(input: &[u8]) -> Option<(Template, Vec<String>)> {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let first = lines.next()?;
    let (text, lower) = first.strip_prefix('~').map_or((first, false), |text| (text, true));
    let template = Template::parse_with(text, lower).ok()?;
    Some((template, lines.take(2).map(str::to_owned).collect()))
}

/// Whatever an upstream makes of what is forwarded, it is of the fence that was judged; what is forwarded has one meaning; and
/// all spellings of a path come to the same.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(reads: Reads, input: &[u8]) -> Checked {
    let Some((template, paths)) = read(input) else { return Ok(()) };
    let mut all = Vec::new();
    for path in &paths {
        let made = reads(&template, path);
        for seed in 0..4 {
            let other = spelling(path, seed);
            let same = reads(&template, &other);
            hold!(made == same, "{path:?} is {made:?}, and written as {other:?} it is {same:?}");
        }
        let Some(made) = made else { continue };
        has_one_meaning(&made.forwarded)?;
        let again = reads(&template, &made.forwarded);
        hold!(again.as_ref() == Some(&made), "{path:?} is {made:?}, and that is {again:?}");
        for upstream in UPSTREAMS {
            let segments = (upstream.reads)(&made.forwarded);
            let named = name_of(&template, &segments);
            let is_same = match &made.fence {
                Fence::Name(name) => named.as_ref() == Some(name),
                Fence::Above => named.is_none(),
                // Nothing that has a fence goes there.
                Fence::Refused => true,
            };
            let who = upstream.name;
            hold!(is_same, "{path:?} of {template} is {made:?}; one that {who} reads {segments:?}, of {named:?}");
        }
        all.push(made);
    }
    if let [one, other] = &all[..] {
        for upstream in UPSTREAMS {
            let is_same = (upstream.reads)(&one.forwarded) == (upstream.reads)(&other.forwarded);
            let who = upstream.name;
            // Nothing is written where no fence can be named.
            let is_told = one.fence == other.fence || [&one.fence, &other.fence].contains(&&Fence::Refused);
            hold!(!is_same || is_told, "{one:?} and {other:?} are the same to one that {who}");
        }
    }
    Ok(())
}

/// What the segments that an upstream sees are to be called after the template's text: by itself, not by the template's code.
fn name_of(template: &Template, segments: &[Vec<u8>]) -> Option<String> {
    let mut name = String::new();
    let mut rest = template.as_str();
    let mut parts = Vec::new();
    while let Some((fixed, after)) = rest.split_once('{') {
        let (number, after) = after.split_once('}')?;
        parts.push((fixed, number.parse::<usize>().ok()? - 1));
        rest = after;
    }
    for (fixed, index) in &parts {
        let segment = segments.get(*index).filter(|segment| !segment.is_empty())?;
        let segment = upstreams::percent_decoded(segment);
        let segment = if template.is_lower() { segment.to_ascii_lowercase() } else { segment };
        name.push_str(fixed);
        name.push_str(&String::from_utf8_lossy(&segment));
    }
    name.push_str(rest);
    Some(name)
}

/// What is forwarded is the path of a URI, all of it, and no segment of it is `.` or `..` to anybody.
fn has_one_meaning(forwarded: &str) -> Checked {
    let uri: Result<PathAndQuery, _> = forwarded.parse();
    let path = uri.as_ref().ok().map(|uri| (uri.path(), uri.query()));
    hold!(path == Some((forwarded, None)), "{forwarded:?} is forwarded, and as a URI it is {path:?}");
    hold!(forwarded.starts_with('/') && !forwarded.contains("//"), "{forwarded:?} is forwarded");
    for upstream in UPSTREAMS {
        let segments = (upstream.splits)(forwarded);
        let is_up = segments.iter().any(|segment| matches!(&segment[..], b"." | b".."));
        hold!(!is_up, "{forwarded:?} is forwarded: one that {} reads {segments:?}", upstream.name);
    }
    Ok(())
}

/// Another spelling of a path: some of its letters as escapes, or escapes in other letters.
fn spelling(path: &str, seed: u64) -> String {
    let mut hasher = DefaultHasher::new();
    (path, seed).hash(&mut hasher);
    let mut dice = hasher.finish();
    let mut other = String::new();
    let mut rest = path.char_indices();
    while let Some((at, c)) = rest.next() {
        dice = dice.rotate_left(7) ^ 0x9e37_79b9_7f4a_7c15;
        let wants = dice.count_ones().is_multiple_of(3);
        match c {
            '%' => {
                let escape = path.get(at + 1..at + 3).filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
                let Some(escape) = escape else {
                    // It is refused, whatever comes behind it.
                    other.push_str(&path[at..]);
                    return other;
                };
                other.push('%');
                other.push_str(&if wants { escape.to_ascii_lowercase() } else { escape.to_ascii_uppercase() });
                rest.nth(1);
            }
            // RFC 3986, section 2.3: the same with and without an escape.
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~' if wants => {
                other.push_str(&format!("%{:02x}", u32::from(c)));
            }
            _ => other.push(c),
        }
    }
    other
}

/// The properties of paths, templates and rules.
///
/// # Errors
/// How they don't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(gate, input)?;
    let Some((template, paths)) = read(input) else { return Ok(()) };
    for path in &paths {
        is_owned(&template, path)?;
        is_read_or_write_in_any_spelling(path)?;
    }
    Ok(())
}

/// A name that a path yields is one of the template's, and can be taken apart again.
fn is_owned(template: &Template, path: &str) -> Checked {
    let Some(Made { fence: Fence::Name(name), .. }) = gate(template, path) else { return Ok(()) };
    hold!(template.owns(&name), "{template} yields {name:?}, and doesn't own it");
    let fixed = Template::parse(&name).map_err(|why| format!("{name:?} is no fence: {why}"))?;
    hold!(template.overlaps(&fixed) && fixed.overlaps(template), "{template} and {name} don't meet");
    if template.is_unambiguous() {
        let apart = template.apart(&name);
        let together = apart.as_ref().and_then(|apart| template.together(apart)).map(|name| name.to_string());
        hold!(together.as_ref() == Some(&name), "{template}: {name:?} is apart {apart:?}, and together {together:?}");
    }
    Ok(())
}

/// Whether a request is a write doesn't depend on how its path is spelled.
fn is_read_or_write_in_any_spelling(path: &str) -> Checked {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let reads = texts(&["POST /search", "POST /a/*", "PROPFIND /**"]);
    let rules = Rules::parse(&reads, &texts(&["GET /run", "* /admin/**", "GET /a/*/b"]))?;
    for seed in 0..2 {
        let other = spelling(path, seed);
        let (Ok(one), Ok(two)) = (NormalPath::parse(path), NormalPath::parse(&other)) else { continue };
        for method in [Method::GET, Method::POST] {
            let is_write = |path| rules.is_write(&method, path, None, false, false);
            hold!(is_write(&one) == is_write(&two), "{method} {path:?} and {other:?} aren't both writes, or reads");
            let folded = rules.is_write(&method, &one, None, false, true);
            hold!(
                method == Method::POST || folded || !is_write(&one),
                "{method} {path:?}: a read where case is folded"
            );
        }
    }
    Ok(())
}
