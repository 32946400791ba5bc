//! A subscriber of a random walk.

use std::collections::{BTreeSet, VecDeque};

use super::{Key, SubscribeOptions};
use crate::events::Delivery;

/// A subscriber, as it sees itself.
pub(super) struct Peer {
    pub(super) key: Key,
    pub(super) window: usize,
    pub(super) flight: VecDeque<Delivery>,
    /// Whether it waits to be told that there is something.
    pub(super) idle: bool,
    /// Partitions of which something is missing, until a snapshot of them comes.
    pub(super) unclear: BTreeSet<u16>,
    /// Whether it wants to know who is connected in what comes to it.
    pub(super) snapshots: bool,
    /// Of which it is to be told that.
    pub(super) unknown: BTreeSet<u16>,
}

impl Peer {
    pub(super) fn new(key: Key, options: SubscribeOptions) -> Self {
        let SubscribeOptions { window, snapshots } = options;
        let (flight, unclear, unknown) = (VecDeque::new(), BTreeSet::new(), BTreeSet::new());
        let window = window.unwrap_or(usize::MAX);
        Self { key, window, flight, idle: false, unclear, snapshots, unknown }
    }

    /// A partition that belonged to one belongs to another, or to the same.
    pub(super) fn note_move(&mut self, number: u16, before: Option<Key>, now: Option<Key>) {
        if Some(self.key) != now {
            self.unknown.remove(&number);
        } else if before != now && self.snapshots {
            self.unknown.insert(number);
        }
    }
}
