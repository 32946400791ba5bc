//! What was wrong with the tokens of clients, and how it went with the keys for them.

use super::Shared;

/// Why a client's token does not say who it is. The name is API: the client is told it, and
/// counters go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// There is none, and there has to be one.
    #[error("missing")]
    Missing,
    /// There are several in one place.
    #[error("several")]
    Several,
    /// It is longer than `auth.max_token`.
    #[error("too-large")]
    TooLarge,
    /// It is no JWS in its compact form (RFC 7515 §7.1), or what is in it is no JSON object.
    #[error("malformed")]
    Malformed,
    /// It is signed by an algorithm that `auth.algorithms` doesn't have, or not at all.
    #[error("algorithm")]
    Algorithm,
    /// No key there is could have signed it.
    #[error("unknown-key")]
    UnknownKey,
    /// There are no keys yet: the URL of `auth.jwks` was never answered well.
    #[error("keys-unavailable")]
    KeysUnavailable,
    /// The key that it names has not signed it.
    #[error("signature")]
    Signature,
    /// Its time (`exp`) is over.
    #[error("expired")]
    Expired,
    /// Its time (`nbf`) has not come.
    #[error("not-yet-valid")]
    NotYetValid,
    /// One of its times (`exp`, `nbf`, `iat`) is none of the years 1 to 9999: in milliseconds, perhaps.
    #[error("time-out-of-range")]
    TimeOutOfRange,
    /// Its issuer (`iss`) is none of `auth.issuers`.
    #[error("issuer")]
    Issuer,
    /// It is for somebody else (`aud`).
    #[error("audience")]
    Audience,
    /// A claim is missing, of the wrong kind, or beyond a limit.
    #[error("claims")]
    Claims,
}

impl TokenFault {
    /// Every fault, in the order of the counters.
    pub const ALL: [Self; 14] = [
        Self::Missing,
        Self::Several,
        Self::TooLarge,
        Self::Malformed,
        Self::Algorithm,
        Self::UnknownKey,
        Self::KeysUnavailable,
        Self::Signature,
        Self::Expired,
        Self::NotYetValid,
        Self::TimeOutOfRange,
        Self::Issuer,
        Self::Audience,
        Self::Claims,
    ];

    /// The name as a cause of handshakes that failed.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Missing => "token-missing",
            Self::Several => "token-several",
            Self::TooLarge => "token-too-large",
            Self::Malformed => "token-malformed",
            Self::Algorithm => "token-algorithm",
            Self::UnknownKey => "token-unknown-key",
            Self::KeysUnavailable => "token-keys-unavailable",
            Self::Signature => "token-signature",
            Self::Expired => "token-expired",
            Self::NotYetValid => "token-not-yet-valid",
            Self::TimeOutOfRange => "token-time-out-of-range",
            Self::Issuer => "token-issuer",
            Self::Audience => "token-audience",
            Self::Claims => "token-claims",
        }
    }
}

/// Tokens that clients brought.
#[derive(Debug, Default)]
pub struct TokenStats {
    /// Those that were believed, whatever became of their clients.
    pub accepted: Shared,
    /// Those that were refused, by what was wrong.
    refused: [Shared; TokenFault::ALL.len()],
}

impl TokenStats {
    /// The counter of one fault.
    pub fn of(&self, fault: TokenFault) -> &Shared {
        &self.refused[fault as usize]
    }
}

/// How it went with the key set that is fetched from a URL.
#[derive(Debug, Default)]
pub struct KeyStats {
    /// Answers that were taken.
    pub fetched: Shared,
    /// Questions without a good answer; the keys of before stayed.
    pub failed: Shared,
    /// Keys there are now.
    pub keys: Shared,
    /// When the last good answer came: seconds since 1970-01-01 UTC; zero if none did.
    pub last: Shared,
}

impl KeyStats {
    /// Counts a good answer with so many keys.
    pub fn accept(&self, keys: usize) {
        self.fetched.increment();
        self.keys.set(keys as u64);
        self.last.set(super::now());
    }

    /// Each outcome under its name.
    pub fn outcomes(&self) -> [(&'static str, &Shared); 2] {
        [("accepted", &self.fetched), ("failed", &self.failed)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_stands_at_its_place_and_its_cause_is_its_name() {
        for (at, fault) in TokenFault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, at);
            assert_eq!(fault.cause(), format!("token-{fault}"));
        }
    }
}
