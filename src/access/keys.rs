//! The keys by which the tokens of clients are verified: what a file or a key set holds.
//!
//! ```text
//!  auth.key ──► PEM: PUBLIC KEY blocks, or a secret ─┐
//!  auth.jwks ─► {"keys": [ … ]} (`jwk`) ─────────────┴─► Keys ─► verify(algorithm, kid, …)
//! ```
//!
//! A key has a kind, and a kind fits algorithms: a public key is never taken for a secret, whatever
//! a token says of itself. The signatures are ring's work.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use ring::{hmac, signature};
use rustls::pki_types::{
    PrivateKeyDer, SubjectPublicKeyInfoDer,
    pem::{self, PemObject as _},
};
use x509_cert::{
    der::{
        self, Decode as _, Reader as _, SliceReader,
        asn1::{ObjectIdentifier, UintRef},
    },
    spki::SubjectPublicKeyInfoRef,
};

use super::{Algorithm, jwk, tokens};
use crate::file::{self, Unread};

/// Keys of clients' tokens. Cheap to clone; what is printed of them is how many there are.
#[derive(Clone, Default)]
pub struct Keys {
    keys: Arc<[Key]>,
    /// Those beyond [`MAX_KEYS`], that could have been used.
    left_out: usize,
}

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

/// What came of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One of the keys has made it.
    Genuine,
    /// None of the keys that could have made it has.
    Forged,
    /// There is no key of that name for that algorithm.
    NoKey,
}

/// Why a file of keys can't be used. The keys themselves are never part of it.
#[derive(Debug, thiserror::Error)]
#[error("{} {problem}", path.display())]
pub struct KeyError {
    path: PathBuf,
    problem: KeyProblem,
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
const MAX_FILE: u64 = 1 << 20;
/// Keys of one set: a token that names none is compared with each.
pub(super) const MAX_KEYS: usize = 32;
/// Bytes of an RSA modulus: 2048 to 8192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
/// Bytes of an RSA exponent; nearly all are 65537.
const MOST_EXPONENT: usize = 4;

/// RFC 8017 §A.1, RFC 5480 §2.1.1 (and P-256 of §2.1.1.1), RFC 8410 §3.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

impl Keys {
    /// The first of these, as many as there may be.
    pub(super) fn of(mut keys: Vec<Key>) -> Self {
        let left_out = keys.len().saturating_sub(MAX_KEYS);
        keys.truncate(MAX_KEYS);
        Self { keys: keys.into(), left_out }
    }

    /// Reads the file of `auth.key`: public keys as PEM, or a secret. Beside it, a line if it is a
    /// secret that is open to everybody on the machine, or if there are too many keys.
    pub fn read(path: &Path, algorithms: &[Algorithm]) -> (Result<Self, KeyError>, Option<String>) {
        let blame = |problem| KeyError { path: path.to_owned(), problem };
        match read(path).and_then(|bytes| Self::key(&bytes, algorithms)) {
            Ok(keys) => {
                let warning = keys.warning(path);
                (Ok(keys), warning)
            }
            Err(problem) => (Err(blame(problem)), None),
        }
    }

    /// Reads the file of `auth.jwks`.
    pub fn read_set(
        path: &Path,
        algorithms: &[Algorithm],
    ) -> (Result<Self, KeyError>, Option<String>) {
        let blame = |problem| KeyError { path: path.to_owned(), problem };
        match read(path).and_then(|bytes| Self::set(&bytes, algorithms)) {
            Ok(keys) => {
                let warning = keys.warning(path);
                (Ok(keys), warning)
            }
            Err(problem) => (Err(blame(problem)), None),
        }
    }

    /// Reads what the file of `auth.key` holds: a PEM file, or a secret, which is the bytes as they
    /// stand, without one end of a line (LF or CR LF).
    pub fn key(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyProblem> {
        if bytes.windows(PEM.len()).any(|window| window == PEM) {
            return Self::of(public_keys(bytes)?).fitting(algorithms);
        }
        let line = bytes.strip_suffix(b"\n");
        let secret = line.map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line));
        for algorithm in algorithms {
            if let Some(least) = algorithm.least_secret().filter(|least| secret.len() < *least) {
                return Err(KeyProblem::ShortSecret {
                    bytes: secret.len(),
                    algorithm: *algorithm,
                    least,
                });
            }
        }
        Self::of(vec![Key::plain(Kind::Secret(secret.into()))]).fitting(algorithms)
    }

