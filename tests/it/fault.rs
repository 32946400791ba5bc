//! A fault stays where it is: a panic costs the one client in whose step it happened.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gateway_websocket::{
    close::Cause,
    ids::ClientId,
    message::Kind,
    metrics::ShardStats,
    sink::{Accept, Closed, Ear, EventSink, Opened, Wake, Who},
};

use crate::{
    client::Client,
    gateway::Gateway,
    raw::{Raw, TEXT, frame, head, request},
};

/// Where a [`Faulty`] sink panics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Opened,
    Message,
    Closed,
    HasRoom,
    RollCall,
    Present,
    EndTurn,
}

/// Panics at one of its calls: for the second client that opens, for the message "panic", for each
/// client that closes, and always where no client is concerned. It has no room for "wait", unless it
/// is offered once more while that is to panic.
#[derive(Clone)]
struct Faulty {
    at: At,
    opened: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    /// How clients were said to have gone.
    gone: Arc<Mutex<Vec<Closed>>>,
}

impl EventSink for Faulty {
    fn ear(&self, _: u16, _: Wake) -> Box<dyn Ear> {
        Box::new(self.clone())
    }
}

impl Ear for Faulty {
    fn opened(&mut self, _: &Opened<'_>) {
        let before = self.opened.fetch_add(1, Ordering::SeqCst);
        assert!(self.at != At::Opened || before != 1, "injected");
    }

    fn message(&mut self, _: Who<'_>, _: Kind, bytes: &[u8]) -> Accept {
        assert!(self.at != At::Message || bytes != b"panic", "injected");
        if bytes != b"wait" {
            return Accept::Accepted;
        }
        let before = self.refused.fetch_add(1, Ordering::SeqCst);
        assert!(self.at != At::Message || before == 0, "injected");
        Accept::Backpressure
    }

    fn has_room(&self) -> bool {
        assert!(self.at != At::HasRoom, "injected");
        self.at == At::Message
    }

    fn roll_call(&mut self) -> Option<u32> {
        assert!(self.at != At::RollCall, "injected");
        (self.at == At::Present).then_some(0)
    }

    fn present(&mut self, _: &[ClientId], _: Option<u32>) {
        assert!(self.at != At::Present, "injected");
    }

    fn end_turn(&mut self) {
        assert!(self.at != At::EndTurn, "injected");
    }

    fn closed(&mut self, _: Who<'_>, closed: &Closed) {
        assert!(self.at != At::Closed, "injected");
        self.gone.lock().unwrap().push(*closed);
    }
}

/// A gateway of one shard, so that a fault that spreads has somewhere to go.
async fn faulty(at: At, sets: &[&str]) -> Gateway {
    faulty_noting(at, sets).await.0
}

/// The same, and how its clients go.
async fn faulty_noting(at: At, sets: &[&str]) -> (Gateway, Arc<Mutex<Vec<Closed>>>) {
    let (opened, refused) = <(Arc<_>, Arc<_>)>::default();
    let gone = Arc::<Mutex<_>>::default();
    let sets: Vec<_> = sets.iter().copied().chain(["shards=1"]).collect();
    let sink = Faulty { at, opened, refused, gone: Arc::clone(&gone) };
    (Gateway::listening_to(Arc::new(sink), &sets).await, gone)
}

/// The client is still served: it hears from the business system and is answered.
async fn still_works(gateway: &Gateway, client: &mut Client) {
    gateway.send_message_to_client(client.id(), "marker").await;
    assert_eq!(client.next_text().await, "marker");
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
}

/// Waits until the shard holds no socket but `left`.
async fn sockets_fall_to(gateway: &Gateway, left: u64) {
    let fallen = async {
        while gateway.hub().count_sockets() > left {
            // Any call goes through the shard's loop, so each turn of this one is one of that.
            gateway.count_online_client().await;
        }
    };
    crate::client::soon("the end of the sockets", fallen).await;
}

