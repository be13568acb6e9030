//! Which headers a message has, in one pass.

use hyper::HeaderMap;

/// Which of the headers that matter here a message has. Found in one pass: most messages have few of them, and looking for each
/// would cost more than all the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen(u32);

impl Seen {
    /// One of those that are about the connection, and seldom there.
    pub const SELDOM: Seen = Seen(1);
    /// `Connection`.
    pub const CONNECTION: Seen = Seen(1 << 1);
    /// `Upgrade`.
    pub const UPGRADE: Seen = Seen(1 << 3);
    /// `TE`.
    pub const TE: Seen = Seen(1 << 4);
    /// `Via`.
    pub const VIA: Seen = Seen(1 << 5);
    /// One that some upstreams take for the path.
    pub const PATH_OVERRIDE: Seen = Seen(1 << 6);
    /// One that some upstreams take for the method.
    pub const METHOD_OVERRIDE: Seen = Seen(1 << 7);
    /// `Expect`.
    pub const EXPECT: Seen = Seen(1 << 8);
    /// `Authorization`.
    pub const AUTHORIZATION: Seen = Seen(1 << 9);
    /// One of those that say what was judged, but for the token.
    pub const FENCING: Seen = Seen(1 << 10);
    /// `Fencing-Token`.
    pub const FENCING_TOKEN: Seen = Seen(1 << 15);
    /// `Content-Length`.
    pub const CONTENT_LENGTH: Seen = Seen(1 << 16);
    /// One of those that say what the gate decided.
    pub const VERDICT: Seen = Seen(1 << 11);
    /// One of those that say how the message came.
    pub const FORWARDED: Seen = Seen(1 << 12);
    /// `Keep-Alive`.
    pub const KEEP_ALIVE: Seen = Seen(1 << 14);
    /// `Transfer-Encoding`.
    pub const TRANSFER_ENCODING: Seen = Seen(1 << 2);
    /// One of those that are about the connection, not about the message.
    pub const HOP_BY_HOP: Seen = Seen(
        Seen::SELDOM.0
            | Seen::CONNECTION.0
            | Seen::TRANSFER_ENCODING.0
            | Seen::UPGRADE.0
            | Seen::TE.0
            | Seen::KEEP_ALIVE.0,
    );
    /// `Destination`.
    pub const DESTINATION: Seen = Seen(1 << 13);

    /// Looks.
    pub fn of(headers: &HeaderMap) -> Seen {
        Seen(headers.keys().fold(0, |seen, name| seen | Seen::one(name.as_str()).0))
    }

    /// What a header of this name is; nothing for most.
    pub fn one(name: &str) -> Seen {
        match name {
            "connection" => Seen::CONNECTION,
            "transfer-encoding" => Seen::TRANSFER_ENCODING,
            "upgrade" => Seen::UPGRADE,
            "te" => Seen::TE,
            "keep-alive" => Seen::KEEP_ALIVE,
            "proxy-connection" | "proxy-authenticate" | "proxy-authorization" | "http2-settings" => Seen::SELDOM,
            "via" => Seen::VIA,
            "x-original-url" | "x-rewrite-url" => Seen::PATH_OVERRIDE,
            "x-http-method-override" | "x-http-method" | "x-method-override" => Seen::METHOD_OVERRIDE,
            "expect" => Seen::EXPECT,
            "authorization" => Seen::AUTHORIZATION,
            "fencing-fence" | "fencing-holder" => Seen::FENCING,
            "fencing-token" => Seen::FENCING_TOKEN,
            "content-length" => Seen::CONTENT_LENGTH,
            "fencing-verdict" | "fencing-highest" => Seen::VERDICT,
            "forwarded" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" => Seen::FORWARDED,
            "destination" => Seen::DESTINATION,
            _ => Seen(0),
        }
    }

    /// Both.
    #[must_use]
    pub const fn or(self, other: Seen) -> Seen {
        Seen(self.0 | other.0)
    }

    /// Whether one of these was seen.
    pub fn has(self, any: Seen) -> bool {
        self.0 & any.0 != 0
    }
}
