//! Clients over TLS who say more than there is room for: what they say waits, opened or not, and
//! nobody else notices.

use super::{secure, welcomed};
use crate::{
    authority::Secure,
    client::{Client, soon},
    gateway::Gateway,
    raw::{Raw, TEXT, frame},
    subscriber::{Subscriber, opened, said},
};

/// There is room for one message until a subscriber takes it.
const PAUSED: &[&str] =
    &["shards=1", "events.groups=all", "events.buffer_messages=1", "events.when_full=pause"];

fn partial(gateway: &Gateway) -> u64 {
    gateway.sum(|stats| stats.partial_bytes.get())
}

/// Waits until so many bytes are kept back. Any call is a turn of the shard.
async fn keeps(gateway: &Gateway, bytes: usize) {
    let waiting = async {
        while partial(gateway) < bytes as u64 {
            gateway.count_online_client().await;
        }
    };
    soon("something kept", waiting).await;
}

/// They are heard and reached.
async fn are_served(gateway: &Gateway, bob: &mut Raw<Secure>, eve: &mut Client) {
    for _ in 0..20 {
        bob.send(frame(TEXT, b"ping")).await;
        assert_eq!(bob.data().await.text(), "pong");
        eve.say("ping").await;
        assert_eq!(eve.next_text().await, "pong");
        gateway.send_message_to_client(eve.id(), "to eve").await;
        assert_eq!(eve.next_text().await, "to eve");
    }
}

/// Hears that three have come, and then these texts from one of them.
async fn hears(gateway: &Gateway, id: &str, texts: impl Iterator<Item = String>) {
    let mut subscriber = Subscriber::of(gateway, "all").await;
    for _ in 0..3 {
        opened(&subscriber.hear().await);
    }
    for text in texts {
        let event = subscriber.hear().await;
        assert_eq!(event.client, id);
        assert!(said(&event) == text, "in order, and none is missing");
    }
}

#[tokio::test]
async fn what_was_opened_in_one_record_waits_and_comes_in_order() {
    const MANY: usize = 500;
    let (authority, gateway) = secure(PAUSED).await;
    let (mut ada, id) = welcomed(&authority, &gateway).await;
    let (mut bob, _) = welcomed(&authority, &gateway).await;
    let mut eve = gateway.connect().await;
    let texts = || (0..MANY).map(|number| number.to_string());
    let mut frames: Vec<_> = texts().map(|text| frame(TEXT, text.as_bytes())).collect();
    frames.push(frame(TEXT, b"ping"));
    let frames = frames.concat();
    assert!(frames.len() < 1 << 14, "one record has room for all of it");
    ada.send(&frames).await;
    // All but the first.
    keeps(&gateway, frames.len() / 2).await;
    let kept = partial(&gateway);
    assert!(kept < frames.len() as u64, "{kept}");
    are_served(&gateway, &mut bob, &mut eve).await;
    assert_eq!(partial(&gateway), kept, "nothing more is read");
    // Who waits is reached all the same.
    gateway.send_message_to_client(&id, "marker").await;
    assert_eq!(ada.data().await.text(), "marker");

    hears(&gateway, &id, texts()).await;
    assert_eq!(ada.data().await.text(), "pong");
    assert_eq!(partial(&gateway), 0);
}

#[tokio::test]
async fn what_is_in_the_socket_stays_there_and_comes_in_order() {
    // More than the sockets of both sides take.
    const MANY: usize = 400;
    const SIZE: usize = 60_000;
    let (authority, gateway) = secure(PAUSED).await;
    let (mut ada, id) = welcomed(&authority, &gateway).await;
    let (mut bob, _) = welcomed(&authority, &gateway).await;
    let mut eve = gateway.connect().await;
    let texts = || (0..MANY).map(|number| format!("{number:0SIZE$}"));
    let read = || gateway.sum(|stats| stats.bytes_in.get());
    let before = read();
    {
        let sending = async {
            for text in texts() {
                ada.send(frame(TEXT, text.as_bytes())).await;
            }
            ada.send(frame(TEXT, b"ping")).await;
        };
        let mut sending = std::pin::pin!(sending);
        let others = async {
            keeps(&gateway, SIZE).await;
            let so_far = read();
            are_served(&gateway, &mut bob, &mut eve).await;
            // What two others said in all of this, and no record of the one who waits.
            let more = read() - so_far;
            assert!(more < SIZE as u64, "{more}");
        };
        tokio::select! {
            biased;
            () = &mut sending => panic!("more was taken than there is room for"),
            () = others => {}
        }
        // The message that was taken, the one that waits, and what was read together with it.
        let (taken, kept) = (read() - before, partial(&gateway));
        assert!(taken < 6 * SIZE as u64, "{taken}");
        assert!(kept < 4 * SIZE as u64, "{kept}");
        tokio::join!(sending, hears(&gateway, &id, texts()));
    }
    assert_eq!(ada.data().await.text(), "pong");
    assert_eq!(partial(&gateway), 0);
    are_served(&gateway, &mut bob, &mut eve).await;
}
