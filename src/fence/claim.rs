//! What one request presents, and the parsers of every form that it can take.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{FenceName, Holder, NameError, Token, TokenError};

/// Fence, token and holder, as one request presents them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The fence that the token is for.
    pub fence: FenceName,
    /// The token.
    pub token: Token,
    /// The leader's own name for itself.
    pub holder: Option<Holder>,
}

/// The most fences that one request can name.
pub const FENCES_PER_REQUEST_MAX: usize = 64;

/// The tokens of one request, before the gate has decided which fences it touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// The tokens, each with the fence it names.
    pub tokens: PresentedTokens,
    /// The holder named with them.
    pub holder: Option<Holder>,
}

/// A bare token, or one for each named fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresentedTokens {
    /// `7`: speaks for the resource's own fence, or the one that the path yields, and for no other.
    Bare(Token),
    /// `orders=7, jobs=12`: no fence twice.
    Named(Vec<(FenceName, Token)>),
}

/// Why what a request presents can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A token that is none.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// A fence or holder name that is none.
    #[error("{0}")]
    Name(#[from] NameError),
    /// A header that may stand once stands more often.
    #[error("{0} is given more than once")]
    Repeated(&'static str),
    /// One fence named twice.
    #[error("fence {0} is named twice")]
    FenceTwice(FenceName),
    /// A bare token beside named ones.
    #[error("either one bare token, or fence=token for each fence: not both")]
    Mixed,
    /// More named fences than a request can have.
    #[error("a request names at most {FENCES_PER_REQUEST_MAX} fences")]
    TooMany,
    /// A `fgt.` credential that doesn't follow `fgt.TOKEN[.HOLDER[.SECRET]]`.
    #[error("the bearer credential is not fgt.TOKEN, fgt.TOKEN.HOLDER or fgt.TOKEN.HOLDER.SECRET with base64url parts")]
    Bearer,
    /// Header and bearer credential say different things.
    #[error("Fencing-Token or Fencing-Holder and the bearer credential don't agree")]
    Disagree,
    /// A header value with bytes outside visible ASCII.
    #[error("{0} has bytes that are not ASCII text")]
    NotText(&'static str),
}

impl PresentedTokens {
    /// Reads the value of `Fencing-Token`: `7`, or `orders=7, jobs=12`.
    ///
    /// # Errors
    /// Any other form; see [`ClaimError`].
    pub fn parse(value: &str) -> Result<PresentedTokens, ClaimError> {
        if !value.contains(['=', ',']) {
            return Ok(PresentedTokens::Bare(value.parse()?));
        }
        let mut named: Vec<(FenceName, Token)> = Vec::new();
        for item in value.split(',') {
            let (fence, token) = item.trim_matches([' ', '\t']).split_once('=').ok_or(ClaimError::Mixed)?;
            let (fence, token): (FenceName, Token) = (fence.parse()?, token.parse()?);
            if named.iter().any(|(earlier, _)| *earlier == fence) {
                return Err(ClaimError::FenceTwice(fence));
            }
            if named.len() == FENCES_PER_REQUEST_MAX {
                return Err(ClaimError::TooMany);
            }
            named.push((fence, token));
        }
        Ok(PresentedTokens::Named(named))
    }

    /// The claims that these tokens make where `own` is the fence that a bare token speaks for.
    pub fn claims(&self, own: &FenceName, holder: Option<&Holder>) -> Vec<Claim> {
        let claim = |fence: &FenceName, token: Token| Claim { fence: fence.clone(), token, holder: holder.cloned() };
        match self {
            PresentedTokens::Bare(token) => vec![claim(own, *token)],
            PresentedTokens::Named(named) => named.iter().map(|(fence, token)| claim(fence, *token)).collect(),
        }
    }
}

/// A parsed `fgt.` credential: what clients send that can set nothing but an auth token.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken {
    /// The fencing token.
    pub token: Token,
    /// The holder, if one is named.
    pub holder: Option<Holder>,
    /// The secret part, if there is one. Kept out of `Debug`.
    pub secret: Option<Vec<u8>>,
}

impl std::fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let secret = self.secret.as_ref().map(|_| "…");
        f.debug_struct("BearerToken")
            .field("token", &self.token)
            .field("holder", &self.holder)
            .field("secret", &secret)
            .finish()
    }
}

impl BearerToken {
    /// Reads `fgt.7`, `fgt.7.HOLDER` or `fgt.7.HOLDER.SECRET`; HOLDER and SECRET are base64url, with or without padding.
    /// HOLDER may be empty where a SECRET follows. `Ok(None)`: not a `fgt.` credential at all.
    ///
    /// # Errors
    /// A credential that starts with `fgt.` and doesn't go on as it should.
    pub fn parse(credential: &str) -> Result<Option<BearerToken>, ClaimError> {
        let Some(rest) = credential.strip_prefix("fgt.") else { return Ok(None) };
        let mut parts = rest.split('.');
        let token = parts.next().unwrap_or_default().parse()?;
        let (holder, secret) = (parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(ClaimError::Bearer);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).map_err(|_| ClaimError::Bearer);
        let holder = match (holder, secret) {
            (None, _) | (Some(""), Some(_)) => None,
            (Some(part), _) => Some(String::from_utf8(decode(part)?).map_err(|_| ClaimError::Bearer)?.parse()?),
        };
        let secret = secret.map(decode).transpose()?;
        if secret.as_ref().is_some_and(Vec::is_empty) {
            return Err(ClaimError::Bearer);
        }
        Ok(Some(BearerToken { token, holder, secret }))
    }

