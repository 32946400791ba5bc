//! Ends that wait for answers.
//!
//! Who listens may answer what a client says, and the client may say goodbye, or break the protocol,
//! right behind it. Closed at once, it would never get the answer. So for up to `events.answer_wait`
//! its end is put off until all that it said before was answered:
//!
//! ```text
//!  goodbye ─► nothing unanswered ─► inbox carried out ──► close
//!      └────► unanswered: not read any more ─► answered ───►│
//!                    still open, can be sent to └─ time over ►│
//! ```
//!
//! * An answer is on its way to the shard before its event counts as answered. So first it is looked
//!   who was answered, then the inbox is taken and carried out, then those are closed. That holds also
//!   for who had nothing unanswered when it said goodbye: the last answer may be in the inbox still.
//! * A client whose end waits can be closed by all else, as any other. That its connection broke is
//!   seen when it is closed.

use super::{run::Loop, session::Hearing, wheel::Tick};
use crate::{close::Close, config::Messages, ids::ClientId, sink::Unanswered};

/// The ends that wait.
#[derive(Default)]
pub(super) struct Farewells {
    waiting: Vec<Farewell>,
    /// Those that need wait no longer than for the work at hand.
    answered: Vec<(ClientId, Close)>,
}

struct Farewell {
    client: ClientId,
    close: Close,
    until: Tick,
    /// Nothing, if all it said was answered when its end came.
    unanswered: Option<Unanswered>,
}

impl Farewells {
    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.answered.is_empty()
    }
}

impl Loop {
    /// Begins to close the client as soon as what it said was answered, and the answers carried out.
    pub(super) fn close_when_answered(&mut self, slot: u32, close: Close) {
        let wait = self.desk.caps.answer_wait.filter(|_| self.desk.caps.messages != Messages::Drop);
        if let Some(wait) = wait
            && let Some(session) = self.sessions.get_mut(slot as usize)
        {
            self.desk.set_hearing(session, Hearing::Leaves);
            let client = session.id;
            let unanswered = self.ear.unanswered(client);
            let until = self.desk.tick.saturating_add(wait);
            self.farewells.waiting.push(Farewell { client, close, until, unanswered });
            return;
        }
        self.close(slot, &close);
    }

    /// Finds those that were answered by now, and those that have waited long enough.
    pub(super) fn look_for_answers(&mut self) {
        let now = self.desk.tick;
        let over =
            |it: &mut Farewell| now >= it.until || !it.unanswered.as_ref().is_some_and(|it| it());
        let over = self.farewells.waiting.extract_if(.., over);
        self.farewells.answered.extend(over.map(|it| (it.client, it.close)));
    }

    /// Closes those, once the work is done that came before.
    pub(super) fn end_answered(&mut self) {
        if !self.work.is_empty() {
            return;
        }
        for (client, close) in std::mem::take(&mut self.farewells.answered) {
            if let Some(slot) = self.find(client) {
                self.guard(slot, |shard| shard.close(slot, &close));
            }
        }
    }
}
