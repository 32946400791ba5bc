//! How a client has gone, also one that waited for room.

use std::time::Duration;

use gateway_websocket::{close::Cause, message::Kind, shard::Clock, sink::Closed};

use super::{Listener, Told};
use crate::{
    gateway::Gateway,
    raw::{CLOSE, Raw, TEXT, frame},
};

/// Nothing is written to a client of itself.
const QUIET: &[&str] = &["websocket.ping_interval=0s", "websocket.heartbeat_timeout=0s"];

/// Waits until a client was said to have gone; answers what was told of all.
async fn departure(gateway: &Gateway, listener: &Listener) -> Vec<Told> {
    let is_gone = |told: &Told| matches!(told, Told::Closed(..));
    let gone = |notes: &super::Notes| notes.told.iter().any(|(_, told)| is_gone(told));
    listener.wait(gateway, "a departure", gone).await;
    listener.notes().told.iter().map(|(_, told)| told.clone()).collect()
}

/// The cause and the code of the last that was told, which is a departure.
fn end_of(told: &[Told]) -> (Cause, u16) {
    match told.last() {
        Some(Told::Closed(_, closed)) => (closed.cause, closed.code),
        other => panic!("{other:?} is no departure"),
    }
}

/// Breaks the connection.
fn reset(mut client: Raw) {
    socket2::SockRef::from(&*client.stream()).set_linger(Some(Duration::ZERO)).unwrap();
}

fn said(text: &str) -> Told {
    Told::Said(Kind::Text, text.into())
}

#[tokio::test]
async fn it_is_told_with_uid_code_duration_and_bytes() {
    let (listener, clock) = (Listener::with_room(9), Clock::paused());
    let gateway = listener.gateway_at(clock.clone(), QUIET).await;
    let (mut ada, id) = Raw::welcomed(gateway.websocket()).await;
    gateway.client_bind_uid(id.as_str(), "ada").await;
    ada.send(frame(TEXT, &[b'x'; 1000])).await;
    listener.hears(&gateway, 1).await;
    clock.advance(Duration::from_millis(62_300));
    // The call begins a turn, in which the clock is seen.
    gateway.clonse_client(id.as_str()).await;
    let told = departure(&gateway, &listener).await;
    let Some(Told::Closed(uid, closed)) = told.last() else { panic!("{told:?}") };
    assert_eq!(uid.as_deref(), Some("ada"));
    let Closed { cause, code, lasted, bytes_in, bytes_out } = *closed;
    assert_eq!((cause, code, lasted), (Cause::Api, 1000, Duration::from_millis(62_300)));
    // The request and the answer to it, the frame and the client id.
    assert!((1100..1400).contains(&bytes_in), "{bytes_in}");
    assert!((140..400).contains(&bytes_out), "{bytes_out}");
    assert_eq!(ada.close_code().await, 1000);
}

#[tokio::test]
async fn the_code_is_the_one_that_was_sent_or_none() {
    let goodbye = frame(CLOSE, &4321u16.to_be_bytes());
    let cases = [
        (frame(TEXT, b"\xff"), (Cause::BadText, 1007)),
        (vec![0xff; 8], (Cause::Protocol, 1002)),
        (goodbye, (Cause::Peer, 4321)),
        (Vec::new(), (Cause::Lost, 1006)),
    ];
    for (bytes, expected) in cases {
        let listener = Listener::with_room(9);
        let gateway = listener.gateway(QUIET).await;
        let (mut ada, _) = Raw::welcomed(gateway.websocket()).await;
        ada.send(&bytes).await;
        if bytes.is_empty() {
            ada.hang_up().await.unwrap();
        }
        assert_eq!(end_of(&departure(&gateway, &listener).await), expected);
    }
}

#[tokio::test]
async fn a_client_that_waits_can_be_closed_and_what_it_said_is_dropped() {
    let listener = Listener::with_room(0);
    let gateway = listener.gateway(QUIET).await;
    let (mut ada, id) = Raw::welcomed(gateway.websocket()).await;
    ada.send([frame(TEXT, b"one"), frame(TEXT, b"two")].concat()).await;
    listener.refuses(&gateway, 1).await;
    assert!(gateway.sum(|stats| stats.partial_bytes.get()) > 0);
    gateway.send_message_to_client(id.as_str(), "before").await;
    gateway.clonse_client(id.as_str()).await;
    assert_eq!(ada.data().await.text(), "before");
    assert_eq!(ada.close_code().await, 1000);
    ada.send(frame(CLOSE, &1000u16.to_be_bytes())).await;
    ada.ended_well().await;
    listener.make_room(9);
    let told = departure(&gateway, &listener).await;
    assert_eq!((told.len(), &told[0], end_of(&told)), (2, &Told::Opened, (Cause::Api, 1000)));
    assert_eq!(gateway.sum(|stats| stats.messages_in.get()), 0);
    assert_eq!(gateway.sum(|stats| stats.partial_bytes.get()), 0);
}

#[tokio::test]
async fn who_says_goodbye_while_it_waits_is_heard_to_the_end_first() {
    let goodbye = frame(CLOSE, &1001u16.to_be_bytes());
    for (goodbye, breaks, end) in [
        (goodbye, false, (Cause::Peer, 1001)),
        (Vec::new(), false, (Cause::Lost, 1006)),
        (Vec::new(), true, (Cause::Lost, 1006)),
    ] {
        let listener = Listener::with_room(0);
        let gateway = listener.gateway(QUIET).await;
        let (mut ada, id) = Raw::welcomed(gateway.websocket()).await;
        ada.send([frame(TEXT, b"one"), frame(TEXT, b"two"), goodbye].concat()).await;
        listener.refuses(&gateway, 1).await;
        if breaks {
            reset(ada);
        } else {
            ada.hang_up().await.unwrap();
        }
        for _ in 0..10 {
            assert!(gateway.client_is_online(id.as_str()).await.isonline, "nobody has looked");
        }
        listener.make_room(1);
        listener.refuses(&gateway, 2).await;
        assert_eq!(listener.texts(), ["one"]);
        listener.make_room(1);
        let told = departure(&gateway, &listener).await;
        assert_eq!(told[..3], [Told::Opened, said("one"), said("two")]);
        assert_eq!((told.len(), end_of(&told)), (4, end));
    }
}

#[tokio::test]
async fn a_lost_client_that_waits_is_found_by_what_is_written_to_it() {
    let listener = Listener::with_room(0);
    let gateway = listener.gateway(QUIET).await;
    let (mut ada, id) = Raw::welcomed(gateway.websocket()).await;
    ada.send(frame(TEXT, b"one")).await;
    listener.refuses(&gateway, 1).await;
    reset(ada);
    let gone = async {
        while gateway.client_is_online(id.as_str()).await.isonline {
            gateway.send_message_to_client(id.as_str(), "are you there").await;
        }
    };
    crate::client::soon("the loss", gone).await;
    let told = departure(&gateway, &listener).await;
    assert_eq!((told.len(), end_of(&told)), (2, (Cause::Lost, 1006)));
    // Its place in the line is no obstacle for others.
    let mut bob = gateway.connect().await;
    bob.say("hello").await;
    listener.make_room(1);
    listener.hears(&gateway, 1).await;
    assert_eq!(gateway.sum(|stats| stats.partial_bytes.get()), 0);
}
