//! Fan-out: the same frame into many queues, and out of the queues onto the sockets.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use super::{
    caps::Caps,
    encode::{Message, Press},
    inbox::Clients,
    outbound::{Flushed, Meter, Sort, State},
    run::Loop,
    session::{Session, slot_at},
    wheel::Tick,
};
use crate::{
    close::{Cause, Close, code},
    config::SlowClient,
    message::{Payload, Receipt},
    metrics::{Drop, ShardStats},
};

/// Everything that the step of one session needs besides the session: apart from the sessions, so
/// that a fan-out can walk these and use that.
pub(super) struct Desk {
    pub(super) stats: Arc<ShardStats>,
    pub(super) caps: Caps,
    pub(super) meter: Meter,
    pub(super) now: Instant,
    pub(super) tick: Tick,
    /// Sockets with something to write.
    pub(super) dirty: Vec<u32>,
    pub(super) press: Press,
    /// Clients that a fan-out found to be too slow or gone; they are closed right after it.
    victims: Vec<(u32, Cause)>,
}

/// What became of one message for one client.
enum Offer {
    /// The client is not there any more.
    Gone,
    Queued,
    Refused,
}

impl Desk {
    pub(super) fn new(stats: Arc<ShardStats>, caps: Caps, meter: Meter) -> Self {
        let (dirty, press, victims) = (Vec::new(), Press::default(), Vec::new());
        Self { stats, caps, meter, now: Instant::now(), tick: 0, dirty, press, victims }
    }

    /// Asks for the socket to be flushed at the end of the turn.
    pub(super) fn mark_dirty(&mut self, slot: u32, session: &mut Session) {
        if !session.flags.dirty {
            session.flags.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Whether nothing more fits into the client's queue.
    pub(super) fn is_full(&self, session: &Session) -> bool {
        session.out.bytes() >= self.caps.queue_bytes || session.out.len() >= self.caps.queue_entries
    }

    /// Whether a message of `bytes` fits; into an empty queue any message does, since what is
    /// larger than the queue could otherwise never be sent to anybody.
    fn fits(&self, session: &Session, bytes: usize) -> bool {
        session.out.is_empty()
            || session.out.bytes() + bytes <= self.caps.queue_bytes
                && session.out.len() < self.caps.queue_entries
    }

    fn offer(&mut self, slot: u32, session: &mut Session, message: &mut Message<'_>) -> Offer {
        if !session.is_open() || session.flags.doomed {
            return Offer::Gone;
        }
        let frame = message.frame(session.window, &self.caps, &mut self.press, &self.meter);
        if !self.fits(session, frame.len()) && !self.make_room(slot, session, frame.len()) {
            return Offer::Refused;
        }
        session.out.append(frame, Sort::Message, &self.meter);
        self.mark_dirty(slot, session);
        Offer::Queued
    }

    /// The queue is full: write what the socket takes, then apply `limits.slow_client`.
    fn make_room(&mut self, slot: u32, session: &mut Session, bytes: usize) -> bool {
        if !session.flags.blocked {
            if self.flush(session).is_err() {
                session.flags.doomed = true;
                self.victims.push((slot, Cause::Lost));
                return false;
            }
            if self.fits(session, bytes) {
                return true;
            }
        }
        match self.caps.slow_client {
            SlowClient::Disconnect => {
                session.flags.doomed = true;
                self.victims.push((slot, Cause::Slow));
            }
            // Nothing is dropped for a message that would not fit afterwards either.
            SlowClient::DropOldest
                if session.out.begun_bytes() + bytes <= self.caps.queue_bytes =>
            {
                while !self.fits(session, bytes) {
                    if !session.out.drop_oldest(&self.meter) {
                        break;
                    }
                    self.stats.drop_messages(Drop::Oldest, 1);
                }
                if self.fits(session, bytes) {
                    return true;
                }
            }
            SlowClient::DropNewest | SlowClient::DropOldest => {}
        }
        self.stats.drop_messages(Drop::Newest, 1);
        false
    }

    /// Writes what the socket takes.
    fn flush(&mut self, session: &mut Session) -> std::io::Result<Flushed> {
        let flushed = session.out.flush(&mut session.stream, &self.meter)?;
        session.flags.blocked = flushed.state == State::Blocked;
        session.flags.sent_close |= flushed.closed;
        self.stats.bytes_out.add(flushed.bytes);
        self.stats.messages_out.add(flushed.messages);
        Ok(flushed)
    }
}

impl Loop {
    /// Queues a message for each of the clients.
    pub(super) fn send(&mut self, clients: &Clients, payload: &Payload) -> Receipt {
        let mut receipt = Receipt::default();
        let mut message = Message::new(payload);
        if let Clients::All = clients {
            for (slot, session) in &mut self.sessions {
                let slot = slot_at(slot);
                offer_guarded(&mut self.desk, slot, session, &mut message, &mut receipt);
            }
        } else if let Clients::Group(name) = clients {
            for &slot in self.groups.members(name.as_str()) {
                if let Some(session) = self.sessions.get_mut(slot as usize) {
                    offer_guarded(&mut self.desk, slot, session, &mut message, &mut receipt);
                }
            }
        } else {
            for slot in self.slots_of(clients) {
                if let Some(session) = self.sessions.get_mut(slot as usize) {
                    offer_guarded(&mut self.desk, slot, session, &mut message, &mut receipt);
                }
            }
        }
        drop(message);
        self.desk.stats.messages_queued.add(receipt.queued as u64);
        self.close_victims();
        self.shed_queues();
        receipt
    }

    /// Writes to every socket that has something to be written.
    pub(super) fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.desk.dirty);
        for slot in dirty.drain(..) {
            self.guard(slot, |shard| shard.flush(slot));
        }
        // The list keeps its memory; on it are now those that have more to write next turn.
        dirty.append(&mut self.desk.dirty);
        self.desk.dirty = dirty;
    }

