//! What holds for the verification of a token, whoever made it up.
//!
//! ```text
//!   input   settings: who makes the token of the rest, rules of the configuration, a place │ rest
//!
//!   rest ─► payload, or header and payload ─► signed by a key of the gateway ──► as `claims` reads it
//!                                                 │ one bit is turned ─────────► refused
//!   rest ─► pasted into a token that another program signed ───────────────────► refused
//!   rest ─► signed by who has only what everybody can have ────────────────────► refused
//!   rest ─► a token as it stands ──────────────────────────────────────────────► refused
//! ```
//!
//! The gateway's keys are those of `vectors.json`, for every algorithm, and one more of Ed25519 that
//! can sign here. No input has a signature in it that a key has made, so none can be believed but
//! where the check itself signs.

use std::{
    cell::OnceCell,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use gateway_websocket::{
    access::{Algorithm, Keys},
    config::{Config, InForce, Material},
    identity::{Identity, KeySource, Verified},
    metrics::TokenFault,
};
use ring::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use super::{
    claims,
    members::{self, Members},
    number, settings,
};

/// What came of a token.
pub type Verdict = Result<Verified, TokenFault>;

/// The name of the key of Ed25519 that can sign here.
const OWN: &str = "own";

/// Checks what `verify` says to the token that `input` makes, by the rules and keys of a gateway.
pub fn check(input: &[u8], verify: impl Fn(&[u8], &InForce) -> Verdict) {
    let Some(([what, rules, high, low], rest)) = settings(input) else { return };
    let at = usize::from(u16::from_be_bytes([high, low]));
    let vectors = Vectors::read();
    let gateway = gateway(rules, &vectors);
    let refused = |token: &[u8], why: &str| {
        assert!(verify(token, &gateway).is_err(), "{why} is not accepted");
    };
    match what & 7 {
        signer @ 0..4 => {
            let usual;
            let (header, payload) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) if what & 8 != 0 => (&rest[..end], &rest[end + 1..]),
                _ => {
                    let (algorithm, name) = Vectors::signer(signer);
                    usual = json!({"alg": algorithm.name(), "kid": name}).to_string();
                    (usual.as_bytes(), rest)
                }
            };
            let token = vectors.sign(signer, header, payload);
            check_signed(&verify(&token, &gateway), &token, signer, &gateway);
            refused(&turned(&token, at), "a token of which a bit was turned");
        }
        4 => {
            let token = vectors.tokens[usize::from(what >> 3) % vectors.tokens.len()].as_bytes();
            let pasted = pasted(token, at, rest);
            if pasted != token {
                refused(&pasted, "a token that was written over");
            }
        }
        5 => {
            let made_up = vectors.sign_publicly(what >> 3, rest);
            refused(&made_up, "a token that is signed with what everybody can have");
        }
        _ => {
            let is_genuine = vectors.tokens.iter().any(|token| token.as_bytes() == rest);
            if !is_genuine {
                refused(rest, "a token that nobody signed");
            }
        }
    }
}

/// Compares a verdict on what was really signed with what a second reader says.
fn check_signed(verdict: &Verdict, token: &[u8], signer: u8, gateway: &InForce) {
    if token.len() > gateway.auth.max_token.bytes() {
        assert_eq!(verdict, &Err(TokenFault::TooLarge), "who is too large is told so");
        return;
    }
    let mut parts = token.split(|byte| *byte == b'.').map(number::read);
    let mut part = || parts.next().expect("three parts").expect("base64");
    let (header, payload) = (part(), part());
    if members::are_beyond(&header) {
        return;
    }
    if let Some(fault) = Vectors::fault_of(signer, &header, gateway) {
        assert_eq!(verdict, &Err(fault), "a second reader faults the header");
        return;
    }
    let Some(read) = claims::read(&payload, gateway) else { return };
    match (verdict, read) {
        (Ok(verified), Ok(read)) => read.check(verified),
        (Err(fault), Err(faults)) => {
            assert!(faults.contains(fault), "a second reader says {faults:?}, not {fault:?}");
        }
        (Err(fault), Ok(_)) => {
            panic!("a token that is signed and holds is accepted, not {fault:?}")
        }
        (Ok(_), Err(faults)) => panic!("a token that does not hold is not accepted: {faults:?}"),
    }
}

