//! What reading needs of the shard: buffers, the inflater, and whom to read again.

use std::{rc::Rc, sync::Arc};

use super::{
    connection::Connection, memory::Budget, outbound::Outbound, slot::Slot, write_queue::Frame,
};
use crate::{
    message::Kind,
    metrics::ShardStats,
    wire::{self, Inflater},
};

pub(super) struct Receiver {
    /// Memory of what was said and nobody has heard yet.
    pub(super) memory: Budget,
    /// Connections with input left over from the last turn.
    again: Vec<Slot>,
    /// Taken out while a connection is being read.
    pub(super) buffer: Vec<u8>,
    /// What was opened of a client's TLS; taken out while it is being heard.
    pub(super) opened: Vec<u8>,
    pub(super) inflater: Inflater,
    /// What the inflater writes to; taken out while a message is being heard.
    pub(super) inflated: Vec<u8>,
    /// The answers to `ping`, each to that of its kind.
    pub(super) text_pong: Rc<Frame>,
    pub(super) binary_pong: Rc<Frame>,
}

impl Receiver {
    pub(super) fn new(stats: &Arc<ShardStats>, outbound: &Outbound) -> Self {
        let pong = |kind| Frame::constant(wire::encode(kind, b"pong"), &outbound.memory);
        Self {
            memory: Budget::told(stats, |stats| &stats.partial_bytes),
            again: Vec::new(),
            buffer: Vec::new(),
            opened: Vec::new(),
            inflater: Inflater::default(),
            inflated: Vec::new(),
            text_pong: pong(Kind::Text),
            binary_pong: pong(Kind::Binary),
        }
    }

    /// Whether the next turn must not be waited for.
    pub(super) fn goes_on(&self) -> bool {
        !self.again.is_empty()
    }

    /// Asks for the connection to be read again next turn.
    pub(super) fn read_again(&mut self, slot: Slot, connection: &mut Connection) {
        if !connection.flags.again {
            connection.flags.again = true;
            self.again.push(slot);
        }
    }

    /// The connections to be read again.
    pub(super) fn take_again(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.again)
    }
}
