//! One client: everything that is known of it but for its socket, which is its [door](super::door).
//!
//! So a session is plain data: it could be taken out of one process and put into another.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZero,
    sync::Arc,
    time::SystemTime,
};

use smallvec::SmallVec;

use super::{About, Seat, outbound::Outbound, wheel::Tick};
use crate::{
    attributes::Attributes,
    ids::{ClientId, Name},
    wire,
};

/// The order is that of use, so that what changes with every message shares few cache lines.
#[repr(C)]
pub(super) struct Session {
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
    pub(super) out: Outbound,
    pub(super) decoder: wire::Decoder,
    /// What is kept back while the client is not listened to: bytes read from its socket, and before
    /// them the message that found no room. They come first when it is listened to again.
    pub(super) unread: Option<Box<[u8]>>,
    /// When the incomplete message at hand began.
    pub(super) partial_since: Option<Tick>,
    pub(super) allowance: Allowance,
    pub(super) uid: Option<Name>,
    /// Its place among the user's clients; of no meaning without a uid.
    pub(super) user: Membership,
    /// What the business system notes about it; none if nothing.
    pub(super) attributes: Option<Box<Attributes>>,
    pub(super) groups: SmallVec<[Membership; 2]>,
    /// What it asked for when it connected; none if nothing but the usual.
    pub(super) about: Option<Arc<About>>,
    /// Held until the socket is gone.
    pub(super) seat: Seat,
    /// When it is closed, whatever it does. Most clients have none, so it lies apart.
    pub(super) expires: Option<Box<Deadline>>,
    /// Microseconds from the last ping that was answered to its pong.
    pub(super) round_trip: Option<NonZero<u32>>,
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

/// Where in its life a session is.
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
    pub(super) seat: u32,
}

/// Whether a client is listened to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Hearing {
    #[default]
    Heard,
    /// Not until its own queue has drained.
    Paused,
    /// Not until there is room for what it said; it stands in the [line](super::line).
    Waits,
    /// No more: it has said goodbye or broken the protocol, and its [end](super::farewell) waits.
    Leaves,
}

/// Small facts that change often.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact about the socket")]
pub(super) struct Flags {
    /// In the list of sockets to be flushed this turn.
    pub(super) dirty: bool,
    /// In the list of sockets to be read again next turn.
    pub(super) again: bool,
    /// The socket did not take all of what it was offered last; the poll will tell when it takes more.
    pub(super) blocked: bool,
    /// The poll has told so, and nothing was offered since.
    pub(super) writable: bool,
    /// Whether it is read.
    pub(super) hearing: Hearing,
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
    /// A client that has just connected, at `now`.
    pub(super) fn new(id: ClientId, peer: SocketAddr, seat: Seat, now: Tick) -> Self {
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
            out: Outbound::default(),
            decoder: wire::Decoder::default(),
            unread: None,
            partial_since: None,
            allowance: Allowance::default(),
            uid: None,
            user: Membership::default(),
            attributes: None,
            groups: SmallVec::new(),
            about: None,
            seat,
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

    /// Whether the client is listened to.
    pub(super) fn is_heard(&self) -> bool {
        self.flags.hearing == Hearing::Heard
    }

    /// Whether it stands in the line of those who wait for room for what they said.
    pub(super) fn waits(&self) -> bool {
        self.flags.hearing == Hearing::Waits
    }

    /// Whether it can be told from its silence that it is gone.
    pub(super) fn can_be_silent(&self) -> bool {
        !matches!(self.flags.hearing, Hearing::Waits | Hearing::Leaves)
    }

    /// Memory of what it has said and nobody has heard yet.
    pub(super) fn unheard_bytes(&self) -> usize {
        self.decoder.partial_bytes() + self.unread.as_ref().map_or(0, |unread| unread.len())
    }

    /// Whether the socket may take something.
    pub(super) fn may_write(&self) -> bool {
        !self.flags.blocked || self.flags.writable
    }
}

/// The slot of a session, given its index in the slab: `adopt` lets no more in than 24 bits name.
pub(super) fn slot_at(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// What the client has sent and not yet worked off at the rates that are allowed: two buckets that
/// hold one second's worth. So a second's worth may come at once, and on the long run never more
/// than the rate; a client that keeps just below it is never taken for one that is over.
///
/// Both are counted in tenths, as a tick is a tenth of a second: so nothing is lost by rounding.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    /// Until when it was worked off.
    since: Tick,
    messages: u32,
    bytes: u64,
}

/// What a client may send per second; none is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) messages: Option<u64>,
    pub(super) bytes: Option<u64>,
}

/// Ticks of one second.
const SECOND: u64 = 10;

impl Allowance {
    /// Counts what came in at `now`; false if it is more than there is room for.
    pub(super) fn take(&mut self, now: Tick, (messages, bytes): (u32, u64), rates: Rates) -> bool {
        let ticks = u64::from(now.wrapping_sub(self.since));
        self.since = now;
        let messages = fill(self.messages.into(), ticks, messages.into(), rates.messages);
        let bytes = fill(self.bytes, ticks, bytes, rates.bytes);
        // Beyond 32 bits there is room for 400 million messages a second, which nobody can send.
        self.messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.bytes = bytes;
        over(messages, rates.messages) == 0 && over(bytes, rates.bytes) == 0
    }

