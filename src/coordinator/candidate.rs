//! The secret name of one candidacy.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The length of a candidate id, in bytes.
pub const CANDIDATE_ID_LEN: usize = 16;

/// Names one candidacy, from its entry to its end. Whoever knows it may renew and resign for it, so it is 128 bits of the
/// system's randomness, told to the candidate alone, and kept out of `Debug` and so out of logs. As text it is base64url
/// without padding, 22 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CandidateId(pub(in crate::coordinator) [u8; CANDIDATE_ID_LEN]);

/// The text is no candidate id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a candidate is the 22 characters of base64url that campaign answered with")]
pub struct CandidateIdError;

impl CandidateId {
    /// A new one that nobody can guess.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn random() -> Result<CandidateId, getrandom::Error> {
        let mut bytes = [0; CANDIDATE_ID_LEN];
        getrandom::fill(&mut bytes)?;
        Ok(CandidateId(bytes))
    }
}

impl FromStr for CandidateId {
    type Err = CandidateIdError;
    fn from_str(text: &str) -> Result<CandidateId, CandidateIdError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CandidateIdError)?;
        bytes.try_into().map(CandidateId).map_err(|_| CandidateIdError)
    }
}

impl fmt::Display for CandidateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for CandidateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CandidateId(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_there_and_back_and_debug_tells_nothing() {
        let id = CandidateId::random().unwrap();
        let text = id.to_string();
        assert_eq!(text.len(), 22);
        assert_eq!(text.parse(), Ok(id));
        assert!(!format!("{id:?}").contains(&text));
        for bad in ["", "AAAA", &format!("{text}="), &format!("{text}A"), "!!!!!!!!!!!!!!!!!!!!!!"] {
            assert_eq!(bad.parse::<CandidateId>(), Err(CandidateIdError), "{bad:?}");
        }
    }
}
