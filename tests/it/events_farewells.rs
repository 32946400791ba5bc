//! Who says goodbye, or breaks the protocol, still gets the answers to what it said before.

use gateway_websocket::{
    close::Cause,
    grpc::proto::v1::{CloseRequest, event::What},
};
use tonic::Code;

use crate::{
    client::soon,
    gateway::Gateway,
    raw::{CLOSE, Raw, TEXT, frame},
    subscriber::{Subscriber, closed, said},
    v1::{clients, send},
};

const WAITS: &[&str] = &["events.groups=all,other", "events.answer_wait=1h"];

/// A message, and what ends the connection right behind it.
fn and_then(end: &[u8]) -> Vec<u8> {
    [&frame(TEXT, b"hello"), end].concat()
}

/// A close frame of the client's.
fn goodbye() -> Vec<u8> {
    frame(CLOSE, &1000_u16.to_be_bytes())
}

/// A frame with a reserved bit set (RFC 6455 §5.2).
fn nonsense() -> Vec<u8> {
    frame(TEXT | 0x40, b"never")
}

/// The code of the close frame, which comes before long.
async fn ended(raw: &mut Raw) -> u16 {
    soon("the end", raw.close_code()).await
}

impl Subscriber {
    /// Answers what a client says next with the same.
    async fn echo(&mut self) {
        let event = loop {
            let event = self.next().await;
            if matches!(event.what, Some(What::Message(_))) {
                break event;
            }
        };
        let answer = send(clients([&event.client]), &said(&event));
        self.acknowledge_with(event.cursor, Vec::new(), vec![answer]).await;
    }
}

#[tokio::test]
async fn the_answer_comes_before_the_end_whatever_ends_it() {
    let gateway = Gateway::with(WAITS).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    for (end, code) in [(goodbye(), 1000), (nonsense(), 1002)] {
        let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
        raw.send(and_then(&end)).await;
        subscriber.echo().await;
        assert_eq!(raw.data().await.text(), "hello");
        assert_eq!(i32::from(ended(&mut raw).await), code);
        raw.ended().await;
        assert_eq!(closed(&subscriber.hear().await).code, code);
    }
}

#[tokio::test]
async fn every_group_that_somebody_hears_is_waited_for() {
    let gateway = Gateway::with(WAITS).await;
    let mut all = Subscriber::of(&gateway, "all").await;
    let mut other = Subscriber::of(&gateway, "other").await;
    let (mut raw, id) = Raw::welcomed(gateway.websocket()).await;
    raw.send(and_then(&goodbye())).await;
    all.echo().await;
    assert_eq!(raw.data().await.text(), "hello");
    let [_, message] = [other.next().await, other.next().await];
    assert_eq!(said(&message), "hello");
    // It can be reached until then.
    gateway.mark(&id).await;
    assert_eq!(raw.data().await.text(), "marker");
    other.acknowledge(message.cursor).await;
    assert_eq!(ended(&mut raw).await, 1000);
    for subscriber in [&mut all, &mut other] {
        closed(&subscriber.hear().await);
    }
}

#[tokio::test]
async fn nobody_is_waited_for_who_does_not_hear_it() {
    let gateway = Gateway::with(WAITS).await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    raw.send(and_then(&goodbye())).await;
    assert_eq!(ended(&mut raw).await, 1000);

    // Who went away without an acknowledgement is waited for no longer than for the next.
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    let mut first = Subscriber::of(&gateway, "all").await;
    raw.send(and_then(&goodbye())).await;
    let _ = first.next_n(5).await;
    drop(first);
    let mut second = Subscriber::of(&gateway, "all").await;
    for _ in 0..4 {
        second.hear().await;
    }
    second.echo().await;
    assert_eq!(raw.data().await.text(), "hello");
    assert_eq!(ended(&mut raw).await, 1000);
}

#[tokio::test]
async fn who_waits_is_closed_by_all_else_and_when_the_time_is_over() {
    let gateway = Gateway::with(WAITS).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let (mut raw, id) = Raw::welcomed(gateway.websocket()).await;
    raw.send(and_then(&goodbye())).await;
    let heard = subscriber.next_n(2).await;
    assert_eq!(said(&heard[1]), "hello");
    let close =
        CloseRequest { target: Some(clients([&id])), code: 4000, ..CloseRequest::default() };
    gateway.connections().close(close).await.unwrap();
    assert_eq!(ended(&mut raw).await, 4000);
    assert_eq!(closed(&subscriber.next().await).code, 4000);
    assert_eq!(gateway.closed(Cause::Peer), 0);
    drop(gateway);

    let gateway = Gateway::with(&["events.groups=all", "events.answer_wait=100ms"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    raw.send(and_then(&nonsense())).await;
    assert_eq!(raw.data().await.first, CLOSE, "nobody has answered");
    let heard = subscriber.next_n(3).await;
    assert_eq!(closed(&heard[2]).code, 1002);
    // The answer comes too late; that is no error.
    let answer = send(clients([&heard[1].client]), "late");
    subscriber.acknowledge_with(heard[2].cursor, Vec::new(), vec![answer]).await;
    subscriber.say_no_more();
    assert_eq!(subscriber.end().await.code(), Code::Ok);
}
