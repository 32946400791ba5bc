//! A consumer group: the order of its events, and who has to do what about them.
//!
//! A plain value: it takes no lock, has no clock and waits for nobody. What is given to it is
//! numbered, the number is its cursor, and waits in the partition of its client until a subscriber
//! takes it. It is kept until it is acknowledged, or until its room is needed:
//!
//! ```text
//!  append ─► waits ─► take ─► in flight ─► acknowledge
//!              │ ▲                │
//!     no room  │ └── leave ◄──────┘
//!              ▼
//!             gap ─► told by `Missed` and a snapshot
//! ```
//!
//! # Invariants
//!
//! * What is in flight of a partition is in flight to one subscriber.
//! * A partition knows who is connected as of the head of its queue. So a dropped `opened`
//!   or `closed` takes with it all that waited before it, and what was in flight before it isn't
//!   told again.

mod accounts;
mod entry;
mod flight;
mod numbers;
mod partition;
mod queue;
mod room;
mod share;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use fixedbitset::FixedBitSet;

use accounts::Accounts;
pub use entry::partition_of;
use entry::{PARTITIONS, PartitionId, partition_id_of};
pub(super) use numbers::Bounds;
use numbers::Held;
pub use numbers::Stats;
use partition::Partition;
use room::Oldest;
pub(super) use share::{Acknowledgement, UnknownCursor};

use super::event::Event;
use crate::{config::WhenFull, ids::ClientId};

/// The cursor of what a group tells first, which is no event: kept for it, so that it is before what
/// follows.
const FIRST: u64 = 1;

/// A subscriber of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

/// What a subscriber asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct SubscribeOptions {
    /// Items that may be under way without being acknowledged; none: as many as may be.
    pub window: Option<usize>,
    /// Whether each partition begins with a snapshot when it comes to it, and not only when it is told
    /// of for the first time.
    pub snapshots: bool,
}

/// A consumer group.
#[derive(Debug)]
pub(super) struct Group {
    partitions: Box<[Partition]>,
    /// The partitions that are unclear, see [`flight`].
    needs_snapshot: FixedBitSet,
    subscribers: BTreeMap<Key, flight::Subscriber>,
    /// The last cursor that was given out.
    last: u64,
    /// Whether nothing was told yet.
    is_new: bool,
    /// The last key that was given out.
    keys: u64,
    bounds: Bounds,
    messages: Held,
    changes: Held,
    /// Bytes of the messages that are in flight.
    in_flight_bytes: usize,
    accounts: Accounts,
    oldest_changes: Oldest,
    /// Whether there is no room for messages.
    full: bool,
    /// Shards that have not named all their clients yet. Until they have, nothing is given.
    shards_pending: usize,
    stats: Stats,
    /// Who found nothing to take and may now.
    stirred: Vec<Key>,
    /// Events that are kept no longer.
    gone: Vec<Arc<Event>>,
}

impl Group {
    /// A group of which the clients have yet to connect. What it tells first is a snapshot.
    pub(super) fn new(bounds: Bounds) -> Self {
        let mut needs_snapshot = FixedBitSet::with_capacity(PARTITIONS);
        needs_snapshot.insert_range(..);
        Self {
            partitions: std::iter::repeat_with(Partition::new).take(PARTITIONS).collect(),
            needs_snapshot,
            subscribers: BTreeMap::new(),
            last: FIRST,
            is_new: true,
            keys: 0,
            bounds,
            messages: Held::default(),
            changes: Held::default(),
            in_flight_bytes: 0,
            accounts: Accounts::new(),
            oldest_changes: Oldest::new(),
            full: false,
            shards_pending: 0,
            stats: Stats::default(),
            stirred: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// A group that begins when clients may be connected already, which so many shards will name.
    pub(super) fn late(bounds: Bounds, shards: usize) -> Self {
        Self { shards_pending: shards, ..Self::new(bounds) }
    }

    /// These clients of a shard are connected. Nothing was appended of them yet.
    pub(super) fn name(&mut self, clients: &[ClientId]) {
        for client in clients {
            self.partitions[usize::from(partition_id_of(*client))].connected.insert(*client);
        }
    }

    /// A shard has named all its clients.
    pub(super) fn named(&mut self) {
        self.shards_pending = self.shards_pending.saturating_sub(1);
        if self.shards_pending == 0 {
            for place in PartitionId::MIN..=PartitionId::MAX {
                self.offer(place);
            }
        }
    }

    /// Watches what is kept of a client, if anything is: what is acknowledged last of it, ends that.
    pub(super) fn watch(&mut self, client: ClientId) -> Option<Weak<()>> {
        self.accounts.watch(client)
    }

    /// The last cursor that was given out.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Whether clients have to wait until there is room for their messages.
    pub(super) fn pauses(&self) -> bool {
        self.full && self.bounds.when_full == WhenFull::Pause
    }

    /// What is in force.
    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Events that are kept no longer, to be dropped when nobody waits for the group.
    pub(super) fn gone(&mut self) -> Vec<Arc<Event>> {
        std::mem::take(&mut self.gone)
    }

    /// Who found nothing to take and should look again.
    pub(super) fn stirred(&mut self) -> impl Iterator<Item = Key> {
        self.stirred.drain(..)
    }

    /// How it stands.
    pub(super) fn stats(&self) -> Stats {
        let in_flight = self.subscribers.values().map(|subscriber| subscriber.flight.len());
        Stats {
            held_messages: self.messages.count as u64,
            held_changes: self.changes.count as u64,
            held_bytes: (self.messages.bytes + self.changes.bytes) as u64,
            unacknowledged: in_flight.sum::<usize>() as u64,
            subscribers: self.subscribers.len() as u64,
            pauses: self.pauses(),
            ..self.stats
        }
    }
}

/// Spreads the bits of a number (the end of splitmix64, Steele et al., 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
