//! One client: everything that is known of it but for its [socket](super::socket) and its
//! [TLS](super::tls).
//!
//! So a connection is plain data: it could be taken out of one process and put into another.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZero,
    sync::Arc,
    time::SystemTime,
};

use smallvec::SmallVec;

use super::{
    memory::{Budget, Charge},
    permit::ConnectionPermit,
    rate_limit::RateLimit,
    wheel::Tick,
    write_queue::WriteQueue,
};
use crate::{
    about::About,
    attributes::Attributes,
    ids::{ClientId, Name},
    wire::{self, Inflating},
};

/// The order is that of use, so that what changes with every message shares few cache lines.
#[repr(C)]
pub(super) struct Connection {
    pub(super) stage: Stage,
    pub(super) flags: Flags,
    /// The peer's port; it stands here because there is room.
    port: u16,
    pub(super) id: ClientId,
    /// When a byte was last heard.
    pub(super) heard: Tick,
    /// When a ping was last sent.
    pub(super) pinged: Tick,
    /// The one entry in the wheel that counts; others are stale.
    pub(super) timer: Tick,
    /// When it connected.
    pub(super) since: Tick,
    /// When the ping was sent that no pong has come for yet, by the wheel's microseconds.
    pub(super) asked: Option<NonZero<u32>>,
    pub(super) out: WriteQueue,
    pub(super) decoder: wire::Decoder,
    /// Memory of what it has said and nobody has heard yet; none if there is nothing.
    pub(super) unheard: Option<Box<Unheard>>,
    /// When the incomplete message at hand began.
    pub(super) partial_since: Option<Tick>,
    pub(super) rate_limit: RateLimit,
    pub(super) uid: Option<Name>,
    /// Its place among the user's clients; of no meaning without a uid.
    pub(super) user: Membership,
    /// What the business system notes about it; none if nothing.
    pub(super) attributes: Option<Box<Attributes>>,
    pub(super) groups: SmallVec<[Membership; 2]>,
    /// What it asked for when it connected; none if nothing but the usual.
    pub(super) about: Option<Arc<About>>,
    /// Held until the socket is gone.
    pub(super) permit: ConnectionPermit,
    /// When it is closed, whatever it does. Most clients have none, so it lies apart.
    pub(super) expires: Option<Box<Deadline>>,
    /// Microseconds from the last ping that was answered to its pong.
    pub(super) round_trip: Option<NonZero<u32>>,
    /// Since when its socket has not taken all that was there for it; none if it has.
    pub(super) behind_since: Option<Tick>,
    /// The peer's address; one of IPv4 as IPv6 maps it.
    ip: Ipv6Addr,
}

/// When a client is closed, whatever it does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// By the wheel.
    pub(super) due: Tick,
    /// As it was set, which is what is told of it.
    pub(super) at: SystemTime,
}

/// Memory of what a client has said and nobody has heard yet: beginnings of messages in its decoder,
/// and what is kept back here.
#[derive(Debug)]
pub(super) struct Unheard {
    /// What was kept back while the client was not read: bytes of its socket, and before them the
    /// message that found no room. They come first when it is read again.
    unread: Unread,
    /// A compressed message that is inflated by pieces. It came before all that is unread.
    inflating: Option<Inflating<'static>>,
    charge: Charge,
}

impl Unheard {
    fn new(charge: Charge) -> Self {
        Self { unread: Unread::default(), inflating: None, charge }
    }
}

/// Bytes of a client that are still to be heard.
#[derive(Debug, Default)]
pub(super) struct Unread {
    bytes: Vec<u8>,
    /// How many of them were heard already.
    heard: usize,
}

impl Unread {
    pub(super) fn is_empty(&self) -> bool {
        self.heard >= self.bytes.len()
    }

    /// What is to be heard.
    pub(super) fn rest(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.heard..).unwrap_or_default()
    }

    /// All but the last `left` bytes were heard.
    pub(super) fn keep_last(&mut self, left: usize) {
        self.heard = self.bytes.len().saturating_sub(left);
    }
}

/// Where in its life a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Connected: counted, listed, addressable.
    Open,
    /// On its way out: invisible, waiting for the end of the close handshake until the tick.
    Closing(Tick),
}

/// One group that the client is in, or the user that it belongs to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Membership {
    /// The key of the group, or of the user, on this shard.
    pub(super) set: u32,
    /// The client's position in its list of members, so that leaving needs no search.
    pub(super) position: u32,
}

/// Whether a client is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReadState {
    #[default]
    Reading,
    /// Not until its own queue has drained.
    Paused,
    /// Not until there is room for what it said: it waits in the
    /// [backpressure queue](super::backpressure).
    Waiting,
    /// No more: it has said goodbye or broken the protocol, and its [close](super::deferred) waits.
    Leaving,
}

/// Small facts that change often.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact about the socket")]
pub(super) struct Flags {
    /// In the list of sockets to be flushed this turn.
    pub(super) dirty: bool,
    /// In a queue of those to be read.
    pub(super) to_read: bool,
    /// The socket did not take all of what it was offered last; the poll will tell when it takes more.
    pub(super) blocked: bool,
    /// The poll has told so, and nothing was offered since.
    pub(super) writable: bool,
    /// Whether it is read.
    pub(super) reading: ReadState,
    /// The peer has sent its last byte: read on until the end is reached.
    pub(super) hung_up: bool,
    /// What the client says no longer matters: it broke the protocol or said goodbye.
    pub(super) deaf: bool,
    /// The client's close frame has arrived.
    pub(super) heard_close: bool,
    /// Our close frame is on its way.
    pub(super) sent_close: bool,
    /// About to be closed: nothing more is queued for it.
    pub(super) closing: bool,
}

