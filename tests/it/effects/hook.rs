//! `[hook]`: the back end that says who may connect.

#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

use tonic::Status;

use super::Stage;
use crate::{
    backend::{BackEnd, allow, allow_as, always, refuse, waiting},
    client::{Client, soon},
    hook::turned_away,
    issuer::Issuer,
    listeners::{address, free_port},
    raw::{Raw, request},
    scrape::Page,
    site::until,
    v1::text,
};
use gateway_websocket::grpc::proto::v1::Allow;

async fn gauge(stage: &Stage, name: &str) -> f64 {
    Page::of(&stage.gateway).await.get(name)
}

/// Asks for an upgrade and doesn't wait for the answer.
async fn knock(stage: &Stage) -> Raw {
    let mut raw = Raw::open(stage.gateway.websocket()).await;
    raw.send(request(&[])).await;
    raw
}

async fn is_let_in(raw: &mut Raw) {
    let head = raw.response().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

#[tokio::test]
pub(super) async fn hook_address() {
    let mut stage = Stage::new(&[]).await;
    let [no, yes] = [refuse(402, ""), allow_as("ada")].map(always);
    let (no, yes) = (BackEnd::with(no).await, BackEnd::with(yes).await);
    stage.change("hook.address", &no.value()).await;
    assert_eq!(turned_away(&stage.gateway).await.0, "402 Payment Required");
    stage.change("hook.address", &yes.value()).await;
    stage.gateway.connect().await;
    stage.change_is_refused("hook.address", "\"a.example:1\"", "http://10.0.0.7:9000").await;
}

#[tokio::test]
pub(super) async fn hook_ca() {
    let (ours, theirs) = (Issuer::new("ours"), Issuer::new("theirs"));
    let made = ours.server();
    let tls = crate::hook::server(&made.certificate, &made.key);
    let back_end = BackEnd::over_tls(tls, always(allow_as("ada"))).await;
    let address = format!("\"https://localhost:{}\"", back_end.address().port());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, issuer: &Issuer| {
        let path = folder.path().join(name);
        std::fs::write(&path, issuer.certificate()).unwrap();
        format!("{:?}", path.display().to_string())
    };
    let (right, wrong) = (file("right", &ours), file("wrong", &theirs));
    let settings = [
        ("hook.address", address.as_str()),
        ("hook.ca", right.as_str()),
        ("hook.timeout", "\"1s\""),
    ];
    let mut stage = Stage::new(&settings).await;
    stage.change("hook.ca", &wrong).await;
    assert_eq!(turned_away(&stage.gateway).await.0, "503 Service Unavailable");
    stage.change("hook.ca", &right).await;
    stage.gateway.connect().await;
}

#[tokio::test]
pub(super) async fn hook_token_file() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let mut stage = Stage::new(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    stage.change("hook.address", &back_end.value()).await;
    for token in [None, Some("first-0123456789abcdef"), Some("second-0123456789abcdef")] {
        if let Some(token) = token {
            let path = folder.path().join(&token[..5]);
            std::fs::write(&path, token).unwrap();
            stage.change("hook.token_file", &format!("{:?}", path.display().to_string())).await;
        }
        let mut raw = knock(&stage).await;
        let asked = questions.next().await;
        let brought = asked.metadata.get("authorization").map(|it| it.to_str().unwrap().to_owned());
        assert_eq!(brought, token.map(|token| format!("Bearer {token}")));
        asked.answer(allow_as(""));
        is_let_in(&mut raw).await;
    }
}

#[tokio::test]
pub(super) async fn hook_timeout() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let mut stage = Stage::new(&[("hook.timeout", "\"1h\""), ("limits.handshake", "\"1h\"")]).await;
    stage.change("hook.address", &back_end.value()).await;
    let mut patient = knock(&stage).await;
    let asked = questions.next().await;
    stage.change("hook.timeout", "\"100ms\"").await;
    let (status, body) = turned_away(&stage.gateway).await;
    assert!(status.starts_with("503 ") && body.contains("(timeout)"), "{status} {body}");
    asked.answer(allow_as(""));
    is_let_in(&mut patient).await;
}

#[tokio::test]
pub(super) async fn hook_max_concurrent() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let settings =
        [("hook.timeout", "\"1h\""), ("limits.handshake", "\"1h\""), ("hook.max_concurrent", "1")];
    let mut stage = Stage::new(&settings).await;
    stage.change("hook.address", &back_end.value()).await;
    let mut first = knock(&stage).await;
    let asked = questions.next().await;
    let mut second = knock(&stage).await;
    until("one who waits", async || gauge(&stage, "hook_waiting").await == 1.0).await;
    assert!(questions.try_next().is_none());
    // Who waits already has a turn by it.
    stage.change("hook.max_concurrent", "2").await;
    questions.next().await.answer(allow_as(""));
    is_let_in(&mut second).await;
    asked.answer(allow_as(""));
    is_let_in(&mut first).await;
}