/// A gateway by the rules that the bits of `rules` stand for.
fn gateway(rules: u8, vectors: &Vectors) -> InForce {
    let mut config = Config::default();
    let auth = &mut config.auth;
    let names = Algorithm::ALL.map(Algorithm::name).map(str::to_owned);
    auth.algorithms.0 = match rules & 3 {
        0 => names[..1].to_vec(),
        1 => names[3..].to_vec(),
        _ => names.to_vec(),
    };
    auth.leeway = Duration::ZERO;
    let has = |bit: u8| rules >> bit & 1 != 0;
    if has(2) {
        auth.issuers.0 = vec![claims::ISSUER.to_owned(), "b".to_owned()];
    }
    if has(3) {
        auth.audiences.0 = vec!["a".to_owned()];
    }
    if has(4) {
        auth.uid_claim.clear();
    }
    if has(5) {
        "groups".clone_into(&mut auth.groups_claim);
        "attributes".clone_into(&mut auth.attributes_claim);
    }
    if has(6) {
        config.limits.names = 8;
        config.limits.groups_per_client = 2;
        config.limits.attributes = 2;
    }
    let mut material = Material::default();
    // In one file, or in two places.
    let half = if has(7) { vectors.jwks.len() / 2 } else { 0 };
    let set = |jwks: &[Value]| {
        let set = json!({ "keys": jwks }).to_string();
        Keys::set(set.as_bytes(), &[]).expect("good keys")
    };
    if half > 0 {
        material.client_key = set(&vectors.jwks[..half]);
    }
    material.client_jwks = set(&vectors.jwks[half..]);
    InForce { config, material }
}

/// The keys of the gateway, and who can sign.
struct Vectors {
    /// Each has a name, which is that of its algorithm but for our own.
    jwks: Vec<Value>,
    /// Tokens that another program signed with them, one per algorithm.
    tokens: Vec<String>,
    /// The keys of the algorithms by HMAC.
    secrets: [Vec<u8>; 3],
    own: Ed25519KeyPair,
    /// What of the keys is public, in the forms in which it is written.
    public: Vec<Vec<u8>>,
}

thread_local! {
    static VECTORS: OnceCell<Rc<Vectors>> = const { OnceCell::new() };
}

impl Vectors {
    /// Those of the file, read once.
    fn read() -> Rc<Self> {
        VECTORS.with(|once| Rc::clone(once.get_or_init(|| Self::from_file().into())))
    }

    fn from_file() -> Self {
        let file: Value =
            serde_json::from_str(include_str!("../../src/access/vectors.json")).expect("JSON");
        let good = file["good"].as_array().expect("vectors");
        let named: Vec<_> = Algorithm::ALL
            .iter()
            .map(|algorithm| {
                let is_its = |one: &&Value| one["jwk"]["kid"] == algorithm.name();
                good.iter().find(is_its).expect("a vector for each algorithm")
            })
            .collect();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bytes = |value: &Value| number::read(text(value)).expect("base64");
        let own = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let x = number::text(own.public_key());
        let mut jwks: Vec<Value> = named.iter().map(|one| one["jwk"].clone()).collect();
        jwks.push(json!({"kty": "OKP", "crv": "Ed25519", "kid": OWN, "x": x}));
        let mut public = vec![Vec::new(), b"secret".to_vec()];
        for (jwk, one) in jwks.iter().zip(&named).skip(3) {
            let numbers = ["n", "x", "y"].map(|member| &jwk[member]);
            let numbers = numbers.into_iter().filter(|number| number.is_string());
            public.extend(numbers.flat_map(|it| [bytes(it), text(it).into_bytes()]));
            public.extend([text(&one["pem"]).into_bytes(), jwk.to_string().into_bytes()]);
        }
        Self {
            tokens: named.iter().map(|one| text(&one["token"])).collect(),
            secrets: [0, 1, 2].map(|at| bytes(&jwks[at]["k"])),
            jwks,
            own,
            public,
        }
    }

