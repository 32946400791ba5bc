//! What holds for the reading of keys, whatever a server or a file holds in their place.
//!
//! ```text
//!   input   settings: where the keys are from │ a key set, or the file of a key
//! ```
//!
//! A set goes on working when one more key is put into it, whatever else is there; and nobody can
//! verify a token whose key isn't in what was read. What is said of keys that are of no use is ours:
//! nothing of the text itself is repeated, since it may be a secret.

use gateway_websocket::access::{Algorithm, KeyProblem, Keys, Verdict};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::{
    members::{self, Members},
    number, settings,
};

/// Where keys are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The URL of `auth.jwks`.
    Url,
    /// The file of `auth.jwks`.
    Set,
    /// The file of `auth.key`.
    Key,
}

/// Keys of a set that are used.
const MOST: usize = 32;
/// What is signed here.
const SIGNED: &[u8] = b"header.payload";

/// Checks what `read` makes of the keys in `input`, for a gateway that takes all algorithms.
pub fn check(input: &[u8], read: impl Fn(Place, &[u8]) -> Result<Keys, KeyProblem>) {
    let Some(([way], text)) = settings(input) else { return };
    let place = [Place::Url, Place::Set, Place::Key, Place::Url][usize::from(way & 3)];
    let own = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).expect("a seed");
    let signature = own.sign(SIGNED);
    let is_own = |keys: &Keys, id| {
        keys.verify(Algorithm::EdDsa, id, SIGNED, signature.as_ref()) == Verdict::Genuine
    };

    let keys = read(place, text);
    if let Err(problem) = &keys {
        check_problem(problem, text);
    }
    if let Ok(keys) = &keys {
        assert!((1..=MOST).contains(&keys.len()), "{} keys", keys.len());
        assert!(!is_own(keys, None), "a key that nobody gave verifies nothing");
        for algorithm in Algorithm::ALL {
            let nothing = keys.verify(algorithm, None, SIGNED, b"");
            assert_ne!(nothing, Verdict::Genuine, "no signature is none");
        }
    }
    if place == Place::Key {
        return;
    }

    if members::are_beyond(text) {
        return;
    }
    let set = set(text);
    let used = |set: &Vec<Value>| {
        let usable = set.iter().filter(|key| is_usable(key, place));
        usable.take(MOST).cloned().collect::<Vec<_>>()
    };
    let used = set.as_ref().map(used).unwrap_or_default();
    let usable = used.len();
    // In a file of ours, keys that are of no use to any algorithm are a mistake.
    let fits = used.iter().any(|key| place == Place::Url || is_fit(key));
    let expected = fits.then_some(usable);
    match &keys {
        Ok(keys) => assert_eq!(Some(keys.len()), expected, "a second reader counts the keys"),
        Err(problem) => assert_eq!(expected, None, "a second reader finds keys, not {problem}"),
    }
    let Some(mut set) = set.filter(|set| set.len() < MOST) else { return };
    let x = number::text(own.public_key().as_ref());
    let at = usize::from(way >> 2) % (set.len() + 1);
    set.insert(at, json!({"kty": "OKP", "crv": "Ed25519", "kid": "own", "x": x}));
    let more = read(place, json!({ "keys": set }).to_string().as_bytes());
    let more = more.expect("a set with a good key in it is of use");
    assert_eq!(more.len(), usable + 1, "the others stay");
    assert!(is_own(&more, Some("own")) && is_own(&more, None), "a good key among others is found");
}

/// The keys in a set, of use or not, if it is one.
fn set(text: &[u8]) -> Option<Vec<Value>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let Members(members) = serde_json::from_slice(text).ok()?;
    let mut keys = members.into_iter().filter(|(name, _)| name == "keys");
    match (keys.next(), keys.next()) {
        (Some((_, Value::Array(keys))), None) => Some(keys),
        _ => None,
    }
}

