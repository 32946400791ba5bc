//! Who has which partition: subscribers come and go, and acknowledge.
//!
//! A partition belongs to the subscriber whose key weighs most for it (rendezvous hashing), so that
//! one more or one less moves only what has to move. It goes to its new owner once nothing of it is
//! in flight to the old one.

use std::{collections::VecDeque, time::Instant};

use super::{
    Group, Key, SubscribeOptions,
    entry::{Entry, PartitionId},
    flight::{Item, Subscriber},
    mix,
    numbers::Held,
};
use crate::config::WhenFull;

/// Nothing has had that cursor yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::events) struct UnknownCursor {
    /// The last that was given out.
    pub(in crate::events) last: u64,
}

/// Items that are put back or settled at once: shards wait for no more than these.
pub(in crate::events) const STEPS: usize = 256;
/// Items that are looked at, at once, for the one that is acknowledged.
const LOOKS: usize = 4096;

/// How far an acknowledgement is.
#[derive(Debug)]
pub(in crate::events) struct Acknowledgement {
    cursor: u64,
    /// Items in flight that are others.
    looked: usize,
    /// Items to settle, once it is known.
    found: Option<usize>,
}

impl Acknowledgement {
    pub(in crate::events) fn of(cursor: u64) -> Self {
        Self { cursor, looked: 0, found: None }
    }
}

impl Group {
    /// Lets one more take part.
    pub(in crate::events) fn join(&mut self, options: SubscribeOptions) -> Key {
        self.keys += 1;
        let key = Key(self.keys);
        self.subscribers.insert(key, Subscriber::new(options));
        self.share(Some(key));
        key
    }

    /// Goes on with letting one go: puts back at most [`STEPS`] of the items that it has not
    /// acknowledged, which go to others when it has gone. Whether it has.
    pub(in crate::events) fn leave(&mut self, key: Key) -> bool {
        // The last first, so that each comes before what came after it. None of its partitions goes to
        // another before that.
        for _ in 0..STEPS {
            let Some(subscriber) = self.subscribers.get_mut(&key) else { return true };
            subscriber.leaves = true;
            let Some(flown) = subscriber.flight.pop_back() else {
                self.subscribers.remove(&key);
                self.share(None);
                self.refill();
                self.stir_all();
                return true;
            };
            self.put_back(flown.item);
            if self.bounds.when_full == WhenFull::DropOldest {
                // Nothing was in its place if the bounds became tighter meanwhile.
                self.make_room_for_messages();
            }
            self.make_room_for_changes(Held::default());
        }
        false
    }

    /// Goes on with taking note that the item at a cursor, and what `key` was given before it, were
    /// done: looks at [`LOOKS`] items, or settles [`STEPS`] of them, at most. Whether all is done.
    pub(in crate::events) fn acknowledge(
        &mut self,
        key: Key,
        progress: &mut Acknowledgement,
    ) -> Result<bool, UnknownCursor> {
        let Acknowledgement { cursor, looked, found } = progress;
        if *cursor > self.last {
            return Err(UnknownCursor { last: self.last });
        }
        let subscriber = self.subscribers.get_mut(&key);
        let Some(subscriber) = subscriber.filter(|it| !it.leaves) else { return Ok(true) };
        let left = if let Some(left) = found {
            left
        } else {
            let mut ahead = subscriber.flight.iter().skip(*looked).take(LOOKS);
            let Some(at) = ahead.position(|flown| flown.cursor == *cursor) else {
                *looked += LOOKS;
                return Ok(*looked >= subscriber.flight.len());
            };
            found.insert(*looked + at + 1)
        };
        let was_crowded = self.is_crowded();
        let steps = (*left).min(STEPS);
        for _ in 0..steps {
            let flight = self.subscribers.get_mut(&key).map(|subscriber| &mut subscriber.flight);
            if let Some(flown) = flight.and_then(VecDeque::pop_front) {
                self.stats.acknowledged += 1;
                self.settle(flown.item);
            }
        }
        *left -= steps;
        let is_done = *left == 0;
        self.refill();
        self.stir(key);
        if was_crowded && !self.is_crowded() {
            self.stir_all();
        }
        Ok(is_done)
    }

    /// Who should have acknowledged by `now`, and what.
    pub(in crate::events) fn overdue(&self, now: Instant) -> Vec<(Key, u64)> {
        let Some(timeout) = self.bounds.ack_timeout else { return Vec::new() };
        let oldest = self.subscribers.iter().filter_map(|(key, subscriber)| {
            subscriber.flight.front().map(|flown| (*key, flown.cursor, flown.sent))
        });
        let overdue = oldest.filter(|(_, _, sent)| now.saturating_duration_since(*sent) >= timeout);
        overdue.map(|(key, cursor, _)| (key, cursor)).collect()
    }

