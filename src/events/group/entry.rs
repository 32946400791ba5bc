//! An event as a group keeps it, and the partition that it belongs to.

use std::sync::Arc;

use super::{super::event::Event, mix};
use crate::ids::ClientId;

/// No account, or no message.
pub(super) const NONE: u32 = u32::MAX;

/// How many partitions there are: enough to share them out among subscribers evenly, few enough to look at all.
pub(super) const PARTITIONS: usize = 256;

/// A partition's number.
pub(super) type PartitionId = u8;

/// The partition of a client, the same in each group.
pub(super) fn partition_id_of(client: ClientId) -> PartitionId {
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
    number_of(partition_id_of(client))
}

/// An event in a group's order.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) cursor: u64,
    pub(super) redelivered: bool,
    pub(super) event: Arc<Event>,
    /// The account of its client.
    pub(super) account: u32,
    /// What it counts for there, if it is a message.
    pub(super) cost: u64,
    /// The next message of its client that waits, if it is a message that waits.
    pub(super) next: u32,
}
