//! `[events]`: what is kept for consumer groups, for how long and how much.

use std::time::Duration;

use gateway_websocket::{
    events::{
        Delivered, Delivery, Ended, Stats, SubscribeError, SubscribeOptions, Subscription, What,
    },
    ids::Name,
};

use super::Stage;
use crate::{
    client::soon,
    raw::{CLOSE, TEXT, frame},
};

const GROUP: (&str, &str) = ("events.groups", "[\"g\"]");

impl Stage {
    fn subscribe(&self, group: &str) -> Result<Subscription, SubscribeError> {
        self.gateway
            .events()
            .subscribe(&Name::new(group, 256).unwrap(), SubscribeOptions::default())
    }

    fn stats(&self) -> Stats {
        self.gateway.events().stats()[0].1
    }

    /// Waits until the numbers of the only group are so.
    async fn until(&self, what: &str, so: impl Fn(Stats) -> bool) {
        let waiting = async {
            while !so(self.stats()) {
                tokio::time::sleep(Duration::from_millis(1)).await; // it can only be asked
            }
        };
        soon(what, waiting).await;
    }

    /// What there is for a subscriber, which acknowledges it.
    async fn take(&self, subscription: &mut Subscription) -> Vec<Delivery> {
        let taken = soon("events", subscription.take(1000, 1 << 20)).await.unwrap();
        let last = taken.last().unwrap().cursor;
        subscription.acknowledge(self.gateway.events().epoch(), last).unwrap();
        taken
    }
}

/// The messages and changes that are told to be missing.
fn missed(taken: &[Delivery]) -> (u64, u64) {
    match taken[0].what {
        Delivered::Missed { messages, changes, .. } => (messages, changes),
        _ => (0, 0),
    }
}

/// What clients have said.
fn said(taken: &[Delivery]) -> Vec<String> {
    let texts = taken.iter().filter_map(|delivery| match &delivery.what {
        Delivered::Event(event) => match &event.what {
            What::Message { bytes, .. } => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        },
        _ => None,
    });
    texts.collect()
}

#[tokio::test]
pub(super) async fn events_groups() {
    let mut stage = Stage::new(&[]).await;
    assert!(matches!(stage.subscribe("g"), Err(SubscribeError::UnknownGroup { .. })));
    stage.change("events.groups", "[\"g\"]").await;
    let mut subscription = stage.subscribe("g").unwrap();
    let taken = stage.take(&mut subscription).await;
    let Delivered::Snapshot { clients, .. } = &taken[0].what else { panic!("{taken:?}") };
    assert_eq!(clients.len(), 2, "the bystanders were there before it");
    stage.change("events.groups", "[]").await;
    assert_eq!(soon("the end", subscription.take(1, 1)).await, Err(Ended::Gone));
}

#[tokio::test]
pub(super) async fn events_allow_new_groups() {
    let mut stage = Stage::new(&[]).await;
    assert!(matches!(stage.subscribe("new"), Err(SubscribeError::UnknownGroup { .. })));
    stage.change("events.allow_new_groups", "true").await;
    let mut subscription = stage.subscribe("new").unwrap();
    assert_eq!(stage.take(&mut subscription).await.len(), 1);
}

#[tokio::test]
pub(super) async fn events_new_group_expiry() {
    let mut stage = Stage::new(&[("events.allow_new_groups", "true")]).await;
    drop(stage.subscribe("new").unwrap());
    assert_eq!(stage.gateway.events().stats().len(), 1);
    stage.change("events.new_group_expiry", "\"1ms\"").await;
    let forgotten = async {
        while !stage.gateway.events().stats().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await; // it can only be asked
        }
    };
    soon("the end of the group", forgotten).await;
}

#[tokio::test]
pub(super) async fn events_max_groups() {
    let mut stage =
        Stage::new(&[("events.allow_new_groups", "true"), ("events.max_groups", "1")]).await;
    let _first = stage.subscribe("first").unwrap();
    let refused = stage.subscribe("second").map(drop);
    assert_eq!(refused, Err(SubscribeError::TooManyGroups { limit: 1 }));
    stage.change("events.max_groups", "2").await;
    stage.subscribe("second").unwrap();
}

#[tokio::test]
pub(super) async fn events_max_subscribers() {
    let mut stage = Stage::new(&[GROUP, ("events.max_subscribers", "1")]).await;
    let _first = stage.subscribe("g").unwrap();
    let refused = stage.subscribe("g").map(drop);
    assert_eq!(refused, Err(SubscribeError::TooManySubscribers { limit: 1 }));
    stage.change("events.max_subscribers", "2").await;
    stage.subscribe("g").unwrap();
}

