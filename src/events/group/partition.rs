//! A partition: the queue of the clients that share it, and who is connected as of its head.
//!
//! ```text
//!   told, acknowledged │ in flight │ gap │ messages and changes that wait, by cursor
//!                                        ▲
//!                                        base: who is connected here
//! ```
//!
//! Messages and changes wait in a queue each, so that the oldest of either is at hand when room is
//! needed; together they are one queue in the order of their cursors.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Weak},
};

use super::{super::event::Event, super::event::What, Key, mix};
use crate::ids::ClientId;

/// How many there are: enough to share them out among subscribers evenly, few enough to look at all.
pub(super) const PARTITIONS: usize = 256;

/// Queues that have become empty keep room for so many.
const KEPT: usize = 64;

/// A partition's number.
pub(super) type PartitionId = u8;

/// The partition of a client, the same in each group.
pub(super) fn place_of(client: ClientId) -> PartitionId {
    let [upper, lower] = client.halves();
    // One byte is as good as any.
    mix(upper ^ mix(lower)).to_be_bytes()[7]
}

/// The number by which subscribers know a partition, from 1.
pub(super) fn number_of(place: PartitionId) -> u16 {
    u16::from(place) + 1
}

/// The number of a client's partition: the same in each consumer group, and as long as it is
/// connected.
pub fn partition_of(client: ClientId) -> u16 {
    number_of(place_of(client))
}

/// An event in a group's order.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) cursor: u64,
    pub(super) redelivered: bool,
    pub(super) event: Arc<Event>,
    /// Given away for somebody to see when the group keeps the event no longer; others may keep it.
    pub(super) kept: Option<Arc<()>>,
}

impl Entry {
    /// Is alive for as long as the group keeps the event.
    pub(super) fn watch(&mut self) -> Weak<()> {
        Arc::downgrade(self.kept.get_or_insert_default())
    }
}

/// Events that are not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) messages: u64,
    pub(super) changes: u64,
    /// The last `opened` or `closed` among them: what came before it can't be told after it.
    last_change: u64,
    /// Whether it may have been told before.
    pub(super) told: bool,
}

/// Events of some clients.
#[derive(Debug, Default)]
pub(super) struct Partition {
    messages: VecDeque<Entry>,
    changes: VecDeque<Entry>,
    /// The clients that are connected as of the head of the queue.
    pub(super) connected: HashSet<ClientId>,
    /// What is to be told before the queue goes on.
    pub(super) gap: Option<Gap>,
    /// Whether the base is to be told before the queue goes on.
    pub(super) needs_snapshot: bool,
    /// Who is to have it.
    pub(super) owner: Option<Key>,
    /// Who has something of it in flight.
    pub(super) holder: Option<Key>,
    /// How much.
    pub(super) in_flight: u32,
    /// Whether its owner's heap has an entry for it, of this head or of an earlier one.
    pub(super) offered: bool,
}

/// What became of an entry that was put back.
pub(super) enum Back {
    /// It waits again.
    Waits,
    /// A later change is missing, so that this one can't be told any more.
    Missed,
}

impl Partition {
    /// One of which nothing was told yet.
    pub(super) fn new() -> Self {
        Self { needs_snapshot: true, ..Self::default() }
    }

    /// Whether `key` can be given something of it now.
    pub(super) fn can_go_to(&self, key: Key) -> bool {
        self.owner == Some(key) && (self.in_flight == 0 || self.holder == Some(key))
    }

    /// Something of it goes to `key`.
    pub(super) fn hold(&mut self, key: Key) {
        self.in_flight += 1;
        self.holder = Some(key);
    }

    /// Something of it is in flight no more. Whether that was the last.
    pub(super) fn release(&mut self) -> bool {
        self.in_flight -= 1;
        if self.in_flight == 0 {
            self.holder = None;
        }
        self.in_flight == 0
    }

    /// The oldest message that waits.
    pub(super) fn oldest_message(&self) -> Option<u64> {
        self.messages.front().map(|entry| entry.cursor)
    }

    /// The oldest change that waits.
    pub(super) fn oldest_change(&self) -> Option<u64> {
        self.changes.front().map(|entry| entry.cursor)
    }

