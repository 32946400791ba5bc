//! Consumer groups at work: what becomes of subscribers and groups as time passes, and what an ear
//! hears. The clock stands still, and leaps when all wait.

mod ear;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    Delivered, Delivery, Ended, Events, SubscribeError, SubscribeOptions, Subscription, What,
    WrongAck,
};
use crate::{
    close::Cause,
    config::{self, Config, Live, value::Words},
    ids::{ClientId, Name},
    message::Kind,
    sink::{Accept, Closed, Ear, EventSink, Opened, Who},
};

fn name(text: &str) -> Name {
    Name::new(text, 256).unwrap()
}

/// The default configuration with the group `g`, and some changes.
fn configured(change: impl FnOnce(&mut config::Events)) -> Config {
    let mut config = Config::default();
    config.events.groups = Words(vec!["g".into()]);
    change(&mut config.events);
    config
}

fn events(change: impl FnOnce(&mut config::Events)) -> (Events, Live) {
    let live = Live::new(configured(change));
    (Events::new(&live), live)
}

/// A client in a slot of the first shard.
fn client(slot: u32) -> ClientId {
    ClientId::new(0, slot, 1, u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn ear(events: &Events) -> Box<dyn Ear> {
    events.ear(0, Arc::new(|| {}))
}

fn open(ear: &mut dyn Ear, slot: u32) {
    let (who, peer) =
        (Who { client: client(slot), uid: None }, SocketAddr::from(([127, 0, 0, 1], 1)));
    ear.opened(&Opened { who, groups: &[], attributes: None, peer, about: None });
}

fn say(ear: &mut dyn Ear, slot: u32, text: &str) -> Accept {
    ear.message(Who { client: client(slot), uid: None }, Kind::Text, text.as_bytes())
}

fn close(ear: &mut dyn Ear, slot: u32) {
    let (cause, code, lasted) = (Cause::Peer, 1000, Duration::ZERO);
    let closed = Closed { cause, code, lasted, bytes_in: 0, bytes_out: 0 };
    ear.closed(Who { client: client(slot), uid: None }, &closed);
}

/// What an item says, for comparison.
fn told(delivery: &Delivery) -> String {
    let again = if delivery.redelivered { " again" } else { "" };
    let what = match &delivery.what {
        Delivered::Event(event) => {
            let slot = event.client.slot();
            match &event.what {
                What::Opened(_) => format!("{slot} opened"),
                What::Message { bytes, .. } => {
                    format!("{slot} said {}", String::from_utf8_lossy(bytes))
                }
                What::Closed(_) => format!("{slot} closed"),
            }
        }
        Delivered::Missed { first, last, messages, changes, .. } => {
            format!("missed {first} to {last}: {messages} + {changes}")
        }
        Delivered::Snapshot { clients, .. } => {
            let mut slots: Vec<u32> = clients.iter().map(|client| client.slot()).collect();
            slots.sort_unstable();
            format!("there are {slots:?}")
        }
    };
    format!("{what}{again}")
}

/// Subscribes to a group that was there before any client, and hears that first.
async fn subscribe(events: &Events, group: &str) -> Subscription {
    let mut subscription = events.subscribe(&name(group), SubscribeOptions::default()).unwrap();
    let first = subscription.take(1, 1).await.unwrap();
    assert_eq!((told(&first[0]), first[0].cursor), ("there are []".to_owned(), 1));
    subscription.acknowledge(events.epoch(), 1).unwrap();
    subscription
}

async fn next(subscription: &mut Subscription) -> Vec<String> {
    let taken = subscription.take(100, 1 << 20).await.unwrap();
    taken.iter().map(told).collect()
}

/// Whether there is nothing to take.
async fn is_quiet(subscription: &mut Subscription) -> bool {
    tokio::time::timeout(Duration::from_secs(1), subscription.take(100, 1 << 20)).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn each_group_gets_everything_and_a_subscriber_sleeps_until_there_is_something() {
    let (events, _live) = events(|config| config.groups.0.push("h".into()));
    let mut ear = ear(&events);
    let mut both = [
        events.subscribe(&name("g"), SubscribeOptions::default()).unwrap(),
        events
            .subscribe(&name("h"), SubscribeOptions { window: Some(7), snapshots: false })
            .unwrap(),
    ];
    assert_eq!(both.each_ref().map(Subscription::window), [1024, 7]);
    for subscription in &mut both {
        assert_eq!(next(subscription).await, ["there are []"]);
        assert!(is_quiet(subscription).await);
    }
    let waiting = tokio::spawn(async move {
        let mut told = Vec::new();
        for subscription in &mut both {
            told.push(next(subscription).await);
        }
        told
    });
    tokio::task::yield_now().await;
    open(&mut *ear, 1);
    say(&mut *ear, 1, "hello");
    close(&mut *ear, 1);
    ear.end_turn();
    let all = ["1 opened", "1 said hello", "1 closed"];
    assert_eq!(waiting.await.unwrap(), [all, all]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_acknowledge_in_time_loses_its_place_to_others() {
    let (events, _live) = events(|_| {});
    let mut ear = ear(&events);
    let mut slow = subscribe(&events, "g").await;
    open(&mut *ear, 1);
    say(&mut *ear, 1, "hello");
    ear.end_turn();
    assert_eq!(next(&mut slow).await, ["1 opened", "1 said hello"]);
    slow.acknowledge(events.epoch(), 2).unwrap();
    let mut other = events.subscribe(&name("g"), SubscribeOptions::default()).unwrap();
    sleep(Duration::from_secs(29)).await;
    assert_eq!(events.stats()[0].1.subscribers, 2);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(events.stats()[0].1.subscribers, 1);
    assert_eq!(next(&mut other).await, ["1 said hello again"]);
    let timeout = Duration::from_secs(30);
    assert_eq!(slow.take(1, 1).await, Err(Ended::Overdue { cursor: 3, timeout }));
    // What it says now is too late, and no fault.
    assert_eq!(slow.acknowledge(events.epoch(), 3), Ok(()));
    assert_eq!(events.stats()[0].1.acknowledged, 2);
    drop(slow);
    other.acknowledge(events.epoch(), 3).unwrap();
    assert_eq!(events.stats()[0].1.acknowledged, 3);
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_a_subscriber_has_all_the_time_there_is() {
    let (events, live) = events(|config| config.ack_timeout = Duration::ZERO);
    let mut ear = ear(&events);
    let mut slow = subscribe(&events, "g").await;
    open(&mut *ear, 1);
    ear.end_turn();
    assert_eq!(next(&mut slow).await, ["1 opened"]);
    sleep(Duration::from_hours(24)).await;
    assert_eq!(events.stats()[0].1.subscribers, 1);
    // One that is set meanwhile counts from when it was sent.
    live.swap(configured(|config| config.ack_timeout = Duration::from_hours(25)));
    sleep(Duration::from_mins(59)).await;
    assert_eq!(events.stats()[0].1.subscribers, 1);
    sleep(Duration::from_mins(2)).await;
    assert!(matches!(slow.take(1, 1).await, Err(Ended::Overdue { cursor: 2, .. })));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_acknowledgement_names_both() {
    let (events, _live) = events(|_| {});
    let mut ear = ear(&events);
    let mut subscription = subscribe(&events, "g").await;
    open(&mut *ear, 1);
    ear.end_turn();
    let (ours, theirs) = (events.epoch(), events.epoch() ^ 1);
    let wrong = subscription.acknowledge(theirs, 1);
    assert_eq!(wrong, Err(WrongAck::Epoch { theirs, ours }));
    let wrong = subscription.acknowledge(ours, 3);
    assert_eq!(wrong, Err(WrongAck::UnknownCursor { cursor: 3, last: 2 }));
    // One that was not given to it is nothing to it.
    assert_eq!(subscription.acknowledge(ours, 2), Ok(()));
    assert_eq!(next(&mut subscription).await, ["1 opened"]);
    for _ in 0..2 {
        assert_eq!(subscription.acknowledge(ours, 2), Ok(()));
    }
    assert_eq!(events.stats()[0].1.acknowledged, 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_group_is_forgotten_some_time_after_its_last_subscriber() {
    let (events, live) = events(|config| config.allow_new_groups = true);
    let groups = || events.stats().iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    let first = events.subscribe(&name("new"), SubscribeOptions::default()).unwrap();
    sleep(Duration::from_hours(1)).await;
    assert_eq!(groups(), ["g", "new"]);
    drop(first);
    sleep(Duration::from_mins(9)).await;
    let again = events.subscribe(&name("new"), SubscribeOptions::default()).unwrap();
    sleep(Duration::from_mins(9)).await;
    drop(again);
    sleep(Duration::from_mins(9)).await;
    assert_eq!(groups(), ["g", "new"]);
    sleep(Duration::from_mins(2)).await;
    assert_eq!(groups(), ["g"]);
    live.swap(configured(|_| {}));
    let unknown = events.subscribe(&name("new"), SubscribeOptions::default()).map(drop);
    assert_eq!(unknown, Err(SubscribeError::UnknownGroup { group: name("new") }));
}

#[tokio::test(start_paused = true)]
async fn a_reload_makes_and_ends_groups() {
    let (events, live) = events(|_| {});
    let mut ear = ear(&events);
    open(&mut *ear, 1);
    ear.end_turn();
    let mut old = events.subscribe(&name("g"), SubscribeOptions::default()).unwrap();
    assert_eq!(next(&mut old).await, ["there are []", "1 opened"]);
    live.swap(configured(|config| config.groups = Words(vec!["h".into()])));
    assert_eq!(old.take(1, 1).await, Err(Ended::Gone));
    assert_eq!(old.acknowledge(events.epoch(), 1), Ok(()));
    let mut new = events.subscribe(&name("h"), SubscribeOptions::default()).unwrap();
    assert!(events.subscribe(&name("g"), SubscribeOptions::default()).is_err());
    assert!(is_quiet(&mut new).await, "nobody was named yet");
    assert_eq!(ear.roll_call(), Some(0));
    ear.present(&[client(1)], None);
    assert_eq!(next(&mut new).await, ["there are [1]"]);
}

#[tokio::test(start_paused = true)]
async fn groups_and_subscribers_are_counted() {
    let (events, _live) = events(|config| {
        (config.allow_new_groups, config.max_groups, config.max_subscribers) = (true, 2, 1);
    });
    let first = events.subscribe(&name("g"), SubscribeOptions::default()).unwrap();
    let refused = events.subscribe(&name("g"), SubscribeOptions::default()).map(drop);
    assert_eq!(refused, Err(SubscribeError::TooManySubscribers { limit: 1 }));
    drop(first);
    let _again = events.subscribe(&name("g"), SubscribeOptions::default()).unwrap();
    let _second = events.subscribe(&name("h"), SubscribeOptions::default()).unwrap();
    let refused = events.subscribe(&name("i"), SubscribeOptions::default()).map(drop);
    assert_eq!(refused, Err(SubscribeError::TooManyGroups { limit: 2 }));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_all_subscriptions() {
    let (events, _live) = events(|_| {});
    let mut subscription = subscribe(&events, "g").await;
    let waiting = tokio::spawn(async move { subscription.take(1, 1).await });
    tokio::task::yield_now().await;
    events.stop();
    assert_eq!(waiting.await.unwrap(), Err(Ended::Stopped));
    let refused = events.subscribe(&name("g"), SubscribeOptions::default()).map(drop);
    assert_eq!(refused, Err(SubscribeError::Stopped));
    assert!(!ear(&events).listens());
}
