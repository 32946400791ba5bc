//! Answering questions about clients: everything about one, and lists of many, a few at a time.
//!
//! A list is a walk over the slots. A client keeps its slot for life, so one that is there from the
//! beginning of the walk to its end is met exactly once, whoever comes and goes meanwhile. No step
//! looks at more than [`SLOTS`] of them, so that a list of any length holds up nobody.

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    About,
    run::Loop,
    session::Session,
    wheel::{Tick, Wheel},
};
use crate::{
    attributes::Attributes,
    ids::{ClientId, Name},
    net::traffic::Traffic,
};

/// Slots that one step looks at: each costs a few cache misses, all together a fraction of a
/// millisecond.
pub(super) const SLOTS: u32 = 1024;

/// Members of a group on this shard up to which they are looked at, rather than all slots.
const FEW: usize = 4096;

/// Everything that is known of one client.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its id, which tells its shard, too.
    pub id: ClientId,
    /// Its uid.
    pub uid: Option<Name>,
    /// Its groups.
    pub groups: Vec<Name>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Who is at the other end; an address of IPv4 as such, whatever it was accepted on.
    pub peer: SocketAddr,
    /// What is remembered of its request.
    pub about: Option<Arc<About>>,
    /// When it connected, to a tenth of a second.
    pub connected: SystemTime,
    /// When something was last heard from it, to a tenth of a second.
    pub heard: SystemTime,
    /// When it will be closed, to a tenth of a second.
    pub expires: Option<SystemTime>,
    /// Time from the last ping that was answered to its pong.
    pub round_trip: Option<Duration>,
    /// Messages that wait in its queue.
    pub queued_messages: u64,
    /// Bytes that wait in its queue.
    pub queued_bytes: u64,
    /// What its socket has carried.
    pub traffic: Traffic,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The compression window that was agreed.
    pub window: Option<u8>,
}

/// Which clients are searched for. What is not set is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Only clients whose uid begins so; empty is anybody, with a uid or without.
    pub uid_prefix: String,
    /// Only members of the group.
    pub group: Option<Name>,
    /// Only clients that connected at or after this time. Times are known to a tenth of a second;
    /// in doubt a client is found.
    pub since: Option<SystemTime>,
    /// Only clients that have each of these attributes.
    pub attributes: Attributes,
}

/// A client that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: ClientId,
    /// Its uid.
    pub uid: Option<Name>,
    /// When it connected, to a tenth of a second.
    pub connected: SystemTime,
}

/// One step of a search.
pub(crate) struct Scan {
    pub(crate) search: Arc<Search>,
    /// The first slot to be looked at.
    pub(crate) from: u32,
    /// Clients to be found at most.
    pub(crate) most: usize,
}

/// What a step has found.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) found: Vec<Found>,
    /// Where the next step goes on; none if that was the last.
    pub(crate) next: Option<u32>,
}

/// Tells the time on the wall from that by which sessions are kept.
///
/// The two are compared at each question, and only a notable difference counts: so a client
/// connected at the same time whenever it is asked for, and a clock that is set right is followed.
pub(super) struct Calendar(Cell<Clocks>);

/// Two clocks at one moment.
#[derive(Clone, Copy)]
struct Clocks {
    steady: Instant,
    wall: SystemTime,
}

/// A difference that does not count: a good deal less than a tick.
const NOTABLE: Duration = Duration::from_millis(20);

impl Calendar {
    pub(super) fn new() -> Self {
        Self(Cell::new(Clocks::now()))
    }

    fn clocks(&self) -> Clocks {
        let (before, now) = (self.0.get(), Clocks::now());
        let expected = before.on_the_wall(now.steady);
        let difference = now.wall.duration_since(expected).unwrap_or_else(|late| late.duration());
        // Two looks with a pause between them are no comparison.
        if difference < NOTABLE || now.steady.elapsed() >= NOTABLE / 2 {
            return before;
        }
        self.0.set(now);
        now
    }
}

impl Clocks {
    fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    fn on_the_wall(self, at: Instant) -> SystemTime {
        match self.steady.checked_duration_since(at) {
            Some(ago) => self.wall.checked_sub(ago),
            None => self.wall.checked_add(at - self.steady),
        }
        .unwrap_or(self.wall)
    }

    /// The tick that a time lies in: as for the sessions themselves, its beginning counts.
    fn tick(self, wheel: &Wheel, at: SystemTime) -> Tick {
        match self.wall.duration_since(at) {
            Ok(ago) => self.steady.checked_sub(ago).map_or(0, |at| wheel.tick(at)),
            Err(ahead) => {
                let at = self.steady.checked_add(ahead.duration());
                at.map_or(Tick::MAX, |at| wheel.tick(at))
            }
        }
    }
}

impl Loop {
    /// What is known of each of the clients.
    pub(super) fn describe(&mut self, clients: &[ClientId]) -> Vec<Option<Described>> {
        let clocks = self.calendar.clocks();
        let mut described = Vec::with_capacity(clients.len());
        for &client in clients {
            // What is worth nothing any more does not wait, though nobody has looked at it since.
            let slot = self.find(client);
            if let Some(session) = slot.and_then(|slot| self.sessions.get_mut(slot as usize)) {
                self.desk.drop_expired(session);
            }
            described.push(self.describe_one(client, clocks));
        }
        described
    }

