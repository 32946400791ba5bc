//! Answering questions about clients: everything about one, and lists of many, a few at a time.
//!
//! A list is a walk over the slots. A client keeps its slot for life, so one that is there from the
//! beginning of the walk to its end is met exactly once, whoever comes and goes meanwhile. No step
//! looks at more than [`SLOTS`] of them, so that a list of any length holds up nobody.

use std::{
    cell::Cell,
    time::{Duration, Instant, SystemTime},
};

use super::{
    connection::Connection,
    inbox::Command,
    outbound::drop_expired,
    question::{Described, Found, Scan, Scanned, Search},
    slot::Slot,
    state::State,
    wheel::{Tick, Wheel},
};
use crate::ids::{ClientId, Name};

/// Slots that one step looks at: each costs a few cache misses, all together a fraction of a
/// millisecond.
const SLOTS: u32 = 1024;

/// Clients that are looked at for a list in the time of a delivery.
const LISTED_PER_DELIVERY: usize = 16;

/// Members of a group on this shard up to which they are looked at, rather than all slots.
const FEW: usize = 4096;

/// Tells the time on the wall from that by which connections are kept.
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

    /// The tick that a time lies in: as for the connections themselves, its beginning counts.
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

/// Answers a question about clients. Answers about how many deliveries that was worth, so that a flood
/// of these can't keep clients from being heard either; the command, if it is none of these.
pub(super) fn answer(
    state: &mut State,
    calendar: &Calendar,
    command: Command,
) -> Result<usize, Box<Command>> {
    let State { connections, membership, .. } = &*state;
    // Who asked may be gone.
    Ok(match command {
        Command::UidOf(client, reply) => {
            let connection = connections.find(client).and_then(|slot| connections.get(slot));
            let _ = reply.send(connection.map(|it| it.uid.clone()));
            0
        }
        Command::AttributesOf(client, reply) => {
            let connection = connections.find(client).and_then(|slot| connections.get(slot));
            let attributes =
                |it: &Connection| it.attributes.as_deref().cloned().unwrap_or_default();
            let _ = reply.send(connection.map(attributes));
            0
        }
        Command::List(recipients, reply) => {
            let slots = membership.slots_of(connections, &recipients).into_iter();
            let ids: Vec<_> = slots.filter_map(|slot| Some(connections.get(slot)?.id)).collect();
            let worth = ids.len() / LISTED_PER_DELIVERY;
            let _ = reply.send(ids);
            worth
        }
        Command::ClientsOfEach(uids, reply) => {
            let of_each = membership.clients_of_each(connections, &uids);
            let clients: usize = of_each.iter().map(Vec::len).sum();
            let _ = reply.send(of_each);
            (uids.len() + clients) / LISTED_PER_DELIVERY
        }
        Command::UsersIn(group, uids, reply) => {
            let _ = reply.send(membership.users_in(connections, &group, &uids));
            uids.len() / LISTED_PER_DELIVERY
        }
        Command::Describe(clients, reply) => {
            let _ = reply.send(describe(state, calendar, &clients));
            clients.len()
        }
        Command::Scan(step, reply) => {
            let _ = reply.send(scan(state, calendar, &step));
            SLOTS as usize / LISTED_PER_DELIVERY
        }
        other => return Err(Box::new(other)),
    })
}

/// What is known of each of the clients.
fn describe(
    state: &mut State,
    calendar: &Calendar,
    clients: &[ClientId],
) -> Vec<Option<Described>> {
    let clocks = calendar.clocks();
    let mut described = Vec::with_capacity(clients.len());
    for &client in clients {
        let State { context, connections, .. } = state;
        // What is worth nothing any more does not wait, though nobody has looked at it since.
        let slot = connections.find(client);
        if let Some(connection) = slot.and_then(|slot| connections.get_mut(slot)) {
            drop_expired(context, connection);
        }
        described.push(slot.and_then(|slot| describe_one(state, slot, clocks)));
    }
    described
}

fn describe_one(state: &State, slot: Slot, clocks: Clocks) -> Option<Described> {
    let State { connections, membership, timers, .. } = state;
    let connection = connections.get(slot)?;
    let socket = connections.sockets.get(slot)?;
    let time = |tick| clocks.on_the_wall(timers.wheel.instant(tick));
    let micros = |micros: std::num::NonZero<u32>| Duration::from_micros(micros.get().into());
    Some(Described {
        id: connection.id,
        uid: connection.uid.clone(),
        groups: membership.groups_of(connection).cloned().collect(),
        attributes: connection.attributes.as_deref().cloned().unwrap_or_default(),
        peer: connection.peer(),
        about: connection.about.clone(),
        connected: time(connection.since),
        heard: time(connection.heard),
        expires: connection.expires.as_ref().map(|expiry| expiry.at),
        round_trip: connection.round_trip.map(micros),
        queued_messages: u64::from(connection.out.messages()) + connections.tls.messages(slot),
        queued_bytes: connection.out.bytes() as u64,
        // It fails for no socket that is a connection of TCP, and nothing else is adopted.
        traffic: socket.traffic().unwrap_or_default(),
        tls: socket.is_tls(),
        window: socket.agreed_window(),
    })
}

/// One step of a search.
fn scan(state: &State, calendar: &Calendar, scan: &Scan) -> Scanned {
    let State { connections, membership, timers, .. } = state;
    let clocks = calendar.clocks();
    let search = &*scan.search;
    let group = search.group.as_ref().map(|group| membership.group_key(group));
    if group == Some(None) {
        return Scanned::default();
    }
    let sieve = Sieve {
        search,
        group: group.flatten(),
        since: search.since.map(|at| clocks.tick(&timers.wheel, at)),
    };
    let mut slots = slots_from(state, scan);
    let mut found = Vec::new();
    while found.len() < scan.most
        && let Some(slot) = slots.next()
    {
        let connection = connections.get(Slot::new(slot));
        if let Some(connection) = connection.filter(|it| sieve.lets_pass(it)) {
            let connected = clocks.on_the_wall(timers.wheel.instant(connection.since));
            found.push(Found { id: connection.id, uid: connection.uid.clone(), connected });
        }
    }
    Scanned { found, next: slots.next().or(slots.then) }
}

/// The slots that a step looks at.
fn slots_from(state: &State, scan: &Scan) -> Slots {
    let members = scan.search.group.as_ref().map(|group| state.membership.members(group));
    let end = state.connections.end().number();
    match members {
        Some(members) if members.len() <= FEW => {
            let numbers = members.iter().map(|slot| slot.number());
            let mut slots: Vec<_> = numbers.filter(|&slot| slot >= scan.from).collect();
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

/// Asks what a connection can answer by itself.
struct Sieve<'a> {
    search: &'a Search,
    /// The group's key on this shard.
    group: Option<u32>,
    since: Option<Tick>,
}

impl Sieve<'_> {
    fn lets_pass(&self, connection: &Connection) -> bool {
        let prefix = self.search.uid_prefix.as_str();
        let has_prefix = |uid: &Name| uid.as_str().starts_with(prefix);
        connection.is_open()
            && self.group.is_none_or(|key| connection.groups.iter().any(|it| it.set == key))
            && self.since.is_none_or(|since| connection.since >= since)
            && (prefix.is_empty() || connection.uid.as_ref().is_some_and(has_prefix))
            && self.search.attributes.are_in(connection.attributes.as_deref())
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
