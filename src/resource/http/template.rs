//! The name of a fence, made from the path: `inventory`, `stock/{1}`, `{1}/{2}`.

use std::borrow::Cow;

use crate::fence::name::{NAME_LEN_MAX, is_fence_byte};
use crate::fence::{FenceName, NameError};
use crate::problem::{Kind, Problem};

use super::path::NormalPath;

/// The highest number of a segment that a template can name.
const SEGMENT_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// A byte as it is.
    Byte(u8),
    /// The segment of this index, counted from 0: one or more bytes that a fence name can have, but no slash.
    Segment(usize),
}

/// How a fence's name is made from the path below the mount point.
///
/// `{n}` is the n-th segment. Two templates of one gate that could yield one name ([`Template::overlaps`]) would let two resources
/// keep separate marks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    /// How many segments a path needs.
    depth: usize,
    /// Whether names are made from lower-cased segments.
    lower: bool,
    /// The name itself, where it doesn't depend on the path.
    fixed: Option<FenceName>,
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a path yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Yielded {
    /// A fence's name.
    Name(FenceName),
    /// The path ends above the segments that the name is made of: what it names belongs to no one fence.
    Above,
}

impl Template {
    /// Reads a template, for an upstream to which `A` and `a` are different paths.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Template, String> {
        Template::parse_with(text, false)
    }

    /// The same; `lower`: for an upstream to which `A` and `a` are the same path. Names are then made from lower-cased segments,
    /// so that all spellings of a path are of one fence.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_with(text: &str, lower: bool) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(byte) = rest.bytes().next() {
            if byte != b'{' {
                if !is_fence_byte(byte) {
                    return Err(format!("{text:?}: {}; {{n}} is the n-th segment of the path", NameError::FenceBytes));
                }
                parts.push(Part::Byte(byte));
                rest = &rest[1..];
                continue;
            }
            let (number, after) = rest[1..].split_once('}').ok_or_else(|| format!("{text:?}: a {{ without its }}"))?;
            let index = number.parse().ok().filter(|number| (1..=SEGMENT_MAX).contains(number));
            let Some(index) = index.filter(|_| number.bytes().all(|byte| byte.is_ascii_digit())) else {
                return Err(format!("{text:?}: {{{number}}} is not the number of a segment, from 1 to {SEGMENT_MAX}"));
            };
            if matches!(parts.last(), Some(Part::Segment(_))) {
                return Err(format!("{text:?}: two segments with nothing between them"));
            }
            let part = Part::Segment(index - 1);
            if parts.contains(&part) {
                return Err(format!("{text:?}: {{{index}}} stands twice"));
            }
            parts.push(part);
            rest = after;
        }
        let depth = parts.iter().map(|part| if let Part::Segment(index) = part { index + 1 } else { 0 }).max();
        let depth = depth.ok_or_else(|| NameError::Empty.to_string())?;
        let fixed = if depth == 0 { Some(text.parse::<FenceName>().map_err(|error| error.to_string())?) } else { None };
        if parts.len() > NAME_LEN_MAX {
            return Err(NameError::TooLong(parts.len()).to_string());
        }
        Ok(Template { text: text.to_owned(), parts, depth, lower, fixed })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name, where all paths have the same.
    pub fn fixed(&self) -> Option<&FenceName> {
        self.fixed.as_ref()
    }

    /// The numbers of the segments that a name is made of, counted from 1, in rising order.
    pub fn segments(&self) -> Vec<usize> {
        let number = |part: &Part| if let Part::Segment(index) = part { Some(index + 1) } else { None };
        let mut numbers: Vec<usize> = self.parts.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The text that every name begins with.
    pub fn prefix(&self) -> &str {
        self.text.split('{').next().unwrap_or_default()
    }

    /// Whether each name can be taken apart in one way only ([`Template::apart`]). Segments have no slash in them, so it can
    /// where there is one between any two of them.
    pub fn is_unambiguous(&self) -> bool {
        let mut has_open = false;
        self.parts.iter().all(|part| match part {
            Part::Byte(b'/') => {
                has_open = false;
                true
            }
            Part::Byte(_) => true,
            Part::Segment(_) => !std::mem::replace(&mut has_open, true),
        })
    }

    /// Takes a name apart: the segments that it was made of, each with its number as in [`Template::segments`]. `None` for a
    /// name that no path yields. Only for templates that are unambiguous.
    pub fn apart<'a>(&self, name: &'a str) -> Option<Vec<(usize, &'a str)>> {
        if !self.owns(name) {
            return None;
        }
        let (mut taken, mut at) = (Vec::new(), 0);
        for (place, part) in self.parts.iter().enumerate() {
            let Part::Segment(index) = part else {
                at += 1;
                continue;
            };
            // It ends where the bytes behind it begin that stand before the next slash, or the name's end.
            let behind = self.parts[place + 1..].iter().take_while(|part| **part != Part::Byte(b'/')).count();
            let piece = name[at..].find('/').map_or(name.len(), |slash| at + slash);
            let end = piece.checked_sub(behind).filter(|end| at < *end)?;
            taken.push((index + 1, &name[at..end]));
            at = end;
        }
        Some(taken)
    }

    /// The name that is made of these segments; `None` where there can be none.
    pub fn together(&self, segments: &[(usize, &str)]) -> Option<FenceName> {
        let mut name = String::with_capacity(self.parts.len() + 32);
        for part in &self.parts {
            match part {
                Part::Byte(byte) => name.push(char::from(*byte)),
                Part::Segment(index) => {
                    name.push_str(segments.iter().find(|(number, _)| *number == index + 1)?.1);
                }
            }
        }
        name.parse().ok()
    }

    /// Whether the upstream takes `A` and `a` for the same path.
    pub fn is_lower(&self) -> bool {
        self.lower
    }

    /// The fence of a path.
    ///
    /// # Errors
    /// [`Kind::AmbiguousPath`] where a segment can be no part of a fence's name.
    pub fn fence(&self, path: &NormalPath) -> Result<Yielded, Problem> {
        if let Some(fixed) = &self.fixed {
            return Ok(Yielded::Name(fixed.clone()));
        }
        let segments: Vec<&str> = path.segments().take(self.depth).collect();
        if segments.len() < self.depth || segments.last().is_some_and(|segment| segment.is_empty()) {
            return Ok(Yielded::Above);
        }
        let mut name = String::with_capacity(self.parts.len() + 32);
        for part in &self.parts {
            match part {
                Part::Byte(byte) => name.push(char::from(*byte)),
                Part::Segment(index) => name.push_str(&self.captured(path, segments[*index])?),
            }
        }
        name.parse().map(Yielded::Name).map_err(|error: NameError| {
            Problem::new(Kind::AmbiguousPath, format!("no fence can be named after this path: {error}"))
        })
    }

    fn captured<'a>(&self, path: &NormalPath, segment: &'a str) -> Result<Cow<'a, str>, Problem> {
        let decoded = path.decoded(segment)?;
        if decoded.ends_with('.') || !decoded.bytes().all(is_fence_byte) {
            let why = format!(
                "the segment {segment:?} of the path can't be part of a fence's name: that has only A-Z a-z 0-9 . _ : @ - and \
                 here no dot at its end"
            );
            return Err(Problem::new(Kind::AmbiguousPath, why));
        }
        if self.lower && decoded.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Ok(decoded.to_ascii_lowercase().into());
        }
        Ok(decoded)
    }

    /// Whether some path yields this name.
    pub fn owns(&self, name: &str) -> bool {
        if let Some(fixed) = &self.fixed {
            return fixed.as_str() == name;
        }
        if name.len() > NAME_LEN_MAX {
            return false;
        }
        let name = name.as_bytes();
        // For each end of what the parts so far can have taken: whether it can be reached.
        let mut ends = vec![false; name.len() + 1];
        ends[0] = true;
        for part in &self.parts {
            let mut next = vec![false; name.len() + 1];
            for start in (0..=name.len()).filter(|start| ends[*start]) {
                match part {
                    Part::Byte(byte) if name.get(start) == Some(byte) => next[start + 1] = true,
                    Part::Byte(_) => {}
                    Part::Segment(_) => {
                        let longest = name[start..].iter().take_while(|byte| self.captures(**byte)).count();
                        // A segment with a dot at its end is refused, and with that one of only dots.
                        let ends = (start + 1..=start + longest).filter(|end| name[end - 1] != b'.');
                        ends.for_each(|end| next[end] = true);
                    }
                }
            }
            ends = next;
        }
        ends[name.len()]
    }

    fn captures(&self, byte: u8) -> bool {
        is_fence_byte(byte) && byte != b'/' && !(self.lower && byte.is_ascii_uppercase())
    }

    /// Whether some name may be yielded by both. Never false where it is; in odd cases true where it isn't.
    pub fn overlaps(&self, other: &Template) -> bool {
        let (rows, columns) = (self.parts.len() + 1, other.parts.len() + 1);
        // A walk over both at once: where each stands after the same bytes. A segment is left when its next byte is none of its own.
        let mut seen = vec![false; rows * columns];
        let mut open = vec![(0, 0)];
        while let Some((row, column)) = open.pop() {
            if std::mem::replace(&mut seen[row * columns + column], true) {
                continue;
            }
            let (Some(one), Some(two)) = (self.parts.get(row), other.parts.get(column)) else { continue };
            let meet = match (one, two) {
                (Part::Byte(one), Part::Byte(two)) => one == two,
                (Part::Byte(byte), Part::Segment(_)) => other.captures(*byte),
                (Part::Segment(_), Part::Byte(byte)) => self.captures(*byte),
                (Part::Segment(_), Part::Segment(_)) => true,
            };
            if !meet {
                continue;
            }
            // A segment can take this byte and stay, or take it as its last one.
            open.push((row + 1, column + 1));
            if matches!(one, Part::Segment(_)) {
                open.push((row, column + 1));
            }
            if matches!(two, Part::Segment(_)) {
                open.push((row + 1, column));
            }
        }
        seen[rows * columns - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    fn fence(template: &Template, path: &str) -> Option<String> {
        match template.fence(&NormalPath::parse(path).ok()?).ok()? {
            Yielded::Name(name) => Some(name.to_string()),
            Yielded::Above => Some("above".into()),
        }
    }

    #[test]
    fn names_come_from_the_path() {
        let stock = template("stock/{1}");
        for (path, name) in [
            ("/7", "stock/7"),
            ("/7/", "stock/7"),
            ("/7/x/y", "stock/7"),
            ("/%37", "stock/7"),
            ("/a%3Ab", "stock/a:b"),
            ("/a:b", "stock/a:b"),
            ("/A", "stock/A"),
            ("/", "above"),
        ] {
            assert_eq!(fence(&stock, path).as_deref(), Some(name), "{path}");
        }
        for path in ["/7;x", "/7.", "/7%2e", "/7%20", "/a%20b", "/a%25", "/%C3%A4", "/a+b", "/a~", "/a%3b"] {
            assert_eq!(fence(&stock, path), None, "{path}");
        }
        assert_eq!(fence(&template("{2}:{1}"), "/a/b/c").as_deref(), Some("b:a"));
        assert_eq!(fence(&template("{2}"), "/a/").as_deref(), Some("above"));
        assert_eq!(fence(&template("inventory"), "/a;b/c%20d").as_deref(), Some("inventory"));
        let lower = Template::parse_with("Stock/{1}", true).unwrap();
        assert_eq!(fence(&lower, "/aBc").as_deref(), Some("Stock/abc"));
        assert_eq!(fence(&stock, &format!("/{}", "a".repeat(250))), None, "longer than a name can be");
    }

    #[test]
    fn templates_that_are_none() {
        for text in ["", "a b", "{", "{1", "{0}", "{x}", "{+1}", "{33}", "{1}{2}", "{1}/{1}", "a}", "stock/{}"] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
        assert!(Template::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn whose_a_name_is() {
        let stock = template("stock/{1}");
        for (name, is_own) in [
            ("stock/7", true),
            ("stock/", false),
            ("stock/7/8", false),
            ("stock/7.", false),
            ("stock", false),
            ("x", false),
        ] {
            assert_eq!(stock.owns(name), is_own, "{name}");
        }
        assert!(template("a:{1}:{2}").owns("a:b:c:d"));
        assert!(!template("a:{1}:{2}").owns("a:b"));
        assert!(template("inventory").owns("inventory"));
        assert!(!Template::parse_with("{1}", true).unwrap().owns("A"));
    }

    #[test]
    fn which_templates_can_meet() {
        for (one, two, meet) in [
            ("inventory", "inventory", true),
            ("inventory", "stock", false),
            ("{1}", "stock", true),
            ("{1}/{2}", "stock/{1}", true),
            ("{1}", "stock/{1}", false),
            ("a-{1}", "{1}-b", true),
            ("a-{1}", "b-{1}", false),
            ("{1}", "{2}", true),
            ("x{1}", "xy", true),
            ("x{1}", "x", false),
        ] {
            assert_eq!(template(one).overlaps(&template(two)), meet, "{one} {two}");
            assert_eq!(template(two).overlaps(&template(one)), meet, "{two} {one}");
        }
        assert!(!Template::parse_with("{1}", true).unwrap().overlaps(&template("A")));
    }

    #[test]
    fn names_are_taken_apart_in_one_way_or_not_at_all() {
        for (text, is_unambiguous) in [
            ("inventory", true),
            ("stock/{1}", true),
            ("a-{1}-b", true),
            ("{1}/{2}", true),
            ("{2}-/x{1}", true),
            ("{1}:{2}", false),
            ("{1}/a{2}-{3}", false),
        ] {
            assert_eq!(template(text).is_unambiguous(), is_unambiguous, "{text}");
        }
        assert_eq!(template("a-{1}-b").apart("a-x-b-b"), Some(vec![(1, "x-b")]));
        assert_eq!(template("{2}-/x{1}:").apart("a--/xb::"), Some(vec![(2, "a-"), (1, "b:")]));
        assert_eq!(template("stock/{1}").apart("stock/7/8"), None);
        assert_eq!(template("inventory").apart("inventory"), Some(vec![]));
        assert_eq!(template("x/{1}").together(&[(1, "7")]).unwrap().as_str(), "x/7");
        assert_eq!(template("{1}").together(&[]), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_apart_goes_together_again(text in "[a/]{0,2}(\\{1\\})?[b/:.]{0,2}(\\{2\\})?[/c]{0,2}", name in "[abc/:.]{1,8}") {
            if let Ok(template) = Template::parse(&text) && template.is_unambiguous() {
                let apart = template.apart(&name);
                prop_assert_eq!(apart.is_some(), template.owns(&name), "{} {:?}", text, name);
                if let Some(apart) = apart {
                    prop_assert!(apart.iter().all(|(_, segment)| !segment.is_empty() && !segment.contains('/')));
                    let together = template.together(&apart).map(|name| name.to_string());
                    prop_assert_eq!(together, Some(name));
                }
            }
        }

        #[test]
        fn what_a_path_yields_is_owned(text in "[a/]{0,2}(\\{1\\})?[b/:.]{0,2}(\\{2\\})?", path in "(/[abA:.%2]{0,4}){1,3}") {
            if let (Ok(template), Ok(path)) = (Template::parse(&text), NormalPath::parse(&path))
                && let Ok(Yielded::Name(name)) = template.fence(&path) {
                prop_assert!(template.owns(&name), "{} {:?}", text, name);
                prop_assert!(template.overlaps(&Template::parse(&name).unwrap()));
            }
        }
    }
}
