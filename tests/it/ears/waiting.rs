//! A client for whose message there is no room isn't read until there is, and nobody else notices.

use std::{sync::Arc, time::Duration};

use gateway_websocket::{
    close::Cause,
    message::Kind::{Binary, Text},
    shard::Clock,
    wire::compress_once,
};

use super::Listener;
use crate::{
    gateway::Gateway,
    raw::{BINARY, PING, PONG, Raw, TEXT, frame},
};

/// The bits of a frame's first byte.
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

const CONTINUATION: u8 = 0x00;

fn partial(gateway: &Gateway) -> u64 {
    gateway.sum(|stats| stats.partial_bytes.get())
}

/// Waits until so many bytes are kept back, which shows that somebody waits who was not offered.
async fn keeps(gateway: &Gateway, listener: &Listener, bytes: u64) {
    listener.wait(gateway, "something kept", |_| partial(gateway) >= bytes).await;
}

#[tokio::test]
async fn what_finds_no_room_is_heard_later_as_it_was_said_in_order_and_once() {
    let listener = Listener::with_room(0);
    let gateway = listener.gateway(&["websocket.welcome=none"]).await;
    let (mut raw, answer) = Raw::compressing(gateway.websocket()).await;
    assert!(answer.contains("permessage-deflate"), "{answer}");
    let sized = |size: usize| (0..=250u8).cycle().take(size).collect::<Vec<_>>();
    let long = "grüße ".repeat(20_000);
    let deflated = compress_once(15, 6, long.as_bytes()).unwrap();
    let (start, end) = deflated.split_at(deflated.len() / 2);
    let (first, second) = long.as_bytes().split_at(long.len() / 2);

    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for size in [0, 1, 125, 126, 65_535, 65_536, 300_000, 1] {
        bytes.push(frame(BINARY, &sized(size)));
        expected.push((Binary, sized(size)));
    }
    for text in ["", "x", "ä", "Ping"] {
        bytes.push(frame(TEXT, text.as_bytes()));
        expected.push((Text, text.into()));
    }
    bytes.push(frame(TEXT | RSV1, &deflated));
    bytes.push(frame(TEXT & !FIN | RSV1, start));
    bytes.push(frame(PING, b"between"));
    bytes.push(frame(CONTINUATION | FIN, end));
    bytes.push(frame(TEXT & !FIN, first));
    bytes.push(frame(CONTINUATION, b""));
    bytes.push(frame(CONTINUATION | FIN, second));
    expected.extend(std::iter::repeat_n((Text, long.into_bytes()), 3));
    // What is answered at once is answered in its turn.
    bytes.push(frame(TEXT, b"ping"));
    bytes.push(frame(TEXT, b"after"));
    expected.push((Text, b"after".into()));

    let hearing = async {
        for count in 0..expected.len() {
            listener.refuses(&gateway, count + 1).await;
            assert_eq!(listener.notes().said().count(), count, "there was no room");
            listener.make_room(1);
            listener.hears(&gateway, count + 1).await;
        }
    };
    // More than the sockets need take while nobody reads.
    let bytes = bytes.concat();
    tokio::join!(raw.send(&bytes), hearing);
    let said: Vec<_> =
        listener.notes().said().map(|(kind, bytes)| (kind, bytes.to_vec())).collect();
    for (said, expected) in said.iter().zip(&expected) {
        assert!(said == expected, "{:?} {} {}", said.0, said.1.len(), expected.1.len());
    }
    assert_eq!(said.len(), expected.len());
    let pong = raw.next().await.unwrap();
    assert_eq!((pong.first, &*pong.payload), (PONG, &b"between"[..]));
    assert_eq!(raw.data().await.text(), "pong");
    assert_eq!(gateway.sum(|stats| stats.messages_in.get()), expected.len() as u64 + 1);
    assert_eq!(partial(&gateway), 0);
}

#[tokio::test]
async fn others_are_served_and_stand_in_line_only_with_what_they_say() {
    let listener = Listener::with_room(0);
    let gateway = listener.gateway(&[]).await;
    let [mut ada, mut bob, mut eve] = gateway.connect_n().await;
    let (mut cut, id) = Raw::welcomed(gateway.websocket()).await;
    ada.say("ada 1").await;
    ada.say("ada 2").await;
    listener.refuses(&gateway, 1).await;
    for client in [&mut bob, &mut eve] {
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong");
    }
    for client in [&mut ada, &mut bob, &mut eve] {
        gateway.send_message_to_client(client.id(), "hello").await;
        assert_eq!(client.next_text().await, "hello");
    }
    for (client, text) in [(&mut bob, "bob 1"), (&mut eve, "eve 1")] {
        let kept = partial(&gateway);
        client.say(text).await;
        keeps(&gateway, &listener, kept + 5).await;
    }
    // One that waits as well and goes leaves no gap.
    let kept = partial(&gateway);
    cut.send(frame(TEXT, b"never heard")).await;
    keeps(&gateway, &listener, kept + 5).await;
    gateway.clonse_client(id.as_str()).await;
    assert_eq!(listener.notes().refused, 1, "who has to stand in line isn't offered");

    for count in 1..=4 {
        listener.make_room(1);
        listener.hears(&gateway, count).await;
    }
    // Whose turn it was, and is refused, goes to the end.
    assert_eq!(listener.texts(), ["ada 1", "bob 1", "eve 1", "ada 2"]);
    assert_eq!(partial(&gateway), 0);
    listener.make_room(1);
    bob.say("at once").await;
    listener.hears(&gateway, 5).await;
}

