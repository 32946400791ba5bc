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
};

/// Nothing has had that cursor yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::events) struct UnknownCursor {
    /// The last that was given out.
    pub(in crate::events) last: u64,
}

impl Group {
    /// Lets one more take part.
    pub(in crate::events) fn join(&mut self, options: SubscribeOptions) -> Key {
        self.keys += 1;
        let key = Key(self.keys);
        self.subscribers.insert(key, Subscriber::new(options));
        self.share();
        key
    }

    /// Lets one go. What it has not acknowledged goes to others.
    pub(in crate::events) fn leave(&mut self, key: Key) {
        let Some(gone) = self.subscribers.remove(&key) else { return };
        // The last first, so that each comes before what came after it.
        for flown in gone.flight.into_iter().rev() {
            self.put_back(flown.item);
        }
        self.share();
        self.fit();
        self.stir_all();
    }

    /// Takes note that the item at `cursor`, and what `key` was given before it, were done.
    pub(in crate::events) fn acknowledge(
        &mut self,
        key: Key,
        cursor: u64,
    ) -> Result<(), UnknownCursor> {
        if cursor > self.last {
            return Err(UnknownCursor { last: self.last });
        }
        let Some(subscriber) = self.subscribers.get_mut(&key) else { return Ok(()) };
        let Some(at) = subscriber.flight.iter().position(|flown| flown.cursor == cursor) else {
            return Ok(());
        };
        let was_crowded = self.is_crowded();
        self.stats.acknowledged += at as u64 + 1;
        for _ in 0..=at {
            let flight = self.subscribers.get_mut(&key).map(|subscriber| &mut subscriber.flight);
            if let Some(flown) = flight.and_then(VecDeque::pop_front) {
                self.settle(flown.item);
            }
        }
        self.refill();
        self.stir(key);
        if was_crowded && !self.is_crowded() {
            self.stir_all();
        }
        Ok(())
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
                self.forget(&entry);
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

    /// Finds an owner for each partition.
    fn share(&mut self) {
        for subscriber in self.subscribers.values_mut() {
            subscriber.heads.clear();
        }
        for place in PartitionId::MIN..=PartitionId::MAX {
            let heaviest = self.subscribers.keys().max_by_key(|key| weight(**key, place));
            let partition = &mut self.partitions[usize::from(place)];
            let moves = heaviest.filter(|owner| partition.owner != Some(**owner));
            if moves.is_some_and(|to| self.subscribers[to].options.snapshots) {
                partition.needs_snapshot = true;
                self.needs_snapshot.insert(usize::from(place));
            }
            partition.owner = heaviest.copied();
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

fn weight(key: Key, place: PartitionId) -> u64 {
    mix(mix(key.0) ^ u64::from(place))
}
