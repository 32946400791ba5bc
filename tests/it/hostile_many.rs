//! Many bad clients at once: the bounds of the whole process.

use gateway_websocket::{close::Cause, config};

use crate::{
    client::Client,
    gateway::Gateway,
    program::Program,
    raw::{BINARY, Raw, TEXT, frame},
};

/// Clients that send all but the last byte of a message; each takes two descriptors of the test.
const HALF_SENDERS: usize = 5000;

#[tokio::test]
async fn clients_one_byte_short_of_a_message_fill_no_memory_and_cost_no_small_holder() {
    config::machine::raise_files().unwrap();
    // A client that is cut off leaves at once, so that the test needs no more than the clients'
    // own descriptors.
    let sets = [
        "limits.partial_bytes=16MiB",
        "limits.close_wait=100ms",
        "websocket.messages=echo",
        "shards=1",
    ];
    let gateway = Gateway::with(&sets).await;
    let mut polite = gateway.connect().await;
    let (mut small, _) = Raw::welcomed(gateway.websocket()).await;
    let hello = frame(TEXT, b"hello");
    small.send(&hello[..8]).await;
    let message = frame(BINARY, &vec![7; 64 * 1024]);
    let (mut raws, mut most) = (Vec::new(), 0);
    for _ in 0..HALF_SENDERS {
        let mut raw = Raw::connect(gateway.websocket()).await;
        // Who holds most of the budget is closed in the middle of it.
        let _ = raw.try_send(&message[..message.len() - 1]).await;
        raws.push(raw);
        polite.say("hello").await;
        assert_eq!(polite.next_text().await, "hello");
        most = most.max(gateway.sum(|stats| stats.partial_bytes.get()));
    }
    assert!(most <= 20 << 20, "{most} bytes held");
    let closed = gateway.closed(Cause::Budget);
    assert!(closed > 0 && closed < HALF_SENDERS as u64, "{closed} were closed");
    small.send(&hello[8..]).await;
    assert_eq!(small.data().await.text(), "hello", "who holds least is not closed");
}

#[tokio::test]
async fn a_crowd_larger_than_the_descriptors_keeps_nobody_out() {
    let mut program = Program::new();
    let status = program.serve_with_files(300).await;
    let address = status.listeners.websocket[0];
    let mut first = Client::connect(address).await;
    // More than it has descriptors for; those that are silent make room for each other.
    let mut crowd = Vec::new();
    for _ in 0..400 {
        crowd.push(Raw::open(address).await);
    }
    let mut late = Client::connect(address).await;
    for client in [&mut first, &mut late] {
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong", "clients notice nothing");
    }
    let log = program.settled_log();
    assert!(!log.contains("can't be accepted"), "{log}");
    drop(crowd);
}