#[tokio::test]
async fn a_message_that_is_too_large_for_what_room_there_is_keeps_its_place() {
    let listener = Listener::with_room(9);
    listener.notes().largest = 10;
    let gateway = listener.gateway(&[]).await;
    let [mut ada, mut bob] = gateway.connect_n().await;
    ada.say("as long as this").await;
    listener.refuses(&gateway, 1).await;
    bob.say("short").await;
    listener.refuses(&gateway, 3).await;
    assert_eq!(listener.texts(), Vec::<String>::new());
    listener.wake_after(|notes| notes.largest = 99);
    listener.hears(&gateway, 2).await;
    assert_eq!(listener.texts(), ["as long as this", "short"]);
}

#[tokio::test]
async fn those_who_go_while_they_wait_leave_the_others_in_their_order() {
    let listener = Listener::with_room(0);
    let gateway = listener.gateway(&[]).await;
    let mut ada = gateway.connect().await;
    ada.say("first").await;
    listener.refuses(&gateway, 1).await;
    let mut bob = None;
    for number in 0..300 {
        let kept = partial(&gateway);
        let (mut raw, id) = Raw::welcomed(gateway.websocket()).await;
        raw.send(frame(TEXT, b"never heard")).await;
        keeps(&gateway, &listener, kept + 1).await;
        gateway.clonse_client(id.as_str()).await;
        listener.wait(&gateway, "its end", |_| partial(&gateway) == kept).await;
        if number == 150 {
            let bob = bob.insert(gateway.connect().await);
            bob.say("second").await;
            keeps(&gateway, &listener, kept + 1).await;
        }
    }
    let kept = partial(&gateway);
    let mut eve = gateway.connect().await;
    eve.say("third").await;
    keeps(&gateway, &listener, kept + 1).await;
    listener.make_room(9);
    listener.hears(&gateway, 3).await;
    assert_eq!(listener.texts(), ["first", "second", "third"]);
    assert_eq!(partial(&gateway), 0);
}

#[tokio::test]
async fn more_than_a_turn_can_hear_are_all_heard() {
    let listener = Listener::with_room(0);
    let gateway = listener.gateway(&["websocket.welcome=none"]).await;
    let mut clients = Vec::new();
    for number in 0..600 {
        let mut raw = Raw::connect(gateway.websocket()).await;
        raw.send(frame(TEXT, format!("{number:03}").as_bytes())).await;
        // One after the other, so that they stand in line in this order.
        keeps(&gateway, &listener, 9 * (number + 1)).await;
        clients.push(raw);
    }
    listener.make_room(600);
    let all = async {
        while listener.notes().said().count() < 600 {
            tokio::task::yield_now().await;
        }
    };
    crate::client::soon("all of them", all).await;
    let expected: Vec<_> = (0..600).map(|number| format!("{number:03}")).collect();
    assert_eq!(listener.texts(), expected);
}

/// Moves the clock, and waits until the shard has seen it.
async fn after(gateway: &Gateway, clock: &Clock, time: Duration) {
    clock.advance(time);
    // The first call begins a turn, at whose end the timers are looked at.
    for _ in 0..2 {
        gateway.get_all_online_client().await;
    }
}

#[tokio::test]
async fn who_waits_is_not_silent_and_who_is_heard_again_can_be() {
    for ping in ["websocket.ping_interval=0s", "websocket.ping_interval=4s"] {
        let (listener, clock) = (Listener::with_room(0), Clock::paused());
        let sets = [ping, "websocket.heartbeat_timeout=10s"];
        let gateway = listener.gateway_at(clock.clone(), &sets).await;
        let (mut ada, id) = Raw::welcomed(gateway.websocket()).await;
        let (mut bob, _) = Raw::welcomed(gateway.websocket()).await;
        ada.send(frame(TEXT, b"hello")).await;
        listener.refuses(&gateway, 1).await;
        for _ in 0..20 {
            after(&gateway, &clock, Duration::from_secs(3)).await;
        }
        assert_eq!(bob.close_code().await, 3008, "it was silent");
        assert!(gateway.client_is_online(id.as_str()).await.isonline, "it was not listened to");
        // A sign of life that has been in the socket for as long.
        ada.send(frame(PONG, b"")).await;
        listener.make_room(1);
        listener.hears(&gateway, 1).await;
        after(&gateway, &clock, Duration::from_secs(9)).await;
        assert!(gateway.client_is_online(id.as_str()).await.isonline, "it spoke");
        after(&gateway, &clock, Duration::from_secs(2)).await;
        assert_eq!(ada.close_code().await, 3008);
        assert_eq!(gateway.closed(Cause::Silent), 2);
    }
}