#[tokio::test]
pub(super) async fn events_buffer_messages() {
    let mut stage = Stage::new(&[GROUP]).await;
    let mut client = stage.gateway.connect().await;
    for text in ["a", "b", "c"] {
        client.say(text).await;
    }
    stage.until("three messages", |stats| stats.messages == 3).await;
    stage.change("events.buffer_messages", "1").await;
    let mut subscription = stage.subscribe("g").unwrap();
    let taken = stage.take(&mut subscription).await;
    assert_eq!((missed(&taken), said(&taken)), ((2, 0), vec!["c".to_owned()]));
}

#[tokio::test]
pub(super) async fn events_buffer_changes() {
    let mut stage = Stage::new(&[GROUP]).await;
    let _client = stage.gateway.connect().await;
    stage.until("three clients", |stats| stats.opened == 3).await;
    stage.change("events.buffer_changes", "1").await;
    let mut subscription = stage.subscribe("g").unwrap();
    let taken = stage.take(&mut subscription).await;
    assert_eq!(missed(&taken), (0, 2));
    let Delivered::Snapshot { clients, .. } = &taken[1].what else { panic!("{taken:?}") };
    assert_eq!((clients.len(), taken.len()), (2, 3));
}

#[tokio::test]
pub(super) async fn events_buffer_bytes() {
    let mut stage = Stage::new(&[GROUP]).await;
    let mut client = stage.gateway.connect().await;
    for text in ["a", "b", "c"] {
        client.say(&text.repeat(30_000)).await;
    }
    stage.until("three messages", |stats| stats.messages == 3).await;
    stage.change("events.buffer_bytes", "\"64 KiB\"").await;
    let mut subscription = stage.subscribe("g").unwrap();
    let taken = stage.take(&mut subscription).await;
    assert_eq!(missed(&taken), (1, 0));
    assert_eq!(said(&taken), ["b", "c"].map(|text| text.repeat(30_000)));
}

#[tokio::test]
pub(super) async fn events_when_full() {
    let mut stage = Stage::new(&[GROUP, ("events.buffer_messages", "1")]).await;
    let mut client = stage.gateway.connect().await;
    client.say("a").await;
    client.say("b").await;
    stage.until("two messages", |stats| stats.missed_messages == 1).await;
    stage.change("events.when_full", "\"pause\"").await;
    stage.until("the pause", |stats| stats.pauses).await;
    let more: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for text in &more {
        client.say(text).await;
    }
    let mut subscription = stage.subscribe("g").unwrap();
    let taken = stage.take(&mut subscription).await;
    assert_eq!((missed(&taken), said(&taken)), ((1, 0), vec!["b".to_owned()]));
    let mut all = Vec::new();
    while all.len() < more.len() {
        all.extend(said(&stage.take(&mut subscription).await));
    }
    assert_eq!(all, more);
}

#[tokio::test]
pub(super) async fn events_max_unacknowledged() {
    let mut stage = Stage::new(&[GROUP]).await;
    stage.until("two clients", |stats| stats.opened == 2).await;
    let mut subscription = stage.subscribe("g").unwrap();
    assert_eq!(subscription.window(), 1024);
    stage.change("events.max_unacknowledged", "1").await;
    assert_eq!(stage.subscribe("g").unwrap().window(), 1);
    // It is as narrow for who was there before; a first snapshot comes on top.
    assert_eq!(stage.take(&mut subscription).await.len(), 2);
    assert_eq!(stage.take(&mut subscription).await.len(), 1);
}

#[tokio::test]
pub(super) async fn events_ack_timeout() {
    let mut stage = Stage::new(&[GROUP, ("events.ack_timeout", "\"0s\"")]).await;
    let mut subscription = stage.subscribe("g").unwrap();
    let taken = soon("events", subscription.take(1, 1)).await.unwrap();
    let cursor = taken[0].cursor;
    stage.change("events.ack_timeout", "\"1ms\"").await;
    let ended = async {
        loop {
            // The other bystander's `opened` may come first.
            if let Err(ended) = subscription.take(1, 1).await {
                return ended;
            }
        }
    };
    let timeout = Duration::from_millis(1);
    assert_eq!(soon("the end", ended).await, Ended::Overdue { cursor, timeout });
}

#[tokio::test]
pub(super) async fn events_answer_wait() {
    let mut stage = Stage::new(&[GROUP, ("events.answer_wait", "\"1h\"")]).await;
    let mut subscription = stage.subscribe("g").unwrap();
    let goodbye = [frame(TEXT, b"bye"), frame(CLOSE, &1000_u16.to_be_bytes())].concat();
    let (mut waits, id) = stage.raw().await;
    waits.send(&goodbye).await;
    // Nobody acknowledges it.
    let mut heard = Vec::new();
    while said(&heard).is_empty() {
        heard.extend(soon("events", subscription.take(1000, 1 << 20)).await.unwrap());
    }
    stage.change("events.answer_wait", "\"0s\"").await;
    let (mut goes, _) = stage.raw().await;
    goes.send(&goodbye).await;
    assert_eq!(goes.data().await.first, CLOSE);
    stage.gateway.mark(&id).await;
    assert_eq!(waits.data().await.text(), "marker");
}
