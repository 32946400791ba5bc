//! `[compression]`: how the frames of a client that agreed to it look.

use super::Stage;
use crate::raw::{Frame, Raw, TEXT, frame};

/// The bit of a frame's first byte that says that the message is compressed.
const RSV1: u8 = 0x40;

/// A client that agreed to compression, and its id.
async fn compressing(stage: &Stage) -> (Raw, String) {
    let (mut raw, response) = Raw::compressing(stage.gateway.websocket()).await;
    assert!(response.contains("permessage-deflate"), "{response}");
    let id = raw.data().await.text().to_owned();
    (raw, id)
}

/// The frame in which a message of words comes.
async fn frame_of(stage: &Stage, raw: &mut Raw, id: &str, words: usize) -> Frame {
    let text: Vec<_> = (0..words).map(|n| format!("{} is {}", n, n * n % 97)).collect();
    assert!(stage.gateway.send_message_to_client(id, text.join(", ")).await.result);
    raw.data().await
}

#[tokio::test]
pub(super) async fn compression_enabled() {
    let mut stage = Stage::new(&[]).await;
    let (mut raw, id) = compressing(&stage).await;
    assert_eq!(frame_of(&stage, &mut raw, &id, 100).await.first, TEXT | RSV1);
    stage.change("compression.enabled", "false").await;
    assert_eq!(frame_of(&stage, &mut raw, &id, 100).await.first, TEXT);
    let (_raw, response) = Raw::compressing(stage.gateway.websocket()).await;
    assert!(!response.contains("permessage-deflate"), "{response}");
    stage.change("compression.enabled", "true").await;
    assert_eq!(frame_of(&stage, &mut raw, &id, 100).await.first, TEXT | RSV1);
}

#[tokio::test]
pub(super) async fn compression_level() {
    let mut stage = Stage::new(&[]).await;
    let (mut raw, id) = compressing(&stage).await;
    let fast = frame_of(&stage, &mut raw, &id, 2000).await.payload.len();
    stage.change("compression.level", "9").await;
    let small = frame_of(&stage, &mut raw, &id, 2000).await.payload.len();
    assert!(small < fast, "{small} bytes after {fast}");
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn compression_min_size() {
    let mut stage = Stage::new(&[]).await;
    let (mut raw, id) = compressing(&stage).await;
    assert_eq!(frame_of(&stage, &mut raw, &id, 100).await.first, TEXT | RSV1);
    stage.change("compression.min_size", "\"8 KiB\"").await;
    assert_eq!(frame_of(&stage, &mut raw, &id, 100).await.first, TEXT);
    assert_eq!(frame_of(&stage, &mut raw, &id, 2000).await.first, TEXT | RSV1);
    stage.everybody_is_served().await;
}

/// What a client says is echoed by the shard: compressed, if the shard may compress so much.
#[tokio::test]
pub(super) async fn compression_inline_max() {
    let mut stage = Stage::new(&[("websocket.messages", "\"echo\"")]).await;
    let (mut raw, _) = compressing(&stage).await;
    let said = frame(TEXT, "again and again ".repeat(6000).as_bytes());
    raw.send(&said).await;
    assert_eq!(raw.data().await.first, TEXT);
    stage.change("compression.inline_max", "\"128 KiB\"").await;
    raw.send(&said).await;
    assert_eq!(raw.data().await.first, TEXT | RSV1);
    stage.everybody_is_served().await;
}
