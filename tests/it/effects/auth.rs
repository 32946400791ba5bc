//! Who a client is: seen on the next one that brings a token.

use serde_json::{Value, json};

use super::Stage;
use crate::{
    client::soon,
    issuer::Issuer,
    jwks::{Answer, Server},
    mint::{Mint, by_secret, now, set},
    raw::{Raw, request},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const IN: &str = "HTTP/1.1 101";

/// A gateway that goes by a secret, in a file that lives as long as what is answered beside it.
/// The clients of the stage bring no token.
async fn keyed(more: &[(&str, &str)]) -> (Stage, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let key = file(&directory, "secret", SECRET);
    let own = [("auth.algorithms", "[\"HS256\"]"), ("auth.key", &key), ("auth.required", "false")];
    (Stage::new(&[&own, more].concat()).await, directory)
}

/// A gateway that goes by the keys of a server.
async fn asking(server: &Server, more: &[(&str, &str)]) -> Stage {
    let url = format!("{:?}", server.url());
    let own =
        [("auth.algorithms", "[\"ES256\"]"), ("auth.jwks", &*url), ("auth.required", "false")];
    Stage::new(&[&own, more].concat()).await
}

/// Writes a file; answers its path as a value.
fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    format!("{:?}", path.display().to_string())
}

fn bearer(claims: &Value) -> String {
    format!("Authorization: Bearer {}", by_secret(SECRET, claims))
}

async fn comes_in(stage: &Stage, line: &str) -> bool {
    let answer = stage.answer(&[line]).await;
    assert!(answer.starts_with(IN) || answer.contains(" 401 "), "{answer}");
    answer.starts_with(IN)
}

/// Asks again and again until it is so.
async fn comes_in_soon(stage: &Stage, mint: &Mint) {
    let line = format!("Authorization: Bearer {}", mint.token(&json!({})));
    let asking = async { while !stage.answer(&[&line]).await.starts_with(IN) {} };
    soon("the key", asking).await;
}

/// A client with its token, which was welcomed.
async fn enter(stage: &Stage, claims: &Value) -> (Raw, String) {
    let mut raw = Raw::open(stage.gateway.websocket()).await;
    raw.send(request(&[&bearer(claims)])).await;
    let head = raw.response().await;
    assert!(head.starts_with(IN), "{head}");
    let id = raw.data().await.text().to_owned();
    (raw, id)
}

#[tokio::test]
pub(super) async fn auth_algorithms() {
    let (mut stage, _files) = keyed(&[]).await;
    assert!(comes_in(&stage, &bearer(&json!({}))).await);
    stage.change("auth.algorithms", "[\"HS512\"]").await;
    assert!(!comes_in(&stage, &bearer(&json!({}))).await);
    stage.change_is_refused("auth.algorithms", "[\"none\"]", "HS256, HS384").await;
    stage.change_is_refused("auth.algorithms", "[\"ES256\"]", "no key for any").await;
    stage.change_is_refused("auth.algorithms", "[]", "as auth.key is set").await;
}

#[tokio::test]
pub(super) async fn auth_key() {
    let (mut stage, files) = keyed(&[]).await;
    assert!(comes_in(&stage, &bearer(&json!({}))).await);
    let other = file(&files, "other", &SECRET.to_uppercase());
    stage.change("auth.key", &other).await;
    assert!(!comes_in(&stage, &bearer(&json!({}))).await);
    stage.change_is_refused("auth.key", "\"/missing\"", "No such file").await;
    stage.change_is_refused("auth.key", "\"\"", "auth.algorithms is set").await;
}

#[tokio::test]
pub(super) async fn auth_jwks() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (Mint::new("one"), Mint::new("two"));
    let first = file(&directory, "first", &set(&[&one]));
    let second = file(&directory, "second", &set(&[&two]));
    let settings =
        [("auth.algorithms", "[\"ES256\"]"), ("auth.jwks", &*first), ("auth.required", "false")];
    let mut stage = Stage::new(&settings).await;
    let line = format!("Authorization: Bearer {}", two.token(&json!({})));
    assert!(!comes_in(&stage, &line).await);
    stage.change("auth.jwks", &second).await;
    assert!(comes_in(&stage, &line).await);
    stage.change_is_refused("auth.jwks", "\"http://issuer.example/\"", "https://").await;
}

