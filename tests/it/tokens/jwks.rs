//! Keys from a URL: fetched, renewed, asked for once by many; and a server that does all it
//! shouldn't.

use std::{sync::Arc, time::Duration};

use gateway_websocket::metrics::TokenFault;
use serde_json::json;

use super::{answer, bearer, enter, enter_soon, refused};
use crate::{
    client::soon,
    gateway::Gateway,
    issuer::Issuer,
    jwks::{Answer, Server},
    mint::{Mint, by_secret, set},
    program::Program,
    raw::{Raw, request},
};

/// A gateway that goes by the keys at this URL.
async fn asking(url: &str, sets: &[&str]) -> Gateway {
    let url = format!("auth.jwks={url}");
    let own = ["auth.algorithms=[\"ES256\"]", &url, "auth.jwks_retry=1ms"];
    let own: Vec<&str> = own
        .into_iter()
        .filter(|own| !sets.iter().any(|set| set.split('=').next() == own.split('=').next()))
        .collect();
    Gateway::with(&[&own, sets].concat()).await
}

#[tokio::test]
async fn keys_are_there_when_a_client_needs_them_and_new_ones_when_it_needs_those() {
    let (old, new) = (Mint::new("old"), Mint::new("new"));
    let server = Server::new(Answer::ok(set(&[&old]))).await;
    let gateway = asking(&server.url(), &[]).await;
    // Who comes before the keys waits for them.
    enter(&gateway, &old.token(&json!({}))).await;
    assert_eq!(server.asked(), 1);
    server.set(Answer::ok(set(&[&old, &new])));
    enter_soon(&gateway, &new.token(&json!({}))).await;
    assert_eq!(server.asked(), 2);
    // A key that is gone from the set is good until the set is asked for again.
    server.set(Answer::ok(set(&[&new])));
    enter(&gateway, &old.token(&json!({}))).await;
    assert_eq!(server.asked(), 2);
    let unknown = Mint::new("unknown").token(&json!({}));
    let asked = async {
        while server.asked() < 3 {
            refused(&gateway, &[&bearer(&unknown)], TokenFault::UnknownKey).await;
        }
    };
    soon("another question", asked).await;
    let gone = old.token(&json!({}));
    refused(&gateway, &[&bearer(&gone)], TokenFault::UnknownKey).await;
    enter(&gateway, &new.token(&json!({}))).await;
    // Who takes the name of a key does not have it.
    let forged = Mint::new("new").token(&json!({}));
    refused(&gateway, &[&bearer(&forged)], TokenFault::Signature).await;
}

/// A key that takes the place of another one of its name, or of one that has none.
#[tokio::test]
async fn a_signature_that_fits_no_key_is_a_reason_to_ask_again() {
    let (old, new, last) = (Mint::new("one"), Mint::new("one"), Mint::new("one"));
    let nameless = |mint: &Mint| {
        let mut key = mint.jwk();
        key.as_object_mut().unwrap().remove("kid");
        json!({ "keys": [key] }).to_string()
    };
    let server = Server::new(Answer::ok(set(&[&old]))).await;
    let gateway = asking(&server.url(), &["auth.jwks_refresh=1h"]).await;
    enter(&gateway, &old.token(&json!({}))).await;
    server.set(Answer::ok(set(&[&new])));
    enter_soon(&gateway, &new.token(&json!({}))).await;
    for next in [&old, &last] {
        server.set(Answer::ok(nameless(next)));
        enter_soon(&gateway, &next.token(&json!({}))).await;
    }
}

#[tokio::test]
async fn forged_signatures_are_one_question_and_cost_a_known_key_nothing() {
    let (known, forger) = (Mint::new("one"), Mint::new("one"));
    let server = Server::new(Answer::ok(set(&[&known]))).await;
    let gateway = asking(&server.url(), &["auth.jwks_retry=1h"]).await;
    enter(&gateway, &known.token(&json!({}))).await;
    for _ in 0..50 {
        let line = bearer(&forger.token(&json!({})));
        refused(&gateway, &[&line], TokenFault::Signature).await;
        enter(&gateway, &known.token(&json!({}))).await;
    }
    assert_eq!(server.asked(), 1, "it is too soon for another question");
}

#[tokio::test]
async fn of_too_many_keys_the_first_that_can_be_used_are() {
    let (first, beyond) = (Mint::new("first"), Mint::new("beyond"));
    let mut keys = vec![json!({"kty": "AKP"}); 5];
    keys.push(first.jwk());
    keys.extend((0..31).map(|n| Mint::new(&n.to_string()).jwk()));
    keys.push(beyond.jwk());
    let server = Server::new(Answer::ok(json!({ "keys": keys }).to_string())).await;
    let gateway = asking(&server.url(), &[]).await;
    enter(&gateway, &first.token(&json!({}))).await;
    refused(&gateway, &[&bearer(&beyond.token(&json!({})))], TokenFault::UnknownKey).await;
}

