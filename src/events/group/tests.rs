//! What a consumer group promises, case by case; [`model`] walks at random.

mod model;
mod shares;
mod steps;

use std::{collections::HashSet, sync::Arc, time::Instant};

use super::{
    Acknowledgement, Bounds, Group, Key, PARTITIONS, SubscribeOptions, UnknownCursor, share::STEPS,
};
use crate::{
    config::{self, WhenFull},
    events::{Delivered, Delivery, Partitions, partition_of},
    ids::ClientId,
};

/// In all the steps that it takes, as a group behind its lock does it.
impl Group {
    fn kept(&self) -> usize {
        self.messages.count + self.changes.count
    }

    fn leave_at_once(&mut self, key: Key) {
        while !self.leave(key) {}
    }

    fn acknowledge_at_once(&mut self, key: Key, cursor: u64) -> Result<(), UnknownCursor> {
        let mut progress = Acknowledgement::of(cursor);
        while !self.acknowledge(key, &mut progress)? {}
        Ok(())
    }

    fn set_bounds_at_once(&mut self, bounds: Bounds) {
        while !self.set_bounds(bounds) {}
    }
}

fn group(change: impl FnOnce(&mut Bounds)) -> Group {
    let mut bounds = Bounds::from(&config::Events::default());
    change(&mut bounds);
    Group::new(bounds)
}

/// A subscriber that wants no more snapshots than it needs.
fn plain(window: usize) -> SubscribeOptions {
    SubscribeOptions { window: Some(window), snapshots: false }
}

fn client(slot: u32) -> ClientId {
    ClientId::new(0, slot, 1, u64::from(slot) << 7)
}

fn take(group: &mut Group, key: Key) -> Vec<Delivery> {
    group.take(key, Instant::now(), 10_000, usize::MAX)
}

/// What a group tells first when nobody was there before it.
fn greeting() -> Delivery {
    let what = Delivered::Snapshot { partitions: Partitions::All, clients: Vec::new() };
    Delivery { cursor: 1, redelivered: false, what }
}

fn cursors(taken: &[Delivery]) -> Vec<u64> {
    taken.iter().map(|delivery| delivery.cursor).collect()
}

#[test]
fn subscribers_share_the_clients_evenly_and_one_more_moves_only_what_it_gets() {
    let mut group = group(|_| {});
    let keys: Vec<Key> = (0..4).map(|_| group.join(plain(1000))).collect();
    let owners = |group: &Group| group.partitions.iter().map(|it| it.owner).collect::<Vec<_>>();
    let four = owners(&group);
    for key in &keys {
        let share = four.iter().filter(|owner| **owner == Some(*key)).count();
        assert!((PARTITIONS / 8..PARTITIONS / 2).contains(&share), "{share}");
    }
    let fifth = group.join(plain(1000));
    let five = owners(&group);
    let moved = four.iter().zip(&five).filter(|(four, five)| four != five);
    assert!(moved.clone().count() > 0 && moved.into_iter().all(|(_, to)| *to == Some(fifth)));
    group.leave_at_once(fifth);
    assert_eq!(owners(&group), four);
}

#[test]
fn what_moves_waits_until_the_old_subscriber_is_done_with_it() {
    let mut group = group(|_| {});
    let old = group.join(plain(1000));
    for slot in 0..100 {
        group.append(&Arc::new(event::opened(client(slot))));
    }
    let first = take(&mut group, old);
    assert_eq!(first[0], greeting());
    assert_eq!(first.len(), 101);
    let new = group.join(plain(1000));
    for slot in 0..100 {
        group.append(&Arc::new(event::message(client(slot), 1)));
    }
    assert_eq!(take(&mut group, new), []);
    let stayed = take(&mut group, old);
    assert!((20..80).contains(&stayed.len()), "{}", stayed.len());
    // One item after the other, so that one partition after the other is free.
    for delivery in &first[..100] {
        group.acknowledge_at_once(old, delivery.cursor).unwrap();
    }
    let most = take(&mut group, new).len();
    group.acknowledge_at_once(old, first[100].cursor).unwrap();
    let moved = most + take(&mut group, new).len();
    assert_eq!(stayed.len() + moved, 100);
}

