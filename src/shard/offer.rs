//! Offering a message to one client: whether its queue takes it, and what happens if not.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use super::{
    bundle::Bundle,
    deliver::Desk,
    door::Door,
    outbound::{Frame, Sort, State},
    session::Session,
};
use crate::{
    close::Cause,
    config::SlowClient,
    ids::Name,
    message::{Receipt, WhenBehind},
    metrics::Drop,
};

/// What became of one message for one client.
pub(super) enum Offer {
    /// The client is not there any more.
    Gone,
    /// It waits; so many earlier messages made place for it.
    Queued(u64),
    /// The client is behind, and the message was not to wait.
    Behind,
    /// The queue is full.
    Full,
    /// The client is being closed, for this message or by a fault.
    Closed,
}

impl Offer {
    /// Corrects a receipt that says that everybody has queued the message.
    pub(super) fn enter(self, receipt: &mut Receipt) {
        if let Self::Queued(replaced) = self {
            receipt.replaced += usize::try_from(replaced).unwrap_or(usize::MAX);
            return;
        }
        receipt.queued -= 1;
        match self {
            Self::Gone | Self::Queued(_) => receipt.matched -= 1,
            Self::Behind => receipt.behind += 1,
            Self::Full => receipt.full += 1,
            Self::Closed => receipt.closed += 1,
        }
    }
}

impl Desk {
    /// Whether nothing more fits into the client's queue.
    pub(super) fn is_full(&self, session: &Session) -> bool {
        session.out.bytes() >= self.caps.queue_bytes || session.out.len() >= self.caps.queue_entries
    }

    /// Whether a message of `bytes` fits; into an empty queue any message does, since what is
    /// larger than the queue could otherwise never be sent to anybody.
    pub(super) fn fits(&self, session: &Session, bytes: usize) -> bool {
        session.out.is_empty()
            || session.out.bytes() + bytes <= self.caps.queue_bytes
                && session.out.len() < self.caps.queue_entries
    }

    /// Whether it fits if all with the key that can be replaced make place for it.
    fn fits_in_place_of(&self, key: Option<&Name>, session: &Session, bytes: usize) -> bool {
        let out = &session.out;
        self.fits(session, bytes)
            || key.is_some_and(|key| {
                let (entries, replaced) = out.unsent_with_key(key);
                entries > 0
                    && (out.len() == entries
                        || out.bytes() - replaced + bytes <= self.caps.queue_bytes
                            && out.len() - entries < self.caps.queue_entries)
            })
    }

    /// Drops what is replaced; answers how many messages that were.
    fn replace(&self, key: Option<&Name>, session: &mut Session) -> u64 {
        let replaced = key.map_or(0, |key| session.out.drop_with_key(key, &self.meter));
        self.stats.drop_messages(Drop::Replaced, replaced);
        replaced
    }

    /// Queues a message for one client, if it takes it.
    pub(super) fn offer(
        &mut self,
        slot: u32,
        door: &Door,
        session: &mut Session,
        (frame, when_behind): (Rc<Frame>, &WhenBehind),
    ) -> Offer {
        if !session.is_open() || session.flags.doomed {
            return Offer::Gone;
        }
        let mut key = None;
        match when_behind {
            WhenBehind::Drop if session.flags.blocked => {
                self.stats.drop_messages(Drop::Behind, 1);
                return Offer::Behind;
            }
            WhenBehind::Queue | WhenBehind::Drop => {}
            WhenBehind::Conflate(name) => {
                // What is worth nothing any more can't be replaced.
                self.drop_expired(session);
                key = Some(name);
            }
        }
        let mut replaced = 0;
        if !self.fits_in_place_of(key, session, frame.len()) {
            match self.make_room(slot, door, session, (frame.len(), key)) {
                Ok(meanwhile) => replaced = meanwhile,
                Err(refused) => return refused,
            }
        }
        // Only now: who is refused replaces nothing.
        replaced += self.replace(key, session);
        session.out.append(frame, Sort::Message, &self.meter);
        self.mark_dirty(slot, session);
        Offer::Queued(replaced)
    }

    /// Queues the messages of a bundle for one client; answers what became of each.
    pub(super) fn offer_all(
        &mut self,
        slot: u32,
        door: &Door,
        session: &mut Session,
        bundle: &mut Bundle<'_>,
        mut outcome: impl FnMut(usize, Offer),
    ) {
        for index in 0..bundle.len() {
            // A panic marks this client for closing; the others get their message all the same.
            let offered = catch_unwind(AssertUnwindSafe(|| {
                let Self { caps, press, meter, .. } = self;
                let form = bundle.form(door.window(), caps, press, meter);
                let frame = Rc::clone(&form.frames()[index]);
                self.offer(slot, door, session, (frame, bundle.when_behind(index)))
            }));
            outcome(index, offered.unwrap_or_else(|_| self.fault(slot, session)));
        }
    }

    /// A panic in the step of one client marks it for closing.
    pub(super) fn fault(&mut self, slot: u32, session: &mut Session) -> Offer {
        self.stats.panics.add(1);
        session.flags.doomed = true;
        self.victims.push((slot, Cause::Fault));
        Offer::Closed
    }

    /// The queue is full: write what the socket takes, then apply `limits.slow_client`. Answers how
    /// many messages with the key were replaced for it.
    fn make_room(
        &mut self,
        slot: u32,
        door: &Door,
        session: &mut Session,
        (bytes, key): (usize, Option<&Name>),
    ) -> Result<u64, Offer> {
        self.drop_expired(session);
        if self.fits_in_place_of(key, session, bytes) {
            return Ok(0);
        }
        // A flush that ended with its turn says nothing of how fast the client reads.
        let mut state = State::Unfinished;
        while state == State::Unfinished && session.may_write() {
            state = self.flush(slot, door, session);
            if state == State::Broken {
                session.flags.doomed = true;
                self.victims.push((slot, Cause::Lost));
                return Err(Offer::Closed);
            }
            if self.fits_in_place_of(key, session, bytes) {
                return Ok(0);
            }
        }
        let mut refused = Offer::Full;
        match self.caps.slow_client {
            SlowClient::Disconnect => {
                session.flags.doomed = true;
                self.victims.push((slot, Cause::Slow));
                refused = Offer::Closed;
            }
            // Nothing is dropped for a message that would not fit afterwards either.
            SlowClient::DropOldest
                if session.out.begun_bytes() + bytes <= self.caps.queue_bytes =>
            {
                let replaced = self.replace(key, session);
                while !self.fits(session, bytes) {
                    if !session.out.drop_oldest(&self.meter) {
                        break;
                    }
                    self.stats.drop_messages(Drop::Oldest, 1);
                }
                if self.fits(session, bytes) {
                    return Ok(replaced);
                }
            }
            SlowClient::DropNewest | SlowClient::DropOldest => {}
        }
        self.stats.drop_messages(Drop::Newest, 1);
        Err(refused)
    }

    /// Whether a paused client has taken enough of its answers to be listened to again.
    pub(super) fn has_drained(&self, session: &Session) -> bool {
        session.out.bytes() <= self.caps.queue_bytes / 2
            && session.out.len() <= self.caps.queue_entries / 2
    }
}
