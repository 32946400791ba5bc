//! Which files are keys, and for which algorithms.

use std::{fs, os::unix::fs::PermissionsExt as _};

use ring::hmac;
use serde_json::Value;

use super::*;

const ES: &[Algorithm] = &[Algorithm::Es256];
const HS: &[Algorithm] = &[Algorithm::Hs256];

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors.json")).unwrap()
}

/// The PEM of the key for these tokens.
fn pem(algorithm: &str) -> String {
    let vectors = vectors();
    let mut good = vectors["good"].as_array().unwrap().iter();
    let one = good.find(|one| one["jwk"]["kid"] == algorithm).unwrap();
    one["pem"].as_str().unwrap().to_owned()
}

fn read_with(
    bytes: impl AsRef<[u8]>,
    algorithms: &[Algorithm],
    read: impl Fn(&Path, &[Algorithm]) -> (Result<Keys, KeyError>, Option<String>),
) -> Result<Keys, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    fs::write(&path, bytes).unwrap();
    read(&path, algorithms).0.map_err(|error| {
        let said = error.to_string();
        said.strip_prefix(&format!("{} ", path.display())).unwrap().to_owned()
    })
}

fn key(bytes: impl AsRef<[u8]>, algorithms: &[Algorithm]) -> Result<Keys, String> {
    read_with(bytes, algorithms, Keys::read)
}

#[test]
fn a_pem_file_holds_one_public_key_or_several() {
    for (algorithm, name) in
        [(Algorithm::Rs256, "RS256"), (Algorithm::Es256, "ES256"), (Algorithm::EdDsa, "EdDSA")]
    {
        let keys = key(pem(name), &[algorithm]).unwrap();
        assert_eq!(keys.len(), 1, "{name}");
        let others = Algorithm::ALL.map(|other| (other, keys.keys[0].fits(other)));
        let fits = |other| other == algorithm || (name == "RS256" && other == Algorithm::Ps256);
        assert!(others.into_iter().all(|(other, is)| is == fits(other)), "{others:?}");
    }
    let both = [pem("ES256"), "some prose\n".to_owned(), pem("EdDSA")].concat();
    let keys = key(&both, &[Algorithm::EdDsa]).unwrap();
    assert_eq!(keys.len(), 2);
    assert!(keys.to_string().starts_with("2 keys ("), "{keys}");
    assert_eq!(keys.to_string(), key(&both, ES).unwrap().to_string());
    assert_ne!(keys.to_string(), key(pem("ES256"), ES).unwrap().to_string());
}

#[test]
fn a_mark_before_the_text_is_none_of_it() {
    let marked = format!("\u{feff}{}", pem("ES256"));
    assert_eq!(key(&marked, ES).unwrap().to_string(), key(pem("ES256"), ES).unwrap().to_string());
    let set = "\u{feff}{\"keys\": [{\"kty\": \"oct\", \"k\": \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\"}]}";
    assert_eq!(read_with(set, HS, Keys::read_set).unwrap().len(), 1);
}

#[test]
fn of_too_many_keys_the_first_are_used_and_the_operator_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    fs::write(&path, pem("ES256").repeat(34)).unwrap();
    let (keys, warning) = Keys::read(&path, ES);
    let keys = keys.unwrap();
    assert_eq!((keys.len(), keys.left_out()), (32, 2));
    assert!(warning.unwrap().ends_with("holds 34 keys: the first 32 are used"));
}

#[test]
fn a_public_key_is_never_a_secret() {
    let said = key(pem("ES256"), HS).unwrap_err();
    assert_eq!(said, "holds no key for any of auth.algorithms (HS256)");
    let both = key(pem("ES256"), &[Algorithm::Hs256, Algorithm::Es256]).unwrap();
    let signed = b"header.payload";
    for bytes in [pem("ES256").into_bytes(), pem("ES256").trim().into()] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), signed);
        let verdict = both.verify(Algorithm::Hs256, None, signed, tag.as_ref());
        assert_eq!(verdict, Verdict::NoKey);
    }
}