    fn flush(&mut self, slot: u32) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        session.flags.dirty = false;
        if !session.flags.blocked {
            match self.desk.flush(session) {
                Ok(flushed) if flushed.state == State::Unfinished => {
                    self.desk.mark_dirty(slot, session);
                }
                Ok(_) => {}
                Err(_) => return self.lost(slot),
            }
        }
        if session.flags.sent_close {
            return self.after_close_frame(slot);
        }
        if session.flags.paused && self.desk.has_drained(session) {
            session.flags.paused = false;
            self.read_later(slot);
        }
    }

    fn close_victims(&mut self) {
        while let Some((slot, cause)) = self.desk.victims.pop() {
            self.guard(slot, |shard| {
                if cause == Cause::Slow {
                    let reason = "does not read as fast as messages arrive";
                    shard.close(slot, &Close::new(cause, code::OVERLOADED, reason));
                } else {
                    shard.lost(slot);
                }
            });
        }
    }

    /// Over the shard's share of `limits.queued_bytes`: closes the clients with the longest queues.
    fn shed_queues(&mut self) {
        let share = self.desk.caps.queued_share;
        if self.desk.meter.get() <= share {
            return;
        }
        self.flush_dirty();
        if self.desk.meter.get() <= share {
            return;
        }
        let mut queues: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.is_open() && !session.out.is_empty())
            .map(|(slot, session)| (session.out.bytes(), slot))
            .collect();
        queues.sort_unstable_by(|a, b| b.cmp(a));
        for (_, slot) in queues {
            // A tenth less than allowed, so that the next message doesn't start the search anew.
            if self.desk.meter.get() <= share - share / 10 {
                break;
            }
            let slot = slot_at(slot);
            let close =
                Close::new(Cause::Budget, code::OVERLOADED, "limits.queued_bytes is used up");
            self.guard(slot, |shard| shard.close(slot, &close));
        }
    }
}

impl Desk {
    /// Whether a paused client has taken enough of its answers to be listened to again.
    fn has_drained(&self, session: &Session) -> bool {
        session.out.bytes() <= self.caps.queue_bytes / 2
            && session.out.len() <= self.caps.queue_entries / 2
    }
}

/// Offers the frame to one client; a panic in that step marks this client for closing, and the
/// others get their message all the same.
fn offer_guarded(
    desk: &mut Desk,
    slot: u32,
    session: &mut Session,
    message: &mut Message<'_>,
    receipt: &mut Receipt,
) {
    match catch_unwind(AssertUnwindSafe(|| desk.offer(slot, session, message))) {
        Ok(Offer::Gone) => {}
        Ok(Offer::Queued) => {
            receipt.matched += 1;
            receipt.queued += 1;
        }
        Ok(Offer::Refused) => receipt.matched += 1,
        Err(_) => {
            receipt.matched += 1;
            desk.stats.panics.add(1);
            session.flags.doomed = true;
            desk.victims.push((slot, Cause::Fault));
        }
    }
}
