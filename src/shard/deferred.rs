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
//! * Acknowledgements come by the thousand, and so may goodbyes. So what waits is looked at in rounds, a
//!   few of it per turn: a round begins when the shard is woken, and with every tick.
//! * A client whose close waits can be closed by all else, as any other. That its connection broke is
//!   seen when it is closed.

use std::collections::VecDeque;

use super::wheel::Tick;
use crate::{close::Close, ids::ClientId, sink::Unanswered};

/// Closes that are looked at in one turn.
const LOOKED_AT: usize = 1024;

/// The closes that wait.
#[derive(Default)]
pub(super) struct DeferredCloses {
    /// Those that the round at hand has not come to yet are in front.
    waiting: VecDeque<Deferred>,
    /// How many these are.
    left: usize,
    /// When the last round began by itself.
    began: Tick,
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

    /// Whether the next turn must not be waited for.
    pub(super) fn goes_on(&self) -> bool {
        self.left > 0 || !self.answered.is_empty()
    }

    /// Puts the close of a client off.
    pub(super) fn defer(
        &mut self,
        client: ClientId,
        close: Box<Close>,
        until: Tick,
        unanswered: Option<Unanswered>,
    ) {
        self.waiting.push_front(Deferred { client, close, until, unanswered });
        self.left += 1;
    }

    /// The shard was woken: something may have been answered.
    pub(super) fn woken(&mut self) {
        self.left = self.waiting.len();
    }

    /// Finds some of those that were answered by now, or have waited long enough.
    pub(super) fn look(&mut self, now: Tick) {
        if std::mem::replace(&mut self.began, now) != now {
            self.left = self.waiting.len();
        }
        for _ in 0..self.left.min(LOOKED_AT) {
            self.left -= 1;
            let Some(it) = self.waiting.pop_front() else { return };
            if now < it.until && it.unanswered.as_ref().is_some_and(|it| it()) {
                self.waiting.push_back(it);
            } else {
                self.answered.push((it.client, it.close));
            }
        }
    }

    /// Those who are to be closed now: the work that came before has been done.
    pub(super) fn take_answered(&mut self) -> Vec<(ClientId, Box<Close>)> {
        std::mem::take(&mut self.answered)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    };

    use super::*;
    use crate::close::{Cause, code};

    #[test]
    fn many_that_wait_are_looked_at_few_per_turn_and_whoever_is_answered_is_found() {
        const MANY: u32 = 50_000;
        let looks = Arc::new(AtomicUsize::new(0));
        let answered = Arc::new(AtomicBool::new(false));
        let mut deferred = DeferredCloses::default();
        for slot in 0..MANY {
            let (looks, answered) = (Arc::clone(&looks), Arc::clone(&answered));
            let is_last = slot == 0;
            let unanswered = move || {
                looks.fetch_add(1, Relaxed);
                !(is_last && answered.load(Relaxed))
            };
            let close = Close::new(Cause::Peer, code::NORMAL, "");
            let client = ClientId::new(0, slot, 0, 0);
            deferred.defer(client, Box::new(close), 100, Some(Box::new(unanswered)));
        }
        // A thousand acknowledgements, each of which wakes the shard.
        for turn in 1..=1000 {
            deferred.woken();
            deferred.look(7);
            assert!(looks.load(Relaxed) <= turn * LOOKED_AT);
        }
        assert!(deferred.take_answered().is_empty());
        answered.store(true, Relaxed);
        deferred.woken();
        let mut turns = 0;
        while deferred.goes_on() && deferred.answered.is_empty() {
            deferred.look(7);
            turns += 1;
        }
        assert_eq!(deferred.take_answered().len(), 1);
        assert!(turns <= 1 + MANY as usize / LOOKED_AT, "{turns}");
        while deferred.goes_on() {
            deferred.look(7);
        }
        // Their time is over for all of them.
        while !deferred.is_empty() {
            deferred.look(100);
            assert!(deferred.take_answered().len() <= LOOKED_AT);
        }
    }
}
