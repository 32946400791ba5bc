//! Times that a token says: none goes out that libraries of others refuse.

use serde_json::json;

use super::{SECRET, answer, bearer, keyed};
use crate::{
    backend::{BackEnd, allow_as, waiting},
    mint::{by_secret, now},
    raw::{Raw, request},
};

/// The last second of the year 9999.
const LAST: i64 = 253_402_300_799;

#[tokio::test]
async fn the_hook_is_told_no_time_beyond_the_year_9999() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let (gateway, _files) = keyed(&[&back_end.key(), "auth.leeway=1h"]).await;
    let token = by_secret(SECRET, &json!({"exp": LAST}));
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(&[&bearer(&token)])).await;
    let asked = questions.next().await;
    let told = asked.request.token.as_ref().and_then(|token| token.expires_at).unwrap();
    assert_eq!(told.seconds, LAST, "with the leeway it would be later");
    asked.answer(allow_as("ada"));
    assert!(raw.response().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn a_token_in_milliseconds_is_refused_and_nobody_is_asked_about_it() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let (gateway, _files) = keyed(&[&back_end.key()]).await;
    for claims in [
        json!({"exp": (now() + 600) * 1000}),
        json!({"exp": LAST + 1}),
        json!({"exp": 1e300}),
        json!({"nbf": (now() - 600) * 1000}),
        json!({"iat": now() * 1000}),
    ] {
        let (_raw, head) = answer(&gateway, &[&bearer(&by_secret(SECRET, &claims))]).await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{claims}: {head}");
        assert!(head.contains("error_description=\"time-out-of-range\""), "{claims}: {head}");
    }
    assert!(questions.try_next().is_none());
}
