//! One client: everything that is known of it but for its socket, which is its [door](super::door).
//!
//! So a session is plain data: it could be taken out of one process and put into another.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::{Seat, outbound::Outbound, wheel::Tick};
use crate::{
    ids::{ClientId, Name},
    wire,
};

/// The order is that of use, so that what changes with every message shares few cache lines.
#[repr(C)]
pub(super) struct Session {
    pub(super) stage: Stage,
    pub(super) flags: Flags,
    pub(super) id: ClientId,
    /// When a byte was last heard.
    pub(super) heard: Tick,
    /// When a ping was last sent.
    pub(super) pinged: Tick,
    /// The one entry in the wheel that counts; others are stale.
    pub(super) timer: Tick,
    pub(super) out: Outbound,
    pub(super) decoder: wire::Decoder,
    /// Bytes read from the socket while the client's own queue was full; they come first when it
    /// has drained.
    pub(super) unread: Option<Box<[u8]>>,
    /// When the incomplete message at hand began.
    pub(super) partial_since: Option<Tick>,
    pub(super) allowance: Allowance,
    pub(super) uid: Option<Name>,
    pub(super) groups: SmallVec<[Membership; 2]>,
    pub(super) peer: SocketAddr,
    /// Held until the socket is gone.
    pub(super) _seat: Seat,
}

/// Where in its life a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Connected: counted, listed, addressable.
    Open,
    /// On its way out: invisible, waiting for the end of the close handshake until the tick.
    Closing(Tick),
}

/// One group that the client is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    /// The group's key on this shard.
    pub(super) group: u32,
    /// The client's position in the group's list of members, so that leaving needs no search.
    pub(super) seat: u32,
}

/// Small facts that change often.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact about the socket")]
pub(super) struct Flags {
    /// In the list of sockets to be flushed this turn.
    pub(super) dirty: bool,
    /// In the list of sockets to be read again next turn.
    pub(super) again: bool,
    /// The socket takes nothing now; the poll will tell when it does.
    pub(super) blocked: bool,
    /// Not read until its own queue has drained.
    pub(super) paused: bool,
    /// The peer has sent its last byte: read on until the end is reached.
    pub(super) hung_up: bool,
    /// What the client says no longer matters: it broke the protocol or said goodbye.
    pub(super) deaf: bool,
    /// The client's close frame has arrived.
    pub(super) heard_close: bool,
    /// Our close frame is on its way.
    pub(super) sent_close: bool,
    /// About to be closed: nothing more is queued for it.
    pub(super) doomed: bool,
}

impl Session {
    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }
}

/// The slot of a session, given its index in the slab: `adopt` lets no more in than 24 bits name.
pub(super) fn slot_at(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// What the client may still send in the second at hand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    second: Tick,
    messages: u32,
    bytes: u64,
}

/// Ticks of one second.
const SECOND: Tick = 10;

impl Allowance {
    /// Counts what came in at `now`; false if it is more than the second has room for.
    pub(super) fn take(
        &mut self,
        now: Tick,
        (messages, bytes): (u32, u64),
        messages_per_second: Option<u64>,
        bytes_per_second: Option<u64>,
    ) -> bool {
        if now.wrapping_sub(self.second) >= SECOND {
            *self = Self { second: now, messages: 0, bytes: 0 };
        }
        self.messages = self.messages.saturating_add(messages);
        self.bytes = self.bytes.saturating_add(bytes);
        messages_per_second.is_none_or(|limit| u64::from(self.messages) <= limit)
            && bytes_per_second.is_none_or(|limit| self.bytes <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_stays_small() {
        assert!(size_of::<Session>() <= 248, "{}", size_of::<Session>());
    }

    #[test]
    fn an_allowance_is_renewed_every_second() {
        let mut allowance = Allowance::default();
        let mut take = |now, messages| allowance.take(now, (messages, 10), Some(3), None);
        assert!(take(100, 2));
        assert!(take(105, 1));
        assert!(!take(109, 1));
        assert!(take(110, 3));
        assert!(!allowance.take(111, (0, 100), None, Some(99)));
    }
}