#[tokio::test]
pub(super) async fn auth_jwks_ca() {
    let (issuer, other) = (Issuer::new("tests"), Issuer::new("others"));
    let directory = tempfile::tempdir().unwrap();
    let wrong = file(&directory, "other.pem", &other.certificate());
    let right = file(&directory, "ca.pem", &issuer.certificate());
    let mint = Mint::new("one");
    let server = Server::with(Answer::ok(set(&[&mint])), Some(issuer.acceptor())).await;
    let url = format!("{:?}", server.url().replace("http://127.0.0.1", "https://localhost"));
    let settings = [
        ("auth.algorithms", "[\"ES256\"]"),
        ("auth.jwks", &*url),
        ("auth.required", "false"),
        ("auth.jwks_ca", &wrong),
        ("auth.jwks_retry", "\"1ms\""),
    ];
    let mut stage = Stage::new(&settings).await;
    let line = format!("Authorization: Bearer {}", mint.token(&json!({})));
    assert!(stage.answer(&[&line]).await.contains(" 503 "));
    stage.change("auth.jwks_ca", &right).await;
    comes_in_soon(&stage, &mint).await;
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn auth_jwks_refresh() {
    let server = Server::new(Answer::ok(set(&[&Mint::new("one")]))).await;
    let mut stage = asking(&server, &[("auth.jwks_refresh", "\"1h\"")]).await;
    server.asked_times(1).await;
    stage.change("auth.jwks_refresh", "\"1s\"").await;
    server.asked_times(3).await;
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn auth_jwks_retry() {
    let server = Server::new(Answer::Nothing).await;
    let mut stage = asking(&server, &[("auth.jwks_retry", "\"1h\"")]).await;
    server.asked_times(1).await;
    let mint = Mint::new("one");
    server.set(Answer::ok(set(&[&mint])));
    let line = format!("Authorization: Bearer {}", mint.token(&json!({})));
    assert!(stage.answer(&[&line]).await.contains(" 503 "), "it is too soon to ask again");
    stage.change("auth.jwks_retry", "\"1ms\"").await;
    comes_in_soon(&stage, &mint).await;
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn auth_jwks_timeout() {
    let server = Server::new(Answer::Silence).await;
    let settings = [("auth.jwks_timeout", "\"1h\""), ("auth.jwks_retry", "\"1ms\"")];
    let mut stage = asking(&server, &settings).await;
    server.asked_times(1).await;
    stage.change("auth.jwks_timeout", "\"50ms\"").await;
    server.asked_times(4).await;
    let line = format!("Authorization: Bearer {}", Mint::new("one").token(&json!({})));
    assert!(stage.answer(&[&line]).await.contains(" 503 "));
}

#[tokio::test]
pub(super) async fn auth_jwks_max_bytes() {
    let mint = Mint::new("one");
    let large = set(&[&mint]) + &" ".repeat(4096);
    let server = Server::new(Answer::ok(large)).await;
    let settings = [("auth.jwks_max_bytes", "\"2 KiB\""), ("auth.jwks_retry", "\"1ms\"")];
    let mut stage = asking(&server, &settings).await;
    let line = format!("Authorization: Bearer {}", mint.token(&json!({})));
    assert!(stage.answer(&[&line]).await.contains(" 503 "));
    stage.change("auth.jwks_max_bytes", "\"8 KiB\"").await;
    comes_in_soon(&stage, &mint).await;
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn auth_required() {
    let (mut stage, _files) = keyed(&[]).await;
    assert!(comes_in(&stage, "X: y").await);
    stage.change("auth.required", "true").await;
    assert!(!comes_in(&stage, "X: y").await);
    assert!(comes_in(&stage, &bearer(&json!({}))).await);
}

#[tokio::test]
pub(super) async fn auth_issuers() {
    let (mut stage, _files) = keyed(&[]).await;
    let by_us = bearer(&json!({"iss": "us"}));
    assert!(comes_in(&stage, &bearer(&json!({}))).await);
    stage.change("auth.issuers", "[\"us\"]").await;
    assert!(comes_in(&stage, &by_us).await);
    assert!(!comes_in(&stage, &bearer(&json!({}))).await);
}

#[tokio::test]
pub(super) async fn auth_audiences() {
    let (mut stage, _files) = keyed(&[]).await;
    let for_us = bearer(&json!({"aud": "us"}));
    assert!(!comes_in(&stage, &for_us).await);
    stage.change("auth.audiences", "[\"us\"]").await;
    assert!(comes_in(&stage, &for_us).await);
    assert!(!comes_in(&stage, &bearer(&json!({}))).await);
}

#[tokio::test]
pub(super) async fn auth_leeway() {
    let (mut stage, _files) = keyed(&[("auth.leeway", "\"1h\"")]).await;
    let late = bearer(&json!({"exp": now() - 60}));
    assert!(comes_in(&stage, &late).await);
    stage.change("auth.leeway", "\"0s\"").await;
    assert!(!comes_in(&stage, &late).await);
}

#[tokio::test]
pub(super) async fn auth_uid_claim() {
    let (mut stage, _files) = keyed(&[]).await;
    let claims = json!({"email": "ada@a.example"});
    let (_ada, _) = enter(&stage, &claims).await;
    assert!(stage.gateway.hub().user_is_online("ada"));
    stage.change("auth.uid_claim", "\"email\"").await;
    let (_again, _) = enter(&stage, &claims).await;
    assert!(stage.gateway.hub().user_is_online("ada@a.example"));
}

#[tokio::test]
pub(super) async fn auth_groups_claim() {
    let (mut stage, _files) = keyed(&[]).await;
    let claims = json!({"groups": ["lobby"], "roles": "admin"});
    let (_ada, _) = enter(&stage, &claims).await;
    assert!(!stage.gateway.hub().group_exists("lobby"));
    stage.change("auth.groups_claim", "\"groups\"").await;
    let (_bob, _) = enter(&stage, &claims).await;
    assert_eq!(stage.gateway.hub().count_members("lobby"), 1);
}

#[tokio::test]
pub(super) async fn auth_attributes_claim() {
    let (mut stage, _files) = keyed(&[]).await;
    let claims = json!({"about": {"role": "admin"}});
    let role = async |stage: &Stage| {
        let (_raw, id) = enter(stage, &claims).await;
        let attributes = stage.gateway.hub().attributes_of(id.parse().unwrap()).await.unwrap();
        attributes.get("role").map(str::to_owned)
    };
    assert_eq!(role(&stage).await, None);
    stage.change("auth.attributes_claim", "\"about\"").await;
    assert_eq!(role(&stage).await.as_deref(), Some("admin"));
}

#[tokio::test]
pub(super) async fn auth_sources() {
    let (mut stage, _files) = keyed(&[]).await;
    let late = bearer(&json!({"exp": 7}));
    assert!(!comes_in(&stage, &late).await);
    stage.change("auth.sources", "[\"protocol\"]").await;
    assert!(comes_in(&stage, &late).await, "it isn't looked at");
    stage.change_is_refused("auth.sources", "[\"cookie\"]", "origins of your pages").await;
    stage.change_is_refused("auth.sources", "[\"body\"]", "\"header\", \"protocol\"").await;
}

#[tokio::test]
pub(super) async fn auth_cookie() {
    let settings = [
        ("auth.sources", "[\"cookie\"]"),
        ("websocket.allowed_origins", "[\"https://app.example\"]"),
    ];
    let (mut stage, _files) = keyed(&settings).await;
    let late = format!("Cookie: session={}", by_secret(SECRET, &json!({"exp": 7})));
    assert!(comes_in(&stage, &late).await);
    stage.change("auth.cookie", "\"session\"").await;
    assert!(!comes_in(&stage, &late).await);
}

#[tokio::test]
pub(super) async fn auth_query_parameter() {
    let (mut stage, _files) = keyed(&[("auth.sources", "[\"query\"]")]).await;
    let ask = async |stage: &Stage| {
        let late = format!("?token={}", by_secret(SECRET, &json!({"exp": 7})));
        let mut raw = Raw::open(stage.gateway.websocket()).await;
        raw.send(request(&[]).replace("?and=query", &late)).await;
        raw.response().await
    };
    assert!(ask(&stage).await.starts_with(IN));
    stage.change("auth.query_parameter", "\"token\"").await;
    assert!(ask(&stage).await.contains(" 401 "));
}

#[tokio::test]
pub(super) async fn auth_max_token() {
    let (mut stage, _files) = keyed(&[]).await;
    assert!(comes_in(&stage, &bearer(&json!({}))).await);
    stage.change("auth.max_token", "64").await;
    assert!(!comes_in(&stage, &bearer(&json!({}))).await);
}

#[tokio::test]
pub(super) async fn auth_max_clients_per_uid() {
    let (mut stage, _files) = keyed(&[]).await;
    let _two = (enter(&stage, &json!({})).await, enter(&stage, &json!({})).await);
    stage.change("auth.max_clients_per_uid", "1").await;
    // Who came while nobody was counted is not counted.
    let _one = enter(&stage, &json!({})).await;
    assert!(stage.answer(&[&bearer(&json!({}))]).await.contains(" 429 "));
}

#[tokio::test]
pub(super) async fn auth_when_uid_is_full() {
    let (mut stage, _files) = keyed(&[("auth.max_clients_per_uid", "1")]).await;
    let (mut first, _) = enter(&stage, &json!({})).await;
    assert!(stage.answer(&[&bearer(&json!({}))]).await.contains(" 429 "));
    stage.change("auth.when_uid_is_full", "\"close-oldest\"").await;
    let _second = enter(&stage, &json!({})).await;
    assert_eq!(first.close_code().await, 3001);
    stage.everybody_is_served().await;
}
