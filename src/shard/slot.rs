//! The place of a connection in the tables of its shard.

use crate::ids::{ClientId, MAX_SLOTS};

/// A place in the tables of a shard. It belongs to one connection at a time; the connections that
/// have it one after the other are told apart by their [`ClientId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot(u32);

const _: () = assert!(MAX_SLOTS <= u32::MAX as usize);

impl Slot {
    /// The slot at an index of a table. No index is larger than [`MAX_SLOTS`], as no connection is
    /// taken in beyond that.
    pub(super) fn at(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The slot that a client has, or had.
    pub(super) fn of(client: ClientId) -> Self {
        Self(client.slot())
    }

    pub(super) const fn new(number: u32) -> Self {
        Self(number)
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }
}
