//! `[limits]` on what a client that is connected may do.

use super::Stage;
use crate::raw::{BINARY, TEXT, frame, head};

const ECHO: (&str, &str) = ("websocket.messages", "\"echo\"");

/// A client says this before the change and is echoed, and after it is closed with the code.
async fn closes(key: &str, value: &str, said: &[u8], echoes: usize, code: u16) {
    let mut stage = Stage::new(&[ECHO]).await;
    let (mut client, _) = stage.raw().await;
    client.send(said).await;
    for _ in 0..echoes {
        client.data().await;
    }
    stage.change(key, value).await;
    client.send(said).await;
    assert_eq!(client.close_code().await, code);
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_max_message() {
    closes("limits.max_message", "\"1 KiB\"", &frame(TEXT, &[b'x'; 2000]), 1, 1009).await;
}

#[tokio::test]
pub(super) async fn limits_max_fragments() {
    let said = [frame(0x01, b"a"), frame(0x00, b"b"), frame(0x80, b"c")].concat();
    closes("limits.max_fragments", "2", &said, 1, 1008).await;
}

#[tokio::test]
pub(super) async fn limits_client_messages() {
    closes("limits.client_messages", "3", &frame(TEXT, b"x").repeat(8), 8, 1008).await;
}

#[tokio::test]
pub(super) async fn limits_client_bytes() {
    closes("limits.client_bytes", "\"1 KiB\"", &frame(BINARY, &[0; 4000]), 1, 1008).await;
}

#[tokio::test]
pub(super) async fn limits_message_deadline() {
    let mut stage = Stage::new(&[("limits.message_deadline", "\"1h\"")]).await;
    let (mut client, _) = stage.raw().await;
    stage.change("limits.message_deadline", "\"200ms\"").await;
    client.send(head(TEXT, 100)).await;
    assert_eq!(client.close_code().await, 1008);
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_partial_bytes() {
    let settings =
        [("limits.max_message", "\"4 MiB\""), ("limits.partial_bytes", "\"64 MiB\""), ECHO];
    let mut stage = Stage::new(&settings).await;
    let (mut client, _) = stage.raw().await;
    let message = frame(BINARY, &vec![0; 3 << 20]);
    client.send(&message).await;
    assert_eq!(client.data().await.payload.len(), 3 << 20);
    stage.change("limits.partial_bytes", "\"1 MiB\"").await;
    let _ = client.try_send(&message).await;
    assert_eq!(client.close_code().await, 1013);
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_names() {
    let mut stage = Stage::new(&[]).await;
    let (_client, id) = stage.raw().await;
    assert!(stage.gateway.join_group(id.as_str(), "twelve bytes").await.result);
    stage.change("limits.names", "11").await;
    assert!(!stage.gateway.join_group(id.as_str(), "also: twelve").await.result);
    assert!(stage.gateway.join_group(id.as_str(), "only eleven").await.result);
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_groups_per_client() {
    let mut stage = Stage::new(&[("limits.groups_per_client", "1")]).await;
    let (_client, id) = stage.raw().await;
    assert!(stage.gateway.join_group(id.as_str(), "a").await.result);
    assert!(!stage.gateway.join_group(id.as_str(), "b").await.result);
    stage.change("limits.groups_per_client", "2").await;
    assert!(stage.gateway.join_group(id.as_str(), "b").await.result);
    assert!(!stage.gateway.join_group(id.as_str(), "c").await.result);
}

#[tokio::test]
pub(super) async fn limits_close_wait() {
    let mut stage = Stage::new(&[("limits.close_wait", "\"1h\"")]).await;
    let (mut client, id) = stage.raw().await;
    stage.change("limits.close_wait", "\"200ms\"").await;
    assert!(stage.gateway.clonse_client(id).await.result);
    assert_eq!(client.close_code().await, 1000);
    // It doesn't answer.
    client.ended().await;
    stage.everybody_is_served().await;
}
