//! `gateway.v1.Messages.Send`: who gets it, on which terms, and what the numbers say.

use std::time::Duration;

use gateway_websocket::{
    grpc::proto::v1::{
        BindRequest, Delivery, JoinRequest, Kind, Message, SendRequest, SetAttributesRequest,
        Target, send_request::WhenBehind,
    },
    metrics::Drop,
    shard::Clock,
};
use tokio_tungstenite::tungstenite;

use crate::{
    client::Client,
    gateway::Gateway,
    raw::Raw,
    v1::{NOBODY, all, clients, groups, queued, send, set, texts, uids},
};

/// Four clients: Ada's two are 0 and 1, Bob's is 2, and 3 is nobody's. In the lobby are 1, 2 and 3,
/// in the attic is 3. Ada's first and Bob's speak German.
struct House {
    gateway: Gateway,
    clients: [Client; 4],
}

impl House {
    async fn new() -> Self {
        let gateway = Gateway::start().await;
        let clients = gateway.connect_n::<4>().await;
        let ids = |of: &[usize]| of.iter().map(|&at| clients[at].id().to_owned()).collect();
        let mut membership = gateway.membership();
        for (uid, of) in [("ada", &[0, 1][..]), ("bob", &[2])] {
            let request = BindRequest { uid: uid.into(), clients: ids(of), uids: vec![] };
            let bound = membership.bind(request).await.unwrap().into_inner();
            assert_eq!((usize::try_from(bound.changed), bound.failures.len()), (Ok(of.len()), 0));
        }
        for (group, of) in [("lobby", &[1, 2, 3][..]), ("attic", &[3])] {
            let request = JoinRequest { groups: texts([group]), clients: ids(of), uids: vec![] };
            let joined = membership.join(request).await.unwrap().into_inner();
            assert_eq!((usize::try_from(joined.joined), joined.failures.len()), (Ok(of.len()), 0));
        }
        let change = Some(set([("lang", "de"), ("app", "7")]));
        let request = SetAttributesRequest { change, clients: ids(&[0, 2]), uids: vec![] };
        assert_eq!(membership.set_attributes(request).await.unwrap().into_inner().changed, 2);
        Self { gateway, clients }
    }

    fn id(&self, at: usize) -> &str {
        self.clients[at].id()
    }

    /// Sends to the target; exactly these clients get it, once.
    async fn reaches(&mut self, target: Target, expected: &[usize]) {
        let shown = format!("{target:?}");
        let delivery = self.gateway.send(send(target, "hello")).await;
        assert_eq!(delivery, queued(expected.len().try_into().unwrap()), "{shown}");
        self.gateway.send(send(all(), "marker")).await;
        for (at, client) in self.clients.iter_mut().enumerate() {
            if expected.contains(&at) {
                assert_eq!(client.next_text().await, "hello", "client {at}, {shown}");
            }
            assert_eq!(client.next_text().await, "marker", "client {at}, {shown}");
        }
    }
}

#[tokio::test]
async fn every_kind_of_target_reaches_whom_it_names_and_nobody_else() {
    let mut house = House::new().await;
    let (first, last) = (house.id(0).to_owned(), house.id(3).to_owned());
    house.reaches(all(), &[0, 1, 2, 3]).await;
    house.reaches(clients([&first]), &[0]).await;
    house.reaches(clients([&first, &last, NOBODY]), &[0, 3]).await;
    house.reaches(clients([NOBODY]), &[]).await;
    house.reaches(uids(["ada"]), &[0, 1]).await;
    house.reaches(uids(["bob", "nobody", "ada"]), &[0, 1, 2]).await;
    house.reaches(groups(["lobby"]), &[1, 2, 3]).await;
    house.reaches(groups(["attic", "cellar"]), &[3]).await;
    house.reaches(groups(["cellar"]), &[]).await;
}

#[tokio::test]
async fn who_is_named_in_several_ways_gets_it_once() {
    let mut house = House::new().await;
    let (one, last) = (house.id(1).to_owned(), house.id(3).to_owned());
    let target = Target {
        clients: texts([&one, &last, &one, &last]),
        uids: texts(["ada", "ada"]),
        groups: texts(["lobby", "attic", "lobby"]),
        ..Target::default()
    };
    house.reaches(target, &[0, 1, 2, 3]).await;
    house.reaches(clients([&one, &one]), &[1]).await;
    house.reaches(groups(["attic", "attic"]), &[3]).await;
    house.reaches(uids(["bob", "bob"]), &[2]).await;
}