/// As the gateway itself reads them.
pub fn read(place: Place, text: &[u8]) -> Result<Keys, KeyProblem> {
    match place {
        Place::Url => Keys::fetched(text),
        Place::Set => Keys::set(text, &Algorithm::ALL),
        Place::Key => Keys::key(text, &Algorithm::ALL),
    }
}

/// What is said is about the text, and not in it.
fn check_problem(problem: &KeyProblem, text: &[u8]) {
    match problem {
        KeyProblem::NoSet(said) => {
            let line =
                said.strip_prefix("line ").and_then(|it| it.strip_suffix(" is something else"));
            let line = line.and_then(|line| line.parse().ok()).unwrap_or(usize::MAX);
            let lines = text.split(|byte| *byte == b'\n').count();
            assert!(line <= lines, "{said:?} says where it broke off, and no more");
        }
        KeyProblem::Unfit(names) => {
            let mut names = names.split(", ");
            assert!(names.all(|name| Algorithm::of(name).is_some()), "algorithms are named only");
        }
        KeyProblem::Unreadable(_) | KeyProblem::NoFile | KeyProblem::TooLarge => {
            panic!("bytes that are there are read, not {problem}");
        }
        // Their text is the program's own.
        _ => {}
    }
}

/// Whether a member of a set is a key to verify with (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2), to a
/// second reader.
fn is_usable(key: &Value, place: Place) -> bool {
    let Value::Object(key) = key else { return false };
    // Members of the wrong kind make it no key at all, also those that wouldn't matter.
    let texts = ["kty", "kid", "use", "alg", "crv", "n", "e", "x", "y", "k"];
    let are_texts = texts
        .iter()
        .filter_map(|name| key.get(*name))
        .all(|value| value.is_string() || value.is_null());
    let operations = match key.get("key_ops") {
        None | Some(Value::Null) => None,
        Some(Value::Array(all)) if all.iter().all(Value::is_string) => Some(all),
        Some(_) => return false,
    };
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let size = |name: &str| text(name).and_then(number::read_padded).map(|it| it.len());
    let is_to_verify = text("use").is_none_or(|purpose| purpose.eq_ignore_ascii_case("sig"))
        && operations.is_none_or(|all| all.iter().any(|one| one == "verify"))
        && text("alg").is_none_or(|name| Algorithm::of(name).is_some());
    are_texts
        && is_to_verify
        && match (text("kty"), text("crv")) {
            (Some("RSA"), _) => is_rsa(text("n"), text("e")),
            (Some("EC"), Some("P-256")) => size("x") == Some(32) && size("y") == Some(32),
            (Some("OKP"), Some("Ed25519")) => size("x") == Some(32),
            (Some("oct"), _) => place != Place::Url && size("k").is_some(),
            _ => false,
        }
}

/// Whether some algorithm goes by a key (RFC 7518 §3.1): by its kind, the name of an algorithm in it,
/// and the length of a secret.
fn is_fit(key: &Value) -> bool {
    let secret = || key["k"].as_str().and_then(number::read_padded).unwrap_or_default();
    let algorithms: &[(&str, usize)] = match key["kty"].as_str() {
        Some("RSA") => &[("RS256", 0), ("PS256", 0)],
        Some("EC") => &[("ES256", 0)],
        Some("OKP") => &[("EdDSA", 0)],
        _ => &[("HS256", 32), ("HS384", 48), ("HS512", 64)],
    };
    let only = key["alg"].as_str();
    algorithms.iter().any(|(name, least)| {
        only.is_none_or(|only| only == *name) && (*least == 0 || secret().len() >= *least)
    })
}

/// 2048 to 8192 bits, and an odd exponent over 1 of at most 32 bits.
fn is_rsa(n: Option<&str>, e: Option<&str>) -> bool {
    let strip = |text: Option<&str>| -> Option<Vec<u8>> {
        Some(number::read_padded(text?)?.into_iter().skip_while(|byte| *byte == 0).collect())
    };
    let (Some(n), Some(e)) = (strip(n), strip(e)) else { return false };
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    (2048..=8192).contains(&bits) && is_odd(&n) && is_odd(&e) && e.len() <= 4 && e != [1]
}