#[tokio::test]
async fn keys_are_asked_for_again_on_their_own() {
    let mint = Mint::new("one");
    let server = Server::new(Answer::ok(set(&[&mint]))).await;
    let gateway = asking(&server.url(), &["auth.jwks_refresh=1s"]).await;
    server.asked_times(3).await;
    enter(&gateway, &mint.token(&json!({}))).await;
}

/// A flood of unknown keys is one question at a time, and no more of them than may be.
#[tokio::test]
async fn many_who_have_an_unknown_key_are_one_question() {
    let known = Mint::new("known");
    let server = Server::new(Answer::ok(set(&[&known]))).await;
    let gateway = asking(&server.url(), &["auth.jwks_retry=1h"]).await;
    enter(&gateway, &known.token(&json!({}))).await;
    let unknown = Mint::new("unknown");
    for _ in 0..50 {
        let token = unknown.token(&json!({}));
        refused(&gateway, &[&bearer(&token)], TokenFault::UnknownKey).await;
    }
    assert_eq!(server.asked(), 1, "it is too soon for another question");

    let server = Server::new(Answer::Silence).await;
    let gateway = Arc::new(asking(&server.url(), &["auth.jwks_timeout=1h"]).await);
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let (gateway, token) = (Arc::clone(&gateway), known.token(&json!({})));
            tokio::spawn(async move { answer(&gateway, &[&bearer(&token)]).await.1 })
        })
        .collect();
    let waiting = async {
        while gateway.hub().handshakes().under_way.get() < 50 {
            tokio::task::yield_now().await;
        }
    };
    soon("the crowd", waiting).await;
    server.asked_times(1).await;
    assert_eq!(server.asked(), 1);
    for one in crowd {
        one.abort();
    }
}

/// Everything that a server can do wrong: who needs its keys is told so, and whoever has a key that
/// was there before comes in.
#[tokio::test]
async fn a_server_that_does_what_it_should_not_costs_nobody_a_key_that_was_there() {
    let mint = Mint::new("one");
    let moved = "302 Found\r\nLocation: http://127.0.0.1:1/";
    let wrong = [
        Answer::Silence,
        Answer::Endless,
        Answer::BrokenOff,
        Answer::Noise,
        Answer::Nothing,
        Answer::ok(""),
        Answer::ok("{}"),
        Answer::ok("{\"keys\": []}"),
        Answer::ok("<!doctype html><title>Sign in</title>"),
        Answer::ok(format!("{}{}", set(&[&mint]), " ".repeat(300 << 10))),
        Answer::ok(
            json!({"keys": [{"kty": "oct", "kid": "one", "k": "A".repeat(64)}]}).to_string(),
        ),
        Answer::Whole(moved, set(&[&mint])),
        Answer::Whole("404 Not Found", set(&[&mint])),
        Answer::Whole("500 Internal Server Error", set(&[&mint])),
        Answer::Whole("204 No Content", String::new()),
    ];
    let server = Server::new(Answer::Nothing).await;
    let sets = ["auth.jwks_timeout=500ms", "auth.jwks_refresh=1h"];
    let gateway = asking(&server.url(), &sets).await;
    let (token, unknown) = (mint.token(&json!({})), Mint::new("unknown").token(&json!({})));
    for answer in &wrong {
        server.set(answer.clone());
        in_vain(&gateway, &token, TokenFault::KeysUnavailable).await;
    }
    assert_eq!(gateway.hub().handshakes().keys.fetched.get(), 0);
    server.set(Answer::ok(set(&[&mint])));
    enter_soon(&gateway, &token).await;
    for answer in &wrong {
        server.set(answer.clone());
        in_vain(&gateway, &unknown, TokenFault::UnknownKey).await;
        enter(&gateway, &token).await;
    }
    assert_eq!(gateway.hub().handshakes().keys.fetched.get(), 1);
}

/// Comes until the server was asked in vain, and is refused each time.
async fn in_vain(gateway: &Gateway, token: &str, reason: TokenFault) {
    let failed = || gateway.hub().handshakes().keys.failed.get();
    // Twice: the first may have been asked before the server was told what to do.
    let enough = failed() + 2;
    let asked = async {
        while failed() < enough {
            refused(gateway, &[&bearer(token)], reason).await;
        }
    };
    soon("a question in vain", asked).await;
}

