//! Telling the shard's ear what clients do.
//!
//! A panic of the ear in the step of a session is that session's. Elsewhere it is counted, and the
//! shard goes on as if the ear had nothing to say.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    run::Loop,
    wheel::{STEP, Tick},
};
use crate::{
    close::{Cause, code},
    config::Messages,
    ids::{ClientId, Name},
    message::Kind,
    sink::{Closed, Ear, Heard, Opened, Who},
};

/// Slots that a roll call comes to in one turn.
const CALLED_PER_TURN: u32 = 1024;

impl Loop {
    /// A client has arrived.
    pub(super) fn tell_opened(&mut self, slot: u32) {
        if !self.ear.listens() {
            return;
        }
        let groups: Vec<Name> = self.groups_of(slot).cloned().collect();
        let Some(session) = self.sessions.get(slot as usize) else { return };
        self.ear.opened(&Opened {
            who: Who { client: session.id, uid: session.uid.as_ref() },
            groups: &groups,
            attributes: session.attributes.as_deref(),
            peer: session.peer(),
            about: session.about.as_ref(),
        });
    }

    /// A client said something.
    pub(super) fn tell_message(&mut self, slot: u32, kind: Kind, bytes: &[u8]) -> Heard {
        if self.desk.caps.messages == Messages::Drop {
            return Heard::Taken;
        }
        // Nobody gets ahead of those who wait.
        if self.line.bars(slot) {
            return Heard::NoRoom;
        }
        let Some(session) = self.sessions.get(slot as usize) else { return Heard::Taken };
        let who = Who { client: session.id, uid: session.uid.as_ref() };
        let heard = self.ear.message(who, kind, bytes);
        self.line.note(heard);
        heard
    }

    /// A client that came at `since` has gone. Whatever the ear makes of it, the client is let go.
    pub(super) fn tell_closed(
        &mut self,
        slot: u32,
        who: Who<'_>,
        since: Tick,
        (cause, code): (Cause, Option<u16>),
    ) {
        if !self.ear.listens() {
            return;
        }
        // Asking fails for no socket that is a connection of TCP, and nothing else is adopted.
        let traffic = self.doors.get(slot).and_then(|door| door.traffic().ok()).unwrap_or_default();
        let closed = Closed {
            cause,
            code: code.unwrap_or(code::NONE),
            lasted: STEP * self.desk.tick.saturating_sub(since),
            bytes_in: traffic.received,
            bytes_out: traffic.acknowledged,
        };
        self.ask_ear((), |ear| ear.closed(who, &closed));
    }

    /// Names the next clients of a roll call, if one is under way. It goes on every turn; if the ear
    /// panics, only when there is another turn anyway.
    pub(super) fn answer_roll_call(&mut self) {
        self.calling = false;
        let Some(from) = self.ask_ear(None, Ear::roll_call) else { return };
        let (end, until) = (self.doors.end(), from.saturating_add(CALLED_PER_TURN));
        let sessions = (from..until.min(end)).filter_map(|slot| self.sessions.get(slot as usize));
        let open = sessions.filter(|session| session.is_open());
        let clients: Vec<ClientId> = open.map(|session| session.id).collect();
        let next = (until < end).then_some(until);
        self.calling = self.ask_ear(false, |ear| {
            ear.present(&clients, next);
            true
        });
    }

    /// The turn is over.
    pub(super) fn end_turn(&mut self) {
        self.ask_ear((), Ear::end_turn);
    }

    /// Asks the ear outside of the step of a session; `otherwise` is the answer of one that panics.
    pub(super) fn ask_ear<T>(
        &mut self,
        otherwise: T,
        ask: impl FnOnce(&mut (dyn Ear + 'static)) -> T,
    ) -> T {
        catch_unwind(AssertUnwindSafe(|| ask(&mut *self.ear))).unwrap_or_else(|_| {
            self.desk.stats.panics.add(1);
            tracing::error!(shard = self.index, "a panic of who listens to the clients");
            otherwise
        })
    }
}