#[tokio::test]
async fn exceptions_and_attributes_leave_out_who_would_be_named() {
    let mut house = House::new().await;
    let (first, last) = (house.id(0).to_owned(), house.id(3).to_owned());
    let except = |target: Target, clients: &[&str], uids: &[&str]| Target {
        except_clients: clients.iter().map(ToString::to_string).collect(),
        except_uids: uids.iter().map(ToString::to_string).collect(),
        ..target
    };
    house.reaches(except(all(), &[&first, NOBODY], &[]), &[1, 2, 3]).await;
    house.reaches(except(all(), &[&last], &["ada", "nobody"]), &[2]).await;
    house.reaches(except(groups(["lobby"]), &[], &["bob"]), &[1, 3]).await;
    house.reaches(except(uids(["ada"]), &[&first], &[]), &[1]).await;
    house.reaches(except(clients([&first]), &[&first], &[]), &[]).await;
    let having = |target: Target, pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Target { attributes: pairs.collect(), ..target }
    };
    house.reaches(having(all(), &[("lang", "de")]), &[0, 2]).await;
    house.reaches(having(all(), &[("lang", "de"), ("app", "8")]), &[]).await;
    house.reaches(having(groups(["lobby"]), &[("lang", "de"), ("app", "7")]), &[2]).await;
    house.reaches(having(except(all(), &[], &["ada"]), &[("lang", "de")]), &[2]).await;
}

#[tokio::test]
async fn messages_are_framed_as_their_kind_says() {
    let gateway = Gateway::with(&["websocket.message_format=binary"]).await;
    let mut ada = gateway.connect().await;
    let kinds = [
        (Kind::Text, tungstenite::Message::text("hello")),
        (Kind::Binary, tungstenite::Message::binary(&b"hello"[..])),
        (Kind::Unspecified, tungstenite::Message::binary(&b"hello"[..])),
    ];
    for (kind, expected) in kinds {
        let message = Some(Message { kind: kind.into(), data: "hello".into() });
        let request = SendRequest { message, ..send(clients([ada.id()]), "") };
        assert_eq!(gateway.send(request).await, queued(1));
        assert_eq!(ada.next_message().await, expected);
    }
    assert_eq!(gateway.send(send(clients([ada.id()]), "")).await, queued(1));
    assert_eq!(ada.next_text().await, "", "a message may be empty");
}

/// What a socket of little room can't take.
const SIZE: usize = 4096;

fn numbered(number: usize) -> String {
    format!("{number:0SIZE$}")
}

/// A gateway with one client that doesn't read, for whom messages have begun to wait: the kernel
/// has taken as much as it does.
async fn behind(clock: &Clock, sets: &[&str]) -> (Gateway, Raw, String, usize) {
    let sets = [sets, &["websocket.send_buffer=16KiB", "shards=1"]].concat();
    let gateway = Gateway::at(clock.clone(), &sets).await;
    let (raw, id) = Raw::narrow(gateway.websocket()).await;
    for number in 0.. {
        let when_behind = Some(WhenBehind::DropIfBehind(true));
        let request = SendRequest { when_behind, ..send(clients([&id]), &numbered(number)) };
        let delivery = gateway.send(request).await;
        assert_eq!(delivery.matched, 1);
        if delivery.dropped_behind == 1 {
            assert_eq!(delivery.queued, 0);
            return (gateway, raw, id, number);
        }
        assert_eq!(delivery, queued(1));
    }
    unreachable!()
}

fn dropped(gateway: &Gateway, why: Drop) -> u64 {
    gateway.sum(|stats| stats.dropped[why as usize].get())
}

#[tokio::test]
async fn what_is_dropped_for_a_client_behind_is_told_and_the_rest_comes_in_order() {
    let (gateway, mut raw, id, sent) = behind(&Clock::default(), &[]).await;
    assert!(sent > 1, "the kernel takes something");
    assert_eq!(dropped(&gateway, Drop::Behind), 1);
    assert_eq!(gateway.send(send(clients([&id]), "waits")).await, queued(1));
    let when_behind = Some(WhenBehind::DropIfBehind(false));
    let request = SendRequest { when_behind, ..send(clients([&id]), "waits, too") };
    assert_eq!(gateway.send(request).await, queued(1), "false is as unset");
    for number in 0..sent {
        assert_eq!(raw.data().await.text(), numbered(number));
    }
    assert_eq!(raw.data().await.text(), "waits");
    assert_eq!(raw.data().await.text(), "waits, too");
}

