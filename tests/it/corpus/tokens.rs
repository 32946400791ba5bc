//! The corpus of tokens and of keys, and what it says to a verification that is wrong.

use std::time::Duration;

use gateway_websocket::{
    access::{Algorithm, KeyProblem, Keys},
    config::{Auth, InForce},
    identity::Verified,
    metrics::TokenFault,
};

use super::{
    checks::{
        keys::{self, Place},
        token,
    },
    complaints, replay,
};

#[test]
fn the_corpus_of_tokens_holds() {
    replay("token", |input| token::check(input, token::verify));
}

#[test]
fn the_corpus_of_keys_holds() {
    replay("keys", |input| keys::check(input, keys::read));
}

/// What a token is worth to a gateway, made wrong.
type Misjudge = fn(&[u8], &InForce) -> token::Verdict;

#[test]
fn the_corpus_shows_each_fault_of_a_verification() {
    fn by(token: &[u8], gateway: &InForce, change: fn(&mut Auth)) -> token::Verdict {
        let mut gateway = gateway.clone();
        change(&mut gateway.config.auth);
        token::verify(token, &gateway)
    }
    let faults: [(Misjudge, &str); 12] = [
        // Believes what it can't verify.
        (
            |token, gateway| token::verify(token, gateway).or(Ok(Verified::default())),
            "nobody signed",
        ),
        (
            |token, gateway| token::verify(token, gateway).or(Ok(Verified::default())),
            "of which a bit",
        ),
        (
            |token, gateway| token::verify(token, gateway).or(Ok(Verified::default())),
            "written over",
        ),
        // Takes a public key for a secret.
        (
            |token, gateway| match token::verify(token, gateway) {
                Err(TokenFault::Signature) if gateway.auth.algorithms.0.len() > 1 => {
                    Ok(Verified::default())
                }
                verdict => verdict,
            },
            "what everybody can have",
        ),
        // Lets the token choose.
        (
            |token, gateway| {
                by(token, gateway, |auth| {
                    auth.algorithms.0 = Algorithm::ALL.map(|it| it.name().to_owned()).to_vec();
                })
            },
            "a second reader faults the header",
        ),
        (
            |token, gateway| by(token, gateway, |auth| auth.leeway = Duration::MAX),
            "a token that does not hold is not accepted: [Expired",
        ),
        (
            |token, gateway| by(token, gateway, |auth| auth.issuers.0.clear()),
            "a token that does not hold is not accepted: [Issuer",
        ),
        (
            |token, gateway| by(token, gateway, |auth| auth.audiences.0.clear()),
            "a token that does not hold is not accepted: [Audience",
        ),
        (
            |token, gateway| by(token, gateway, |auth| auth.uid_claim.clear()),
            "the uid is the one that was signed",
        ),
        (
            |token, gateway| by(token, gateway, |auth| auth.groups_claim.clear()),
            "the groups are those that were signed",
        ),
        (
            |token, gateway| {
                let mut verified = token::verify(token, gateway)?;
                verified.claims.remove("iss");
                Ok(verified)
            },
            "the claims are exactly those that were signed",
        ),
        // Too strict.
        (|_, _| Err(TokenFault::Claims), "a token that is signed and holds is accepted"),
    ];
    for (misjudge, expected) in faults {
        let found = complaints("token", |input| token::check(input, misjudge));
        assert!(found.contains(expected), "{expected:?} is not in\n{found}");
    }
}

/// What is read in the place of keys, made wrong.
type Misreadable = fn(Place, &[u8]) -> Result<Keys, KeyProblem>;

#[test]
fn the_corpus_shows_each_fault_of_a_reader_of_keys() {
    let faults: [(Misreadable, &str); 5] = [
        // Takes for a key what everybody can fetch.
        (|_, text| keys::read(Place::Set, text), "a second reader counts the keys"),
        // Repeats a text that may be a secret.
        (
            |place, text| match keys::read(place, text) {
                Err(KeyProblem::NoSet(_)) => {
                    Err(KeyProblem::NoSet(String::from_utf8_lossy(text).into_owned()))
                }
                keys => keys,
            },
            "says where it broke off, and no more",
        ),
        // Gives up at what it doesn't know.
        (
            |place, text| {
                let is_rare = text.windows(5).any(|window| window == b"P-384");
                if is_rare { Err(KeyProblem::Useless) } else { keys::read(place, text) }
            },
            "a second reader finds keys",
        ),
        // Takes what is no set for an empty one.
        (|place, text| keys::read(place, text).or(Ok(Keys::default())), "0 keys"),
        // Knows no names.
        (
            |place, text| {
                let text = String::from_utf8_lossy(text).replace("\"own\"", "\"other\"");
                keys::read(place, text.as_bytes())
            },
            "a good key among others is found",
        ),
    ];
    for (misread, expected) in faults {
        let found = complaints("keys", |input| keys::check(input, misread));
        assert!(found.contains(expected), "{expected:?} is not in\n{found}");
    }
}