#[tokio::test]
async fn a_panic_closes_its_own_client_with_1011_and_no_other() {
    let gateway = faulty(At::Message, &[]).await;
    let [mut ada, mut bob, mut eve] = gateway.connect_n().await;
    for client in [&ada, &bob] {
        gateway.client_bind_uid(client.id(), "both").await;
        gateway.join_group(client.id(), "lobby").await;
    }
    gateway.join_group(ada.id(), "alone").await;

    ada.say("panic").await;
    assert_eq!(ada.next_close().await.0, 1011);
    ada.ended().await;

    assert_eq!(gateway.sum(|stats| stats.panics.get()), 1);
    assert_eq!(gateway.closed(Cause::Fault), 1);
    assert!(!gateway.client_is_online(ada.id()).await.isonline);
    assert_eq!(gateway.count_online_client().await.count, 2);
    assert_eq!(gateway.count_group().await.count, 1);
    assert_eq!(gateway.count_online_group("lobby").await.count, 1);
    let members = gateway.get_group_online_client("lobby").await.clientid;
    assert_eq!(members, [bob.id()]);
    assert_eq!(gateway.get_uid_by_client("both").await.clientid, [bob.id()]);
    let answer = gateway.send_message_to_group("lobby", "all").await;
    assert_eq!((answer.result, answer.arrive), (true, 1));
    assert_eq!(bob.next_text().await, "all");
    still_works(&gateway, &mut bob).await;
    still_works(&gateway, &mut eve).await;
    still_works(&gateway, &mut gateway.connect().await).await;
}

#[tokio::test]
async fn who_brings_a_panic_is_told_as_closed_with_1011() {
    let (gateway, gone) = faulty_noting(At::Message, &[]).await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    let said = frame(TEXT, b"panic");
    raw.send(&said).await;
    assert_eq!(raw.close_code().await, 1011);
    let gone = gone.lock().unwrap().clone();
    let [Closed { cause, code, lasted, bytes_in, bytes_out }] = gone[..] else {
        panic!("{gone:?}")
    };
    assert_eq!((cause, code), (Cause::Fault, 1011));
    assert!(lasted < Duration::from_mins(10), "{lasted:?}");
    assert_eq!(bytes_in, (request(&[]).len() + said.len()) as u64);
    assert!((38 + 100..38 + 400).contains(&bytes_out), "the id, and the answer to it: {bytes_out}");
}

#[tokio::test]
async fn what_a_client_said_besides_is_no_matter_when_it_brings_a_panic() {
    let gateway = faulty(At::Message, &["websocket.messages=echo"]).await;
    let mut polite = gateway.connect().await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    let said = [frame(TEXT, b"before"), frame(TEXT, b"panic"), frame(TEXT, b"after")];
    raw.send(said.concat()).await;
    assert_eq!(raw.close_code().await, 1011);
    raw.send(frame(crate::raw::CLOSE, &1011u16.to_be_bytes())).await;
    raw.ended().await;
    polite.say("hello").await;
    assert_eq!(polite.next_text().await, "hello");
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 1);
}

#[tokio::test]
async fn a_panic_in_a_message_of_several_pieces_leaves_no_memory_counted() {
    let gateway = faulty(At::Message, &[]).await;
    let mut polite = gateway.connect().await;
    let partial = |stats: &ShardStats| stats.partial_bytes.get();
    let (mut raw, id) = Raw::welcomed(gateway.websocket()).await;
    let whole = frame(TEXT, b"panic");
    raw.send(&whole[..whole.len() - 1]).await;
    let held = async {
        while gateway.sum(partial) == 0 {
            gateway.client_is_online(id.as_str()).await;
        }
    };
    crate::client::soon("the first piece", held).await;
    raw.send(&whole[whole.len() - 1..]).await;
    assert_eq!(raw.close_code().await, 1011);
    drop(raw);
    sockets_fall_to(&gateway, 1).await;
    still_works(&gateway, &mut polite).await;
    assert_eq!(gateway.sum(partial), 0);
}

#[tokio::test]
async fn a_panic_at_the_arrival_closes_the_newcomer_with_1011() {
    let gateway = faulty(At::Opened, &[]).await;
    let mut first = gateway.connect().await;
    let mut second = Client::connect_silently(gateway.websocket()).await;
    assert_eq!(second.read_to_close().await, 1011);
    second.ended().await;
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 1);
    assert_eq!(gateway.closed(Cause::Fault), 1);
    assert_eq!(gateway.count_online_client().await.count, 1);
    still_works(&gateway, &mut first).await;
    still_works(&gateway, &mut gateway.connect().await).await;
}

