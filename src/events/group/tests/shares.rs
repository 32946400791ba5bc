//! Room is shared: who says too much loses its own, and nobody else's.

use std::{collections::BTreeMap, time::Duration};

use super::*;

/// What the messages of the clients are numbered by, in the order in which they were told.
fn told(taken: &[Delivery], told: &mut BTreeMap<ClientId, Vec<u64>>) {
    for delivery in taken {
        if let Delivered::Event(event) = &delivery.what {
            told.entry(event.client).or_default().push(delivery.cursor);
        }
    }
}

#[test]
fn one_that_floods_costs_a_hundred_others_nothing() {
    const MIB: usize = 1 << 20;
    let mut group = group(|_| {});
    let key = group.join(plain(1024));
    let (greedy, mut now) = (client(0), Instant::now());
    let mut arrived = BTreeMap::new();
    let mut open = 0;
    // A megabyte again and again, and now and then each of the others says a little. The subscriber
    // takes what it can have at once, and is slow to be done with it.
    for round in 0..300 {
        group.append(&Arc::new(event::message(greedy, MIB)));
        for slot in 1..=100 {
            if round % 30 == 0 {
                group.append(&Arc::new(event::message(client(slot), 100)));
            }
        }
        now += Duration::from_millis(1);
        let taken = group.take(key, now, 64, MIB);
        told(&taken, &mut arrived);
        open = taken.last().map_or(open, |last| last.cursor);
        if round % 100 == 99 {
            group.acknowledge_at_once(key, open).unwrap();
        }
        assert!(group.stats().held_bytes <= 64 << 20);
    }
    group.acknowledge_at_once(key, open).unwrap();
    loop {
        let taken = take(&mut group, key);
        let Some(last) = taken.last() else { break };
        told(&taken, &mut arrived);
        group.acknowledge_at_once(key, last.cursor).unwrap();
    }
    let stats = group.stats();
    assert!(stats.missed_messages > 100, "{stats:?}");
    assert_eq!(stats.over_share, stats.missed_messages, "nobody else has lost anything");
    for slot in 1..=100 {
        assert_eq!(arrived[&client(slot)].len(), 10, "client {slot}");
    }
    let greedy = arrived.remove(&greedy).unwrap();
    assert_eq!(greedy.len() as u64, 300 - stats.missed_messages);
    for cursors in arrived.values().chain([&greedy]) {
        assert!(cursors.is_sorted(), "{cursors:?}");
    }
}

#[test]
fn many_small_messages_are_as_greedy_as_few_large_ones() {
    let mut group = group(|bounds| bounds.messages = 1000);
    for _ in 0..10_000 {
        group.append(&Arc::new(event::message(client(0), 1)));
        group.append(&Arc::new(event::message(client(1), 1)));
    }
    for slot in 2..100 {
        for _ in 0..8 {
            group.append(&Arc::new(event::message(client(slot), 1)));
        }
    }
    let key = group.join(plain(10_000));
    let mut arrived = BTreeMap::new();
    told(&take(&mut group, key), &mut arrived);
    assert!((2..100).all(|slot| arrived[&client(slot)].len() == 8));
    // The two share what is left evenly: 1000 less 98 times 8.
    let [one, other] = [0, 1].map(|slot| arrived[&client(slot)].len());
    assert_eq!((one + other, one.abs_diff(other) <= 1000 / 9), (216, true), "{one} {other}");
}

#[test]
fn among_equals_the_oldest_gives_way_and_nobody_is_over_a_share() {
    let mut group = group(|bounds| bounds.messages = 10);
    for slot in 0..15 {
        group.append(&Arc::new(event::message(client(slot), 1)));
    }
    let key = group.join(plain(1000));
    let mut arrived = BTreeMap::new();
    told(&take(&mut group, key), &mut arrived);
    let mut expected: Vec<ClientId> = (5..15).map(client).collect();
    expected.sort_unstable();
    assert_eq!(arrived.into_keys().collect::<Vec<_>>(), expected);
    assert_eq!((group.stats().missed_messages, group.stats().over_share), (5, 0));
}

#[test]
fn what_is_in_flight_leaves_half_of_the_room_to_what_waits() {
    let mut group = group(|bounds| bounds.bytes = 100_000);
    let (first, second) = (group.join(plain(1000)), group.join(plain(1000)));
    let [mut taken, mut others] = [first, second].map(|key| take(&mut group, key));
    for slot in 0..40 {
        group.append(&Arc::new(event::message(client(slot), 1800)));
    }
    taken.extend(take(&mut group, first));
    others.extend(take(&mut group, second));
    let flying = group.stats().unacknowledged;
    assert!(group.is_crowded() && flying < 40, "{flying}");
    assert!(group.is_full(first) && take(&mut group, first).is_empty());
    assert!(group.is_full(second) && take(&mut group, second).is_empty());
    group.stirred().for_each(drop);
    // Both are told, whoever has made the room.
    let last = taken.last().unwrap().cursor;
    group.acknowledge_at_once(first, last).unwrap();
    let mut stirred: Vec<Key> = group.stirred().collect();
    stirred.sort_unstable();
    stirred.dedup();
    assert_eq!(stirred, [first, second]);
    assert!(!take(&mut group, first).is_empty() || !take(&mut group, second).is_empty());
}