    /// Works off what is over the rates in some of `ticks`, which didn't count when they passed;
    /// false if they are too few.
    pub(super) fn work_off(&mut self, ticks: &mut Tick, rates: Rates) -> bool {
        let needed = over(self.messages.into(), rates.messages).max(over(self.bytes, rates.bytes));
        let Some(left) = u64::from(*ticks).checked_sub(needed) else { return false };
        *ticks = Tick::try_from(left).unwrap_or(Tick::MAX);
        let less = |rate: Option<u64>| rate.unwrap_or(0).saturating_mul(needed);
        let messages = u64::from(self.messages).saturating_sub(less(rates.messages));
        self.messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.bytes = self.bytes.saturating_sub(less(rates.bytes));
        true
    }
}

/// Ticks until what a bucket holds too much is worked off.
fn over(level: u64, rate: Option<u64>) -> u64 {
    let Some(rate) = rate else { return 0 };
    level.saturating_sub(rate.saturating_mul(SECOND)).div_ceil(rate.max(1))
}

/// The level of a bucket that was left alone for some ticks, with some more in it. Where there is
/// no rate there is no bucket.
fn fill(level: u64, ticks: u64, more: u64, rate: Option<u64>) -> u64 {
    let Some(rate) = rate else { return 0 };
    // What came when more was allowed is not held against the client for longer than a second.
    let level = level.min(rate.saturating_mul(SECOND));
    level.saturating_sub(rate.saturating_mul(ticks)).saturating_add(more.saturating_mul(SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_stays_small() {
        assert!(size_of::<Session>() <= 280, "{}", size_of::<Session>());
    }

    fn rates(messages: u64, bytes: u64) -> Rates {
        let rate = |rate| (rate > 0).then_some(rate);
        Rates { messages: rate(messages), bytes: rate(bytes) }
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_then_the_rate() {
        let mut allowance = Allowance::default();
        let mut take = |now, messages| allowance.take(now, (messages, 10), rates(3, 0));
        assert!(take(100, 2));
        assert!(take(105, 1));
        assert!(take(105, 1), "half a second has made room for one and a half");
        assert!(!take(105, 1));
        assert!(take(125, 3), "who is silent for a second has all of it again");
        assert!(!take(126, 1));
    }

    #[test]
    fn a_client_at_its_rate_is_not_over_though_it_comes_unevenly() {
        let mut allowance = Allowance::default();
        let seconds = [[0, 3, 6], [1, 5, 9], [0, 4, 9], [2, 2, 8]].into_iter().cycle();
        for (second, at) in (0..1000).zip(seconds) {
            for at in at {
                assert!(allowance.take(second * 10 + at, (1, 7), rates(3, 21)), "{second} {at}");
            }
        }
        let over = (10_000..20_000).step_by(2).any(|now| !allowance.take(now, (1, 0), rates(4, 0)));
        assert!(over, "five a second are more than four");
    }

    #[test]
    fn a_changed_rate_acts_at_once_and_one_that_is_off_forgets() {
        let mut allowance = Allowance::default();
        assert!(allowance.take(0, (1000, 1000), rates(1000, 1000)));
        assert!(!allowance.take(0, (1, 0), rates(5, 0)));
        assert!(allowance.take(10, (4, 0), rates(5, 0)), "the old rate is no debt");
        assert!(allowance.take(10, (u32::MAX, u64::MAX), rates(0, 0)));
        assert!(allowance.take(10, (5, 99), rates(5, 99)));
        assert!(!allowance.take(10, (0, 1), rates(5, 99)));
        assert!(allowance.take(9, (5, 99), rates(5, 99)), "a clock that wraps is a long time");
    }

    #[test]
    fn time_that_did_not_count_works_off_what_came_in_it() {
        let mut allowance = Allowance::default();
        let only = rates(2, 0);
        // Four seconds' worth comes at once, of a client that was not listened to for three.
        let mut ticks = 30;
        for number in 0..8 {
            assert!(
                allowance.take(100, (1, 0), only) || allowance.work_off(&mut ticks, only),
                "{number}"
            );
        }
        assert_eq!(ticks, 0);
        assert!(!allowance.take(100, (1, 0), only) && !allowance.work_off(&mut ticks, only));
        assert!(!allowance.work_off(&mut 4, only), "half a second for one message");
        assert!(allowance.work_off(&mut 5, only));
        assert!(allowance.work_off(&mut 0, rates(0, 0)), "where there is no rate nothing is over");
    }

    #[test]
    fn the_largest_rates_and_amounts_do_not_overflow() {
        let mut allowance = Allowance::default();
        assert!(!allowance.take(1, (u32::MAX, u64::MAX), rates(1, 1)));
        assert!(allowance.take(Tick::MAX, (u32::MAX, u64::MAX), rates(u64::MAX, u64::MAX)));
    }
}
