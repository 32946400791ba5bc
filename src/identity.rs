//! Who a client is: what its token says, if the token can be believed.
//!
//! ```text
//!  token ─► size ─► form, algorithm pinned ─► signature ─► exp nbf iss aud ─► Verified: a Change
//!             │              │                 │    ▲              │            for the newcomer,
//!             └──────────────┴─────────────────┴────┼──────────────┘            and the claims
//!                      a TokenFault, and nothing else that is in it
//!                                                   │
//!                     Material (files) ─────────────┴──── KeySource (URL, `keep`)
//! ```
//!
//! It knows tokens, keys and claims, and nothing of the request that brings a token. Until the
//! signature is found to be good nothing is read of a token but what chooses the key: `alg`, which
//! must be among `auth.algorithms`, and `kid`.

mod claims;
mod fetch;
mod source;
mod token;

use std::time::SystemTime;

pub use claims::Verified;
pub use source::{Keeper, KeySource, keep};

use crate::{access::Verdict, config::InForce, metrics::TokenFault};
use token::Token;

/// Verifies tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {
    source: KeySource,
}

impl Identity {
    /// Goes by the keys of `source` where the configuration names a URL.
    pub fn new(source: KeySource) -> Self {
        Self { source }
    }

    /// Who brings this token, or what is wrong with it. If none of the keys that are known has made its
    /// signature it may take as long as fetching the keys once.
    pub async fn verify(&self, token: &[u8], config: &InForce) -> Result<Verified, TokenFault> {
        if token.len() > config.auth.max_token.bytes() {
            return Err(TokenFault::TooLarge);
        }
        let token = Token::read(token, &config.auth)?;
        match self.judge(&token, config).await? {
            Verdict::Genuine => {}
            Verdict::Forged => return Err(TokenFault::Signature),
            Verdict::NoKey => return Err(TokenFault::UnknownKey),
        }
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        claims::judge(&token.payload()?, config, now)
    }

    /// What its signature is worth.
    async fn judge(&self, token: &Token<'_>, config: &InForce) -> Result<Verdict, TokenFault> {
        let material = &config.material;
        let in_files = token.verify([&material.client_key, &material.client_jwks]);
        let Some(url) = config.auth.jwks_url() else { return Ok(in_files) };
        if in_files == Verdict::Genuine {
            return Ok(in_files);
        }
        let mut held = self.source.held();
        let mut verdict = held.keys_of(url).map(|keys| token.verify([keys]));
        // A signature that fits no key may be by a new one of the same name, or of none.
        if verdict != Some(Verdict::Genuine)
            && let Some(newer) = self.source.newer_than(&held, config).await
        {
            held = newer;
            verdict = held.keys_of(url).map(|keys| token.verify([keys]));
        }
        match verdict {
            None => Err(TokenFault::KeysUnavailable),
            Some(Verdict::NoKey) => Ok(in_files),
            Some(verdict) => Ok(verdict),
        }
    }
}