#[tokio::test]
async fn a_panic_at_the_departure_still_ends_with_a_close_frame() {
    let gateway = faulty(At::Closed, &["limits.close_wait=1h"]).await;
    let [mut ada, mut bob] = gateway.connect_n().await;
    gateway.join_group(ada.id(), "lobby").await;
    gateway.clonse_client(ada.id()).await;
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 1);
    assert_eq!(gateway.count_online_client().await.count, 1);
    assert_eq!(gateway.count_group().await.count, 0);
    let code = ada.read_to_close().await;
    assert!([1000, 1011].contains(&code), "{code}");
    ada.ended().await;
    still_works(&gateway, &mut bob).await;
}

#[tokio::test]
async fn a_panic_at_the_departure_of_a_client_that_is_lost_keeps_no_socket() {
    let gateway =
        faulty(At::Closed, &["websocket.ping_interval=0s", "websocket.heartbeat_timeout=0s"]).await;
    let mut bob = gateway.connect().await;
    drop(Raw::welcomed(gateway.websocket()).await);
    sockets_fall_to(&gateway, 1).await;
    assert_eq!(gateway.count_online_client().await.count, 1);
    still_works(&gateway, &mut bob).await;
}

#[tokio::test]
async fn a_hundred_panics_are_a_hundred_clients_and_a_declared_frame_dies_with_its_client() {
    let gateway = faulty(At::Message, &[]).await;
    let mut polite = gateway.connect().await;
    for _ in 0..100 {
        let mut raw = Raw::connect(gateway.websocket()).await;
        let said = [frame(TEXT, b"panic"), head(TEXT, 1000)];
        raw.send(said.concat()).await;
        assert_eq!(raw.close_code().await, 1011);
    }
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 100);
    assert_eq!(gateway.closed(Cause::Fault), 100);
    sockets_fall_to(&gateway, 1).await;
    still_works(&gateway, &mut polite).await;
    assert_eq!(gateway.sum(|stats| stats.partial_bytes.get()), 0);
}

#[tokio::test]
async fn a_panic_where_no_client_is_concerned_concerns_none() {
    for at in [At::HasRoom, At::RollCall, At::Present, At::EndTurn] {
        let gateway = faulty(at, &[]).await;
        let [mut ada, mut bob] = gateway.connect_n().await;
        ada.say("wait").await;
        for _ in 0..10 {
            still_works(&gateway, &mut bob).await;
        }
        // It happens when there is a turn, and makes none itself.
        let panics = gateway.sum(|stats| stats.panics.get());
        assert!((1..500).contains(&panics), "{panics}");
        gateway.send_message_to_client(ada.id(), "hello").await;
        assert_eq!(ada.next_text().await, "hello");
        gateway.clonse_client(ada.id()).await;
        assert_eq!(ada.next_close().await.0, 1000);
        still_works(&gateway, &mut bob).await;
        assert_eq!(gateway.closed(Cause::Fault), 0);
    }
}

#[tokio::test]
async fn a_panic_at_the_second_offer_of_a_message_closes_who_said_it() {
    let gateway = faulty(At::Message, &[]).await;
    let [mut ada, mut bob] = gateway.connect_n().await;
    ada.say("wait").await;
    // There is room at once, as far as the next turn is told.
    for client in [&mut ada, &mut bob] {
        gateway.send_message_to_client(client.id(), "a turn").await;
    }
    while let Some(Ok(message)) = ada.next().await {
        if let tokio_tungstenite::tungstenite::Message::Close(Some(frame)) = message {
            assert_eq!(u16::from(frame.code), 1011);
        }
    }
    assert_eq!(bob.next_text().await, "a turn");
    still_works(&gateway, &mut bob).await;
    assert_eq!(gateway.closed(Cause::Fault), 1);
    assert_eq!(gateway.sum(|stats| stats.partial_bytes.get()), 0);
}