#[test]
fn a_secret_counts_as_it_stands_without_the_end_of_its_line() {
    let secret = "0123456789abcdef0123456789abcdef";
    let signed = b"header.payload";
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed);
    for end in ["", "\n", "\r\n"] {
        let keys = key(format!("{secret}{end}"), HS).unwrap();
        let verdict = keys.verify(Algorithm::Hs256, Some("any"), signed, tag.as_ref());
        assert_eq!(verdict, Verdict::Genuine);
        let forged = keys.verify(Algorithm::Hs256, None, b"other.payload", tag.as_ref());
        assert_eq!(forged, Verdict::Forged);
        let unfit = keys.verify(Algorithm::Hs512, None, signed, tag.as_ref());
        assert_eq!(unfit, Verdict::NoKey, "it is too short for that");
    }
    // All else is part of it: one end of a line at most is none.
    for more in [" ", "\t", "\x0c", "\r", " \n", "\n\n", "\r\r\n", "\n "] {
        let text = format!("{secret}{more}");
        let keys = key(&text, HS).unwrap();
        let verdict = keys.verify(Algorithm::Hs256, None, signed, tag.as_ref());
        assert_eq!(verdict, Verdict::Forged, "{more:?}");
        let cut = text.strip_suffix("\r\n").or(text.strip_suffix('\n')).unwrap_or(&text);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, cut.as_bytes()), signed);
        let verdict = keys.verify(Algorithm::Hs256, None, signed, tag.as_ref());
        assert_eq!(verdict, Verdict::Genuine, "{more:?}");
    }
    let short = key(&secret[1..], HS).unwrap_err();
    assert!(short.contains("31 bytes: HS256 needs at least 32"), "{short}");
    let short = key(secret, &[Algorithm::Hs256, Algorithm::Hs512]).unwrap_err();
    assert!(short.contains("HS512 needs at least 64"), "{short}");
    let unfit = key(secret, ES).unwrap_err();
    assert_eq!(unfit, "holds no key for any of auth.algorithms (ES256)");
    assert!(key("", HS).is_err());
}

#[test]
fn what_is_no_key_is_told_and_not_shown() {
    let vectors = vectors();
    let refused = &vectors["refused_pem"];
    let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let rare = "holds a public key that can't be used: expected RSA of 2048 to 8192 bits, P-256 or";
    let damaged = pem("ES256").replace("-----END", "-----AND");
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (text, fault) in [
        (refused["rsa1024"].as_str().unwrap(), rare),
        (refused["p384"].as_str().unwrap(), rare),
        (&private, "holds a private key: expected the public one"),
        (&format!("{}{private}", pem("ES256")), "holds a private key"),
        (&damaged, "is damaged"),
        (certificate, "holds no public key"),
        (&"x".repeat(1 << 21), "is larger than 1048576 bytes"),
    ] {
        let said = key(text, ES).unwrap_err();
        assert!(said.starts_with(fault), "{said}");
        assert!(!said.contains(&private[40..60]) && !said.contains("xxx"), "{said}");
    }
    let directory = tempfile::tempdir().unwrap();
    let none = Keys::read(directory.path(), ES).0.unwrap_err().to_string();
    assert!(none.ends_with("is not a regular file"), "{none}");
    let missing = Keys::read(&directory.path().join("missing"), ES).0.unwrap_err().to_string();
    assert!(missing.contains("missing can't be read: No such file"), "{missing}");
}

#[test]
fn a_secret_that_lies_open_is_mentioned_and_a_public_key_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let with = |text: &str, algorithms| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Keys::read(&path, algorithms).1
    };
    let exposed = with(&"x".repeat(32), HS).unwrap();
    assert!(exposed.contains("can be read or written by every user"), "{exposed}");
    assert_eq!(with(&pem("ES256"), ES), None);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "x".repeat(32)).unwrap();
    assert_eq!(Keys::read(&path, HS).1, None);
}

#[test]
fn secrets_are_not_shown() {
    let keys = key("0123456789abcdef0123456789abcdef", HS).unwrap();
    assert_eq!(format!("{keys:?}"), "[None]");
    assert!(keys.to_string().starts_with("1 key ("), "{keys}");
}

#[test]
fn a_file_of_a_set_is_read_like_any_set() {
    let set = r#"{"keys": [{"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}"#;
    assert_eq!(read_with(set, HS, Keys::read_set).unwrap().len(), 1);
    let unfit = read_with(set, ES, Keys::read_set).unwrap_err();
    assert_eq!(unfit, "holds no key for any of auth.algorithms (ES256)");
    let none = read_with("<html>", ES, Keys::read_set).unwrap_err();
    assert!(none.starts_with("is no JSON Web Key Set (RFC 7517): expected"), "{none}");
}
