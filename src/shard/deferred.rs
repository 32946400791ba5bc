//! Closes that wait for answers.
//!
//! Who listens may answer what a client says, and the client may say goodbye, or break the protocol,
//! right behind it. Closed at once, it would never get the answer. So for up to `events.answer_wait`
//! its close is put off until all that it said before was answered:
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
//! * A client whose close waits can be closed by all else, as any other. That its connection broke is
//!   seen when it is closed.

use super::wheel::Tick;
use crate::{close::Close, ids::ClientId, sink::Unanswered};

/// The closes that wait.
#[derive(Default)]
pub(super) struct DeferredCloses {
    waiting: Vec<Deferred>,
    /// Those that need wait no longer than for the work at hand.
    answered: Vec<(ClientId, Box<Close>)>,
}

struct Deferred {
    client: ClientId,
    close: Box<Close>,
    until: Tick,
    /// Nothing, if all it said was answered when its close came.
    unanswered: Option<Unanswered>,
}

impl DeferredCloses {
    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.answered.is_empty()
    }

    /// Puts the close of a client off.
    pub(super) fn defer(
        &mut self,
        client: ClientId,
        close: Box<Close>,
        until: Tick,
        unanswered: Option<Unanswered>,
    ) {
        self.waiting.push(Deferred { client, close, until, unanswered });
    }

    /// Finds those that were answered by now, and those that have waited long enough.
    pub(super) fn look(&mut self, now: Tick) {
        let over =
            |it: &mut Deferred| now >= it.until || !it.unanswered.as_ref().is_some_and(|it| it());
        let over = self.waiting.extract_if(.., over);
        self.answered.extend(over.map(|it| (it.client, it.close)));
    }

    /// Those who are to be closed now: the work that came before has been done.
    pub(super) fn take_answered(&mut self) -> Vec<(ClientId, Box<Close>)> {
        std::mem::take(&mut self.answered)
    }
}
