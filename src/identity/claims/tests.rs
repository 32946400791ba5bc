//! What tokens may say, and when.

use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;

fn config() -> Config {
    let mut config = Config::default();
    config.auth.groups_claim = "groups".to_owned();
    config.auth.attributes_claim = "attributes".to_owned();
    config.auth.leeway = Duration::from_secs(30);
    config
}

/// Judges a token that is fine but for some claims; null takes one out.
/// So many seconds from now, to the second.
fn expiry(seconds: u64) -> Expiry {
    let after = Duration::from_secs(seconds);
    Expiry { at: UNIX_EPOCH + Duration::from_secs(NOW) + after, after }
}

fn with(config: &Config, changes: &Value) -> Result<Verified, TokenFault> {
    let mut claims = json!({"exp": NOW + 600, "sub": "ada"});
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    judge(claims.to_string().as_bytes(), config, Duration::from_secs(NOW))
}

fn fault(config: &Config, changes: &Value) -> Option<TokenFault> {
    with(config, changes).err()
}

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name::new(name, 64).unwrap()).collect()
}

#[test]
fn a_token_says_who_and_until_when() {
    let claims = json!({
        "groups": ["staff", "lobby", "staff"],
        "attributes": {"role": "admin"},
        "other": [1, {"a": null}],
    });
    let verified = with(&config(), &claims).unwrap();
    let change = &verified.change;
    assert_eq!(change.uid, Some(Some(names(&["ada"])[0].clone())));
    assert_eq!(change.join, names(&["lobby", "staff"]));
    let set = &change.attributes.as_ref().unwrap().set;
    assert_eq!(set.iter().collect::<Vec<_>>(), [("role", "admin")]);
    assert_eq!(change.expires, Some(Some(expiry(630))));
    assert!(change.leave.is_empty() && change.messages.is_empty());
    assert_eq!(verified.claims["other"], json!([1, {"a": null}]));
}

#[test]
fn only_the_claims_that_are_named_make_anything() {
    let mut config = config();
    for claim in [
        &mut config.auth.uid_claim,
        &mut config.auth.groups_claim,
        &mut config.auth.attributes_claim,
    ] {
        claim.clear();
    }
    let claims = json!({"groups": 7, "attributes": 7, "sub": null, "": ["x"]});
    let change = with(&config, &claims).unwrap().change;
    assert_eq!(change, Change { expires: Some(Some(expiry(630))), ..Change::default() });
    config.auth.uid_claim = "https://issuer.example/id".to_owned();
    let change = with(&config, &json!({"https://issuer.example/id": 4711})).unwrap().change;
    assert_eq!(change.uid, Some(Some(names(&["4711"])[0].clone())));
}

#[test]
fn times_hold_within_the_leeway() {
    use TokenFault::{Claims, Expired, NotYetValid, TimeOutOfRange};
    for (claims, expected) in [
        (json!({"exp": NOW}), None),
        (json!({"exp": NOW - 29}), None),
        (json!({"exp": NOW - 30}), Some(Expired)),
        (json!({"exp": 0}), Some(Expired)),
        (json!({"exp": -5}), Some(Expired)),
        (json!({"exp": -62_135_596_800_i64}), Some(Expired)),
        (json!({"exp": -62_135_596_801_i64}), Some(TimeOutOfRange)),
        (json!({"exp": -1e300}), Some(TimeOutOfRange)),
        (json!({"exp": 1e300}), Some(TimeOutOfRange)),
        (json!({"exp": u64::MAX}), Some(TimeOutOfRange)),
        (json!({"exp": i64::MAX}), Some(TimeOutOfRange)),
        (json!({"exp": i64::MIN}), Some(TimeOutOfRange)),
        (json!({"exp": NOW * 1000}), Some(TimeOutOfRange)),
        (json!({"exp": 253_402_300_799_u64}), None),
        (json!({"exp": 253_402_300_799.5}), None),
        (json!({"exp": 253_402_300_800_u64}), Some(TimeOutOfRange)),
        (json!({"exp": 253_402_300_800.0}), Some(TimeOutOfRange)),
        (json!({"exp": 1_799_999_970.5}), None),
        (json!({"exp": null}), Some(Claims)),
        (json!({"exp": "1900000000"}), Some(Claims)),
        (json!({"exp": [NOW + 600]}), Some(Claims)),
        (json!({"nbf": NOW + 30}), None),
        (json!({"nbf": NOW + 31}), Some(NotYetValid)),
        (json!({"nbf": 1e300}), Some(TimeOutOfRange)),
        (json!({"nbf": (NOW - 60) * 1000}), Some(TimeOutOfRange)),
        (json!({"iat": NOW + 3600}), None),
        (json!({"iat": NOW * 1000}), Some(TimeOutOfRange)),
        (json!({"iat": -1e300}), Some(TimeOutOfRange)),
        (json!({"nbf": -1}), None),
        (json!({"nbf": "soon"}), Some(Claims)),
        (json!({"exp": NOW - 60, "nbf": NOW + 60}), Some(Expired)),
    ] {
        assert_eq!(fault(&config(), &claims), expected, "{claims}");
    }
    let mut strict = config();
    strict.auth.leeway = Duration::ZERO;
    assert_eq!(fault(&strict, &json!({"exp": NOW})), Some(Expired));
    assert_eq!(fault(&strict, &json!({"exp": NOW + 1, "nbf": NOW})), None);
}

