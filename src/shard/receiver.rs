//! What reading needs of the shard: buffers, the inflater, and who is read next.
//!
//! Clients are read in turn, each by a quantum of work, and all of them together by a turn's. What is
//! left waits for the next turn:
//!
//! ```text
//!   the poll: something came ──► ready ──┐ first, but for a share of the turn
//!                                        ├──► a quantum ──► there is more ──┐
//!   a quantum was not enough ──► more ───┘ one after the other              │
//!                                 ▲─────────────────────────────────────────┘
//! ```
//! So a client that says little is read before those who say much, and these share what is left.

use std::{collections::VecDeque, rc::Rc, sync::Arc};

use super::{
    connection::Connection, memory::Budget, outbound::Outbound, slot::Slot, write_queue::Frame,
};
use crate::{
    message::Kind,
    metrics::ShardStats,
    wire::{self, Inflater, Work},
};

/// Work that is done for one client before others have their turn: a millisecond's tenth.
pub(super) const QUANTUM: usize = 100_000;

/// Work that is done for all clients before the shard does something else.
const TURN: usize = 2_000_000;

/// How much of a turn those who say little leave to those who say much.
const FOR_MORE: usize = TURN / 4;

pub(super) struct Receiver {
    /// Memory of what was said and nobody has heard yet.
    pub(super) memory: Budget,
    /// Connections of which the poll has told, and which were not read since.
    ready: VecDeque<Slot>,
    /// Connections for which a quantum was not enough.
    more: VecDeque<Slot>,
    /// Work that is left of the turn.
    turn: Work,
    /// Taken out while a connection is being read.
    pub(super) buffer: Vec<u8>,
    /// What was opened of a client's TLS; taken out while it is being heard.
    pub(super) opened: Vec<u8>,
    pub(super) inflater: Inflater,
    /// The answers to `ping`, each to that of its kind.
    pub(super) text_pong: Rc<Frame>,
    pub(super) binary_pong: Rc<Frame>,
}

impl Receiver {
    pub(super) fn new(stats: &Arc<ShardStats>, outbound: &Outbound) -> Self {
        let pong = |kind| Frame::constant(wire::encode(kind, b"pong"), &outbound.memory);
        Self {
            memory: Budget::told(stats, |stats| &stats.partial_bytes),
            ready: VecDeque::new(),
            more: VecDeque::new(),
            turn: Work::new(TURN),
            buffer: Vec::new(),
            opened: Vec::new(),
            inflater: Inflater::default(),
            text_pong: pong(Kind::Text),
            binary_pong: pong(Kind::Binary),
        }
    }

    /// Whether the next turn must not be waited for.
    pub(super) fn goes_on(&self) -> bool {
        !self.ready.is_empty() || !self.more.is_empty()
    }

    /// Begins a turn.
    pub(super) fn begin_turn(&mut self) {
        self.turn = Work::new(TURN);
    }

    /// Whether those who waited for room have had their share of the turn.
    pub(super) fn leaves_the_rest_to_others(&self) -> bool {
        self.turn.left() <= TURN - FOR_MORE
    }

    /// What a client may have done for it now.
    #[expect(clippy::unused_self, reason = "the owner says how much that is")]
    pub(super) fn quantum(&self) -> Work {
        Work::new(QUANTUM)
    }

    /// Counts what was done of a quantum.
    pub(super) fn count(&mut self, left: Work) {
        self.turn.charge(QUANTUM - left.left());
    }

    /// The poll has told of the connection.
    pub(super) fn is_ready(&mut self, slot: Slot, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.flags.to_read, true) {
            self.ready.push_back(slot);
        }
    }

    /// The connection is to be read on, after others.
    pub(super) fn read_again(&mut self, slot: Slot, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.flags.to_read, true) {
            self.more.push_back(slot);
        }
    }

    /// Who is read next in this turn.
    pub(super) fn next(&mut self) -> Option<Slot> {
        if self.turn.is_spent() {
            return None;
        }
        if self.more.is_empty() || self.turn.left() > FOR_MORE {
            return self.ready.pop_front().or_else(|| self.more.pop_front());
        }
        self.more.pop_front()
    }
}
