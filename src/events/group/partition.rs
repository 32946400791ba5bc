//! A partition: the queue of the clients that share it, and who is connected as of its head.
//!
//! ```text
//!   told, acknowledged │ in flight │ gap │ messages and changes that wait, by cursor
//!                                        ▲
//!                                        connected: here
//! ```
//!
//! Messages and changes wait in a queue each, as room is made among each; together they are one queue
//! in the order of their cursors.

use std::collections::{HashSet, VecDeque};

use super::{super::event::What, Key, entry::Entry, queue::MessageQueue};
use crate::ids::ClientId;

/// Queues that have become empty keep room for so many.
const KEPT: usize = 64;

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
    pub(super) messages: MessageQueue,
    changes: VecDeque<Entry>,
    /// The clients that are connected as of the head of the queue.
    pub(super) connected: HashSet<ClientId>,
    /// What is to be told before the queue goes on.
    pub(super) gap: Option<Gap>,
    /// Whether who is connected is to be told before the queue goes on.
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

    /// Puts a change at the end.
    pub(super) fn push_change(&mut self, entry: Entry) {
        self.changes.push_back(entry);
    }

    /// Takes the next event out of the queue; who is connected follows.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let change = self.head().is_some_and(|entry| !entry.event.is_message());
        let entry = if change {
            pop(&mut self.changes)
        } else {
            self.messages.remove(self.messages.first())
        }?;
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

    /// Takes a message out of the queue, for good.
    pub(super) fn miss_message(&mut self, at: u32) -> Option<Entry> {
        let entry = self.messages.remove(at)?;
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

    /// Whether what was taken can't be told any more, as a later change is missing.
    pub(super) fn is_passed(&self, cursor: u64) -> bool {
        self.gap.is_some_and(|gap| cursor < gap.last_change)
    }

    /// Puts a change that was taken back to the front; what was taken last comes first.
    pub(super) fn put_back_change(&mut self, entry: Entry) {
        match entry.event.what {
            What::Opened(_) => self.connected.remove(&entry.event.client),
            What::Closed(_) => self.connected.insert(entry.event.client),
            What::Message { .. } => false,
        };
        self.changes.push_front(entry);
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