#[test]
fn a_token_is_by_somebody_and_for_somebody() {
    use TokenFault::{Audience, Issuer};
    let open = config();
    let mut listed = config();
    listed.auth.issuers.0 = vec!["https://issuer.example".to_owned(), "other".to_owned()];
    listed.auth.audiences.0 = vec!["chat".to_owned(), "game".to_owned()];
    let right = json!({"iss": "https://issuer.example", "aud": "chat"});
    for (config, claims, expected) in [
        (&open, json!({"iss": "anybody"}), None),
        (&open, json!({"iss": 7}), None),
        (&open, json!({"aud": "chat"}), Some(Audience)),
        (&open, json!({"aud": []}), Some(Audience)),
        (&open, json!({"aud": null}), None),
        (&listed, right, None),
        (&listed, json!({"iss": "other", "aud": ["x", "game"]}), None),
        (&listed, json!({"aud": "chat"}), Some(Issuer)),
        (&listed, json!({"iss": "https://issuer.example/", "aud": "chat"}), Some(Issuer)),
        (&listed, json!({"iss": ["other"], "aud": "chat"}), Some(Issuer)),
        (&listed, json!({"iss": "other"}), Some(Audience)),
        (&listed, json!({"iss": "other", "aud": "chats"}), Some(Audience)),
        (&listed, json!({"iss": "other", "aud": [["chat"], 7, null]}), Some(Audience)),
        (&listed, json!({"iss": "other", "aud": {"chat": "chat"}}), Some(Audience)),
    ] {
        assert_eq!(fault(config, &claims), expected, "{claims}");
    }
}

#[test]
fn names_are_names_and_within_the_limits() {
    let mut config = config();
    config.limits.names = 8;
    config.limits.groups_per_client = 2;
    config.limits.attributes = 2;
    config.limits.attribute_bytes.0 = 10;
    for good in [
        json!({"sub": "12345678"}),
        json!({"sub": 7}),
        json!({"sub": -7}),
        json!({"groups": []}),
        json!({"groups": ""}),
        json!({"groups": null}),
        json!({"groups": " a  b a "}),
        json!({"groups": ["a", "b", "a"]}),
        json!({"groups": ["a b"]}),
        json!({"attributes": {}}),
        json!({"attributes": {"a": "", "b": "12345678"}}),
    ] {
        assert_eq!(fault(&config, &good), None, "{good}");
    }
    for bad in [
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": "123456789"}),
        json!({"sub": 1.5}),
        json!({"sub": true}),
        json!({"sub": ["ada"]}),
        json!({"groups": 7}),
        json!({"groups": {"a": "b"}}),
        json!({"groups": ["a", 7]}),
        json!({"groups": ["a", ""]}),
        json!({"groups": "123456789"}),
        json!({"groups": ["a", "b", "c"]}),
        json!({"groups": "a b c"}),
        json!({"attributes": "a=b"}),
        json!({"attributes": ["a"]}),
        json!({"attributes": {"a": 7}}),
        json!({"attributes": {"a": null}}),
        json!({"attributes": {"": "x"}}),
        json!({"attributes": {"123456789": ""}}),
        json!({"attributes": {"a": "", "b": "", "c": ""}}),
        json!({"attributes": {"a": "1234567890"}}),
    ] {
        assert_eq!(fault(&config, &bad), Some(TokenFault::Claims), "{bad}");
    }
}

#[test]
fn a_payload_is_an_object() {
    let now = Duration::from_secs(NOW);
    let deep = format!("{{\"exp\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    for payload in ["", "null", "[]", "7", "\"text\"", "{", "{} {}", &deep] {
        let judged = judge(payload.as_bytes(), &config(), now);
        assert_eq!(judged, Err(TokenFault::Malformed), "{payload}");
    }
    assert_eq!(judge(b"{\"sub\":\"\xff\"}", &config(), now), Err(TokenFault::Malformed));
}
