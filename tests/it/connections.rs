//! The life of a connection: upgrade, welcome, messages, heartbeat, farewell.

use gateway_websocket::close::Cause;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    gateway::Gateway,
    raw::{CLOSE, PING, PONG, Raw, TEXT, ask, frame, request},
};

#[tokio::test]
async fn the_text_ping_is_answered_and_the_binary_one_is_not() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    ada.send(Message::binary(b"ping".to_vec())).await;
    gateway.send_message_to_client(ada.id(), "marker").await;
    ada.say("ping").await;
    let mut heard = [ada.next_text().await, ada.next_text().await];
    heard.sort();
    assert_eq!(heard, ["marker", "pong"]);
}

#[tokio::test]
async fn a_silent_client_is_closed_with_3008() {
    let sets = ["websocket.heartbeat_timeout=300ms", "websocket.ping_interval=0s"];
    let gateway = Gateway::with(&sets).await;
    let mut ada = gateway.connect().await;
    assert_eq!(ada.next_close().await.0, 3008);
    assert_eq!(gateway.closed(Cause::Silent), 1);
}

#[tokio::test]
async fn frames_behind_the_request_in_one_write_are_heard() {
    let gateway = Gateway::with(&["websocket.messages=echo"]).await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send([request(&[]).into_bytes(), frame(TEXT, b"early")].concat()).await;
    raw.response().await;
    assert_eq!(raw.data().await.payload.len(), 36);
    assert_eq!(raw.data().await.text(), "early");
}

#[tokio::test]
async fn control_frames_come_between_fragments_and_a_close_is_echoed() {
    let gateway = Gateway::with(&["websocket.messages=echo"]).await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    raw.send([frame(0x01, b"one "), frame(PING, b"p"), frame(0x80, b"two")].concat()).await;
    let mut both = [raw.next().await.unwrap(), raw.next().await.unwrap()];
    both.sort_by_key(|frame| frame.first);
    assert_eq!((both[0].first, both[0].text()), (TEXT, "one two"));
    assert_eq!((both[1].first, both[1].text()), (PONG, "p"));
    raw.send(frame(CLOSE, &4321u16.to_be_bytes())).await;
    assert_eq!(raw.close_code().await, 4321);
    assert_eq!(raw.next().await, None);
}

#[tokio::test]
async fn a_request_that_is_no_upgrade_is_told_so() {
    let gateway = Gateway::start().await;
    let plain = ask(gateway.websocket(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 426 "), "{plain}");
    assert!(plain.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n"), "{plain}");
    let post = ask(gateway.websocket(), &request(&[]).replace("GET", "POST")).await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    let version = ask(gateway.websocket(), &request(&[]).replace("13", "12")).await;
    assert!(version.starts_with("HTTP/1.1 426 "), "{version}");
    let key = ask(gateway.websocket(), &request(&[]).replace("==", "")).await;
    assert!(key.starts_with("HTTP/1.1 400 "), "{key}");
}