    /// Reads what the file of `auth.jwks` holds. Secrets in it are keys like the others.
    pub fn set(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyProblem> {
        jwk::set(bytes, jwk::Secrets::Taken)?.fitting(algorithms)
    }

    /// Reads a key set that came over the network. Secrets in it are left alone: what everybody can
    /// fetch is none.
    pub fn fetched(bytes: &[u8]) -> Result<Self, KeyProblem> {
        jwk::set(bytes, jwk::Secrets::LeftAlone)
    }

    /// Whether one of the keys has made the signature of `signed`. A token that names a key is
    /// compared with that one, and with those that have no name.
    pub fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> Verdict {
        let named = |key: &&Key| match (id, &key.id) {
            (Some(wanted), Some(id)) => **id == *wanted,
            _ => true,
        };
        let mut verdict = Verdict::NoKey;
        for key in self.keys.iter().filter(|key| key.fits(algorithm)).filter(named) {
            if key.verify(algorithm, signed, signature) {
                return Verdict::Genuine;
            }
            verdict = Verdict::Forged;
        }
        verdict
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many more there were, which could have been used.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// What the operator should know of the file.
    fn warning(&self, path: &Path) -> Option<String> {
        let exposed = self.has_secrets().then(|| tokens::exposure(path)).flatten();
        let too_many = (self.left_out > 0).then(|| {
            let all = self.len() + self.left_out;
            format!("{} holds {all} keys: the first {MAX_KEYS} are used", path.display())
        });
        let lines: Vec<String> = exposed.into_iter().chain(too_many).collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    fn has_secrets(&self) -> bool {
        self.keys.iter().any(|key| matches!(key.kind, Kind::Secret(_)))
    }

    /// The same, if any of them is for one of these algorithms.
    fn fitting(self, algorithms: &[Algorithm]) -> Result<Self, KeyProblem> {
        // Without algorithms the settings are at fault already.
        let fits = |algorithm: &Algorithm| self.keys.iter().any(|key| key.fits(*algorithm));
        if algorithms.is_empty() || algorithms.iter().any(fits) {
            return Ok(self);
        }
        let names: Vec<&str> = algorithms.iter().map(|algorithm| algorithm.name()).collect();
        Err(KeyProblem::Unfit(names.join(", ")))
    }
}

impl Key {
    /// A key of no name, for all algorithms that go by its kind.
    fn plain(kind: Kind) -> Self {
        Self { id: None, only: None, kind }
    }

    /// Whether tokens of this algorithm can be verified by it.
    fn fits(&self, algorithm: Algorithm) -> bool {
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

    fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
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

impl fmt::Display for Keys {
    /// How many there are, and something that changes with them and says nothing of them: its key
    /// is new with each process.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        let mark = KEY.get_or_init(RandomState::new).hash_one(&self.keys) >> 32;
        let noun = if self.len() == 1 { "key" } else { "keys" };
        write!(f, "{} {noun} ({mark:08x})", self.len())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn read(path: &Path) -> Result<Vec<u8>, KeyProblem> {
    file::read(path, MAX_FILE).map_err(|unread| match unread {
        Unread::System(error) => KeyProblem::Unreadable(error),
        Unread::Irregular => KeyProblem::NoFile,
        Unread::TooLarge => KeyProblem::TooLarge,
    })
}

/// What a PEM file has somewhere in its beginning. No secret does.
const PEM: &[u8] = b"-----BEGIN ";

/// U+FEFF in UTF-8, with which some editors begin a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A text without the mark that it may begin with.
pub(super) fn unmarked(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

fn public_keys(text: &[u8]) -> Result<Vec<Key>, KeyProblem> {
    let text = unmarked(text);
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(_) => return Err(KeyProblem::PrivateKey),
        Err(pem::Error::NoItemsFound) => {}
        Err(_) => return Err(KeyProblem::Damaged),
    }
    let mut keys = Vec::new();
    for key in SubjectPublicKeyInfoDer::pem_slice_iter(text) {
        let key = key.map_err(|_| KeyProblem::Damaged)?;
        keys.push(Key::plain(kind_of(&key).ok_or(KeyProblem::RareKey)?));
    }
    if keys.is_empty() { Err(KeyProblem::NoPublicKey) } else { Ok(keys) }
}

/// Reads a `SubjectPublicKeyInfo` (RFC 5280 §4.1).
fn kind_of(der: &[u8]) -> Option<Kind> {
    let key = SubjectPublicKeyInfoRef::from_der(der).ok()?;
    let bytes = key.subject_public_key.as_bytes()?;
    match key.algorithm.oid {
        RSA => {
            let mut reader = SliceReader::new(bytes).ok()?;
            let pair: der::Result<_> =
                reader.sequence(|pair| Ok((UintRef::decode(pair)?, UintRef::decode(pair)?)));
            let (n, e) = pair.ok()?;
            Kind::rsa(n.as_bytes(), e.as_bytes())
        }
        EC if key.algorithm.parameters_oid().ok()? == P256 => {
            (bytes.len() == 65 && bytes[0] == 4).then(|| Kind::P256(bytes.into()))
        }
        ED25519 => (bytes.len() == 32).then(|| Kind::Ed25519(bytes.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
