//! Room: what is kept, what gives way when there is no more, and what is counted of it.
//!
//! Of messages, one of a client that holds most gives way (see [`accounts`](super::accounts)); of
//! changes the oldest, as they are few and each client has as many as others. Each step is constant,
//! or of the depth of a tree of 256 leaves, for each event that goes.

use std::sync::Arc;

use super::{
    Group,
    entry::{Entry, NONE, PARTITIONS, PartitionId, partition_id_of},
    numbers::{Bounds, Held},
    share::STEPS,
};
use crate::{
    config::WhenFull,
    events::event::{Event, What},
};

/// The oldest of each partition, and of all: a tree in which each node has the older of the two
/// below it.
#[derive(Debug)]
pub(super) struct Oldest(Box<[(u64, PartitionId); 2 * PARTITIONS]>);

impl Oldest {
    pub(super) fn new() -> Self {
        let mut tree = Box::new([(u64::MAX, 0); 2 * PARTITIONS]);
        for (leaf, place) in tree[PARTITIONS..].iter_mut().zip(PartitionId::MIN..=PartitionId::MAX)
        {
            leaf.1 = place;
        }
        Self(tree)
    }

    /// The oldest of a partition is this.
    pub(super) fn set(&mut self, place: PartitionId, cursor: Option<u64>) {
        let mut at = PARTITIONS + usize::from(place);
        let cursor = cursor.unwrap_or(u64::MAX);
        if self.0[at].0 == cursor {
            return;
        }
        self.0[at].0 = cursor;
        while at > 1 {
            at /= 2;
            self.0[at] = self.0[2 * at].min(self.0[2 * at + 1]);
        }
    }

    /// The oldest of all, if there is one.
    pub(super) fn first(&self) -> Option<(u64, PartitionId)> {
        Some(self.0[1]).filter(|(cursor, _)| *cursor < u64::MAX)
    }
}

impl Group {
    /// Takes note of what a client did.
    pub(in crate::events) fn append(&mut self, event: &Arc<Event>) {
        self.last += 1;
        match event.what {
            What::Opened(_) => self.stats.opened += 1,
            What::Message { .. } => self.stats.messages += 1,
            What::Closed(_) => self.stats.closed += 1,
        }
        let place = partition_id_of(event.client);
        if event.is_message() {
            self.append_message(place, event);
        } else {
            self.append_change(place, event);
        }
        self.offer(place);
    }

    fn append_message(&mut self, place: PartitionId, event: &Arc<Event>) {
        let (cursor, weight) = (self.last, event.weight());
        let drops = self.bounds.when_full == WhenFull::DropOldest;
        if drops && weight > self.bounds.bytes {
            self.partitions[usize::from(place)].miss(cursor, true);
            self.needs_snapshot.insert(usize::from(place));
            self.count_missed(true);
        } else {
            self.messages.add(weight);
            // An even part of the bytes, so that many small ones count like few large ones.
            let cost = weight.max(self.bounds.bytes / self.bounds.messages.max(1)) as u64;
            let entry = self.entry(place, event, cost);
            let account = entry.account;
            let queue = &mut self.partitions[usize::from(place)].messages;
            let message = queue.push_back(entry);
            let last = self.accounts.push_back(account, message, cost);
            if let Some(last) = last.and_then(|last| queue.get_mut(last)) {
                last.next = message;
            }
            if drops {
                self.make_room_for_messages();
            }
        }
        self.refill();
    }

    fn append_change(&mut self, place: PartitionId, event: &Arc<Event>) {
        let (cursor, weight) = (self.last, event.weight());
        let room = weight <= self.bounds.bytes && self.make_room_for_changes(Held::one(weight));
        // One that there is no room for is counted and dropped with all before it.
        self.changes.add(weight);
        let entry = self.entry(place, event, 0);
        self.partitions[usize::from(place)].push_change(entry);
        self.note_oldest_change(place);
        if !room {
            self.drop_up_to(place, cursor);
        }
        // Messages may have gone with changes.
        self.refill();
    }

    /// The event as it is kept.
    fn entry(&mut self, place: PartitionId, event: &Arc<Event>, cost: u64) -> Entry {
        let account = self.accounts.keep(event.client, place);
        let event = Arc::clone(event);
        Entry { cursor: self.last, redelivered: false, event, account, cost, next: NONE }
    }

    /// Drops messages that wait, of whoever holds most, until the bounds are kept.
    pub(super) fn make_room_for_messages(&mut self) {
        let Bounds { messages, bytes, .. } = self.bounds;
        while !self.messages.has_room(Held::default(), messages, bytes) && self.drop_message() {}
    }

    /// Drops the oldest message of one that holds most. Whether there was one.
    fn drop_message(&mut self) -> bool {
        let Some(victim) = self.accounts.victim() else { return false };
        let partition = &mut self.partitions[usize::from(victim.partition)];
        let Some(entry) = partition.miss_message(victim.message) else { return false };
        self.needs_snapshot.insert(usize::from(victim.partition));
        self.waits_no_more(victim.partition, &entry);
        self.forget(entry);
        self.count_missed(true);
        self.stats.over_share += u64::from(victim.is_over_share);
        self.offer(victim.partition);
        true
    }

