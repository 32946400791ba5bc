//! What an ear passes on, to whom and when.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::config::WhenFull;

/// An ear, and how often its shard was woken.
fn counted(events: &Events) -> (Box<dyn Ear>, Arc<AtomicU32>) {
    let woken = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&woken);
    let wake = Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    (events.ear(0, wake), woken)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_collected_for_nobody() {
    let (events, live) = events(|config| config.groups = Words::default());
    let mut ear = ear(&events);
    assert!(!ear.listens());
    open(&mut *ear, 1);
    assert_eq!(say(&mut *ear, 1, "hello"), Accept::Accepted);
    assert_eq!(ear.roll_call(), None);
    live.swap(configured(|_| {}));
    let mut subscription = events.subscribe(&name("g"), SubscribeOptions::default()).unwrap();
    assert!(ear.listens());
    ear.end_turn();
    assert_eq!(ear.roll_call(), Some(0));
    ear.present(&[client(1)], None);
    assert_eq!(next(&mut subscription).await, ["there are [1]"]);
    assert!(is_quiet(&mut subscription).await);
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_passed_on_at_its_end_or_when_it_is_much() {
    let (events, _live) = events(|_| {});
    let mut ear = ear(&events);
    let mut subscription = subscribe(&events, "g").await;
    open(&mut *ear, 1);
    assert!(is_quiet(&mut subscription).await);
    ear.end_turn();
    assert_eq!(next(&mut subscription).await, ["1 opened"]);
    for _ in 0..255 {
        say(&mut *ear, 1, "x");
    }
    assert!(is_quiet(&mut subscription).await);
    say(&mut *ear, 1, "x");
    assert_eq!(subscription.take(1000, 1 << 20).await.unwrap().len(), 256);
    let long = "x".repeat(64 << 10);
    say(&mut *ear, 1, &long);
    assert_eq!(next(&mut subscription).await, [format!("1 said {long}")]);
    close(&mut *ear, 1);
    // The shard ends before its turn does.
    drop(ear);
    assert_eq!(next(&mut subscription).await, ["1 closed"]);
}

#[tokio::test(start_paused = true)]
async fn a_roll_call_divides_what_a_new_group_is_told_from_what_it_is_not() {
    let (events, _live) = events(|config| config.allow_new_groups = true);
    let (mut ear, woken) = counted(&events);
    let (mut other_ear, other_woken) = counted(&events);
    for slot in 0..6 {
        open(&mut *ear, slot);
    }
    let mut new = events.subscribe(&name("new"), SubscribeOptions::default()).unwrap();
    assert_eq!([&woken, &other_woken].map(|woken| woken.load(Ordering::SeqCst)), [1, 1]);
    // Before the first slot is named, nothing concerns it.
    close(&mut *ear, 0);
    say(&mut *ear, 1, "too early");
    assert_eq!(ear.roll_call(), Some(0));
    ear.present(&[client(1), client(2)], Some(3));
    // Slots 0 to 2 were named.
    say(&mut *ear, 1, "in time");
    close(&mut *ear, 2);
    say(&mut *ear, 3, "too early");
    close(&mut *ear, 4);
    open(&mut *ear, 0);
    assert_eq!(ear.roll_call(), Some(3));
    ear.present(&[client(3)], Some(5));
    say(&mut *ear, 3, "in time");
    assert_eq!(ear.roll_call(), Some(5));
    ear.present(&[client(5)], None);
    assert_eq!(ear.roll_call(), None);
    say(&mut *ear, 5, "in time");
    ear.end_turn();
    assert!(is_quiet(&mut new).await, "the other shard has not named anybody");
    assert_eq!(other_ear.roll_call(), Some(0));
    other_ear.present(&[], None);
    let told = next(&mut new).await;
    let all = [
        "there are [1, 2, 3, 5]",
        "1 said in time",
        "2 closed",
        "0 opened",
        "3 said in time",
        "5 said in time",
    ];
    assert_eq!(told, all);
    // The group that was there from the start was told everything.
    assert_eq!(events.stats()[0].1.messages, 5);
}

#[tokio::test(start_paused = true)]
async fn roll_calls_come_one_after_the_other_and_end_with_their_group() {
    let (events, live) = events(|_| {});
    let mut ear = ear(&events);
    let groups = |names: &[&str]| {
        let words = names.iter().map(ToString::to_string).collect();
        configured(|config| config.groups = Words(words))
    };
    open(&mut *ear, 1);
    for names in [&["g", "h"][..], &["g", "h", "i"]] {
        live.swap(groups(names));
        drop(events.subscribe(&name("g"), SubscribeOptions::default()).unwrap());
    }
    assert_eq!(ear.roll_call(), Some(0));
    ear.present(&[client(1)], Some(100));
    assert_eq!(ear.roll_call(), Some(100));
    // The group goes before the answer comes, which then is for nobody.
    live.swap(groups(&["g", "i"]));
    let mut last = events.subscribe(&name("i"), SubscribeOptions::default()).unwrap();
    open(&mut *ear, 2);
    ear.present(&[], None);
    assert_eq!(ear.roll_call(), Some(0));
    ear.present(&[client(1), client(2)], None);
    assert_eq!(ear.roll_call(), None);
    ear.end_turn();
    assert_eq!(next(&mut last).await, ["there are [1, 2]"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_pauses_lets_the_shard_wait_and_wakes_it() {
    let (events, live) = events(|config| {
        (config.buffer_messages, config.when_full) = (4, WhenFull::Pause);
    });
    let (mut ear, woken) = counted(&events);
    let mut subscription = subscribe(&events, "g").await;
    open(&mut *ear, 1);
    for _ in 0..4 {
        assert_eq!(say(&mut *ear, 1, "a"), Accept::Accepted);
    }
    assert!(ear.has_room(), "the turn is not over");
    ear.end_turn();
    assert_eq!(say(&mut *ear, 1, "b"), Accept::Backpressure);
    assert!(!ear.has_room());
    // What is no message has room of its own.
    close(&mut *ear, 1);
    ear.end_turn();
    assert_eq!(next(&mut subscription).await.len(), 6);
    assert_eq!(woken.load(Ordering::SeqCst), 0);
    subscription.acknowledge(events.epoch(), 3).unwrap();
    assert_eq!(woken.load(Ordering::SeqCst), 1, "three of four is room again");
    assert!(ear.has_room());
    assert_eq!(say(&mut *ear, 2, "c"), Accept::Accepted);
    ear.end_turn();
    assert_eq!(say(&mut *ear, 2, "d"), Accept::Backpressure);
    // Another policy is room, too.
    live.swap(configured(|config| config.buffer_messages = 4));
    drop(events.subscribe(&name("g"), SubscribeOptions::default()));
    assert_eq!(woken.load(Ordering::SeqCst), 2);
    assert_eq!(say(&mut *ear, 2, "d"), Accept::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_full_tells_what_is_missing_and_who_is_there() {
    let (events, _live) = events(|config| config.buffer_messages = 2);
    let mut ear = ear(&events);
    let mut subscription = subscribe(&events, "g").await;
    open(&mut *ear, 1);
    for text in ["a", "b", "c", "d"] {
        assert_eq!(say(&mut *ear, 1, text), Accept::Accepted);
    }
    ear.end_turn();
    let all = ["missed 3 to 4: 2 + 0", "there are []", "1 opened", "1 said c", "1 said d"];
    assert_eq!(next(&mut subscription).await, all);
}