/// While the server hangs, who has a known key doesn't notice, and who waits for one is given up on
/// with its handshake.
#[tokio::test]
async fn a_server_that_hangs_holds_up_a_handshake_for_no_longer_than_it_may_take() {
    let mint = Mint::new("one");
    let server = Server::new(Answer::ok(set(&[&mint]))).await;
    let sets = ["auth.jwks_timeout=1h", "auth.jwks_refresh=1s", "limits.handshake=300ms"];
    let gateway = asking(&server.url(), &sets).await;
    enter(&gateway, &mint.token(&json!({}))).await;
    server.set(Answer::Silence);
    server.asked_times(2).await;
    enter(&gateway, &mint.token(&json!({}))).await;
    let mut waiting = Raw::open(gateway.websocket()).await;
    waiting.send(request(&[&bearer(&Mint::new("two").token(&json!({})))])).await;
    assert_eq!(waiting.rest().await, "");
    assert_eq!(gateway.hub().handshakes().timeouts.get(), 1);
    enter(&gateway, &mint.token(&json!({}))).await;
}

#[tokio::test]
async fn another_url_has_other_keys() {
    let (one, two) = (Mint::new("one"), Mint::new("two"));
    let first = Server::new(Answer::ok(set(&[&one]))).await;
    let second = Server::new(Answer::ok(set(&[&two]))).await;
    let toml = |url: String| {
        format!("auth.algorithms = [\"ES256\"]\nauth.jwks = {url:?}\nauth.jwks_retry = \"1h\"")
    };
    let gateway = Gateway::with_file(&toml(first.url())).await;
    enter(&gateway, &one.token(&json!({}))).await;
    gateway.reload(&toml(second.url())).await;
    enter(&gateway, &two.token(&json!({}))).await;
    refused(&gateway, &[&bearer(&one.token(&json!({})))], TokenFault::UnknownKey).await;
    assert_eq!((first.asked(), second.asked()), (1, 1));
}

#[tokio::test]
async fn keys_of_files_and_of_a_url_are_good_beside_each_other() {
    let mint = Mint::new("one");
    let server = Server::new(Answer::Nothing).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, super::SECRET).unwrap();
    let key = format!("auth.key={}", path.display());
    let gateway = asking(&server.url(), &["auth.algorithms=[\"HS256\", \"ES256\"]", &key]).await;
    let secret = by_secret(super::SECRET, &json!({}));
    enter(&gateway, &secret).await;
    refused(&gateway, &[&bearer(&mint.token(&json!({})))], TokenFault::KeysUnavailable).await;
    server.set(Answer::ok(set(&[&mint])));
    enter_soon(&gateway, &mint.token(&json!({}))).await;
    enter(&gateway, &secret).await;
    let wrong = by_secret("another secret of the same length", &json!({}));
    refused(&gateway, &[&bearer(&wrong)], TokenFault::Signature).await;
}

/// The server of an authority that is named is believed, and no other.
#[tokio::test]
async fn over_tls_the_server_has_to_show_who_it_is() {
    let (issuer, other) = (Issuer::new("tests"), Issuer::new("others"));
    let mint = Mint::new("one");
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, issuer.certificate()).unwrap();
    let ca = format!("auth.jwks_ca={}", ca.display());
    for (by, comes_in) in [(&issuer, true), (&other, false)] {
        let server = Server::with(Answer::ok(set(&[&mint])), Some(by.acceptor())).await;
        let url = server.url().replace("http://127.0.0.1", "https://localhost");
        let gateway = asking(&url, &[&ca]).await;
        let token = mint.token(&json!({}));
        if comes_in {
            enter(&gateway, &token).await;
        } else {
            refused(&gateway, &[&bearer(&token)], TokenFault::KeysUnavailable).await;
        }
    }
}

/// However often it fails, it is told once; and that it is over.
#[tokio::test]
async fn a_trouble_is_logged_once_for_as_long_as_it_stays_the_same() {
    let mint = Mint::new("one");
    let server = Server::new(Answer::Whole("500 Internal Server Error", String::new())).await;
    let mut program = Program::new();
    let file = program.config(&format!(
        "[auth]\nalgorithms = [\"ES256\"]\njwks = {:?}\njwks_retry = \"5ms\"\n",
        server.url()
    ));
    program.serve(&["--config", &file]).await;
    server.asked_times(5).await;
    server.set(Answer::ok("<html>"));
    let asked = server.asked();
    server.asked_times(asked + 5).await;
    server.set(Answer::ok(set(&[&mint])));
    let told = |log: &str, words: &str| log.lines().filter(|line| line.contains(words)).count();
    let over = async {
        while told(&program.log(), "the keys for clients' tokens are there") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await; // a file can only be looked at
        }
    };
    soon("the end of the trouble", over).await;
    let log = program.log();
    assert_eq!(told(&log, "answered 500"), 1, "{log}");
    assert_eq!(told(&log, "is no JSON Web Key Set"), 1, "{log}");
    assert_eq!(told(&log, "the keys for clients' tokens are there"), 1, "{log}");
}