#[test]
fn what_was_not_acknowledged_is_told_again_in_order_and_marked() {
    let mut group = group(|_| {});
    let first = group.join(plain(1000));
    for slot in 0..10 {
        group.append(&Arc::new(event::opened(client(slot))));
    }
    assert_eq!(cursors(&take(&mut group, first)), (1..=11).collect::<Vec<_>>());
    group.acknowledge_at_once(first, 4).unwrap();
    group.leave_at_once(first);
    group.append(&Arc::new(event::closed(client(5))));
    let second = group.join(plain(1000));
    let taken = take(&mut group, second);
    assert_eq!(cursors(&taken), (5..=12).collect::<Vec<_>>());
    assert!(taken.iter().all(|delivery| delivery.redelivered == (delivery.cursor < 12)));
}

#[test]
fn a_client_whose_end_was_missed_is_not_told_to_have_come() {
    let mut group = group(|bounds| bounds.changes = 2);
    let first = group.join(plain(1000));
    group.append(&Arc::new(event::opened(client(1))));
    assert_eq!(cursors(&take(&mut group, first)), [1, 2]);
    group.acknowledge_at_once(first, 1).unwrap();
    group.append(&Arc::new(event::closed(client(1))));
    // There is no room for this one: what is in flight stays, the oldest that waits goes.
    group.append(&Arc::new(event::opened(client(2))));
    group.leave_at_once(first);
    let second = group.join(plain(1000));
    let taken = take(&mut group, second);
    // Nothing is said of others.
    let partitions = Partitions::These(vec![partition_of(client(1))]);
    let missed = Delivered::Missed {
        partitions: partitions.clone(),
        first: 2,
        last: 3,
        messages: 0,
        changes: 2,
    };
    assert_eq!(taken[0].what, missed);
    assert_eq!(taken[1].what, Delivered::Snapshot { partitions, clients: Vec::new() });
    assert_eq!((taken.len(), taken[2].cursor), (3, 4));
}