#[tokio::test]
async fn who_waits_is_closed_when_its_time_is_over() {
    use gateway_websocket::grpc::proto::v1::{ApplyRequest, apply_request::Expiry};
    let (listener, clock) = (Listener::with_room(0), Clock::paused());
    let gateway = listener.gateway_at(clock.clone(), &[]).await;
    let (mut ada, id) = Raw::welcomed(gateway.websocket()).await;
    ada.send(frame(TEXT, b"hello")).await;
    listener.refuses(&gateway, 1).await;
    let expires = std::time::SystemTime::now() + Duration::from_hours(1);
    let expiry = Some(Expiry::ExpiresAt(expires.into()));
    let request = ApplyRequest { client: id, expiry, ..ApplyRequest::default() };
    gateway.membership().apply(request).await.unwrap();
    after(&gateway, &clock, Duration::from_mins(61)).await;
    assert_eq!(ada.close_code().await, 3000);
    assert_eq!(partial(&gateway), 0);
}

#[tokio::test]
async fn what_is_kept_is_in_the_budget_and_the_largest_goes_first() {
    let listener = Listener::with_room(0);
    let gateway = listener.gateway(&["limits.partial_bytes=1MiB"]).await;
    let (mut ada, _) = Raw::welcomed(gateway.websocket()).await;
    let (mut bob, _) = Raw::welcomed(gateway.websocket()).await;
    bob.send(frame(BINARY, &vec![1; 500_000])).await;
    keeps(&gateway, &listener, 500_000).await;
    ada.send(frame(BINARY, &vec![2; 600_000])).await;
    assert_eq!(ada.close_code().await, 1013);
    assert_eq!(gateway.closed(Cause::Budget), 1);
    listener.make_room(9);
    listener.hears(&gateway, 1).await;
    assert_eq!(listener.notes().said().next().unwrap(), (Binary, &vec![1; 500_000][..]));
    bob.send(frame(TEXT, b"ping")).await;
    assert_eq!(bob.data().await.text(), "pong");
    assert_eq!(partial(&gateway), 0);
}

#[tokio::test]
async fn rates_measure_what_came_while_nobody_listened_by_the_time_it_took() {
    let (listener, clock) = (Listener::with_room(0), Clock::paused());
    let gateway = listener.gateway_at(clock.clone(), &["limits.client_messages=2"]).await;
    let (mut ada, id) = Raw::welcomed(gateway.websocket()).await;
    ada.send(frame(TEXT, b"x")).await;
    listener.refuses(&gateway, 1).await;
    ada.send(frame(TEXT, b"x").repeat(7)).await;
    after(&gateway, &clock, Duration::from_secs(3)).await;
    for count in 1..=8 {
        listener.make_room(1);
        listener.hears(&gateway, count).await;
    }
    assert!(gateway.client_is_online(id.as_str()).await.isonline, "eight in three seconds");
    listener.make_room(9);
    ada.send(frame(TEXT, b"x")).await;
    assert_eq!(ada.close_code().await, 1008, "nine in three seconds");
    assert_eq!(listener.texts().len(), 8);
    assert_eq!(gateway.sum(|stats| stats.messages_in.get()), 9);
}

#[tokio::test]
async fn an_echo_waits_with_its_message_and_what_is_dropped_is_told_to_nobody() {
    let listener = Listener::with_room(0);
    let sink = Arc::new(listener.clone());
    let messages = |value: &str| format!("shards = 1\nwebsocket.messages = \"{value}\"\n");
    let gateway = Gateway::listening_with_file(sink, &messages("echo")).await;
    let mut ada = gateway.connect().await;
    ada.say("one").await;
    listener.refuses(&gateway, 1).await;
    gateway.send_message_to_client(ada.id(), "first").await;
    listener.make_room(1);
    assert_eq!(ada.next_text().await, "first");
    assert_eq!(ada.next_text().await, "one");
    assert_eq!(listener.texts(), ["one"]);

    ada.say("two").await;
    listener.refuses(&gateway, 2).await;
    ada.say("ping").await;
    gateway.reload(&messages("drop")).await;
    // Any call begins a turn, in which nobody has to wait any more.
    gateway.count_online_client().await;
    assert_eq!(ada.next_text().await, "pong");
    assert_eq!(gateway.sum(|stats| stats.messages_in.get()), 3);

    for (value, heard) in [("forward", 2), ("auto", 3)] {
        gateway.reload(&messages(value)).await;
        listener.make_room(1);
        ada.say(value).await;
        listener.hears(&gateway, heard).await;
    }
    assert_eq!(listener.texts(), ["one", "forward", "auto"]);
    gateway.clonse_client(ada.id()).await;
    assert_eq!(listener.notes().told.len(), 5, "opened, three messages, closed");
}
