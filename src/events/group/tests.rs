//! What a consumer group promises, case by case; [`model`] walks at random.

mod model;

use std::{collections::HashSet, sync::Arc, time::Instant};

use super::{Bounds, Group, Key, PARTITIONS};
use crate::{
    config::{self, WhenFull},
    events::{Delivered, Delivery},
    ids::ClientId,
};

fn group(change: impl FnOnce(&mut Bounds)) -> Group {
    let mut bounds = Bounds::from(&config::Events::default());
    change(&mut bounds);
    Group::new(bounds)
}

fn client(slot: u32) -> ClientId {
    ClientId::new(0, slot, 1, u64::from(slot) << 7)
}

fn take(group: &mut Group, key: Key) -> Vec<Delivery> {
    group.take(key, Instant::now(), 10_000, usize::MAX)
}

fn cursors(taken: &[Delivery]) -> Vec<u64> {
    taken.iter().map(|delivery| delivery.cursor).collect()
}

#[test]
fn subscribers_share_the_clients_evenly_and_one_more_moves_only_what_it_gets() {
    let mut group = group(|_| {});
    let keys: Vec<Key> = (0..4).map(|_| group.join(1000)).collect();
    let owners = |group: &Group| group.partitions.iter().map(|it| it.owner).collect::<Vec<_>>();
    let four = owners(&group);
    for key in &keys {
        let share = four.iter().filter(|owner| **owner == Some(*key)).count();
        assert!((PARTITIONS / 8..PARTITIONS / 2).contains(&share), "{share}");
    }
    let fifth = group.join(1000);
    let five = owners(&group);
    let moved = four.iter().zip(&five).filter(|(four, five)| four != five);
    assert!(moved.clone().count() > 0 && moved.into_iter().all(|(_, to)| *to == Some(fifth)));
    group.leave(fifth);
    assert_eq!(owners(&group), four);
}

#[test]
fn what_moves_waits_until_the_old_subscriber_is_done_with_it() {
    let mut group = group(|_| {});
    let old = group.join(1000);
    for slot in 0..100 {
        group.append(&Arc::new(event::opened(client(slot))));
    }
    let first = take(&mut group, old);
    assert_eq!(first.len(), 100);
    let new = group.join(1000);
    for slot in 0..100 {
        group.append(&Arc::new(event::message(client(slot), 1)));
    }
    assert_eq!(take(&mut group, new), []);
    let stayed = take(&mut group, old);
    assert!((20..80).contains(&stayed.len()), "{}", stayed.len());
    // One item after the other, so that one partition after the other is free.
    for delivery in &first[..99] {
        group.acknowledge(old, delivery.cursor).unwrap();
    }
    let most = take(&mut group, new).len();
    group.acknowledge(old, first[99].cursor).unwrap();
    let moved = most + take(&mut group, new).len();
    assert_eq!(stayed.len() + moved, 100);
}

#[test]
fn what_was_not_acknowledged_is_told_again_in_order_and_marked() {
    let mut group = group(|_| {});
    let first = group.join(1000);
    for slot in 0..10 {
        group.append(&Arc::new(event::opened(client(slot))));
    }
    assert_eq!(cursors(&take(&mut group, first)), (1..=10).collect::<Vec<_>>());
    group.acknowledge(first, 3).unwrap();
    group.leave(first);
    group.append(&Arc::new(event::closed(client(5))));
    let second = group.join(1000);
    let taken = take(&mut group, second);
    assert_eq!(cursors(&taken), (4..=11).collect::<Vec<_>>());
    assert!(taken.iter().all(|delivery| delivery.redelivered == (delivery.cursor < 11)));
}

#[test]
fn a_client_whose_end_was_missed_is_not_told_to_have_come() {
    let mut group = group(|bounds| bounds.changes = 2);
    let first = group.join(1000);
    group.append(&Arc::new(event::opened(client(1))));
    assert_eq!(cursors(&take(&mut group, first)), [1]);
    group.append(&Arc::new(event::closed(client(1))));
    // There is no room for this one: what is in flight stays, the oldest that waits goes.
    group.append(&Arc::new(event::opened(client(2))));
    group.leave(first);
    let second = group.join(1000);
    let taken = take(&mut group, second);
    let missed = Delivered::Missed { first: 1, last: 2, messages: 0, changes: 2 };
    assert_eq!(taken[0].what, missed);
    let nobody = Delivered::Snapshot { clients: Vec::new(), more: false };
    assert_eq!(taken[1].what, nobody);
    assert_eq!((taken.len(), taken[2].cursor), (3, 3));
}

