//! Tokens of the RFCs and of another implementation, and everything that is none.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn vectors() -> Vec<Value> {
    let vectors: Value = serde_json::from_str(include_str!("../../access/vectors.json")).unwrap();
    vectors["good"].as_array().unwrap().clone()
}

fn keys(jwks: &[&Value]) -> Keys {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, json!({ "keys": jwks }).to_string()).unwrap();
    Keys::read_set(&path, &[]).0.unwrap()
}

fn auth(algorithms: &[&str]) -> Auth {
    let mut auth = Auth::default();
    auth.algorithms.0 = algorithms.iter().map(ToString::to_string).collect();
    auth
}

fn any() -> Auth {
    auth(&Algorithm::ALL.map(Algorithm::name))
}

fn verdict(token: &str, auth: &Auth, keys: &Keys) -> Result<Verdict, TokenFault> {
    Token::read(token.as_bytes(), auth).map(|token| token.verify([keys]))
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// RFC 7515 §A.1 to A.3, RFC 7520 §4.4, RFC 8037 §A.4, and all algorithms by another program.
#[test]
fn tokens_that_others_made_are_genuine_by_their_key_and_no_other() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 12);
    for one in &vectors {
        let token = one["token"].as_str().unwrap();
        let source = &one["source"];
        let right = keys(&[&one["jwk"]]);
        assert_eq!(verdict(token, &any(), &right), Ok(Verdict::Genuine), "{source}");
        let all = keys(&vectors.iter().map(|one| &one["jwk"]).collect::<Vec<_>>());
        assert_eq!(verdict(token, &any(), &all), Ok(Verdict::Genuine), "{source}");
        for other in vectors.iter().filter(|other| {
            other["jwk"]["k"] != one["jwk"]["k"] || other["jwk"]["x"] != one["jwk"]["x"]
        }) {
            let wrong = verdict(token, &any(), &keys(&[&other["jwk"]]));
            assert!(matches!(wrong, Ok(Verdict::Forged | Verdict::NoKey)), "{source}: {wrong:?}");
        }
    }
}

#[test]
fn a_token_that_is_changed_anywhere_is_forged() {
    for one in vectors() {
        let token = one["token"].as_str().unwrap();
        let keys = keys(&[&one["jwk"]]);
        let [_, _, signature] = *token.split('.').collect::<Vec<_>>() else { panic!() };
        let payload = token.find('.').unwrap() + 2;
        let mut changed = token.as_bytes().to_vec();
        changed[payload] = if changed[payload] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(verdict(&changed, &any(), &keys), Ok(Verdict::Forged), "{}", one["source"]);
        let unsigned = &token[..token.len() - signature.len()];
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let zeros = vec![0; bytes.len()];
        let longer = [&bytes[..], &[0]].concat();
        for wrong in [&[][..], &bytes[1..], &zeros, &longer] {
            let wrong = format!("{unsigned}{}", encode(wrong));
            assert_eq!(verdict(&wrong, &any(), &keys), Ok(Verdict::Forged), "{}", one["source"]);
        }
    }
}

#[test]
fn the_configuration_says_by_which_algorithm_and_not_the_token() {
    for one in vectors() {
        let token = one["token"].as_str().unwrap();
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        let others = Algorithm::ALL.map(Algorithm::name);
        let others: Vec<_> = others.into_iter().filter(|name| header["alg"] != *name).collect();
        let keys = keys(&[&one["jwk"]]);
        assert_eq!(verdict(token, &auth(&others), &keys), Err(TokenFault::Algorithm));
    }
    let payload = encode("{}");
    for algorithm in ["none", "None", "nOnE", "", "HS1", "ES384"] {
        let header = encode(json!({"alg": algorithm}).to_string());
        for signature in [String::new(), encode([7; 32])] {
            let token = format!("{header}.{payload}.{signature}");
            assert_eq!(verdict(&token, &any(), &Keys::default()), Err(TokenFault::Algorithm));
        }
    }
}