    /// When the oldest item that is in flight was sent.
    pub(in crate::events) fn oldest_sent(&self) -> Option<Instant> {
        let oldest = self.subscribers.values().filter_map(|subscriber| subscriber.flight.front());
        oldest.map(|flown| flown.sent).min()
    }

    fn settle(&mut self, item: Item) {
        match item {
            Item::Event(place, entry) => {
                self.lands(&entry);
                self.forget(entry);
                self.release(place);
            }
            Item::Missed(gaps) => gaps.into_iter().for_each(|(place, _)| self.release(place)),
            Item::Snapshot(places) => places.into_iter().for_each(|place| self.release(place)),
        }
    }

    fn put_back(&mut self, item: Item) {
        match item {
            Item::Event(place, entry) => {
                self.partitions[usize::from(place)].release();
                self.lands(&entry);
                self.wait_again(place, entry);
            }
            Item::Missed(gaps) => {
                for (place, mut gap) in gaps {
                    gap.told = true;
                    let partition = &mut self.partitions[usize::from(place)];
                    partition.release();
                    partition.miss_all(gap);
                    self.needs_snapshot.insert(usize::from(place));
                }
            }
            Item::Snapshot(places) => places.into_iter().for_each(|place| self.name_again(place)),
        }
    }

    /// A snapshot of this partition was not acknowledged.
    fn name_again(&mut self, place: PartitionId) {
        let partition = &mut self.partitions[usize::from(place)];
        partition.release();
        partition.needs_snapshot = true;
        self.needs_snapshot.insert(usize::from(place));
    }

    /// Something of the partition was done: it may go to its new owner now.
    fn release(&mut self, place: PartitionId) {
        if self.partitions[usize::from(place)].release() {
            self.offer(place);
        }
    }

    /// Finds an owner for each partition that has none any more, or that weighs more for who has
    /// joined: each is looked at once, and all subscribers only for those of one who has gone.
    fn share(&mut self, joined: Option<Key>) {
        for subscriber in self.subscribers.values_mut() {
            subscriber.heads.clear();
        }
        for place in PartitionId::MIN..=PartitionId::MAX {
            let partition = &mut self.partitions[usize::from(place)];
            let before = partition.owner.filter(|owner| self.subscribers.contains_key(owner));
            let owner = match (before, joined) {
                (Some(old), Some(new)) if weight(new, place) < weight(old, place) => Some(old),
                (Some(old), None) => Some(old),
                (_, Some(new)) if before.is_some() => Some(new),
                _ => self.subscribers.keys().copied().max_by_key(|key| weight(*key, place)),
            };
            let moves = owner.filter(|owner| partition.owner != Some(*owner));
            if moves.is_some_and(|to| self.subscribers[&to].options.snapshots) {
                partition.needs_snapshot = true;
                self.needs_snapshot.insert(usize::from(place));
            }
            partition.owner = owner;
            partition.offered = false;
            self.offer(place);
        }
    }

    /// Lets the owner of a partition know what it can have of it.
    pub(super) fn offer(&mut self, place: PartitionId) {
        let partition = &mut self.partitions[usize::from(place)];
        let Some(owner) = partition.owner.filter(|owner| partition.can_go_to(*owner)) else {
            return;
        };
        let unclear = partition.needs_snapshot();
        if partition.head().is_none() && !unclear {
            return;
        }
        if let Some(subscriber) = self.subscribers.get_mut(&owner).filter(|_| !unclear) {
            subscriber.look_at(place, partition);
        }
        self.stir(owner);
    }

    /// An event is in flight no more.
    fn lands(&mut self, entry: &Entry) {
        if entry.event.is_message() {
            self.in_flight_bytes -= entry.event.weight();
        }
    }

    /// There is room again for what is in flight.
    fn stir_all(&mut self) {
        let keys: Vec<Key> = self.subscribers.keys().copied().collect();
        for key in keys {
            self.stir(key);
        }
    }

    /// Who found nothing to take is told that there may be something.
    fn stir(&mut self, key: Key) {
        let most = self.bounds.window;
        if let Some(subscriber) = self.subscribers.get_mut(&key)
            && subscriber.room(most) > 0
            && std::mem::take(&mut subscriber.idle)
        {
            self.stirred.push(key);
        }
    }
}

pub(super) fn weight(key: Key, place: PartitionId) -> u64 {
    mix(mix(key.0) ^ u64::from(place))
}
