//! The line of clients that wait for room for what they said.
//!
//! Who listens may say of a message that there is no room for it. Then the message is put back in
//! front of what its client said after it, as a frame that is heard again, and the client isn't read
//! until there is room: its socket fills, and TCP makes the client itself wait. Nobody else notices,
//! but for those who say something, too: they stand behind it.
//!
//! ```text
//!  said ─► ear: no room ─► [the message again][what was read after it] ─► end of the line
//!            ▲                                                                   │
//!            └──────────── room: the first in line is listened to again ◄────────┘
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
//! * Who stands here is counted (`waiting_clients`), until it is listened to again or closed.

use std::collections::{HashMap, VecDeque};

use super::{
    deliver::Desk,
    run::Loop,
    session::{Allowance, Hearing, Rates, Session},
    wheel::Tick,
};
use crate::{config::Messages, ids::ClientId, sink::Heard};

/// Clients of the line that are listened to in one turn.
const HEARD_PER_TURN: usize = 256;

/// Places of the line that may be stale beyond one for each client.
const STALE: usize = 64;

/// The places of a line: clients, and since when; some may have gone.
type Places = VecDeque<(ClientId, Tick)>;

/// Who waits, in the order in which they began to.
#[derive(Default)]
pub(super) struct Line {
    places: Places,
    /// Whose turn it is.
    turn: Option<u32>,
    /// Something was taken of what that client said.
    taken: bool,
    /// There is room for those behind, in the next turn.
    goes_on: bool,
    /// Ticks that clients have waited, by slot, and that their rates were not yet measured by.
    waited: HashMap<u32, Tick>,
}

impl Line {
    /// Whether the next turn must not be waited for.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Whether the client has to stand in line, whatever room there is.
    pub(super) fn bars(&self, slot: u32) -> bool {
        !self.places.is_empty() && self.turn != Some(slot)
    }

    /// What became of a message that was offered.
    pub(super) fn note(&mut self, heard: Heard) {
        self.taken |= heard == Heard::Taken;
    }

    /// The time a client has waited and was not measured by.
    pub(super) fn grace(&self, slot: u32) -> Tick {
        // Nobody pays for this where nobody waits.
        if self.waited.is_empty() { 0 } else { self.waited.get(&slot).copied().unwrap_or(0) }
    }

    /// Whether what a client said too much can have come while it waited.
    pub(super) fn is_excused(&mut self, slot: u32, said: &mut Allowance, rates: Rates) -> bool {
        self.waited.get_mut(&slot).is_some_and(|ticks| said.work_off(ticks, rates))
    }

    /// A client is gone; its place is found stale when it comes up.
    pub(super) fn forget(&mut self, slot: u32) {
        if !self.waited.is_empty() {
            self.waited.remove(&slot);
        }
    }
}

impl Desk {
    /// Whether a client is listened to from now on; who waits in the line is counted.
    pub(super) fn set_hearing(&self, session: &mut Session, hearing: Hearing) {
        let waited = session.waits();
        session.flags.hearing = hearing;
        match (waited, session.waits()) {
            (false, true) => self.stats.waiting_clients.add(1),
            (true, false) => self.stats.waiting_clients.sub(1),
            _ => {}
        }
    }
}

impl Loop {
    /// Puts back a message that found no room, with what its client could say `before` it, and its
    /// client into the line.
    pub(super) fn wait_for_room(
        &mut self,
        slot: u32,
        before: (Allowance, Tick),
        message: Box<[u8]>,
    ) {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        let (allowance, grace) = before;
        session.allowance = allowance;
        if grace > 0 {
            self.line.waited.insert(slot, grace);
        }
        self.desk.set_hearing(session, Hearing::Waits);
        self.partial += message.len();
        session.unread = Some(message);
        self.line.places.push_back((session.id, self.desk.tick));
        let mut places = std::mem::take(&mut self.line.places);
        close_ranks(&mut places, self.sessions.len(), |client| self.waiting(client).is_some());
        self.line.places = places;
    }

    /// The slot of a client, if it still waits.
    fn waiting(&self, client: ClientId) -> Option<u32> {
        self.find(client).filter(|&slot| self.sessions[slot as usize].waits())
    }

    /// Listens to those who have waited longest, as long as there is room.
    pub(super) fn hear_line(&mut self) {
        self.line.goes_on = false;
        for _ in 0..HEARD_PER_TURN {
            if self.line.places.is_empty() {
                return;
            }
            // Where nobody is to hear what they say there is room for all of it.
            if self.desk.caps.messages != Messages::Drop
                && !self.ask_ear(false, |ear| ear.has_room())
            {
                return;
            }
            let Some((client, since)) = self.line.places.pop_front() else { return };
            let Some(slot) = self.waiting(client) else { continue };
            (self.line.turn, self.line.taken) = (Some(slot), false);
            self.guard(slot, |shard| shard.hear_waiting(slot, since));
            self.line.turn = None;
            if self.waiting(client).is_some() {
                // No room any more. If for not even one message, it keeps its place.
                if !self.line.taken {
                    self.line.places.rotate_right(1);
                }
                return;
            }
        }
        self.line.goes_on = !self.line.places.is_empty();
    }

    /// Listens to a client that has waited.
    fn hear_waiting(&mut self, slot: u32, since: Tick) {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        self.desk.set_hearing(session, Hearing::Heard);
        // What answers a ping may have come long ago.
        session.asked = None;
        if self.desk.caps.rates != Rates::default() {
            let waited = self.line.waited.entry(slot).or_default();
            *waited = waited.saturating_add(self.desk.tick.saturating_sub(since));
        }
        // Time didn't count while the client was not listened to.
        self.watch(slot, false);
        self.read(slot);
        let Some(session) = self.sessions.get(slot as usize) else { return };
        // Its silence counts again.
        let (now, timer) = (self.desk.tick, session.timer);
        if let Some(next) = self.desk.caps.next_look(session)
            && (timer <= now || timer > next.max(now + 1))
        {
            self.schedule(slot);
        }
    }
}

/// Takes those out of a line who have gone, if there may be many of them: clients came, waited, were
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