    /// The `fgt.` form of a token and holder, for `FENCEGATE_AUTH_TOKEN` and for drivers.
    pub fn render(token: Token, holder: Option<&Holder>) -> String {
        match holder {
            None => format!("fgt.{token}"),
            Some(holder) => format!("fgt.{token}.{}", URL_SAFE_NO_PAD.encode(holder.as_bytes())),
        }
    }

    /// The same with a principal's secret, whose text `fgs.SECRET` has it in base64url already.
    pub fn render_with_secret(token: Token, holder: &Holder, secret: &str) -> String {
        let secret = secret.strip_prefix("fgs.").unwrap_or(secret);
        format!("{}.{secret}", BearerToken::render(token, Some(holder)))
    }
}

impl Presented {
    /// Puts together what the headers of one request say: `Fencing-Token`, `Fencing-Holder` and the bearer credential, each at
    /// most once. `Ok(None)`: the request carries no token; a holder alone claims nothing.
    ///
    /// `own` is the fence that a bare token speaks for: given both ways, the bearer's token must be the one that the header
    /// has for it, and both must name the same holder where both name one.
    ///
    /// # Errors
    /// Any part that is malformed, and parts that don't agree.
    pub fn gather(
        header: Option<&str>,
        holder: Option<&str>,
        bearer: Option<&str>,
        own: Option<&FenceName>,
    ) -> Result<Option<Presented>, ClaimError> {
        let tokens = header.map(PresentedTokens::parse).transpose()?;
        let holder = holder.map(str::parse::<Holder>).transpose()?;
        let bearer = bearer.map(BearerToken::parse).transpose()?.flatten();
        let Some(bearer) = bearer else {
            return Ok(tokens.map(|tokens| Presented { tokens, holder }));
        };
        let agree = match &tokens {
            None => true,
            Some(PresentedTokens::Bare(token)) => *token == bearer.token,
            Some(PresentedTokens::Named(named)) => {
                named.iter().any(|(fence, token)| Some(fence) == own && *token == bearer.token)
            }
        };
        if !agree || matches!((&holder, &bearer.holder), (Some(one), Some(other)) if one != other) {
            return Err(ClaimError::Disagree);
        }
        let tokens = tokens.unwrap_or(PresentedTokens::Bare(bearer.token));
        Ok(Some(Presented { tokens, holder: holder.or(bearer.holder) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> FenceName {
        "orders".parse().expect("a name")
    }

    #[test]
    fn both_header_forms() {
        assert_eq!(PresentedTokens::parse("7"), Ok(PresentedTokens::Bare(Token::new(7).unwrap())));
        let named = PresentedTokens::parse("orders=7,\t jobs=12").unwrap();
        assert_eq!(named.claims(&own(), None).len(), 2);
        for bad in
            ["", " 7", "7, jobs=12", "jobs=12, 7", "a=1,a=2", "a=", "=7", "a=1,", ",", "a = 1", "a=1;b=2", "a=1=2"]
        {
            assert!(PresentedTokens::parse(bad).is_err(), "{bad:?}");
        }
        let many: Vec<String> = (0..65).map(|n| format!("f{n}=1")).collect();
        assert_eq!(PresentedTokens::parse(&many.join(",")), Err(ClaimError::TooMany));
    }

    #[test]
    fn bearer_forms() {
        let holder: Holder = "node-a".parse().unwrap();
        let text = BearerToken::render(Token::new(7).unwrap(), Some(&holder));
        assert_eq!(text, "fgt.7.bm9kZS1h");
        assert_eq!(BearerToken::parse(&text).unwrap().unwrap().holder, Some(holder));
        assert_eq!(BearerToken::parse("fgt.7").unwrap().unwrap().holder, None);
        assert_eq!(BearerToken::parse("fgt.7..c2VjcmV0").unwrap().unwrap().secret.unwrap(), b"secret");
        assert_eq!(BearerToken::parse("eyJhbGciOi.x.y"), Ok(None));
        for bad in
            ["fgt.", "fgt.x", "fgt.07", "fgt.7.", "fgt.7.!!", "fgt.7.bm9kZS1h.", "fgt.7.bm9kZS1h.c2Vj.x", "fgt.7.AAAA"]
        {
            assert!(BearerToken::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn given_both_ways_they_must_agree() {
        let gather = |header, holder, bearer| Presented::gather(header, holder, bearer, Some(&own()));
        assert!(gather(Some("7"), None, Some("fgt.7")).is_ok());
        assert!(gather(Some("orders=7, jobs=1"), Some("node-a"), Some("fgt.7.bm9kZS1h")).is_ok());
        assert_eq!(gather(Some("8"), None, Some("fgt.7")), Err(ClaimError::Disagree));
        assert_eq!(gather(Some("jobs=7"), None, Some("fgt.7")), Err(ClaimError::Disagree));
        assert_eq!(gather(Some("7"), Some("node-b"), Some("fgt.7.bm9kZS1h")), Err(ClaimError::Disagree));
        assert_eq!(gather(None, Some("node-b"), None), Ok(None));
        assert_eq!(gather(None, None, Some("some-other-credential")), Ok(None));
    }
}