impl Connection {
    /// A client that has just connected, at `now`.
    pub(super) fn new(id: ClientId, peer: SocketAddr, permit: ConnectionPermit, now: Tick) -> Self {
        Self {
            stage: Stage::Open,
            flags: Flags::default(),
            port: peer.port(),
            id,
            heard: now,
            pinged: now,
            timer: 0,
            since: now,
            asked: None,
            out: WriteQueue::default(),
            decoder: wire::Decoder::default(),
            unheard: None,
            behind_since: None,
            partial_since: None,
            rate_limit: RateLimit::default(),
            uid: None,
            user: Membership::default(),
            attributes: None,
            groups: SmallVec::new(),
            about: None,
            permit,
            expires: None,
            round_trip: None,
            ip: match peer.ip() {
                IpAddr::V4(four) => four.to_ipv6_mapped(),
                IpAddr::V6(six) => six,
            },
        }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.ip.to_canonical(), self.port)
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether the client is read.
    pub(super) fn is_read(&self) -> bool {
        self.flags.reading == ReadState::Reading
    }

    /// Whether it waits for room for what it said.
    pub(super) fn waits(&self) -> bool {
        self.flags.reading == ReadState::Waiting
    }

    /// Whether it can be told from its silence that it is gone.
    pub(super) fn can_be_silent(&self) -> bool {
        !matches!(self.flags.reading, ReadState::Waiting | ReadState::Leaving)
    }

    /// Memory of what it has said and nobody has heard yet.
    pub(super) fn unheard_bytes(&self) -> usize {
        let kept = self.unheard.as_ref().map_or(0, |it| {
            it.unread.bytes.len() + it.inflating.as_ref().map_or(0, Inflating::held)
        });
        self.decoder.partial_bytes() + kept
    }

    /// Whether something is kept to be heard later.
    pub(super) fn has_unheard(&self) -> bool {
        let unheard = self.unheard.as_ref();
        unheard.is_some_and(|it| it.inflating.is_some() || !it.unread.is_empty())
    }

    /// Brings the memory of what nobody has heard yet up to date on its account.
    pub(super) fn account(&mut self, budget: &Budget) {
        let bytes = self.unheard_bytes();
        match &mut self.unheard {
            _ if bytes == 0 => self.unheard = None,
            Some(unheard) => unheard.charge.resize(bytes),
            None => {
                let charge = budget.charge(bytes);
                self.unheard = Some(Box::new(Unheard::new(charge)));
            }
        }
    }

    /// Keeps bytes in front of those that are kept already.
    pub(super) fn put_back(&mut self, bytes: &[u8], budget: &Budget) {
        let mut later = self.take_unread();
        let unread = Unread { bytes: [bytes, later.rest()].concat(), heard: 0 };
        self.keep_unread(unread, budget);
    }

    /// Keeps what was not heard, behind what was put back meanwhile.
    pub(super) fn keep_unread(&mut self, mut unread: Unread, budget: &Budget) {
        if !unread.is_empty() {
            let unheard = self.unheard_mut(budget);
            if unheard.unread.is_empty() {
                unheard.unread = unread;
            } else {
                let bytes = [unheard.unread.rest(), unread.rest()].concat();
                unheard.unread = Unread { bytes, heard: 0 };
            }
        }
        self.account(budget);
    }

    /// The same for bytes of the shared buffer.
    pub(super) fn keep_copy(&mut self, bytes: &[u8], budget: &Budget) {
        self.keep_unread(Unread { bytes: bytes.to_vec(), heard: 0 }, budget);
    }

    /// Takes out what is kept; the account follows when it is brought up to date.
    pub(super) fn take_unread(&mut self) -> Unread {
        self.unheard.as_mut().map(|it| std::mem::take(&mut it.unread)).unwrap_or_default()
    }

    /// Keeps a message that is inflated on later.
    pub(super) fn keep_inflating(&mut self, inflating: Inflating<'static>, budget: &Budget) {
        self.unheard_mut(budget).inflating = Some(inflating);
        self.account(budget);
    }

    /// Takes out a message that is to be inflated on; the account follows as above.
    pub(super) fn take_inflating(&mut self) -> Option<Inflating<'static>> {
        self.unheard.as_mut().and_then(|it| it.inflating.take())
    }

    fn unheard_mut(&mut self, budget: &Budget) -> &mut Unheard {
        self.unheard.get_or_insert_with(|| Box::new(Unheard::new(budget.charge(0))))
    }

    /// Forgets what it has said and nobody has heard.
    pub(super) fn forget_unheard(&mut self) {
        self.decoder = wire::Decoder::default();
        self.unheard = None;
    }

    /// Whether the socket may take something.
    pub(super) fn may_write(&self) -> bool {
        !self.flags.blocked || self.flags.writable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_small() {
        assert!(size_of::<Connection>() <= 280, "{}", size_of::<Connection>());
    }
}
