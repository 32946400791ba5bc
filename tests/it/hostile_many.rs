//! Many bad clients at once: the bounds of the whole process.

use gateway_websocket::close::Cause;

use crate::{
    gateway::Gateway,
    raw::{BINARY, Raw, TEXT, frame},
};

/// Clients that send all but the last byte of a message; each takes two descriptors of the test.
const HALF_SENDERS: usize = 600;

#[tokio::test]
async fn clients_one_byte_short_of_a_message_fill_no_memory_and_cost_no_small_holder() {
    let sets = ["limits.partial_bytes=16MiB", "websocket.messages=echo", "shards=1"];
    let gateway = Gateway::with(&sets).await;
    let mut polite = gateway.connect().await;
    let (mut small, _) = Raw::welcomed(gateway.websocket()).await;
    let hello = frame(TEXT, b"hello");
    small.send(&hello[..8]).await;
    let message = frame(BINARY, &vec![7; 64 * 1024]);
    let (mut raws, mut most) = (Vec::new(), 0);
    for _ in 0..HALF_SENDERS {
        let mut raw = Raw::connect(gateway.websocket()).await;
        raw.send(&message[..message.len() - 1]).await;
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
