//! Who issues tokens: keys of its own, and whatever claims a test wants.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

/// A key of P-256 with a name.
pub struct Mint {
    key: EcdsaKeyPair,
    name: String,
}

impl Mint {
    pub fn new(name: &str) -> Self {
        let how = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(how, document.as_ref(), &random).unwrap();
        Self { key, name: name.to_owned() }
    }

    /// The public key, as a member of a set.
    pub fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (number(&point[1..33]), number(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.name, "use": "sig", "x": x, "y": y})
    }

    /// A token that is good for ten minutes, with some claims changed; null takes one out.
    pub fn token(&self, claims: &Value) -> String {
        let signed = signed(&json!({"alg": "ES256", "kid": self.name}), claims);
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A set of keys.
pub fn set(mints: &[&Mint]) -> String {
    let keys: Vec<Value> = mints.iter().map(|mint| mint.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// A token by HS256.
pub fn by_secret(secret: &str, claims: &Value) -> String {
    let signed = signed(&json!({"alg": "HS256"}), claims);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// A header and claims, as they are signed.
pub fn signed(header: &Value, changes: &Value) -> String {
    let mut claims = json!({"sub": "ada", "exp": now() + 600});
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(&claims))
}

/// Seconds since 1970-01-01 UTC.
pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}