    fn describe_one(&self, client: ClientId, clocks: Clocks) -> Option<Described> {
        let slot = self.find(client)?;
        let session = self.sessions.get(slot as usize)?;
        let door = self.doors.get(slot)?;
        let time = |tick| clocks.on_the_wall(self.wheel.instant(tick));
        let micros = |micros: std::num::NonZero<u32>| Duration::from_micros(micros.get().into());
        Some(Described {
            id: session.id,
            uid: session.uid.clone(),
            groups: self.groups_of(slot).cloned().collect(),
            attributes: session.attributes.as_deref().cloned().unwrap_or_default(),
            peer: session.peer(),
            about: session.about.clone(),
            connected: time(session.since),
            heard: time(session.heard),
            expires: session.expires.as_ref().map(|expiry| expiry.at),
            round_trip: session.round_trip.map(micros),
            queued_messages: u64::from(session.out.messages()) + self.desk.tunnels.messages(slot),
            queued_bytes: session.out.bytes() as u64,
            // It fails for no socket that is a connection of TCP, and nothing else is adopted.
            traffic: door.traffic().unwrap_or_default(),
            tls: door.is_sealed(),
            window: door.agreed_window(),
        })
    }

    /// One step of a search.
    pub(super) fn scan(&self, scan: &Scan) -> Scanned {
        let clocks = self.calendar.clocks();
        let search = &*scan.search;
        let group = search.group.as_ref().map(|group| self.groups.key(group.as_str()));
        if group == Some(None) {
            return Scanned::default();
        }
        let sieve = Sieve {
            search,
            group: group.flatten(),
            since: search.since.map(|at| clocks.tick(&self.wheel, at)),
        };
        let mut slots = self.slots_from(scan);
        let mut found = Vec::new();
        while found.len() < scan.most
            && let Some(slot) = slots.next()
        {
            let session = self.sessions.get(slot as usize);
            if let Some(session) = session.filter(|session| sieve.lets_pass(session)) {
                let connected = clocks.on_the_wall(self.wheel.instant(session.since));
                found.push(Found { id: session.id, uid: session.uid.clone(), connected });
            }
        }
        Scanned { found, next: slots.next().or(slots.then) }
    }

    /// The slots that a step looks at.
    fn slots_from(&self, scan: &Scan) -> Slots {
        let members = scan.search.group.as_ref().map(|group| self.groups.members(group.as_str()));
        let end = self.doors.end();
        match members {
            Some(members) if members.len() <= FEW => {
                let mut slots: Vec<_> =
                    members.iter().copied().filter(|&slot| slot >= scan.from).collect();
                slots.sort_unstable();
                let then = slots.get(SLOTS as usize).copied();
                slots.truncate(SLOTS as usize);
                Slots { these: Walk::Listed(slots.into_iter()), then }
            }
            _ => {
                let stop = scan.from.saturating_add(SLOTS).min(end);
                let then = (stop < end).then_some(stop);
                Slots { these: Walk::Range(scan.from..stop), then }
            }
        }
    }
}

/// Slots in ascending order, and the first behind them.
struct Slots {
    these: Walk,
    then: Option<u32>,
}

enum Walk {
    Range(std::ops::Range<u32>),
    Listed(std::vec::IntoIter<u32>),
}

impl Iterator for Slots {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        match &mut self.these {
            Walk::Range(range) => range.next(),
            Walk::Listed(list) => list.next(),
        }
    }
}

/// Asks what a session can answer by itself.
struct Sieve<'a> {
    search: &'a Search,
    /// The group's key on this shard.
    group: Option<u32>,
    since: Option<Tick>,
}

impl Sieve<'_> {
    fn lets_pass(&self, session: &Session) -> bool {
        let prefix = self.search.uid_prefix.as_str();
        let has_prefix = |uid: &Name| uid.as_str().starts_with(prefix);
        session.is_open()
            && self.group.is_none_or(|key| session.groups.iter().any(|it| it.set == key))
            && self.since.is_none_or(|since| session.since >= since)
            && (prefix.is_empty() || session.uid.as_ref().is_some_and(has_prefix))
            && self.search.attributes.are_in(session.attributes.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_time_is_the_same_until_a_clock_is_set() {
        let calendar = Calendar::new();
        let at = Instant::now();
        let told = calendar.clocks().on_the_wall(at);
        assert_eq!(calendar.clocks().on_the_wall(at), told);
        // A clock that was an hour behind when it was looked at last.
        let mut behind = calendar.0.get();
        behind.wall -= SECOND * 3600;
        calendar.0.set(behind);
        let now = calendar.clocks().on_the_wall(at);
        let difference = now.duration_since(told).unwrap_or_else(|ahead| ahead.duration());
        assert!(difference < NOTABLE, "{difference:?}");
    }

    #[test]
    fn a_told_time_leads_back_to_its_tick_or_to_the_one_before() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let clocks = Clocks { steady: start + SECOND * 60, wall: SystemTime::now() };
        for tick in [1, 2, 599, 600, 601, 10_000] {
            let told = clocks.on_the_wall(wheel.instant(tick));
            assert_eq!(clocks.tick(&wheel, told), tick);
            let a_little_earlier = told - Duration::from_micros(3);
            assert_eq!(clocks.tick(&wheel, a_little_earlier), tick - 1);
        }
        assert_eq!(clocks.tick(&wheel, SystemTime::UNIX_EPOCH), 0);
        let far = SystemTime::UNIX_EPOCH + SECOND * u32::MAX;
        assert!(clocks.tick(&wheel, far) > 10_000_000);
    }
}
