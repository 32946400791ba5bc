//! Who gets which events: groups each get everything, the subscribers of one share the clients.

use std::collections::{BTreeMap, BTreeSet};

use gateway_websocket::grpc::proto::v1::{Event, event::What};

use crate::{
    client::{Client, soon},
    gateway::Gateway,
    subscriber::{Subscriber, closed, opened, said},
};

/// The next event of either.
async fn either(a: &mut Subscriber, b: &mut Subscriber) -> (usize, Event) {
    tokio::select! {
        event = a.next() => (0, event),
        event = b.next() => (1, event),
    }
}

#[tokio::test]
async fn different_groups_each_get_everything() {
    let gateway = Gateway::with(&["events.groups=orders,audit"]).await;
    let mut orders = Subscriber::of(&gateway, "orders").await;
    let mut ada = gateway.connect().await;
    ada.say("one").await;
    opened(&orders.hear().await);
    assert_eq!(said(&orders.hear().await), "one");
    // Who comes late to a group that was there gets what was kept for it.
    let mut audit = Subscriber::of(&gateway, "audit").await;
    ada.say("two").await;
    let events = audit.next_n(3).await;
    assert_eq!(events[0].client, ada.id());
    opened(&events[0]);
    assert_eq!([said(&events[1]), said(&events[2])], ["one", "two"]);
    assert!(events.iter().all(|event| !event.redelivered));
    assert_eq!(said(&orders.hear().await), "two");
    // What one has not acknowledged is nothing to the other.
    drop(ada);
    closed(&orders.hear().await);
    closed(&audit.next().await);
}

#[tokio::test]
async fn the_subscribers_of_a_group_share_the_clients() {
    const CLIENTS: usize = 40;
    const MESSAGES: usize = 5;
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut two = [Subscriber::of(&gateway, "all").await, Subscriber::of(&gateway, "all").await];
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(gateway.connect().await);
    }
    for number in 0..MESSAGES {
        for client in &mut clients {
            client.say(&number.to_string()).await;
        }
    }
    let ids: BTreeSet<_> = clients.iter().map(|client| client.id().to_owned()).collect();
    drop(clients);
    let mut told: BTreeMap<String, (usize, Vec<Event>)> = BTreeMap::new();
    for _ in 0..CLIENTS * (MESSAGES + 2) {
        let [a, b] = &mut two;
        let (who, event) = either(a, b).await;
        two[who].acknowledge(event.cursor).await;
        let (whose, events) = told.entry(event.client.clone()).or_insert_with(|| (who, Vec::new()));
        assert_eq!(*whose, who, "all events of a client go to one");
        events.push(event);
    }
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), ids);
    for (_, events) in told.values() {
        opened(&events[0]);
        closed(events.last().unwrap());
        let texts: Vec<_> = events[1..=MESSAGES].iter().map(said).collect();
        assert_eq!(texts, ["0", "1", "2", "3", "4"]);
        assert!(events.is_sorted_by(|one, next| one.cursor < next.cursor));
        assert!(events.iter().all(|event| !event.redelivered));
    }
    let shares: BTreeSet<_> = told.values().map(|(who, _)| *who).collect();
    assert_eq!(shares.len(), 2, "each has some");
    // Every cursor was given once.
    let cursors: BTreeSet<_> =
        told.values().flat_map(|(_, events)| events.iter().map(|event| event.cursor)).collect();
    assert_eq!(cursors.len(), CLIENTS * (MESSAGES + 2));
}

#[tokio::test]
async fn what_a_lost_subscriber_had_not_acknowledged_goes_to_another_marked_and_in_order() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut first = Subscriber::of(&gateway, "all").await;
    let mut ada = gateway.connect().await;
    for number in 0..10 {
        ada.say(&number.to_string()).await;
    }
    let events = first.next_n(11).await;
    // The opened one, and 0 to 3: acknowledged, and known to be.
    let nobody = crate::events_acks::to_nobody();
    first.acknowledge_with(events[4].cursor, vec![nobody], Vec::new()).await;
    assert_eq!(first.done().await.cursor, events[4].cursor);
    let mut second = Subscriber::of(&gateway, "all").await;
    drop(first);
    for number in 4..10 {
        let event = second.next().await;
        assert_eq!((said(&event), event.redelivered), (number.to_string(), true));
        assert_eq!(event.cursor, events[number + 1].cursor, "it keeps its place");
    }
    // It may crash as well, and be the only one.
    drop(second);
    let mut third = Subscriber::of(&gateway, "all").await;
    for number in 4..10 {
        let event = third.hear().await;
        assert_eq!((said(&event), event.redelivered), (number.to_string(), true));
    }
    ada.say("10").await;
    let event = third.hear().await;
    assert_eq!((said(&event), event.redelivered), ("10".to_owned(), false));
}

#[tokio::test]
async fn who_comes_back_goes_on_after_what_was_acknowledged() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut ada = gateway.connect().await;
    for number in 0..20 {
        ada.say(&number.to_string()).await;
        let mut subscriber = Subscriber::of(&gateway, "all").await;
        if number == 0 {
            opened(&subscriber.next().await);
        }
        let event = subscriber.next().await;
        assert_eq!((said(&event), event.redelivered), (number.to_string(), false));
        subscriber.acknowledge(event.cursor).await;
        subscriber.say_no_more();
        subscriber.end().await;
    }
}

#[tokio::test]
async fn a_join_moves_clients_only_after_what_was_told_is_acknowledged() {
    const CLIENTS: usize = 30;
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut old = Subscriber::of(&gateway, "all").await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = gateway.connect().await;
        client.say("one").await;
        clients.push(client);
    }
    let told = old.next_n(2 * CLIENTS).await;
    let mut new = Subscriber::of(&gateway, "all").await;
    for client in &mut clients {
        client.say("two").await;
    }
    // Some of those who come now are the new one's, to whom nothing else is told before: what the
    // others have said came earlier.
    let mut later = Vec::new();
    let event = loop {
        later.push(gateway.connect().await);
        tokio::select! {
            event = new.next() => break event,
            () = tokio::task::yield_now() => {}
        }
    };
    opened(&event);
    assert!(later.iter().any(|client| client.id() == event.client), "a client that moves is told");
    new.acknowledge(event.cursor).await;

    old.acknowledge(told.last().unwrap().cursor).await;
    let mut heard: BTreeMap<String, usize> = BTreeMap::new();
    while heard.len() < CLIENTS {
        let (who, event) = either(&mut old, &mut new).await;
        [&old, &new][who].acknowledge(event.cursor).await;
        assert!(!event.redelivered);
        if let Some(What::Message(_)) = event.what {
            assert_eq!(said(&event), "two");
            assert!(heard.insert(event.client, who).is_none(), "once each");
        }
    }
    let shares: BTreeSet<_> = heard.values().copied().collect();
    assert_eq!(shares.len(), 2, "some have moved, some have stayed");
}

#[tokio::test]
async fn a_subscriber_that_leaves_well_loses_nothing() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut ada = gateway.connect().await;
    let mut heard = Vec::new();
    for number in 0..50 {
        let mut subscriber = Subscriber::of(&gateway, "all").await;
        ada.say(&number.to_string()).await;
        // Everything that it gets is acknowledged, and it stays until it knows that this counts.
        let event = subscriber.next().await;
        let nobody = crate::events_acks::to_nobody();
        subscriber.acknowledge_with(event.cursor, vec![nobody], Vec::new()).await;
        subscriber.done().await;
        heard.push(event);
        soon("the end", async { drop(subscriber) }).await;
    }
    assert!(heard.is_sorted_by(|one, next| one.cursor < next.cursor), "none twice");
}