#[tokio::test]
pub(super) async fn hook_max_waiting() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let settings = [
        ("hook.timeout", "\"1h\""),
        ("limits.handshake", "\"1h\""),
        ("hook.max_concurrent", "1"),
        ("hook.max_waiting", "0"),
    ];
    let mut stage = Stage::new(&settings).await;
    stage.change("hook.address", &back_end.value()).await;
    let mut first = knock(&stage).await;
    let asked = questions.next().await;
    let (status, body) = turned_away(&stage.gateway).await;
    assert!(status.starts_with("503 ") && body.contains("(busy)"), "{status} {body}");
    stage.change("hook.max_waiting", "1").await;
    let mut second = knock(&stage).await;
    until("one who waits", async || gauge(&stage, "hook_waiting").await == 1.0).await;
    asked.answer(allow_as(""));
    is_let_in(&mut first).await;
    questions.next().await.answer(allow_as(""));
    is_let_in(&mut second).await;
}

#[tokio::test]
pub(super) async fn hook_max_answer() {
    let messages = vec![text(&"x".repeat(2000))];
    let back_end = BackEnd::with(always(allow(Allow { messages, ..Allow::default() }))).await;
    let mut stage = Stage::new(&[]).await;
    stage.change("hook.address", &back_end.value()).await;
    stage.gateway.connect().await;
    stage.change("hook.max_answer", "\"1 KiB\"").await;
    let (status, body) = turned_away(&stage.gateway).await;
    assert!(status.starts_with("503 ") && body.contains("(nonsense)"), "{status} {body}");
}

#[tokio::test]
pub(super) async fn hook_fail() {
    let back_end = BackEnd::with(always(Err(Status::internal("out of order")))).await;
    let mut stage = Stage::new(&[]).await;
    stage.change("hook.address", &back_end.value()).await;
    assert_eq!(turned_away(&stage.gateway).await.0, "503 Service Unavailable");
    stage.change("hook.fail", "\"open\"").await;
    stage.gateway.connect().await;
}

#[tokio::test]
pub(super) async fn hook_breaker_failures() {
    let back_end = BackEnd::with(always(Err(Status::internal("out of order")))).await;
    let mut stage =
        Stage::new(&[("hook.breaker_failures", "0"), ("hook.breaker_pause", "\"1h\"")]).await;
    stage.change("hook.address", &back_end.value()).await;
    for _ in 0..9 {
        assert!(turned_away(&stage.gateway).await.1.contains("(error)"));
    }
    stage.change("hook.breaker_failures", "2").await;
    assert!(turned_away(&stage.gateway).await.1.contains("(error)"));
    assert!(turned_away(&stage.gateway).await.1.contains("(breaker)"));
    stage.change("hook.breaker_failures", "0").await;
    assert!(turned_away(&stage.gateway).await.1.contains("(error)"));
}

#[tokio::test]
pub(super) async fn hook_breaker_pause() {
    let place = address(free_port());
    let settings = [
        ("hook.breaker_failures", "1"),
        ("hook.breaker_pause", "\"1h\""),
        ("hook.timeout", "\"100ms\""),
    ];
    let mut stage = Stage::new(&settings).await;
    stage.change("hook.address", &format!("\"http://{place}\"")).await;
    assert!(turned_away(&stage.gateway).await.1.contains("(unreachable)"));
    assert!(turned_away(&stage.gateway).await.1.contains("(breaker)"));
    // A shorter pause counts from the next failure on.
    stage.change("hook.breaker_failures", "0").await;
    stage.change("hook.breaker_pause", "\"50ms\"").await;
    assert!(turned_away(&stage.gateway).await.1.contains("(unreachable)"));
    stage.change("hook.breaker_failures", "1").await;
    assert!(turned_away(&stage.gateway).await.1.contains("(unreachable)"));
    let _back_end = BackEnd::at(place, always(allow_as(""))).await;
    until("the end of the pause", async || {
        let mut raw = knock(&stage).await;
        raw.response().await.starts_with("HTTP/1.1 101 ")
    })
    .await;
    soon("a client", Client::connect(stage.gateway.websocket())).await;
}
