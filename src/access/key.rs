//! One key by which tokens are verified, and what can be wrong with the file it comes from.
//!
//! A key has a kind, and a kind fits algorithms: a public key is never taken for a secret, whatever
//! a token says of itself. The signatures are ring's work.

use std::io;

use ring::{hmac, signature};

use super::Algorithm;

/// One key.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Its name (`kid`), if it has one.
    pub(super) id: Option<Box<str>>,
    /// The only algorithm for which it is meant, if it says so.
    pub(super) only: Option<Algorithm>,
    pub(super) kind: Kind,
}

/// What a key is.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A shared secret.
    Secret(Box<[u8]>),
    /// An RSA key: modulus and exponent, big-endian, without leading zeros.
    Rsa { n: Box<[u8]>, e: Box<[u8]> },
    /// A point of P-256, uncompressed (SEC 1 §2.3.3).
    P256(Box<[u8]>),
    /// An Ed25519 key.
    Ed25519(Box<[u8]>),
}

/// What is wrong with keys; reads on after the name of where they lie.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// The system does not let us read it.
    #[error("can't be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is no regular file.
    #[error("is not a regular file")]
    NoFile,
    /// It is too large to be a file of keys.
    #[error("is larger than {MAX_FILE} bytes")]
    TooLarge,
    /// It begins like a PEM file and is none. What stands there is not shown: it may be a key.
    #[error("is damaged: it is no valid PEM file (RFC 7468)")]
    Damaged,
    /// A PEM file of something else.
    #[error("holds no public key: expected \"-----BEGIN PUBLIC KEY-----\" (openssl pkey -pubout)")]
    NoPublicKey,
    /// Who can verify must not be able to sign.
    #[error("holds a private key: expected the public one (openssl pkey -pubout)")]
    PrivateKey,
    /// A kind that none of the algorithms goes by.
    #[error(
        "holds a public key that can't be used: expected RSA of 2048 to 8192 bits, P-256 or Ed25519"
    )]
    RareKey,
    /// A secret that could be guessed.
    #[error(
        "holds a secret of {bytes} bytes: {algorithm} needs at least {least} (RFC 7518 §3.2), for \
         example of `openssl rand -base64 {least}`"
    )]
    ShortSecret {
        /// How long it is.
        bytes: usize,
        /// For what it is too short.
        algorithm: Algorithm,
        /// How long it should be.
        least: usize,
    },
    /// No algorithm of the configuration goes by such keys.
    #[error("holds no key for any of auth.algorithms ({0})")]
    Unfit(String),
    /// It should be a key set and is something else.
    #[error("is no JSON Web Key Set (RFC 7517): expected {{\"keys\": [ … ]}}; {0}")]
    NoSet(String),
    /// A key set without a key that could be used.
    #[error(
        "holds no key that could be used: expected public keys to verify with, RSA of 2048 to \
         8192 bits, P-256 or Ed25519"
    )]
    Useless,
}

/// Bytes of a file of keys.
pub(super) const MAX_FILE: u64 = 1 << 20;
/// Bytes of an RSA modulus: 2048 to 8192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
/// Bytes of an RSA exponent; nearly all are 65537.
const MOST_EXPONENT: usize = 4;

impl Key {
    /// A key of no name, for all algorithms that go by its kind.
    pub(super) fn plain(kind: Kind) -> Self {
        Self { id: None, only: None, kind }
    }

    /// Whether tokens of this algorithm can be verified by it.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        let kind = match (&self.kind, algorithm) {
            (Kind::Secret(secret), _) => {
                algorithm.least_secret().is_some_and(|least| secret.len() >= least)
            }
            (Kind::Rsa { .. }, Algorithm::Rs256 | Algorithm::Ps256)
            | (Kind::P256(_), Algorithm::Es256)
            | (Kind::Ed25519(_), Algorithm::EdDsa) => true,
            _ => false,
        };
        kind && self.only.is_none_or(|only| only == algorithm)
    }

    pub(super) fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let hash = match algorithm {
            Algorithm::Hs384 => hmac::HMAC_SHA384,
            Algorithm::Hs512 => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        };
        let by = |how: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(how, key).verify(signed, signature)
        };
        match &self.kind {
            // The comparison takes as long for any signature of the right length.
            Kind::Secret(secret) => hmac::verify(&hmac::Key::new(hash, secret), signed, signature),
            Kind::Rsa { n, e } => {
                let how = match algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                signature::RsaPublicKeyComponents { n, e }.verify(how, signed, signature)
            }
            // The two numbers side by side (RFC 7518 §3.4), not as ASN.1.
            Kind::P256(point) => by(&signature::ECDSA_P256_SHA256_FIXED, point),
            Kind::Ed25519(key) => by(&signature::ED25519, key),
        }
        .is_ok()
    }
}

impl Kind {
    /// An RSA key, if it is strong enough and not so long that it would be a burden.
    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Option<Self> {
        let [n, e] = [n, e].map(without_zeros);
        let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
        let full = n.len() > *MODULUS.start() || n.first().is_some_and(|first| *first >= 0x80);
        let fits = MODULUS.contains(&n.len()) && full && e.len() <= MOST_EXPONENT && e != [1];
        (fits && odd(n) && odd(e)).then(|| Self::Rsa { n: n.into(), e: e.into() })
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// U+FEFF in UTF-8, with which some editors begin a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A text without the mark that it may begin with.
pub(super) fn unmarked(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}
