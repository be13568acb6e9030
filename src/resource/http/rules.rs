//! What is a write, by method and path.
//!
//! A header that asks for another method makes a request a write. An upstream that takes the method from the query or the body
//! (`_method=DELETE` in a form) does so for `POST`, which is a write unless an entry of `reads` says otherwise.

use hyper::header::HeaderName;
use hyper::{HeaderMap, Method};

use super::path::NormalPath;

/// Headers by which a request asks to be taken for another method than its own. Some frameworks follow them.
const METHOD_OVERRIDES: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// This segment, decoded.
    Is(String),
    /// Any one segment.
    Any,
    /// All that comes.
    Rest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// Nothing for any method.
    method: Option<Method>,
    pieces: Vec<Piece>,
}

/// The rules of a resource: which requests are reads or writes although their method says otherwise.
///
/// An entry is `METHOD PATTERN`: `POST /search`, `GET /trigger/*`, `PROPFIND /**`. The method may be `*`; in the pattern `*` is any
/// one segment and `**`, at its end, any that come. Segments are compared decoded. Where both have an entry for a request, it is
/// a write. An entry of `writes` holds with and without a slash at the path's end, since upstreams often take both for the same;
/// one of `reads` only for what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    reads: Vec<Rule>,
    writes: Vec<Rule>,
}

impl Rules {
    /// Reads the entries.
    ///
    /// # Errors
    /// What is wrong with which entry.
    pub fn parse(reads: &[String], writes: &[String]) -> Result<Rules, String> {
        let all = |entries: &[String]| entries.iter().map(|entry| Rule::parse(entry)).collect::<Result<Vec<_>, _>>();
        Ok(Rules { reads: all(reads)?, writes: all(writes)? })
    }

    /// Whether a request is a write. `acts_as`: what [`overriding`] says of it. `upgrades`: it wants to change to another protocol,
    /// in which anything may be written. `any_case`: the upstream takes `A` and `a` for the same path.
    pub fn is_write(
        &self,
        method: &Method,
        path: &NormalPath,
        acts_as: Option<Option<Method>>,
        upgrades: bool,
        any_case: bool,
    ) -> bool {
        let by_default = !is_safe(method) || upgrades;
        if self.reads.is_empty() && self.writes.is_empty() {
            return by_default || acts_as.is_some();
        }
        let matches = |rules: &[Rule], method: &Method, is_loose: bool| {
            rules.iter().any(|rule| rule.matches(method, path, is_loose, any_case))
        };
        if matches(&self.writes, method, true) {
            return true;
        }
        match acts_as {
            None => by_default && !matches(&self.reads, method, false),
            // It may be carried out as either method: a read only where both are.
            Some(None) => true,
            Some(Some(other)) => {
                matches(&self.writes, &other, true)
                    || !matches(&self.reads, &other, false)
                    || !matches(&self.reads, method, false)
            }
        }
    }
}

/// RFC 9110, section 9.2.1.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// The method that the headers ask for; inside, nothing where they ask for several or for one that is none.
pub fn overriding(headers: &HeaderMap) -> Option<Option<Method>> {
    let mut asked = METHOD_OVERRIDES.into_iter().flat_map(|name| headers.get_all(name));
    let first = asked.next()?;
    Some(if asked.next().is_some() { None } else { Method::from_bytes(first.as_bytes()).ok() })
}

impl Rule {
    fn parse(entry: &str) -> Result<Rule, String> {
        let wrong = |why: &str| format!("{entry:?}: {why}");
        let (method, pattern) = entry.split_once(' ').ok_or_else(|| wrong("a rule is METHOD /PATH"))?;
        let method = match method {
            "*" => None,
            _ => Some(Method::from_bytes(method.as_bytes()).map_err(|_| wrong("no method has such a name"))?),
        };
        if method.as_ref().is_some_and(|method| method.as_str().bytes().any(|byte| byte.is_ascii_lowercase())) {
            return Err(wrong("methods are written in capital letters"));
        }
        let path = NormalPath::parse(pattern.trim_matches(' ')).map_err(|problem| wrong(&problem.detail()))?;
        let mut pieces = Vec::new();
        for segment in path.segments() {
            pieces.push(match segment {
                _ if pieces.last() == Some(&Piece::Rest) => return Err(wrong("nothing can come after **")),
                "*" => Piece::Any,
                "**" => Piece::Rest,
                _ if segment.contains('*') => return Err(wrong("* stands for a whole segment")),
                _ => Piece::Is(path.decoded(segment).map_err(|problem| wrong(&problem.detail()))?.into_owned()),
            });
        }
        Ok(Rule { method, pieces })
    }

