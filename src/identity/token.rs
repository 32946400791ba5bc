//! A token as it is written: a JWS in its compact form (RFC 7515 §7.1, RFC 7519 §3).
//!
//! ```text
//!  base64url(header) . base64url(payload) . base64url(signature)
//!  └────────── what is signed ──────────┘
//! ```

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::{
    access::{Algorithm, Keys, Verdict},
    config::Auth,
    metrics::TokenFault,
};

/// A token that is well-formed, of an algorithm that is allowed. Nothing says yet that it is genuine.
pub(super) struct Token<'t> {
    algorithm: Algorithm,
    /// The name of the key.
    key: Option<String>,
    signed: &'t [u8],
    payload: &'t [u8],
    signature: Vec<u8>,
}

/// The header (RFC 7515 §4.1), as far as it matters. Keys that a token brings along (`jwk`, `jku`,
/// `x5c`) are not among it.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

impl<'t> Token<'t> {
    /// Takes a token apart, if it is of an algorithm that is allowed.
    pub(super) fn read(text: &'t [u8], auth: &Auth) -> Result<Self, TokenFault> {
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::Malformed);
        };
        let bytes = decode(header)?;
        // A JSON object is UTF-8 in all of its members, also in those that don't matter; and an
        // array of the values alone would be read, too.
        let object = str::from_utf8(&bytes).map_err(|_| TokenFault::Malformed)?;
        if !object.trim_ascii_start().starts_with('{') {
            return Err(TokenFault::Malformed);
        }
        let read: Header = serde_json::from_str(object).map_err(|_| TokenFault::Malformed)?;
        // What it says must be understood (RFC 7515 §4.1.11), and nothing of that kind is.
        if read.crit.is_some() {
            return Err(TokenFault::Malformed);
        }
        let algorithm = Algorithm::of(&read.alg).filter(|algorithm| auth.allows(*algorithm));
        let algorithm = algorithm.ok_or(TokenFault::Algorithm)?;
        let signed = &text[..header.len() + 1 + payload.len()];
        Ok(Self { algorithm, key: read.kid, signed, payload, signature: decode(signature)? })
    }

    /// Whether one of the keys has signed it, wherever they are from.
    pub(super) fn verify<'k>(&self, keys: impl IntoIterator<Item = &'k Keys>) -> Verdict {
        let mut all = Verdict::NoKey;
        for keys in keys {
            match keys.verify(self.algorithm, self.key.as_deref(), self.signed, &self.signature) {
                Verdict::Genuine => return Verdict::Genuine,
                Verdict::Forged => all = Verdict::Forged,
                Verdict::NoKey => {}
            }
        }
        all
    }

    /// What it says. To be believed only if it is genuine.
    pub(super) fn payload(&self) -> Result<Vec<u8>, TokenFault> {
        decode(self.payload)
    }
}

fn decode(part: &[u8]) -> Result<Vec<u8>, TokenFault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed)
}

#[cfg(test)]
mod tests;