/// A key that says for which algorithm it is, is for no other: that of an RS256 key can't be had as
/// PS256.
#[test]
fn a_key_may_be_for_one_algorithm_only() {
    let vectors = vectors();
    let ps = vectors.iter().find(|one| one["jwk"]["kid"] == "PS256").unwrap();
    let with = |name: &str| {
        let mut jwk = ps["jwk"].clone();
        jwk["alg"] = name.into();
        verdict(ps["token"].as_str().unwrap(), &any(), &keys(&[&jwk]))
    };
    assert_eq!(with("PS256"), Ok(Verdict::Genuine));
    assert_eq!(with("RS256"), Ok(Verdict::NoKey));
}

#[test]
fn a_token_goes_by_the_key_that_it_names_or_by_one_without_a_name() {
    let vectors = vectors();
    let es = vectors.iter().find(|one| one["jwk"]["kid"] == "ES256").unwrap();
    let called = |kid: Option<&str>| {
        let mut jwk = es["jwk"].clone();
        match kid {
            Some(kid) => jwk["kid"] = kid.into(),
            None => drop(jwk.as_object_mut().unwrap().remove("kid")),
        }
        jwk
    };
    let token = es["token"].as_str().unwrap();
    assert_eq!(verdict(token, &any(), &keys(&[&called(None)])), Ok(Verdict::Genuine));
    assert_eq!(verdict(token, &any(), &keys(&[&called(Some("other"))])), Ok(Verdict::NoKey));
    // RFC 7515 §A.3 names no key, so all of its kind are tried.
    let nameless = vectors.iter().find(|one| one["source"] == "rfc7515-a3").unwrap();
    let mut named = nameless["jwk"].clone();
    named["kid"] = "a3".into();
    let both = keys(&[&called(Some("other")), &named]);
    let token = nameless["token"].as_str().unwrap();
    assert_eq!(verdict(token, &any(), &both), Ok(Verdict::Genuine));
}

#[test]
fn what_is_no_token_is_malformed() {
    let header = encode(r#"{"alg":"HS256"}"#);
    let cases = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "a.b".to_owned(),
        "not a token".to_owned(),
        header.clone(),
        format!("{header}."),
        format!("{header}.e30"),
        format!("{header}.e30.AAAA.AAAA.AAAA"), // encrypted (RFC 7516)
        format!("{header}.e30.AAAA="),
        format!("{header}.e30.AA+A"),
        format!("{header}.e30.A"),
        format!("{header}.e30.AB"), // bits that are left over
        format!(" {header}.e30.AAAA"),
        format!("{header}=.e30.AAAA"),
        format!("{}.e30.AAAA", encode("")),
        format!("{}.e30.AAAA", encode("null")),
        format!("{}.e30.AAAA", encode("[]")),
        format!("{}.e30.AAAA", encode(r#"["HS256",null,null]"#)), // values without their names
        format!("{}.e30.AAAA", encode("{}")),
        format!("{}.e30.AAAA", encode(r#"{"alg":7}"#)),
        format!("{}.e30.AAAA", encode(r#"{"alg":null}"#)),
        format!("{}.e30.AAAA", encode(r#"{"alg":"HS256","kid":7}"#)),
        format!("{}.e30.AAAA", encode(r#"{"alg":"HS256","alg":"none"}"#)),
        format!("{}.e30.AAAA", encode(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#)),
        format!("{}.e30.AAAA", encode(r#"{"alg":"HS256"} more"#)),
        format!("{}.e30.AAAA", encode(b"{\"alg\":\"HS256\xff\"}")),
        format!("{}.e30.AAAA", encode(b"{\"alg\":\"HS256\",\"typ\":\"\xff\"}")),
        format!("{}.e30.AAAA", encode(format!("{}1{}", "[".repeat(500), "]".repeat(500)))),
    ];
    for token in cases {
        let read = verdict(&token, &any(), &Keys::default());
        assert_eq!(read, Err(TokenFault::Malformed), "{token}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_token_or_a_fault(
        text: Vec<u8>, header in "[{}\":a-zA-Z0-9,\\[\\]]{0,40}", rest in "[A-Za-z0-9_.=-]{0,60}",
    ) {
        let keys = keys(&[&vectors()[5]["jwk"]]);
        let built = format!("{}.{rest}", encode(header));
        for text in [&text[..], built.as_bytes()] {
            if let Ok(token) = Token::read(text, &any()) {
                prop_assert_ne!(token.verify([&keys]), Verdict::Genuine);
            }
        }
    }
}