    /// `is_loose`: a slash at the end makes no difference.
    fn matches(&self, method: &Method, path: &NormalPath, is_loose: bool, any_case: bool) -> bool {
        if self.method.as_ref().is_some_and(|own| own != method) {
            return false;
        }
        let is_same = |piece: &str, segment: &str| {
            let Ok(segment) = path.decoded(segment) else { return false };
            piece == segment || (any_case && piece.eq_ignore_ascii_case(&segment))
        };
        let mut segments = path.segments().peekable();
        for (number, piece) in self.pieces.iter().enumerate() {
            let is_last = number + 1 == self.pieces.len();
            match (piece, segments.next()) {
                (Piece::Rest, segment) => return is_loose || segment.is_some(),
                (Piece::Is(piece), Some(segment)) if is_same(piece, segment) => {}
                (Piece::Any, Some(segment)) if !segment.is_empty() => {}
                (Piece::Is(piece), None) if is_loose && is_last && piece.is_empty() => return true,
                _ => return false,
            }
        }
        let rest = segments.next();
        rest.is_none() || (is_loose && rest == Some("") && segments.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(reads: &[&str], writes: &[&str]) -> Rules {
        let owned = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
        Rules::parse(&owned(reads), &owned(writes)).unwrap()
    }

    fn ask(rules: &Rules, request: &str, headers: &[(&str, &str)]) -> bool {
        let (method, path) = request.split_once(' ').unwrap();
        let map: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let upgrades = map.contains_key("upgrade");
        rules.is_write(&method.parse().unwrap(), &NormalPath::parse(path).unwrap(), overriding(&map), upgrades, false)
    }

    #[test]
    fn without_rules_the_method_decides() {
        let none = Rules::default();
        for (method, is_write) in [
            ("GET", false),
            ("HEAD", false),
            ("OPTIONS", false),
            ("TRACE", false),
            ("POST", true),
            ("PUT", true),
            ("DELETE", true),
            ("PATCH", true),
            ("PROPFIND", true),
            ("get", true),
        ] {
            assert_eq!(ask(&none, &format!("{method} /a"), &[]), is_write, "{method}");
        }
        assert!(ask(&none, "GET /a", &[("upgrade", "websocket")]));
        assert!(ask(&none, "GET /a", &[("x-http-method-override", "DELETE")]));
        assert!(ask(&none, "GET /a", &[("x-method-override", "GET")]));
    }

    #[test]
    fn rules_say_otherwise() {
        let rules = rules(
            &["POST /search", "PROPFIND /**", "GET /live", "POST /q/*"],
            &["GET /trigger/*", "POST /search/drop", "* /admin/**", "GET /run!now"],
        );
        for (request, is_write) in [
            ("POST /search", false),
            ("POST /%73earch", false),
            ("POST /search/", true),
            ("POST /search/x", true),
            ("POST /Search", true),
            ("POST /q/1", false),
            ("POST /q/", true),
            ("POST /q/1/2", true),
            ("PROPFIND /", false),
            ("PROPFIND /a/b/", false),
            ("PROPFIND /admin/x", true),
            ("GET /trigger/x", true),
            ("GET /trigger/x/", true),
            ("GET /trigger/", false),
            ("GET /trigger/x/y", false),
            ("GET /admin", true),
            ("GET /admin/", true),
            ("GET /admin/a/b", true),
            ("GET /administrator", false),
            ("GET /run!now", true),
            ("GET /run%21now", true),
        ] {
            assert_eq!(ask(&rules, request, &[]), is_write, "{request}");
        }
        assert!(!ask(&rules, "GET /live", &[("upgrade", "websocket")]));
        let over = |value| [("x-http-method-override", value)];
        assert!(ask(&rules, "POST /search", &over("DELETE")));
        assert!(!ask(&rules, "POST /search", &over("POST")));
        assert!(ask(&rules, "POST /search", &over("not a method")));
        let path = NormalPath::parse("/TRIGGER/x").unwrap();
        assert!(rules.is_write(&Method::GET, &path, None, false, true), "an upstream that folds case");
    }

    #[test]
    fn entries_that_are_none() {
        for entry in ["", "/a", "GET", "GET a", "G?T /a", "get /a", "GET /a/../b", "GET /**/a", "GET /a*", "GET //a"] {
            assert!(Rules::parse(&[entry.to_owned()], &[]).is_err(), "{entry:?}");
        }
    }
}
