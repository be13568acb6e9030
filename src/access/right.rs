//! Rights, and where they are granted.

use std::str::FromStr;

/// Something that one may do on a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// See the mark, the history and the numbers, but no data.
    Observe,
    /// Read data.
    Read,
    /// Present a token, and so raise the mark; stand for election.
    Claim,
    /// Write with a token, which claims, too.
    Write,
    /// Reset a mark, end a quarantine.
    Operate,
}

impl Right {
    /// All of them.
    pub const ALL: [Right; 5] = [Right::Observe, Right::Read, Right::Claim, Right::Write, Right::Operate];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Right::Observe => "observe",
            Right::Read => "read",
            Right::Claim => "claim",
            Right::Write => "write",
            Right::Operate => "operate",
        }
    }

    /// This right and those that it brings with it. All see the mark. Who writes claims: the first write with a higher token raises
    /// the mark, so that a right to write without one to claim could not be told from this one.
    fn closure(self) -> u8 {
        let own = 1 << self as u8;
        own | match self {
            Right::Observe => 0,
            Right::Write => Right::Claim.closure(),
            Right::Read | Right::Claim | Right::Operate => Right::Observe.closure(),
        }
    }
}

impl FromStr for Right {
    type Err = String;
    fn from_str(text: &str) -> Result<Right, String> {
        Right::ALL.into_iter().find(|right| right.as_str() == text).ok_or_else(|| {
            let all = Right::ALL.map(Right::as_str).join(", ");
            format!("there is no right {text:?}; there are {all}")
        })
    }
}

/// Several rights, with those that they bring with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Whether this one is among them.
    pub fn has(self, right: Right) -> bool {
        self.0 & (1 << right as u8) != 0
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Rights {
        Rights(rights.into_iter().fold(0, |all, right| all | right.closure()))
    }
}

/// Names, by one of them, or by a pattern with `*` for any run of characters, slashes among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Reads one. Any text but the empty one is a pattern.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        match text {
            "" => Err("an empty pattern fits nothing; * fits every name".to_owned()),
            _ => Ok(Pattern(text.to_owned())),
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it fits every name.
    pub fn is_all(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether it fits this name.
    pub fn fits(&self, name: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut left) = name.strip_prefix(start) else { return false };
        // What stands between two stars is taken where it comes first: that leaves the most for what comes after it.
        let mut pieces = rest.split('*').peekable();
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                return left.ends_with(piece);
            }
            let Some(at) = left.find(piece) else { return false };
            left = &left[at + piece.len()..];
        }
        true
    }
}

/// Rights on the fences of resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Which resources.
    pub resource: Pattern,
    /// Which of their fences.
    pub fence: Pattern,
    /// What may be done there.
    pub rights: Rights,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let fits = |pattern: &str, name: &str| Pattern::parse(pattern).unwrap().fits(name);
        for (pattern, name) in [
            ("orders", "orders"),
            ("*", "anything/at:all"),
            ("*", ""),
            ("stock/*", "stock/"),
            ("stock/*", "stock/7/8"),
            ("*-eu", "orders-eu"),
            ("a*b*c", "abbc"),
            ("a*b*c", "a-b-b-c"),
            ("*a*", "bab"),
            ("**", "x"),
            ("a*ab", "aab"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("orders", "orders2"),
            ("orders", "Orders"),
            ("stock/*", "stock"),
            ("stock/*", "stocks/7"),
            ("*-eu", "orders-eu2"),
            ("a*b*c", "acb"),
            ("a*a", "a"),
            ("ab*ba", "aba"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        assert!(Pattern::parse("").is_err());
    }

    #[test]
    fn what_rights_bring_with_them() {
        let of = |right: Right| {
            let rights: Rights = [right].into_iter().collect();
            Right::ALL.into_iter().filter(|other| rights.has(*other)).collect::<Vec<_>>()
        };
        assert_eq!(of(Right::Observe), [Right::Observe]);
        assert_eq!(of(Right::Read), [Right::Observe, Right::Read]);
        assert_eq!(of(Right::Claim), [Right::Observe, Right::Claim]);
        assert_eq!(of(Right::Write), [Right::Observe, Right::Claim, Right::Write]);
        assert_eq!(of(Right::Operate), [Right::Observe, Right::Operate]);
        for right in Right::ALL {
            assert_eq!(right.as_str().parse(), Ok(right));
        }
        assert!("all".parse::<Right>().unwrap_err().contains("observe, read, claim, write, operate"));
    }
}