#[test]
fn many_are_named_partition_by_partition_each_before_its_first_event() {
    let mut group = Group::late(*group(|_| {}).bounds(), 1);
    let clients: Vec<ClientId> = (0..2500).map(client).collect();
    group.name(&clients);
    let key = group.join(plain(1));
    group.append(&Arc::new(event::closed(client(7))));
    assert_eq!(take(&mut group, key), [], "the shard has not named all");
    group.named();
    assert_eq!(group.stirred().collect::<Vec<_>>(), [key]);
    let (mut named, mut partitions, mut snapshots) = (HashSet::new(), HashSet::new(), 0);
    let mut ends = 0;
    loop {
        let taken = take(&mut group, key);
        let Some(last) = taken.last() else { break };
        for delivery in &taken {
            match &delivery.what {
                Delivered::Snapshot { partitions: Partitions::These(some), clients } => {
                    assert!(clients.len() <= 1000);
                    snapshots += 1;
                    assert!(some.iter().all(|number| partitions.insert(*number)));
                    assert!(clients.iter().all(|client| named.insert(*client)));
                    assert!(clients.iter().all(|client| some.contains(&partition_of(*client))));
                }
                Delivered::Event(event) => {
                    assert!(partitions.contains(&partition_of(event.client)));
                    ends += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        group.acknowledge_at_once(key, last.cursor).unwrap();
    }
    assert_eq!(named, clients.into_iter().collect());
    assert_eq!((partitions.len(), ends), (PARTITIONS, 1));
    assert!((3..6).contains(&snapshots), "{snapshots}");
}

#[test]
fn subscribers_of_a_new_group_learn_of_their_own_partitions() {
    let mut group = Group::late(*group(|_| {}).bounds(), 1);
    let clients: Vec<ClientId> = (0..100).map(client).collect();
    group.name(&clients);
    group.named();
    let keys = [group.join(plain(1000)), group.join(plain(1000))];
    let mut partitions = Vec::new();
    let mut named = HashSet::new();
    for key in keys {
        let taken = take(&mut group, key);
        let [Delivery { what: Delivered::Snapshot { partitions: some, clients }, .. }] = &taken[..]
        else {
            panic!("{taken:?}")
        };
        let Partitions::These(some) = some else { panic!("all of them are one's") };
        partitions.extend(some.iter().copied());
        assert!(clients.iter().all(|client| some.contains(&partition_of(*client))));
        named.extend(clients.iter().copied());
    }
    partitions.sort_unstable();
    assert_eq!(partitions, (1..=256).collect::<Vec<_>>());
    assert_eq!(named, clients.into_iter().collect());
}

#[test]
fn who_wants_it_learns_who_is_connected_in_what_comes_to_it() {
    let mut group = group(|_| {});
    let first = group.join(plain(1000));
    for slot in 0..100 {
        group.append(&Arc::new(event::opened(client(slot))));
    }
    let last = take(&mut group, first).pop().unwrap();
    group.acknowledge_at_once(first, last.cursor).unwrap();
    let second = group.join(SubscribeOptions { window: Some(1000), snapshots: true });
    let moved = |group: &Group| -> HashSet<u16> {
        let mine = group.partitions.iter().zip(1..);
        mine.filter(|(it, _)| it.owner == Some(second)).map(|(_, number)| number).collect()
    };
    let expect = |taken: &[Delivery], numbers: &HashSet<u16>| {
        let [Delivery { what: Delivered::Snapshot { partitions, clients }, .. }] = taken else {
            panic!("{taken:?}")
        };
        let Partitions::These(some) = partitions else { panic!("{partitions:?}") };
        assert_eq!(some.iter().copied().collect::<HashSet<_>>(), *numbers);
        let there = (0..100).map(client).filter(|it| numbers.contains(&partition_of(*it)));
        assert_eq!(clients.iter().copied().collect::<HashSet<_>>(), there.collect());
    };
    let half = moved(&group);
    expect(&take(&mut group, second), &half);
    assert_eq!(take(&mut group, first), [], "who doesn't want it is told nothing new");
    group.leave_at_once(first);
    let other_half = moved(&group).difference(&half).copied().collect();
    expect(&take(&mut group, second), &other_half);
}

#[test]
fn a_message_that_nothing_can_make_room_for_is_missed_itself() {
    let mut group = group(|bounds| (bounds.messages, bounds.bytes) = (1, 2000));
    let key = group.join(plain(1000));
    assert_eq!(take(&mut group, key), [greeting()]);
    group.append(&Arc::new(event::message(client(1), 5000)));
    group.append(&Arc::new(event::message(client(1), 1)));
    let missed = |slot, cursor| {
        let partitions = Partitions::These(vec![partition_of(client(slot))]);
        Delivered::Missed { partitions, first: cursor, last: cursor, messages: 1, changes: 0 }
    };
    let taken = take(&mut group, key);
    assert_eq!((&taken[0].what, taken.len(), taken[2].cursor), (&missed(1, 2), 3, 3));
    // All that is kept is in flight.
    group.append(&Arc::new(event::message(client(2), 1)));
    let taken = take(&mut group, key);
    assert_eq!((&taken[0].what, taken.len()), (&missed(2, 6), 2));
}

/// A group in which more is said than is heard: rounds of five messages, of which three are asked for.
/// Answers how many events, names and snapshots were told.
fn overrun(clients: u32, window: usize) -> (usize, usize, usize) {
    let mut group = Group::late(*group(|bounds| bounds.messages = 10).bounds(), 1);
    let all: Vec<ClientId> = (0..clients).map(client).collect();
    group.name(&all);
    group.named();
    let key = group.join(plain(window));
    let (mut events, mut names, mut snapshots) = (0, 0, 0);
    for round in 0..1000 {
        for slot in 0..5 {
            let client = client((round * 5 + slot) % clients);
            group.append(&Arc::new(event::message(client, 1)));
        }
        let taken = group.take(key, Instant::now(), 3, usize::MAX);
        for delivery in &taken {
            match &delivery.what {
                Delivered::Event(_) => events += 1,
                Delivered::Snapshot { clients, .. } => {
                    (names, snapshots) = (names + clients.len(), snapshots + 1);
                }
                Delivered::Missed { .. } => {}
            }
        }
        group.acknowledge_at_once(key, taken[taken.len() - 1].cursor).unwrap();
    }
    (events, names, snapshots)
}

#[test]
fn a_group_that_is_always_full_gets_on() {
    let (events, names, snapshots) = overrun(5000, 100);
    // Each names some hundred clients.
    assert!(events > 1500 && snapshots > 10, "{events} events, {snapshots} snapshots");
    assert!(names < 5000 + 20 * events + 2000, "{names} names for {events} events");
    // Also one event at a time, which the next may have no room beside.
    let (events, _, snapshots) = overrun(5000, 1);
    assert!(events >= 500, "{events} events, {snapshots} snapshots");
    let (events, ..) = overrun(10, 1);
    assert!(events >= 990, "{events} events");
}

#[test]
fn a_clear_partition_is_heard_while_others_are_always_full() {
    for window in [1, 10, 100] {
        let mut group = group(|bounds| bounds.messages = 10);
        let key = group.join(plain(window));
        // Clients of partitions of their own.
        let mut partitions = HashSet::new();
        let alone: Vec<ClientId> =
            (0..200).map(client).filter(|it| partitions.insert(partition_of(*it))).collect();
        let (quiet, loud) = alone.split_first().unwrap();
        let mut told = 0;
        for round in 0..1500 {
            for some in 0..3 {
                let client = loud[(3 * round + some) % loud.len()];
                group.append(&Arc::new(event::message(client, 1)));
            }
            if round == 1000 {
                group.append(&Arc::new(event::closed(*quiet)));
            }
            let taken = group.take(key, Instant::now(), 1000, usize::MAX);
            let is_quiet =
                |it: &&Delivery| matches!(&it.what, Delivered::Event(it) if it.client == *quiet);
            told += taken.iter().filter(is_quiet).count();
            // One at a time.
            if let Some(first) = group.subscribers[&key].flight.front().map(|flown| flown.cursor) {
                group.acknowledge_at_once(key, first).unwrap();
            }
        }
        assert_eq!(told, 1, "with a window of {window}");
        assert!(group.stats().missed_messages > 1000);
    }
}

#[test]
fn who_pauses_has_room_also_when_messages_have_gone_with_changes() {
    let mut group = group(|bounds| {
        (bounds.messages, bounds.changes, bounds.when_full) = (4, 2, WhenFull::Pause);
    });
    for _ in 0..4 {
        group.append(&Arc::new(event::message(client(1), 1)));
    }
    group.append(&Arc::new(event::closed(client(1))));
    assert!(group.pauses());
    group.append(&Arc::new(event::opened(client(2))));
    group.append(&Arc::new(event::opened(client(3))));
    assert_eq!(group.stats().missed_messages, 4);
    assert!(!group.pauses());
}

#[test]
fn who_pauses_keeps_what_was_underway_and_has_room_when_some_is_done() {
    let mut group = group(|bounds| (bounds.messages, bounds.when_full) = (8, WhenFull::Pause));
    let key = group.join(plain(1000));
    assert_eq!(take(&mut group, key), [greeting()]);
    for size in 0..10 {
        assert_eq!(group.pauses(), size >= 8);
        group.append(&Arc::new(event::message(client(1), size)));
    }
    assert_eq!(take(&mut group, key).len(), 10);
    group.acknowledge_at_once(key, 4).unwrap();
    assert!(group.pauses(), "seven of eight is not enough room");
    group.acknowledge_at_once(key, 5).unwrap();
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
