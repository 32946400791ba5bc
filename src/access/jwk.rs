//! JSON Web Key Sets (RFC 7517, RFC 7518 §6, RFC 8037 §2).
//!
//! What can't be used is left out, as RFC 7517 §5 wants it: sets hold keys of kinds to come, and
//! keys to encrypt with. A set without any key to verify with is an error; of one with too many the
//! first are used.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Algorithm,
    key::{Key, KeyProblem, Kind, unmarked},
};

/// What becomes of the secrets in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    /// They are keys like the others.
    Taken,
    /// They are none.
    LeftAlone,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// One key. Members that are not named here don't matter.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

/// Reads a set.
pub(super) fn set(bytes: &[u8], secrets: Secrets) -> Result<Vec<Key>, KeyProblem> {
    let bytes = unmarked(bytes);
    // What is said of the text is where it broke off, and never what stands there.
    let no_set = |line: usize| KeyProblem::NoSet(format!("line {line} is something else"));
    // UTF-8 in all of its members, also in those that don't matter.
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        no_set(before.split(|byte| *byte == b'\n').count())
    })?;
    let set: Set = serde_json::from_str(text).map_err(|error| no_set(error.line()))?;
    // An array of the values alone would be read, too; so it is with each key.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(no_set(1));
    }
    let keys = set.keys.into_iter().filter(Value::is_object);
    let keys = keys.filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let keys = keys.filter_map(Jwk::key);
    let keys: Vec<Key> = keys
        .filter(|key| secrets == Secrets::Taken || !matches!(key.kind, Kind::Secret(_)))
        .collect();
    if keys.is_empty() {
        return Err(KeyProblem::Useless);
    }
    Ok(keys)
}

impl Jwk {
    /// The key, if it is one to verify with and of a kind that is known.
    fn key(self) -> Option<Key> {
        let verifies =
            self.purpose.as_deref().is_none_or(|purpose| purpose.eq_ignore_ascii_case("sig"))
                && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !verifies {
            return None;
        }
        let only = match &self.alg {
            None => None,
            Some(name) => Some(Algorithm::of(name)?),
        };
        let kind = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Kind::rsa(&number(self.n.as_ref())?, &number(self.e.as_ref())?)?,
            ("EC", Some("P-256")) => {
                let [x, y] = [number(self.x.as_ref())?, number(self.y.as_ref())?];
                (x.len() == 32 && y.len() == 32).then_some(())?;
                Kind::P256([&[4], &x[..], &y[..]].concat().into())
            }
            ("OKP", Some("Ed25519")) => {
                let key = number(self.x.as_ref())?;
                (key.len() == 32).then_some(())?;
                Kind::Ed25519(key.into())
            }
            ("oct", _) => Kind::Secret(number(self.k.as_ref())?.into()),
            _ => return None,
        };
        Some(Key { id: self.kid.map(Into::into), only, kind })
    }
}

/// RFC 7515 §2 wants no padding; some issuers write it, and it can mean nothing else.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a member in base64url.
fn number(text: Option<&String>) -> Option<Vec<u8>> {
    BASE64URL.decode(text?).ok()
}

#[cfg(test)]
mod tests;
