//! Who a client is by its token: let in with what it says, or refused with the reason.

mod jwks;
mod log;
mod times;
mod uids;

use std::time::Duration;

use gateway_websocket::{
    close::Cause,
    ids::{ClientId, Name},
    metrics::TokenFault,
    shard::Clock,
};
use serde_json::{Value, json};

use crate::{
    client::soon,
    gateway::Gateway,
    mint::{self, Mint, by_secret},
    raw::{Raw, request},
};

pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A gateway that goes by the secret.
pub(super) async fn keyed(sets: &[&str]) -> (Gateway, tempfile::TempDir) {
    keyed_at(Clock::default(), sets).await
}

pub(super) async fn keyed_at(clock: Clock, sets: &[&str]) -> (Gateway, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, SECRET).unwrap();
    let key = format!("auth.key={}", path.display());
    let own = ["auth.algorithms=[\"HS256\"]", &key];
    (Gateway::at(clock, &[&own, sets].concat()).await, directory)
}

/// What a request with these lines is answered.
pub(super) async fn answer(gateway: &Gateway, lines: &[&str]) -> (Raw, String) {
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(lines)).await;
    let head = raw.response().await;
    (raw, head)
}

/// A client that comes in with a token, and its id.
pub(super) async fn enter(gateway: &Gateway, token: &str) -> (Raw, ClientId) {
    let (mut raw, head) = answer(gateway, &[&bearer(token)]).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let id = raw.data().await.text().parse().unwrap();
    (raw, id)
}

/// Asks until it is let in: a question for keys is not asked as soon as somebody needs one.
pub(super) async fn enter_soon(gateway: &Gateway, token: &str) -> Raw {
    let asking = async {
        loop {
            let (raw, head) = answer(gateway, &[&bearer(token)]).await;
            if head.starts_with("HTTP/1.1 101 ") {
                return raw;
            }
        }
    };
    soon("the key", asking).await
}

/// Refused with this reason, which is all that is said.
pub(super) async fn refused(gateway: &Gateway, lines: &[&str], reason: TokenFault) {
    let before = gateway.hub().handshakes().tokens.of(reason).get();
    let (mut raw, head) = answer(gateway, lines).await;
    let rest = raw.rest().await;
    let said = format!("{head}{rest}").to_lowercase();
    let (status, challenge) = match reason {
        TokenFault::KeysUnavailable => ("http/1.1 503 ", "retry-after: 5".to_owned()),
        TokenFault::Missing => ("http/1.1 401 ", "www-authenticate: bearer\r\n".to_owned()),
        _ => {
            let description = format!("error_description=\"{reason}\"\r\n");
            let challenge = "www-authenticate: bearer error=\"invalid_token\", ";
            ("http/1.1 401 ", format!("{challenge}{description}"))
        }
    };
    assert!(said.starts_with(status) && said.contains(&challenge), "{said}");
    assert!(said.ends_with(&format!("the token was refused: {reason}\n")), "{said}");
    assert!(!said.contains("eyj"), "the token is not said back: {said}");
    assert_eq!(gateway.hub().handshakes().tokens.of(reason).get(), before + 1);
}

pub(super) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn name(text: &str) -> Name {
    Name::new(text, 256).unwrap()
}

#[tokio::test]
async fn who_brings_a_good_token_is_who_it_says_before_anybody_is_told() {
    let sets = ["auth.groups_claim=groups", "auth.attributes_claim=attributes"];
    let (gateway, _files) = keyed(&sets).await;
    let claims = json!({"groups": "lobby staff", "attributes": {"role": "admin"}});
    let (mut ada, id) = enter(&gateway, &by_secret(SECRET, &claims)).await;
    // It has read its id, so all of this has to be true already.
    assert_eq!(gateway.hub().clients_of("ada").await.unwrap(), [id]);
    assert_eq!(gateway.hub().uid_of(id).await.unwrap(), Some(name("ada")));
    for group in ["lobby", "staff"] {
        assert_eq!(gateway.hub().members(group).await.unwrap(), [id], "{group}");
    }
    let attributes = gateway.hub().attributes_of(id).await.unwrap();
    assert_eq!(attributes.iter().collect::<Vec<_>>(), [("role", "admin")]);
    assert_eq!(gateway.send_message_to_group("lobby", "hello").await.arrive, 1);
    assert_eq!(ada.data().await.text(), "hello");
    assert_eq!(gateway.hub().handshakes().tokens.accepted.get(), 1);
}

