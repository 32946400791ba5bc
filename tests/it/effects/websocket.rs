//! `[websocket]`: what becomes of connections that are open, and how a new one begins.

use tokio_tungstenite::tungstenite::Message;

use super::Stage;
use crate::{
    client::Client,
    listeners::{address, free_port},
    raw::{BINARY, PING, Raw, TEXT, frame},
    subscriber::{Subscriber, opened, said},
};

#[tokio::test]
pub(super) async fn websocket_listen() {
    let (old, new) = (address(free_port()), address(free_port()));
    let mut stage = Stage::new(&[("websocket.listen", &format!("\"{old}\""))]).await;
    stage.change("websocket.listen", &format!("\"{new}\"")).await;
    let mut client = Client::connect(new).await;
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
    assert!(std::net::TcpStream::connect(old).is_err());
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn websocket_messages() {
    let mut stage = Stage::new(&[]).await;
    let (mut client, _) = stage.raw().await;
    client.send([frame(TEXT, b"dropped"), frame(TEXT, b"ping")].concat()).await;
    assert_eq!(client.data().await.text(), "pong");
    stage.change("websocket.messages", "\"echo\"").await;
    client.send(frame(TEXT, b"echoed")).await;
    assert_eq!(client.data().await.text(), "echoed");
    stage.change("websocket.messages", "\"drop\"").await;
    client.send([frame(TEXT, b"dropped"), frame(TEXT, b"ping")].concat()).await;
    assert_eq!(client.data().await.text(), "pong");
    messages_are_events_where_they_are_to_be().await;
}

/// With a consumer group: whatever is not dropped is told to it.
async fn messages_are_events_where_they_are_to_be() {
    let mut stage = Stage::new(&[("events.groups", "[\"g\"]")]).await;
    let mut subscriber = Subscriber::of(&stage.gateway, "g").await;
    let (mut client, id) = stage.raw().await;
    // Two bystanders and the client.
    for _ in 0..3 {
        opened(&subscriber.hear().await);
    }
    for value in ["drop", "forward", "echo", "auto"] {
        stage.change("websocket.messages", &format!("\"{value}\"")).await;
        client.send([frame(TEXT, value.as_bytes()), frame(TEXT, b"ping")].concat()).await;
        if value == "echo" {
            assert_eq!(client.data().await.text(), "echo");
        }
        assert_eq!(client.data().await.text(), "pong");
        // What was dropped would be heard here.
        if value != "drop" {
            let event = subscriber.hear().await;
            assert_eq!((said(&event).as_str(), &event.client), (value, &id));
        }
    }
    // Where there is no group any more it drops again.
    stage.change("events.groups", "[]").await;
    client.send([frame(TEXT, b"dropped"), frame(TEXT, b"ping")].concat()).await;
    assert_eq!(client.data().await.text(), "pong");
}

#[tokio::test]
pub(super) async fn websocket_welcome() {
    let mut stage = Stage::new(&[]).await;
    stage.change("websocket.welcome", "\"none\"").await;
    let mut client = Client::connect_silently(stage.gateway.websocket()).await;
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn websocket_message_format() {
    let mut stage = Stage::new(&[]).await;
    let mut client = stage.gateway.connect().await;
    stage.gateway.send_message_to_client(client.id(), "a").await;
    assert_eq!(client.next_message().await, Message::text("a"));
    stage.change("websocket.message_format", "\"binary\"").await;
    stage.gateway.send_message_to_client(client.id(), "a").await;
    assert_eq!(client.next_message().await, Message::binary(&b"a"[..]));
    // The ping of who was connected before is answered by the new setting, too.
    client.send(Message::binary(&b"ping"[..])).await;
    assert_eq!(client.next_message().await, Message::binary(&b"pong"[..]));
    let mut later = Client::connect_silently(stage.gateway.websocket()).await;
    assert!(matches!(later.next_message().await, Message::Binary(id) if id.len() == 36));
    a_ping_is_no_event_in_either_kind().await;
}

async fn a_ping_is_no_event_in_either_kind() {
    let settings = [("events.groups", "[\"g\"]"), ("websocket.message_format", "\"binary\"")];
    let stage = Stage::new(&settings).await;
    let mut subscriber = Subscriber::of(&stage.gateway, "g").await;
    let (mut client, id) = stage.raw().await;
    // Two bystanders and the client.
    for _ in 0..3 {
        opened(&subscriber.hear().await);
    }
    client
        .send([frame(BINARY, b"ping"), frame(TEXT, b"ping"), frame(TEXT, b"said")].concat())
        .await;
    let event = subscriber.hear().await;
    assert_eq!((said(&event).as_str(), &event.client), ("said", &id));
}

#[tokio::test]
pub(super) async fn websocket_heartbeat_timeout() {
    let settings =
        [("websocket.ping_interval", "\"0s\""), ("websocket.heartbeat_timeout", "\"1h\"")];
    let mut stage = Stage::new(&settings).await;
    let (mut silent, _) = stage.raw().await;
    stage.change("websocket.heartbeat_timeout", "\"1s\"").await;
    // Who is heard stays, as long as it takes for the other one to be noticed.
    let talking = async {
        loop {
            stage.everybody_is_served().await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await; // less than the timeout
        }
    };
    tokio::select! {
        code = silent.close_code() => assert_eq!(code, 3008),
        () = talking => unreachable!(),
    }
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn websocket_ping_interval() {
    let mut stage = Stage::new(&[("websocket.ping_interval", "\"0s\"")]).await;
    let (mut client, _) = stage.raw().await;
    stage.change("websocket.ping_interval", "\"200ms\"").await;
    for client in [&mut client, &mut Raw::welcomed(stage.gateway.websocket()).await.0] {
        assert_eq!(client.next().await.expect("a ping").first, PING);
    }
    stage.everybody_is_served().await;
}