    /// The next event.
    pub(super) fn head(&self) -> Option<&Entry> {
        match (self.messages.front(), self.changes.front()) {
            (Some(message), Some(change)) if change.cursor < message.cursor => Some(change),
            (Some(message), _) => Some(message),
            (None, change) => change,
        }
    }

    /// Puts an entry at the end.
    pub(super) fn push(&mut self, entry: Entry) {
        self.queue(&entry).push_back(entry);
    }

    /// Takes the next event out of the queue; the base follows.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let change = self.head().is_some_and(|entry| !entry.event.is_message());
        let entry = if change { pop(&mut self.changes) } else { pop(&mut self.messages) }?;
        match entry.event.what {
            What::Opened(_) => self.connected.insert(entry.event.client),
            What::Closed(_) => self.connected.remove(&entry.event.client),
            What::Message { .. } => false,
        };
        if change && self.connected.capacity() > KEPT.max(8 * self.connected.len()) {
            self.connected.shrink_to(2 * self.connected.len());
        }
        Some(entry)
    }

    /// Takes the oldest message out of the queue, for good.
    pub(super) fn miss_message(&mut self) -> Option<Entry> {
        let entry = pop(&mut self.messages)?;
        self.miss(entry.cursor, true);
        Some(entry)
    }

    /// Takes the next event out of the queue for good, if its cursor is at most this.
    pub(super) fn miss_up_to(&mut self, cursor: u64) -> Option<Entry> {
        self.head().filter(|entry| entry.cursor <= cursor)?;
        let entry = self.pop()?;
        self.miss(entry.cursor, entry.event.is_message());
        Some(entry)
    }

    /// Puts what was taken back to the front; what was taken last comes first.
    pub(super) fn put_back(&mut self, mut entry: Entry) -> Back {
        if self.gap.is_some_and(|gap| entry.cursor < gap.last_change) {
            self.miss(entry.cursor, entry.event.is_message());
            return Back::Missed;
        }
        match entry.event.what {
            What::Opened(_) => self.connected.remove(&entry.event.client),
            What::Closed(_) => self.connected.insert(entry.event.client),
            What::Message { .. } => false,
        };
        entry.redelivered = true;
        self.queue(&entry).push_front(entry);
        Back::Waits
    }

    /// Widens the gap by an event.
    pub(super) fn miss(&mut self, cursor: u64, is_message: bool) {
        let (messages, changes) = (u64::from(is_message), u64::from(!is_message));
        let last_change = if is_message { 0 } else { cursor };
        let one = Gap { first: cursor, last: cursor, messages, changes, last_change, told: false };
        self.miss_all(one);
    }

    /// Widens the gap.
    pub(super) fn miss_all(&mut self, more: Gap) {
        self.gap = Some(self.gap.map_or(more, |gap| gap.and(more)));
        self.needs_snapshot = true;
    }

    /// Whether what is missing, or who is connected, is to be told before the queue goes on.
    pub(super) fn needs_snapshot(&self) -> bool {
        self.needs_snapshot
    }

    /// The cursor of the first that is missing or waits.
    pub(super) fn since(&self) -> u64 {
        let head = self.head().map(|entry| entry.cursor);
        self.gap.map(|gap| gap.first).into_iter().chain(head).min().unwrap_or_default()
    }

    /// What waits, the messages first, and of either the last first.
    pub(super) fn latest(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.messages.iter_mut().rev().chain(self.changes.iter_mut().rev())
    }

    fn queue(&mut self, entry: &Entry) -> &mut VecDeque<Entry> {
        if entry.event.is_message() { &mut self.messages } else { &mut self.changes }
    }
}

impl Gap {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            messages: self.messages + other.messages,
            changes: self.changes + other.changes,
            last_change: self.last_change.max(other.last_change),
            told: self.told || other.told,
        }
    }
}

#[cfg(test)]
impl Partition {
    /// The changes that wait.
    pub(super) fn changes(&self) -> impl Iterator<Item = &Entry> {
        self.changes.iter()
    }

    /// All that waits.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.messages.iter().chain(&self.changes)
    }
}

fn pop(queue: &mut VecDeque<Entry>) -> Option<Entry> {
    let entry = queue.pop_front();
    if queue.is_empty() {
        // What a flood has needed once would be kept for ever, partition by partition.
        queue.shrink_to(KEPT);
    }
    entry
}
