//! The queue of clients that wait for room for what they said.
//!
//! Who listens may say of a message that there is no room for it. Then the message is put back in
//! front of what its client said after it, as a frame that is heard again, and the client isn't read
//! until there is room: its socket fills, and TCP makes the client itself wait. Nobody else notices,
//! but for those who say something, too: they stand behind it.
//!
//! ```text
//!  said ─► events: no room ─► [the message again][what was read after it] ─► end of the queue
//!            ▲                                                                   │
//!            └──────────── room: the first in the queue is read again ◄──────────┘
//! ```
//!
//! * Nothing has happened to a message that waits: it was not counted, neither for the metrics nor
//!   against the client's rates. What it then says at once is measured as if it had come while it
//!   waited. Limits are those in force when it is heard.
//! * Who waits isn't read, so it is not silent, its pings aren't answered and its goodbye isn't seen.
//!   If it hung up, its message is still offered until it is taken, then the end is seen.
//! * It can be closed by all else: a call, a drain, its expiry, a broken socket. Then its message is
//!   dropped with all that it said after it, before its `closed`.
//! * What is kept back counts for `limits.partial_bytes`, like what is incomplete.
//! * Who stands here is counted (`waiting_clients`), until it is read again or closed.

use std::collections::{HashMap, VecDeque};

use super::{
    connection::{Connection, ReadState},
    connections::Connections,
    context::Context,
    rate_limit::{RateLimit, Rates},
    slot::Slot,
    wheel::Tick,
};
use crate::{ids::ClientId, sink::Accept};

/// Places of the queue that may be stale beyond one for each client.
const STALE: usize = 64;

/// The places of a queue: clients, and since when; some may have gone.
type Places = VecDeque<(ClientId, Tick)>;

/// Who waits, in the order in which they began to.
#[derive(Default)]
pub(super) struct Backpressure {
    places: Places,
    /// Whose turn it is.
    turn: Option<Slot>,
    /// Something was taken of what that client said.
    taken: bool,
    /// There is room for those behind, in the next turn.
    goes_on: bool,
    /// Ticks that clients have waited, by slot, and that their rates were not yet measured by.
    waited: HashMap<Slot, Tick>,
}

impl Backpressure {
    /// Whether the next turn must not be waited for.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether the client has to wait, whatever room there is.
    pub(super) fn bars(&self, slot: Slot) -> bool {
        !self.places.is_empty() && self.turn != Some(slot)
    }

    /// What became of a message that was offered.
    pub(super) fn note(&mut self, heard: Accept) {
        self.taken |= heard == Accept::Accepted;
    }

    /// The time a client has waited and was not measured by.
    pub(super) fn credit(&self, slot: Slot) -> Tick {
        // Nobody pays for this where nobody waits.
        if self.waited.is_empty() { 0 } else { self.waited.get(&slot).copied().unwrap_or(0) }
    }

    /// Whether what a client said too much can have come while it waited.
    pub(super) fn pays(&mut self, slot: Slot, said: &mut RateLimit, rates: Rates) -> bool {
        self.waited.get_mut(&slot).is_some_and(|ticks| said.work_off(ticks, rates))
    }

    /// A client is gone; its place is found stale when it comes up.
    pub(super) fn forget(&mut self, slot: Slot) {
        if !self.waited.is_empty() {
            self.waited.remove(&slot);
        }
    }

    /// Puts a client at the end, with the time it has waited before and was not measured by.
    pub(super) fn push(
        &mut self,
        context: &Context,
        connections: &mut Connections,
        slot: Slot,
        credit: Tick,
    ) {
        if credit > 0 {
            self.waited.insert(slot, credit);
        }
        let Some(connection) = connections.get_mut(slot) else { return };
        set_reading(context, connection, ReadState::Waiting);
        self.places.push_back((connection.id, context.tick));
        let clients = connections.len();
        close_ranks(&mut self.places, clients, |client| waiting(connections, client).is_some());
    }

    /// Begins a turn: whether there is room for those behind is not known yet.
    pub(super) fn begin(&mut self) {
        self.goes_on = false;
    }

    /// Takes the first that still waits, and since when it does. It is read now.
    pub(super) fn next(
        &mut self,
        context: &Context,
        connections: &mut Connections,
    ) -> Option<(Slot, ClientId)> {
        loop {
            let (client, since) = self.places.pop_front()?;
            let Some(slot) = waiting(connections, client) else { continue };
            let connection = connections.get_mut(slot)?;
            (self.turn, self.taken) = (Some(slot), false);
            set_reading(context, connection, ReadState::Reading);
            // What answers a ping may have come long ago.
            connection.asked = None;
            if context.settings.rates != Rates::default() {
                let waited = self.waited.entry(slot).or_default();
                *waited = waited.saturating_add(context.tick.saturating_sub(since));
            }
            return Some((slot, client));
        }
    }

