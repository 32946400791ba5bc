//! Which members of a set are keys.

use serde_json::json;

use super::*;
use crate::access::{Keys, keys::MAX_KEYS};

const POINT: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const OTHER: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

/// The key of RFC 7515 §A.3, with changes; null takes a member out.
fn key(changes: &Value) -> Value {
    let mut key = json!({"kty": "EC", "crv": "P-256", "x": POINT, "y": OTHER, "kid": "1"});
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            key.as_object_mut().unwrap().remove(name);
        } else {
            key[name] = value.clone();
        }
    }
    key
}

fn of(keys: &[Value]) -> Result<usize, String> {
    let text = json!({ "keys": keys, "more": 1 }).to_string();
    let keys = set(text.as_bytes(), Secrets::Taken);
    keys.map(|keys| Keys::of(keys).len()).map_err(|error| error.to_string())
}

#[test]
fn a_key_to_verify_with_is_taken() {
    for changes in [
        json!({}),
        json!({"kid": null}),
        json!({"use": "sig"}),
        json!({"use": "SIG"}),
        json!({"x": format!("{POINT}="), "y": format!("{OTHER}=")}),
        json!({"alg": "ES256"}),
        json!({"key_ops": ["verify", "sign"]}),
        json!({"x5c": ["AAAA"], "unknown": {"deep": [1]}}),
    ] {
        assert_eq!(of(&[key(&changes)]), Ok(1), "{changes}");
    }
}

#[test]
fn what_can_not_be_used_is_left_out_and_nothing_left_is_an_error() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors.json")).unwrap();
    let weak = &vectors["refused_jwk"];
    let mut unfit = vec![json!("text"), json!(null), json!({}), weak[0].clone(), weak[1].clone()];
    for changes in [
        json!({"kty": "AKP"}),
        json!({"kty": null}),
        json!({"kty": 7}),
        json!({"kid": 7}),
        json!({"use": "enc"}),
        json!({"alg": "ES384"}),
        json!({"alg": "none"}),
        json!({"key_ops": ["encrypt"]}),
        json!({"key_ops": []}),
        json!({"crv": "P-384"}),
        json!({"crv": null}),
        json!({"x": null}),
        json!({"y": "AAAA"}),
        json!({"x": format!("{POINT}==")}),
        json!({"x": format!("{POINT}+")}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "OKP", "crv": "Ed448", "x": POINT}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
        json!({"kty": "oct"}),
    ] {
        unfit.push(key(&changes));
    }
    for one in &unfit {
        let said = of(std::slice::from_ref(one)).unwrap_err();
        assert!(said.starts_with("holds no key that could be used"), "{one}: {said}");
    }
    unfit.push(key(&json!({})));
    assert_eq!(of(&unfit), Ok(1));
    assert!(of(&[]).is_err());
}

#[test]
fn rsa_keys_have_a_size_and_an_exponent_that_make_sense() {
    let rsa = |bytes: usize, first: u8, last: u8, e: &[u8]| {
        let mut n = vec![1; bytes];
        n[0] = first;
        n[bytes - 1] = last;
        Kind::rsa(&n, e).is_some()
    };
    let usual = [1, 0, 1];
    assert!(rsa(256, 0x80, 1, &usual) && rsa(1024, 0xff, 1, &[3]) && !rsa(257, 0, 1, &usual));
    assert!(!rsa(256, 0x7f, 1, &usual), "2047 bits");
    assert!(!rsa(1025, 1, 1, &usual) && !rsa(256, 0x80, 2, &usual));
    assert!(!rsa(256, 0x80, 1, &[1]) && !rsa(256, 0x80, 1, &[2]) && !rsa(256, 0x80, 1, &[]));
    assert!(!rsa(256, 0x80, 1, &[1, 0, 0, 0, 1]));
}

#[test]
fn the_whole_must_be_a_set_of_no_unusual_size() {
    let said = |text: &[u8]| set(text, Secrets::Taken).err().unwrap().to_string();
    let deep = format!("{{\"keys\":{}1{}}}", "[".repeat(999), "]".repeat(999));
    for text in
        [&b""[..], b"<html><body>Sign in</body></html>", b"[]", b"{}", b"\xff", &deep.into_bytes()]
    {
        let said = said(text);
        assert!(said.contains("expected {\"keys\": [") && !said.contains("Sign"), "{said}");
    }
    let alone = said(key(&json!({})).to_string().as_bytes());
    let values = |key: &Value| {
        json!(["EC", null, null, null, null, "P-256", null, null, key["x"], key["y"], null])
    };
    let array = values(&key(&json!({})));
    assert!(said(json!([[key(&json!({}))]]).to_string().as_bytes()).contains("expected {\"keys\""));
    assert!(of(&[array]).is_err(), "the values alone are no key");
    let good = key(&json!({})).to_string();
    let elsewhere = [b"{\"a\":\n\"\xff\",\"keys\":[", good.as_bytes(), b"]}"];
    assert!(said(&elsewhere.concat()).ends_with("line 2 is something else"));
    assert!(alone.contains("expected {\"keys\""), "a key is no set: {alone}");
    assert_eq!(of(&vec![key(&json!({})); MAX_KEYS]), Ok(MAX_KEYS));
    // What is of no use takes nobody's place.
    let many = [vec![json!({"kty": "AKP"}); 40], vec![key(&json!({})); MAX_KEYS + 2]].concat();
    let keys = Keys::fetched(json!({ "keys": many }).to_string().as_bytes()).unwrap();
    assert_eq!((keys.len(), keys.left_out()), (MAX_KEYS, 2));
}

#[test]
fn what_anybody_can_fetch_is_no_secret() {
    let secret = json!({"kty": "oct", "k": "A".repeat(64)});
    let text = json!({"keys": [secret, key(&json!({}))]}).to_string();
    assert_eq!(set(text.as_bytes(), Secrets::Taken).unwrap().len(), 2);
    assert_eq!(Keys::fetched(text.as_bytes()).unwrap().len(), 1);
    let alone = json!({"keys": [{"kty": "oct", "k": "A".repeat(64)}]}).to_string();
    assert!(Keys::fetched(alone.as_bytes()).is_err());
}
