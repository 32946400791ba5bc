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
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

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

use super::{
    Algorithm, jwk,
    key::{Key, KeyProblem, Kind, MAX_FILE, unmarked},
    tokens,
};
use crate::file::{self, Unread};

/// Keys of clients' tokens. Cheap to clone; what is printed of them is how many there are.
#[derive(Clone, Default)]
pub struct Keys {
    keys: Arc<[Key]>,
    /// Those beyond [`MAX_KEYS`], that could have been used.
    left_out: usize,
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

/// Keys of one set: a token that names none is compared with each.
pub(super) const MAX_KEYS: usize = 32;
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
        Self::of(jwk::set(bytes, jwk::Secrets::Taken)?).fitting(algorithms)
    }

    /// Reads a key set that came over the network. Secrets in it are left alone: what everybody can
    /// fetch is none.
    pub fn fetched(bytes: &[u8]) -> Result<Self, KeyProblem> {
        jwk::set(bytes, jwk::Secrets::LeftAlone).map(Self::of)
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

fn read(path: &Path) -> Result<Vec<u8>, KeyProblem> {
    file::read(path, MAX_FILE).map_err(|unread| match unread {
        Unread::System(error) => KeyProblem::Unreadable(error),
        Unread::Irregular => KeyProblem::NoFile,
        Unread::TooLarge => KeyProblem::TooLarge,
    })
}

/// What a PEM file has somewhere in its beginning. No secret does.
const PEM: &[u8] = b"-----BEGIN ";

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