    /// The client has been read. False if it waits again: there is no room any more. If there was
    /// none for even one message, it keeps its place.
    pub(super) fn was_read(&mut self, connections: &Connections, client: ClientId) -> bool {
        self.turn = None;
        if waiting(connections, client).is_none() {
            return true;
        }
        if !self.taken {
            self.places.rotate_right(1);
        }
        false
    }

    /// The turn has had enough of them.
    pub(super) fn pause(&mut self) {
        self.goes_on = !self.places.is_empty();
    }
}

/// Whether a client is read from now on; clients in the backpressure queue are counted.
pub(super) fn set_reading(context: &Context, connection: &mut Connection, reading: ReadState) {
    let waited = connection.waits();
    connection.flags.reading = reading;
    match (waited, connection.waits()) {
        (false, true) => context.stats.waiting_clients.add(1),
        (true, false) => context.stats.waiting_clients.sub(1),
        _ => {}
    }
}

/// The slot of a client, if it still waits.
fn waiting(connections: &Connections, client: ClientId) -> Option<Slot> {
    connections.find(client).filter(|&slot| connections.get(slot).is_some_and(Connection::waits))
}

/// Takes those out of a queue who have gone, if there may be many of them: clients came, waited, were
/// closed and came again while there was no room at all.
fn close_ranks(places: &mut Places, clients: usize, waits: impl Fn(ClientId) -> bool) {
    let most = 2 * clients + STALE;
    if places.len() > most {
        places.retain(|&(client, _)| waits(client));
        places.shrink_to(most);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A line, and beside it who waits, in the order in which they began to.
    #[derive(Default)]
    struct Model {
        places: Places,
        waiting: BTreeMap<Tick, ClientId>,
        /// Clients that are there and don't wait.
        others: usize,
        began: u32,
        /// The most places there ever were, and the room for them.
        most: (usize, usize),
    }

    impl Model {
        fn begins(&mut self) {
            self.began += 1;
            // The slot of one that has gone is given to the next, as a shard does it.
            let slot = u32::try_from(self.waiting.len()).unwrap();
            let client = ClientId::new(0, slot, self.began, 0);
            self.waiting.insert(self.began, client);
            self.places.push_back((client, self.began));
            let waiting: Vec<_> = self.waiting.values().copied().collect();
            let clients = waiting.len() + self.others;
            close_ranks(&mut self.places, clients, |client| waiting.contains(&client));
            assert!(self.places.len() <= 2 * clients + STALE);
            self.most.0 = self.most.0.max(self.places.len());
            self.most.1 = self.most.1.max(self.places.capacity());
        }

        /// One goes without being heard.
        fn goes(&mut self, which: usize) {
            if let Some(&began) = self.waiting.keys().nth(which % self.waiting.len().max(1)) {
                self.waiting.remove(&began);
            }
        }

        /// The first that still waits is listened to.
        fn is_heard(&mut self) {
            let first = std::iter::from_fn(|| self.places.pop_front())
                .find(|(client, began)| self.waiting.get(began) == Some(client));
            assert_eq!(first.map(|(client, began)| (began, client)), self.waiting.pop_first());
        }
    }

    #[test]
    fn who_has_gone_takes_up_no_room_however_many_they_were() {
        let mut line = Model { others: 3, ..Model::default() };
        line.begins();
        let first = line.places[0];
        for _ in 0..100_000 {
            line.begins();
            line.goes(1);
        }
        let (places, room) = line.most;
        // Two waited at a time, of five clients.
        assert_eq!(places, 2 * 5 + STALE);
        assert!(room <= 2 * places.next_power_of_two(), "{room}");
        line.begins();
        assert_eq!(line.places[0], first, "it has kept its place");
        line.is_heard();
        line.is_heard();
        assert!(line.waiting.is_empty());
    }

    #[test]
    fn after_a_crowd_has_gone_its_room_is_given_back() {
        let mut line = Model::default();
        for _ in 0..10_000 {
            line.begins();
        }
        assert_eq!(line.places.len(), 10_000, "nobody who waits is taken out");
        for _ in 1..10_000 {
            line.goes(0);
        }
        line.begins();
        assert_eq!(line.places.len(), 2);
        assert!(line.places.capacity() <= 2 * (4 + STALE), "{}", line.places.capacity());
        line.is_heard();
        line.is_heard();
        line.is_heard();
    }

    proptest! {
        #[test]
        fn the_order_is_kept_whoever_goes(
            steps in prop::collection::vec((0u8..8, 0usize..1000), 0..1500),
            others in 0usize..10,
        ) {
            let mut line = Model { others, ..Model::default() };
            for (step, which) in steps {
                match step {
                    0..4 => line.begins(),
                    4..7 => line.goes(which),
                    _ => line.is_heard(),
                }
            }
            while !line.waiting.is_empty() {
                line.is_heard();
            }
        }
    }
}