#[tokio::test]
async fn a_bad_token_is_refused_with_its_reason_and_counted() {
    use TokenFault::{
        Algorithm, Audience, Claims, Expired, Issuer, Malformed, Missing, NotYetValid, Signature,
        TooLarge,
    };
    let sets = ["auth.issuers=[\"us\"]", "auth.audiences=[\"chat\"]", "limits.head=64KiB"];
    let (gateway, _files) = keyed(&sets).await;
    let good = |changes: &Value| {
        let mut claims = json!({"iss": "us", "aud": "chat"});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let token = |changes: Value| by_secret(SECRET, &good(&changes));
    let mint = Mint::new("any");
    let unsigned = |alg: &str| mint::signed(&json!({ "alg": alg }), &good(&json!({})));
    let fine = token(json!({}));
    let (header, _) = fine.split_once('.').unwrap();
    let (_, signature) = fine.rsplit_once('.').unwrap();
    let stolen = token(json!({"sub": "eve"}));
    let payload = stolen.split('.').nth(1).unwrap();
    for (token, reason) in [
        (token(json!({"exp": mint::now() - 3600})), Expired),
        (token(json!({"nbf": mint::now() + 3600})), NotYetValid),
        (token(json!({"aud": "game"})), Audience),
        (token(json!({"aud": null})), Audience),
        (token(json!({"iss": "them"})), Issuer),
        (token(json!({"exp": null})), Claims),
        (token(json!({"sub": null})), Claims),
        (token(json!({"sub": "x".repeat(257)})), Claims),
        (by_secret("another secret of the same length", &good(&json!({}))), Signature),
        (format!("{header}.{payload}.{signature}"), Signature),
        (format!("{header}.{payload}."), Signature),
        (format!("{}.", unsigned("none")), Algorithm),
        (format!("{}.{signature}", unsigned("None")), Algorithm),
        (format!("{}.{signature}", unsigned("HS512")), Algorithm),
        (mint.token(&good(&json!({}))), Algorithm),
        ("not a token".to_owned(), Malformed),
        (String::new(), Malformed),
        (format!("{fine}.{fine}"), Malformed),
        (fine[..fine.len() / 2].to_owned(), Malformed),
        ("x".repeat(32 << 10), TooLarge),
    ] {
        refused(&gateway, &[&bearer(&token)], reason).await;
    }
    refused(&gateway, &[], Missing).await;
    refused(&gateway, &["Authorization: Basic YWRhOmFkYQ=="], Missing).await;
    let twice = [bearer(&fine), bearer(&fine)];
    refused(&gateway, &[&twice[0], &twice[1]], TokenFault::Several).await;
    assert_eq!(gateway.hub().count_sockets(), 0);
    assert_eq!(gateway.hub().count_users(), 0, "nothing of a bad token was used");
    assert_eq!(gateway.hub().handshakes().tokens.accepted.get(), 0);
    enter(&gateway, &fine).await;
}

#[tokio::test]
async fn a_token_of_a_megabyte_is_refused_by_what_a_head_may_be() {
    let (gateway, _files) = keyed(&[]).await;
    let (_, head) = {
        let mut raw = Raw::open(gateway.websocket()).await;
        let _ = raw.try_send(request(&[&bearer(&"x".repeat(1 << 20))])).await;
        let head = raw.try_response().await.unwrap_or_default();
        (raw, head)
    };
    // Answered, or reset while it was still being sent.
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 431 "), "{head}");
    enter(&gateway, &by_secret(SECRET, &json!({}))).await;
    // Where a head may be as large, the token is at fault.
    let (gateway, _files) = keyed(&["limits.head=2MiB"]).await;
    refused(&gateway, &[&bearer(&"x".repeat(1 << 20))], TokenFault::TooLarge).await;
    enter(&gateway, &by_secret(SECRET, &json!({}))).await;
}

#[tokio::test]
async fn who_need_not_bring_a_token_is_nobody_and_a_bad_one_is_refused_all_the_same() {
    let (gateway, _files) = keyed(&["auth.required=false"]).await;
    let nobody = gateway.connect().await;
    let id = nobody.id().parse().unwrap();
    assert_eq!(gateway.hub().uid_of(id).await.unwrap(), None);
    let bad = by_secret(SECRET, &json!({"exp": 7}));
    refused(&gateway, &[&bearer(&bad)], TokenFault::Expired).await;
}

#[tokio::test]
async fn a_token_may_stand_in_any_of_the_places_and_the_first_of_them_counts() {
    let sets = [
        "auth.sources=[\"cookie\", \"query\", \"protocol\", \"header\"]",
        "websocket.allowed_origins=[\"https://app.example\"]",
    ];
    let (gateway, _files) = keyed(&sets).await;
    let as_uid = |uid: &str| by_secret(SECRET, &json!({ "sub": uid }));
    let cookie = format!("Cookie: a=b; access_token={}; c=d", as_uid("cookie"));
    let protocol = format!("Sec-WebSocket-Protocol: bearer, {}", as_uid("protocol"));
    let header = bearer(&as_uid("header"));
    let query = request(&[]).replace("?and=query", &format!("?access_token={}", as_uid("query")));
    for (lines, expected) in [
        (vec![&header], "header"),
        (vec![&header, &protocol], "protocol"),
        (vec![&header, &protocol, &cookie], "cookie"),
    ] {
        let lines: Vec<&str> = lines.into_iter().map(String::as_str).collect();
        let (mut raw, head) = answer(&gateway, &lines).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let id: ClientId = raw.data().await.text().parse().unwrap();
        assert_eq!(gateway.hub().uid_of(id).await.unwrap(), Some(name(expected)));
    }
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(query).await;
    assert!(raw.response().await.starts_with("HTTP/1.1 101 "));
    let id: ClientId = raw.data().await.text().parse().unwrap();
    assert_eq!(gateway.hub().uid_of(id).await.unwrap(), Some(name("query")));
    // Whose cookie it is, is no matter where the page may not connect.
    let (_, head) = answer(&gateway, &[&cookie, "Origin: https://evil.example"]).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    // What stands where nobody looks is no token.
    let (gateway, _files) = keyed(&["auth.sources=[\"protocol\"]"]).await;
    refused(&gateway, &[&header], TokenFault::Missing).await;
}

#[tokio::test]
async fn bearer_is_answered_unless_another_protocol_is_and_the_token_never_is() {
    let (gateway, _files) = keyed(&["websocket.subprotocols=[\"chat\"]"]).await;
    let token = by_secret(SECRET, &json!({}));
    for (offer, expected) in [
        (format!("bearer, {token}"), "bearer"),
        (format!("bearer, {token}, chat"), "chat"),
        (format!("chat, bearer, {token}"), "chat"),
        (format!("other, bearer, {token}"), "bearer"),
    ] {
        let (_raw, head) = answer(&gateway, &[&format!("Sec-WebSocket-Protocol: {offer}")]).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let line = format!("sec-websocket-protocol: {expected}\r\n");
        assert!(head.to_lowercase().contains(&line), "{head}");
        assert!(!head.contains(&token), "{head}");
    }
    // The word before it makes a token of it, though it would be a protocol otherwise.
    let lines = ["Sec-WebSocket-Protocol: bearer, chat"];
    refused(&gateway, &lines, TokenFault::Malformed).await;
    refused(&gateway, &["Sec-WebSocket-Protocol: chat, bearer"], TokenFault::Malformed).await;
    refused(&gateway, &["Sec-WebSocket-Protocol: chat"], TokenFault::Missing).await;
}

#[tokio::test]
async fn a_client_is_closed_when_its_token_has_expired_unless_the_time_is_moved() {
    let clock = Clock::paused();
    let sets = ["auth.leeway=0s", "websocket.heartbeat_timeout=0s", "websocket.ping_interval=0s"];
    let (gateway, _files) = keyed_at(clock.clone(), &sets).await;
    let (mut ada, first) = enter(&gateway, &by_secret(SECRET, &json!({}))).await;
    let (mut bob, second) = enter(&gateway, &by_secret(SECRET, &json!({"sub": "bob"}))).await;
    let change = gateway_websocket::change::Change {
        expires: Some(None),
        ..gateway_websocket::change::Change::default()
    };
    gateway.hub().change(second, change).await.unwrap();
    clock.advance(Duration::from_secs(590));
    assert!(gateway.hub().is_online(first).await.unwrap());
    clock.advance(Duration::from_secs(11));
    assert!(gateway.hub().is_online(second).await.unwrap());
    assert_eq!(soon("the close", ada.close_code()).await, 3000);
    assert_eq!(gateway.closed(Cause::Expired), 1);
    bob.send(crate::raw::frame(crate::raw::TEXT, b"ping")).await;
    assert_eq!(bob.data().await.text(), "pong");
}

#[tokio::test]
async fn the_expiry_of_a_token_is_told_to_the_second() {
    let (gateway, _files) = keyed(&["auth.leeway=10s"]).await;
    let expires = mint::now() + 1000;
    let (_ada, id) = enter(&gateway, &by_secret(SECRET, &json!({"exp": expires}))).await;
    let described = gateway.hub().describe(vec![id]).await.unwrap();
    let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(expires + 10);
    assert_eq!(described[0].as_ref().unwrap().expires, Some(at));
}

#[tokio::test]
async fn without_algorithms_no_token_is_looked_at() {
    let gateway = Gateway::start().await;
    for line in ["Authorization: Bearer rubbish", "Sec-WebSocket-Protocol: bearer, rubbish"] {
        let (_raw, head) = answer(&gateway, &[line]).await;
        assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("bearer"), "{head}");
    }
}