#[test]
fn a_snapshot_comes_in_parts_and_nothing_comes_between() {
    let mut group = Group::late(*group(|_| {}).bounds(), 1);
    let clients: Vec<ClientId> = (0..2500).map(client).collect();
    group.name(&clients);
    let key = group.join(1);
    group.append(&Arc::new(event::closed(client(7))));
    assert_eq!(take(&mut group, key), [], "the shard has not named all");
    group.named();
    assert_eq!(group.stirred().collect::<Vec<_>>(), [key]);
    let mut named = HashSet::new();
    for part in 0..3 {
        let taken = take(&mut group, key);
        let [Delivery { cursor, what: Delivered::Snapshot { clients, more }, .. }] = &taken[..]
        else {
            panic!("{taken:?}")
        };
        assert_eq!((clients.len(), *more), if part < 2 { (1000, true) } else { (500, false) });
        named.extend(clients.iter().copied());
        group.acknowledge(key, *cursor).unwrap();
    }
    assert_eq!(named, clients.into_iter().collect());
    assert_eq!(cursors(&take(&mut group, key)), [1]);
}

#[test]
fn a_message_that_nothing_can_make_room_for_is_missed_itself() {
    let mut group = group(|bounds| (bounds.messages, bounds.bytes) = (1, 2000));
    let key = group.join(1000);
    group.append(&Arc::new(event::message(client(1), 5000)));
    group.append(&Arc::new(event::message(client(1), 1)));
    let taken = take(&mut group, key);
    let missed = Delivered::Missed { first: 1, last: 1, messages: 1, changes: 0 };
    assert_eq!((&taken[0].what, taken[2].cursor), (&missed, 2));
    // All that is kept is in flight.
    group.append(&Arc::new(event::message(client(2), 1)));
    let taken = take(&mut group, key);
    let missed = Delivered::Missed { first: 5, last: 5, messages: 1, changes: 0 };
    assert_eq!((&taken[0].what, taken.len()), (&missed, 2));
}

#[test]
fn a_group_of_many_clients_that_is_always_full_tells_more_than_snapshots() {
    let mut group = Group::late(*group(|bounds| bounds.messages = 10).bounds(), 1);
    let clients: Vec<ClientId> = (0..5000).map(client).collect();
    group.name(&clients);
    group.named();
    let key = group.join(100);
    let (mut events, mut snapshots) = (0, 0);
    for round in 0..1000 {
        for slot in 0..5 {
            group.append(&Arc::new(event::message(client(round * 5 + slot), 1)));
        }
        let taken = group.take(key, Instant::now(), 3, usize::MAX);
        for delivery in &taken {
            events += usize::from(matches!(delivery.what, Delivered::Event(_)));
            snapshots += usize::from(matches!(delivery.what, Delivered::Snapshot { .. }));
        }
        group.acknowledge(key, taken[taken.len() - 1].cursor).unwrap();
    }
    assert!(events > 1500 && snapshots > 10, "{events} events, {snapshots} parts of snapshots");
    // It comes to an end when it is quiet.
    loop {
        let taken = group.take(key, Instant::now(), 100, usize::MAX);
        let Some(last) = taken.last() else { break };
        snapshots = usize::from(matches!(last.what, Delivered::Snapshot { more: false, .. }));
        group.acknowledge(key, last.cursor).unwrap();
    }
    assert_eq!(snapshots, 1);
}

#[test]
fn who_pauses_keeps_what_was_underway_and_has_room_when_some_is_done() {
    let mut group = group(|bounds| (bounds.messages, bounds.when_full) = (8, WhenFull::Pause));
    let key = group.join(1000);
    for size in 0..10 {
        assert_eq!(group.pauses(), size >= 8);
        group.append(&Arc::new(event::message(client(1), size)));
    }
    assert_eq!(take(&mut group, key).len(), 10);
    group.acknowledge(key, 3).unwrap();
    assert!(group.pauses(), "seven of eight is not enough room");
    group.acknowledge(key, 4).unwrap();
    assert!(!group.pauses());
}

/// Events to append.
mod event {
    use std::time::{Duration, SystemTime};

    use crate::{
        attributes::Attributes,
        close::Cause,
        events::{Event, Newly, What},
        ids::ClientId,
        message::Kind,
        sink::Closed,
    };

    fn of(client: ClientId, what: What) -> Event {
        Event { client, uid: None, at: SystemTime::UNIX_EPOCH, what }
    }

    pub(super) fn opened(client: ClientId) -> Event {
        let peer = ([127, 0, 0, 1], 1).into();
        let attributes = Attributes::NONE;
        let newly = Newly { groups: Vec::new(), attributes, peer, about: None };
        of(client, What::Opened(Box::new(newly)))
    }

    pub(super) fn message(client: ClientId, size: usize) -> Event {
        of(client, What::Message { kind: Kind::Binary, bytes: vec![0; size].into() })
    }

    pub(super) fn closed(client: ClientId) -> Event {
        let (cause, code, lasted) = (Cause::Peer, 1000, Duration::ZERO);
        of(client, What::Closed(Closed { cause, code, lasted, bytes_in: 0, bytes_out: 0 }))
    }
}
