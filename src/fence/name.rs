//! Names of fences and of holders.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest fence or holder name, in bytes.
pub const NAME_LEN_MAX: usize = 255;

/// Why a text is no fence or holder name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name has 1 to 255 bytes; this one is empty")]
    Empty,
    /// More than 255 bytes.
    #[error("a name has 1 to 255 bytes; this one has {0}")]
    TooLong(usize),
    /// A byte that a fence name can't have.
    #[error("a fence name has only A-Z a-z 0-9 . _ : @ / and -")]
    FenceBytes,
    /// A byte that a holder name can't have.
    #[error("a holder name has only printable ASCII characters")]
    HolderBytes,
}

fn checked(text: &str, allowed: fn(u8) -> bool, otherwise: NameError) -> Result<Arc<str>, NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        len if len > NAME_LEN_MAX => Err(NameError::TooLong(len)),
        _ if !text.bytes().all(allowed) => Err(otherwise),
        _ => Ok(Arc::from(text)),
    }
}

/// Whether a fence name can have this byte: `A-Z a-z 0-9 . _ : @ / -`.
pub fn is_fence_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'@' | b'/' | b'-')
}

/// The name under which one line of leaders writes: 1-255 bytes of `A-Z a-z 0-9 . _ : @ / -`. Case matters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceName(Arc<str>);

/// The leader's own name for itself: 1-255 printable ASCII bytes (0x20 to 0x7e).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(Arc<str>);

macro_rules! name {
    ($type:ident, $allowed:expr, $error:expr) => {
        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<$type, NameError> {
                checked(text, $allowed, $error).map($type)
            }
        }

        impl std::ops::Deref for $type {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(FenceName, is_fence_byte, NameError::FenceBytes);
name!(Holder, |byte| matches!(byte, 0x20..=0x7e), NameError::HolderBytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fence_names_are_kept_to_their_alphabet() {
        assert!("stock/7:a@b_c-D.e".parse::<FenceName>().is_ok());
        for bad in ["a b", "a\n", "ä", "a=b", "a,b", "a%2f", "<b>", "a\0"] {
            assert_eq!(bad.parse::<FenceName>(), Err(NameError::FenceBytes), "{bad:?}");
        }
        assert_eq!("".parse::<FenceName>(), Err(NameError::Empty));
        assert!("x".repeat(255).parse::<FenceName>().is_ok());
        assert_eq!("x".repeat(256).parse::<FenceName>(), Err(NameError::TooLong(256)));
    }

    #[test]
    fn holders_are_printable() {
        assert!("pod-7 (blue) <b>".parse::<Holder>().is_ok());
        for bad in ["a\tb", "a\u{7f}", "é"] {
            assert_eq!(bad.parse::<Holder>(), Err(NameError::HolderBytes), "{bad:?}");
        }
    }
}