    /// Drops the oldest changes that wait until there is room for these too.
    pub(super) fn make_room_for_changes(&mut self, more: Held) -> bool {
        while !self.changes.has_room(more, self.bounds.changes, self.bounds.bytes) {
            let Some((cursor, place)) = self.oldest_changes.first() else { return false };
            self.drop_up_to(place, cursor);
        }
        true
    }

    /// Drops what waits in a partition, up to this cursor.
    fn drop_up_to(&mut self, place: PartitionId, cursor: u64) {
        while let Some(entry) = self.partitions[usize::from(place)].miss_up_to(cursor) {
            self.waits_no_more(place, &entry);
            self.count_missed(entry.event.is_message());
            self.forget(entry);
        }
        self.needs_snapshot.insert(usize::from(place));
        self.offer(place);
    }

    /// An event was taken out of the queue of its partition, where it was the first of its client.
    pub(super) fn waits_no_more(&mut self, place: PartitionId, entry: &Entry) {
        if entry.event.is_message() {
            self.accounts.pop_front(entry.account, entry.next, entry.cost);
        } else {
            self.note_oldest_change(place);
        }
    }

    /// An event that was taken waits again, before all others of its partition; or it is kept no
    /// longer, if a later change is missing.
    pub(super) fn wait_again(&mut self, place: PartitionId, mut entry: Entry) {
        let partition = &mut self.partitions[usize::from(place)];
        if partition.is_passed(entry.cursor) {
            let is_message = entry.event.is_message();
            partition.miss(entry.cursor, is_message);
            self.forget(entry);
            self.count_missed(is_message);
            return;
        }
        entry.redelivered = true;
        if !entry.event.is_message() {
            partition.put_back_change(entry);
            self.note_oldest_change(place);
            return;
        }
        let (account, cost) = (entry.account, entry.cost);
        let message = partition.messages.push_front(entry);
        let next = self.accounts.push_front(account, message, cost);
        if let Some(entry) = partition.messages.get_mut(message) {
            entry.next = next;
        }
    }

    fn note_oldest_change(&mut self, place: PartitionId) {
        let oldest = self.partitions[usize::from(place)].oldest_change();
        self.oldest_changes.set(place, oldest);
    }

    /// An event is kept no longer. Its memory is given back when nobody waits for the group.
    pub(super) fn forget(&mut self, entry: Entry) {
        let event = &entry.event;
        let held = if event.is_message() { &mut self.messages } else { &mut self.changes };
        held.remove(event.weight());
        self.accounts.forget(entry.account);
        self.gone.push(entry.event);
    }

    fn count_missed(&mut self, is_message: bool) {
        self.stats.missed_messages += u64::from(is_message);
        self.stats.missed_changes += u64::from(!is_message);
    }

    /// Looks anew whether there is room for messages.
    pub(super) fn refill(&mut self) {
        let Bounds { messages, bytes, .. } = self.bounds;
        self.full = self.messages.is_full(self.full, messages, bytes);
    }

    /// Goes on with putting other bounds in force: drops at most [`STEPS`] times what would have no
    /// room. Whether they are. Until then there is room for no more than there is now, so that it comes
    /// to an end whatever comes in between.
    pub(in crate::events) fn set_bounds(&mut self, bounds: Bounds) -> bool {
        let drops = bounds.when_full == WhenFull::DropOldest;
        let none = Held::default();
        for _ in 0..STEPS {
            let fits = !drops || self.messages.has_room(none, bounds.messages, bounds.bytes);
            if !fits && self.drop_message() {
                continue;
            }
            let fits = self.changes.has_room(none, bounds.changes, bounds.bytes);
            let Some((cursor, place)) = self.oldest_changes.first().filter(|_| !fits) else {
                self.bounds = bounds;
                self.full = false;
                self.refill();
                // A window may be wider now.
                for place in PartitionId::MIN..=PartitionId::MAX {
                    self.offer(place);
                }
                return true;
            };
            // What waits before it in its partition goes first.
            let head = self.partitions[usize::from(place)].head().map_or(cursor, |it| it.cursor);
            self.drop_up_to(place, head.min(cursor));
        }
        let bytes = self.messages.bytes.max(self.changes.bytes).max(bounds.bytes);
        let now = &mut self.bounds;
        now.messages = now.messages.min(self.messages.count.max(bounds.messages));
        now.changes = now.changes.min(self.changes.count.max(bounds.changes));
        now.bytes = now.bytes.min(bytes);
        false
    }

    /// Whether messages in flight, which nobody can drop, have half of the bytes: then only a
    /// subscriber that has nothing is given something, and the other half is left for what waits.
    /// Their number is bounded by the window.
    pub(super) fn is_crowded(&self) -> bool {
        let Bounds { bytes, when_full, .. } = self.bounds;
        when_full == WhenFull::DropOldest && self.in_flight_bytes >= bytes / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_oldest_of_all_is_found(steps in prop::collection::vec(any::<(u8, Option<u16>)>(), 0..300)) {
            let (mut oldest, mut model) = (Oldest::new(), [None; PARTITIONS]);
            for (place, cursor) in steps {
                let cursor = cursor.map(u64::from);
                oldest.set(place, cursor);
                model[usize::from(place)] = cursor;
                let places = model.iter().zip(PartitionId::MIN..=PartitionId::MAX);
                let first = places.filter_map(|(cursor, place)| Some(((*cursor)?, place))).min();
                prop_assert_eq!(oldest.first(), first);
            }
        }
    }
}