    /// Who signs, and under which name.
    fn signer(signer: u8) -> (Algorithm, &'static str) {
        let algorithm = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512, Algorithm::EdDsa]
            [usize::from(signer)];
        (algorithm, if algorithm == Algorithm::EdDsa { OWN } else { algorithm.name() })
    }

    fn sign(&self, signer: u8, header: &[u8], payload: &[u8]) -> Vec<u8> {
        let how = [hmac::HMAC_SHA256, hmac::HMAC_SHA384, hmac::HMAC_SHA512];
        token(header, payload, |signed| match how.get(usize::from(signer)) {
            Some(how) => by_hmac(*how, &self.secrets[usize::from(signer)], signed),
            None => self.own.sign(signed).as_ref().to_vec(),
        })
    }

    /// A token as who has no secret could make one: by HMAC with something that is public, or not
    /// signed at all.
    fn sign_publicly(&self, which: u8, payload: &[u8]) -> Vec<u8> {
        let Some(key) = self.public.get(usize::from(which)) else {
            return token(br#"{"alg":"none"}"#, payload, |_| Vec::new());
        };
        token(br#"{"alg":"HS256"}"#, payload, |signed| by_hmac(hmac::HMAC_SHA256, key, signed))
    }

    /// What is wrong with a token of this header that `signer` signed, as a second reader sees it.
    fn fault_of(signer: u8, header: &[u8], gateway: &InForce) -> Option<TokenFault> {
        let Ok(Members(header)) = serde_json::from_slice(header) else {
            return Some(TokenFault::Malformed);
        };
        let all = |name: &str| header.iter().filter(|(it, _)| it == name).collect::<Vec<_>>();
        let ([(_, Value::String(claimed))], [] | [(_, Value::Null)]) =
            (&all("alg")[..], &all("crit")[..])
        else {
            return Some(TokenFault::Malformed);
        };
        let kid = match &all("kid")[..] {
            [] | [(_, Value::Null)] => None,
            [(_, Value::String(kid))] => Some(kid.as_str()),
            _ => return Some(TokenFault::Malformed),
        };
        if !gateway.auth.algorithms.0.iter().any(|allowed| allowed == claimed) {
            return Some(TokenFault::Algorithm);
        }
        // The keys that there are for each, by name.
        let fitting: &[&str] = match claimed.as_str() {
            "HS256" => &["HS256", "HS384", "HS512"],
            "HS384" => &["HS384", "HS512"],
            "HS512" => &["HS512"],
            "RS256" | "PS256" => &["RS256", "PS256"],
            "ES256" => &["ES256"],
            _ => &["EdDSA", OWN],
        };
        let (algorithm, name) = Self::signer(signer);
        if kid.is_some_and(|kid| !fitting.contains(&kid)) {
            return Some(TokenFault::UnknownKey);
        }
        let is_by_it = claimed.as_str() == algorithm.name() && kid.is_none_or(|kid| kid == name);
        (!is_by_it).then_some(TokenFault::Signature)
    }
}

fn by_hmac(how: hmac::Algorithm, key: &[u8], signed: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(how, key), signed).as_ref().to_vec()
}

fn token(header: &[u8], payload: &[u8], sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let signed = format!("{}.{}", number::text(header), number::text(payload));
    let signature = number::text(sign(signed.as_bytes()));
    format!("{signed}.{signature}").into_bytes()
}

/// As the gateway itself verifies, by the keys of its files.
pub fn verify(token: &[u8], gateway: &InForce) -> Verdict {
    let (source, _) = KeySource::new();
    let identity = Identity::new(source);
    let verdict = pin!(identity.verify(token, gateway));
    match verdict.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => panic!("keys that are there are not waited for"),
    }
}

/// The same with one bit turned.
fn turned(token: &[u8], at: usize) -> Vec<u8> {
    let mut token = token.to_vec();
    let byte = at / 8 % token.len();
    token[byte] ^= 1 << (at % 8);
    token
}

/// The same with `rest` written over what is at a place; beyond the end it goes on.
fn pasted(token: &[u8], at: usize, rest: &[u8]) -> Vec<u8> {
    let at = at % (token.len() + 1);
    let behind = (at + rest.len()).min(token.len());
    [&token[..at], rest, &token[behind..]].concat()
}
