//! The fencing token.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// A fencing token: the leader term that a writer presents. A whole number from 1 to 9223372036854775807.
///
/// The upper bound is `i64::MAX`, so that every token fits the signed 64-bit integers that SQLite, PostgreSQL, etcd
/// revisions and ZooKeeper's czxid use. Tokens compare as numbers.
///
/// ```
/// use fencegate::fence::Token;
/// let old: Token = "5".parse()?;
/// let new: Token = "6".parse()?;
/// assert!(old < new);
/// assert!("06".parse::<Token>().is_err());
/// # Ok::<(), fencegate::fence::TokenError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(NonZeroU64);

/// Why a text or a number is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing where a token should be.
    #[error("a token is missing")]
    Empty,
    /// A character other than `0`-`9`.
    #[error("a token is digits only: no sign, no spaces, no fraction")]
    NotDigits,
    /// A leading zero, the number 0 included.
    #[error("a token starts at 1 and has no leading zero")]
    LeadingZero,
    /// More than 9223372036854775807.
    #[error("a token is at most 9223372036854775807")]
    TooLarge,
}

impl Token {
    /// The lowest token, 1.
    pub const MIN: Token = Token(NonZeroU64::MIN);
    /// The highest token, 9223372036854775807.
    pub const MAX: Token = Token(NonZeroU64::new(i64::MAX as u64).expect("i64::MAX is not zero"));

    /// The token with this number.
    ///
    /// # Errors
    /// [`TokenError::LeadingZero`] for 0, [`TokenError::TooLarge`] above [`Token::MAX`].
    pub fn new(number: u64) -> Result<Token, TokenError> {
        let token = NonZeroU64::new(number).map(Token).ok_or(TokenError::LeadingZero)?;
        if token > Token::MAX { Err(TokenError::TooLarge) } else { Ok(token) }
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The number as the signed integer that databases keep. Never negative, never 0.
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0.get()).expect("a token is at most i64::MAX, checked where it was made")
    }

    /// The number as text, for where a formatter would take longer than all the rest.
    pub fn digits(self) -> Digits {
        Digits::of(self.get())
    }

    /// The next higher token; `None` at [`Token::MAX`].
    pub fn next(self) -> Option<Token> {
        Token::new(self.get() + 1).ok()
    }

    /// Reads a token from the bytes of a header.
    ///
    /// # Errors
    /// Anything but 1 to 19 digits without a leading zero, up to [`Token::MAX`].
    pub fn parse(text: &[u8]) -> Result<Token, TokenError> {
        match text {
            [] => return Err(TokenError::Empty),
            _ if !text.iter().all(u8::is_ascii_digit) => return Err(TokenError::NotDigits),
            [b'0', ..] => return Err(TokenError::LeadingZero),
            _ if text.len() > 19 => return Err(TokenError::TooLarge),
            _ => {}
        }
        Token::new(text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    }
}

/// How many digits a number has at most.
const DIGITS_MAX: usize = 20;

/// A number as text.
#[derive(Debug, Clone, Copy)]
pub struct Digits {
    bytes: [u8; DIGITS_MAX],
    /// Where the text begins; it ends where the bytes do.
    start: usize,
}

impl Digits {
    /// Of this number.
    pub fn of(number: u64) -> Digits {
        let mut digits = Digits { bytes: [b'0'; DIGITS_MAX], start: DIGITS_MAX };
        let mut rest = number;
        while rest > 0 || digits.start == DIGITS_MAX {
            digits.start -= 1;
            digits.bytes[digits.start] = b"0123456789"[(rest % 10) as usize];
            rest /= 10;
        }
        digits
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.start..]).expect("digits are ASCII")
    }
}

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Token, TokenError> {
        Token::parse(text.as_bytes())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.0)
    }
}

/// In JSON a token is a string: JavaScript loses digits past 2^53.
impl serde::Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Token, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_it_is() {
        for number in [0, 9, 10, 1_234_567_890, Token::MAX.get(), u64::MAX] {
            assert_eq!(Digits::of(number).as_str(), number.to_string());
        }
    }

    #[test]
    fn every_form_of_a_number_that_is_no_token_is_refused() {
        for (text, error) in [
            ("", TokenError::Empty),
            ("0", TokenError::LeadingZero),
            ("07", TokenError::LeadingZero),
            ("+7", TokenError::NotDigits),
            ("-7", TokenError::NotDigits),
            ("7 ", TokenError::NotDigits),
            ("7.0", TokenError::NotDigits),
            ("0x7", TokenError::NotDigits),
            ("٧", TokenError::NotDigits),
            ("9223372036854775808", TokenError::TooLarge),
            ("18446744073709551617", TokenError::TooLarge),
            ("99999999999999999999999999", TokenError::TooLarge),
        ] {
            assert_eq!(text.parse::<Token>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_range_ends_where_signed_integers_end() {
        assert_eq!("1".parse(), Ok(Token::MIN));
        assert_eq!("9223372036854775807".parse(), Ok(Token::MAX));
        assert_eq!(Token::MAX.as_i64(), i64::MAX);
        assert_eq!(Token::MAX.next(), None);
    }
}