#[tokio::test]
async fn a_conflated_message_takes_the_place_of_the_earlier_one_at_the_end() {
    let (gateway, mut raw, id, sent) = behind(&Clock::default(), &[]).await;
    let conflated = |key: &str, text: &str| SendRequest {
        when_behind: Some(WhenBehind::ConflateKey(key.to_owned())),
        ..send(clients([&id]), text)
    };
    assert_eq!(gateway.send(conflated("price", "1")).await, queued(1));
    assert_eq!(gateway.send(conflated("place", "here")).await, queued(1));
    assert_eq!(gateway.send(send(clients([&id]), "in between")).await, queued(1));
    for text in ["2", "3"] {
        let expected = Delivery { replaced: 1, ..queued(1) };
        assert_eq!(gateway.send(conflated("price", text)).await, expected);
    }
    assert_eq!(dropped(&gateway, Drop::Replaced), 2);
    for number in 0..sent {
        assert_eq!(raw.data().await.text(), numbered(number));
    }
    for text in ["here", "in between", "3"] {
        assert_eq!(raw.data().await.text(), text);
    }
}

#[tokio::test]
async fn a_message_that_is_refused_replaces_nothing() {
    let sets = [
        "limits.slow_client=drop-newest",
        "limits.slow_client_grace=0s",
        "limits.queue_bytes=64KiB",
    ];
    let (gateway, mut raw, id, sent) = behind(&Clock::default(), &sets).await;
    let conflated = |text: &str| SendRequest {
        when_behind: Some(WhenBehind::ConflateKey("price".to_owned())),
        ..send(clients([&id]), text)
    };
    assert_eq!(gateway.send(conflated("1")).await, queued(1));
    // Too large even in the place of the first.
    let expected = Delivery { queued: 0, dropped_full: 1, ..queued(1) };
    assert_eq!(gateway.send(conflated(&"2".repeat(70_000))).await, expected);
    assert_eq!(dropped(&gateway, Drop::Replaced), 0);
    for number in 0..sent {
        assert_eq!(raw.data().await.text(), numbered(number));
    }
    assert_eq!(raw.data().await.text(), "1");
}

#[tokio::test]
async fn what_has_waited_for_longer_than_its_ttl_is_dropped() {
    let clock = Clock::paused();
    let (gateway, mut raw, id, sent) = behind(&clock, &[]).await;
    let ttl = |time: Duration, text: &str| SendRequest {
        ttl: Some(time.try_into().unwrap()),
        ..send(clients([&id]), text)
    };
    assert_eq!(gateway.send(ttl(Duration::from_secs(10), "short-lived")).await, queued(1));
    assert_eq!(gateway.send(ttl(Duration::from_secs(11), "long-lived")).await, queued(1));
    clock.advance(Duration::from_secs(10));
    for number in 0..sent {
        assert_eq!(raw.data().await.text(), numbered(number));
    }
    assert_eq!(raw.data().await.text(), "long-lived");
    assert_eq!(dropped(&gateway, Drop::Expired), 1);
}

#[tokio::test]
async fn what_a_full_queue_does_is_in_the_numbers() {
    let policies = [("disconnect", "closed"), ("drop-newest", "full"), ("drop-oldest", "queued")];
    for (policy, becomes) in policies {
        let policy = format!("limits.slow_client={policy}");
        let sets = [policy.as_str(), "limits.slow_client_grace=0s", "limits.queue_messages=2"];
        let (gateway, _raw, id, _) = behind(&Clock::default(), &sets).await;
        let reader = gateway.connect().await;
        let both = clients([&id, reader.id()]);
        let mut full = None;
        for number in 0..10 {
            let delivery = gateway.send(send(both.clone(), &numbered(number))).await;
            let Delivery { dropped_full, dropped_closed, .. } = delivery;
            assert_eq!(delivery.queued + dropped_full + dropped_closed, delivery.matched);
            if full.is_none() && delivery.queued == 1 {
                full = Some(delivery);
            }
        }
        let expected = match becomes {
            "closed" => Some(Delivery { queued: 1, dropped_closed: 1, ..queued(2) }),
            "full" => Some(Delivery { queued: 1, dropped_full: 1, ..queued(2) }),
            _ => None,
        };
        assert_eq!(full, expected, "{policy}");
        assert_eq!(dropped(&gateway, Drop::Oldest) > 0, becomes == "queued", "{policy}");
    }
}
