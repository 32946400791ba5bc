//! `[limits]` on what may wait for a client that doesn't read, and for a shard.

use super::Stage;
use crate::{
    client::soon,
    raw::{Raw, request},
};

const SMALL: (&str, &str) = ("websocket.send_buffer", "\"16 KiB\"");
const KEEP: (&str, &str) = ("limits.slow_client", "\"drop-newest\"");
const AT_ONCE: (&str, &str) = ("limits.slow_client_grace", "\"0s\"");

fn message() -> String {
    "m".repeat(4096)
}

async fn narrow(stage: &Stage) -> (Raw, String) {
    Raw::narrow(stage.gateway.websocket()).await
}

/// Whether one more message is accepted for the client.
async fn takes(stage: &Stage, id: &str) -> bool {
    stage.gateway.send_message_to_client(id, message()).await.result
}

/// Sends until the client takes no more; answers how many it took.
async fn fill(stage: &Stage, id: &str) -> usize {
    let mut taken = 0;
    while takes(stage, id).await {
        taken += 1;
    }
    taken
}

#[tokio::test]
pub(super) async fn limits_queue_bytes() {
    let settings = [SMALL, KEEP, AT_ONCE, ("limits.queue_bytes", "\"64 KiB\"")];
    let mut stage = Stage::new(&settings).await;
    let (_stuck, id) = narrow(&stage).await;
    fill(&stage, &id).await;
    stage.change("limits.queue_bytes", "\"128 KiB\"").await;
    let more = fill(&stage, &id).await;
    assert!((10..=18).contains(&more), "64 KiB more are {more} messages more");
    stage.change("limits.queue_bytes", "\"64 KiB\"").await;
    assert!(!takes(&stage, &id).await);
}

#[tokio::test]
pub(super) async fn limits_queue_messages() {
    let mut stage = Stage::new(&[SMALL, KEEP, AT_ONCE, ("limits.queue_messages", "10")]).await;
    let (_stuck, id) = narrow(&stage).await;
    fill(&stage, &id).await;
    stage.change("limits.queue_messages", "15").await;
    assert_eq!(fill(&stage, &id).await, 5);
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_slow_client() {
    let mut stage = Stage::new(&[SMALL, KEEP, AT_ONCE, ("limits.queue_messages", "10")]).await;
    let (_stuck, id) = narrow(&stage).await;
    fill(&stage, &id).await;
    assert!(stage.gateway.client_is_online(id.as_str()).await.isonline);
    stage.change("limits.slow_client", "\"drop-oldest\"").await;
    assert!(takes(&stage, &id).await, "there is always room for the newest");
    stage.change("limits.slow_client", "\"disconnect\"").await;
    assert!(!takes(&stage, &id).await);
    assert!(!stage.gateway.client_is_online(id.as_str()).await.isonline);
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_slow_client_grace() {
    let hour = ("limits.slow_client_grace", "\"1h\"");
    let mut stage = Stage::new(&[SMALL, KEEP, hour, ("limits.queue_messages", "10")]).await;
    let (_stuck, id) = narrow(&stage).await;
    // Sixteen times the queue, and what the kernel takes besides.
    assert!(fill(&stage, &id).await >= 160);
    stage.change("limits.slow_client_grace", "\"0s\"").await;
    assert!(!takes(&stage, &id).await);
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_queued_bytes() {
    let settings = [
        SMALL,
        ("shards", "1"),
        ("limits.queue_bytes", "\"64 MiB\""),
        ("limits.queue_messages", "100000"),
        ("limits.queued_bytes", "\"64 MiB\""),
    ];
    let mut stage = Stage::new(&settings).await;
    let (_stuck, id) = narrow(&stage).await;
    for _ in 0..1000 {
        assert!(takes(&stage, &id).await);
    }
    stage.change("limits.queued_bytes", "\"1 MiB\"").await;
    let gone = async {
        while stage.gateway.client_is_online(id.as_str()).await.isonline {
            let _ = stage.gateway.try_send_message_to_client(id.as_str(), message()).await;
        }
    };
    soon("the end of the longest queue", gone).await;
    stage.everybody_is_served().await;
}

/// Calls at once, which keep the only shard busy; answers whether one was refused.
async fn is_overrun(stage: &Stage) -> bool {
    let text: String = (0..9000u32).map(|n| char::from(b'a' + (n * n % 23) as u8)).collect();
    let calls = (0..64).map(|_| stage.gateway.try_send_message_to_group("busy", text.as_str()));
    let answers = futures_util::future::join_all(calls).await;
    let refused = |answer: &Result<_, tonic::Status>| match answer {
        Ok(_) => false,
        Err(status) => {
            assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
            true
        }
    };
    answers.iter().any(refused)
}

#[tokio::test(flavor = "multi_thread")]
pub(super) async fn limits_inbox() {
    let settings = [("shards", "1"), ("limits.inbox", "1"), ("compression.level", "9")];
    let mut stage = Stage::new(&settings).await;
    // So that each message takes the shard some time, there is somebody for whom it is compressed.
    let (mut raw, _) = Raw::compressing(stage.gateway.websocket()).await;
    let id = raw.data().await.text().to_owned();
    assert!(stage.gateway.join_group(id, "busy").await.result);
    let reading = tokio::spawn(async move { while raw.next().await.is_some() {} });
    let refused = async { while !is_overrun(&stage).await {} };
    soon("a refused call", refused).await;
    stage.change("limits.inbox", "4096").await;
    for _ in 0..10 {
        assert!(!is_overrun(&stage).await);
    }
    assert!(!reading.is_finished());
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn websocket_send_buffer() {
    let settings = [KEEP, ("websocket.send_buffer", "\"4 KiB\""), ("limits.queue_messages", "10")];
    let mut stage = Stage::new(&settings).await;
    let (_before, id) = narrow(&stage).await;
    let small = fill(&stage, &id).await;
    stage.change("websocket.send_buffer", "\"200 KiB\"").await;
    let mut after = Raw::open_narrow(stage.gateway.websocket()).await;
    after.send(request(&[])).await;
    assert!(after.response().await.starts_with("HTTP/1.1 101 "));
    let id = after.data().await.text().to_owned();
    let large = fill(&stage, &id).await;
    // Sixteen are what the kernel takes at most of what the client has no room for.
    assert!(large > small + 8, "{small} messages, then {large}");
    stage.everybody_is_served().await;
}
