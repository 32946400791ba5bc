//! Fan-out: the same bytes onto many sockets, past the queues or through them.
//!
//! What waits for the shard comes as *runs*: messages for the same clients, one behind the other.
//! A client for whom nothing waits can't refuse a message, so a call can be answered before any of
//! these clients is even looked at; only the *laden*, who have something queued, are asked first:
//!
//! ```text
//!   run ──► laden clients ──► queue, or limits.slow_client
//!    │            └── exact numbers ──► answers
//!    └────► all others ──► one send(2) each, of the whole run ──► what a socket doesn't take: queue
//! ```
//!
//! If messages for other clients wait behind the run, everybody is treated as laden: queued now and
//! written at the end of the turn, so that all that waits for one client leaves in one system call.

use std::{
    io::{
        ErrorKind::{Interrupted, WouldBlock},
        Write,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use fixedbitset::FixedBitSet;
use smallvec::{SmallVec, smallvec};

use super::{
    answer::Answer,
    bundle::Bundle,
    caps::Caps,
    door::Door,
    encode::Press,
    inbox::Clients,
    outbound::{Meter, State},
    run::{Loop, Work},
    session::{Hearing, Session, slot_at},
    tunnel::Tunnels,
    wheel::Tick,
};
use crate::{
    close::{Cause, Close, code},
    message::{Payload, Receipt},
    metrics::{Drop, ShardStats},
    wire,
};

/// Messages that are written to a client at once. More save little: by then the system call is a
/// small part.
const LONGEST_RUN: usize = 64;

/// Bytes that are written to a client at once, unless a single message is longer: with more, a large
/// crowd would keep everybody else from being heard for too long.
const LARGEST_RUN: usize = 64 * 1024;

/// Messages for the same clients that wait one behind the other, and whom to answer for each.
pub(super) type Run = SmallVec<[(Payload, Answer); 1]>;

/// What became of each message of a run.
pub(super) type Receipts = SmallVec<[Receipt; 1]>;

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
    /// Every session with something in its queue. It may hold one whose queue was emptied in this
    /// turn, but never lacks one. A client with TLS is in it as long as it lives: what is sent to it
    /// has to pass its tunnel.
    pub(super) laden: FixedBitSet,
    /// The TLS of those who have it.
    pub(super) tunnels: Tunnels,
    pub(super) press: Press,
    /// Clients that a fan-out found to be too slow or gone; they are closed right after it.
    pub(super) victims: Vec<(u32, Cause)>,
}

/// What a fan-out wrote past the queues, counted once at its end.
#[derive(Default)]
struct Sent {
    bytes: u64,
    messages: u64,
}

/// What became of the messages that were written to one client.
enum Written {
    All,
    /// So many bytes were taken; the rest has to wait.
    Part(usize),
    /// The connection is broken.
    Lost,
}

impl Desk {
    pub(super) fn new(stats: Arc<ShardStats>, caps: Caps, meter: Meter, now: Instant) -> Self {
        Self {
            stats,
            caps,
            meter,
            now,
            tick: 0,
            dirty: Vec::new(),
            laden: FixedBitSet::new(),
            tunnels: Tunnels::default(),
            press: Press::default(),
            victims: Vec::new(),
        }
    }

    /// Asks for the socket to be flushed at the end of the turn: something was queued, or its
    /// queue can go on.
    pub(super) fn mark_dirty(&mut self, slot: u32, session: &mut Session) {
        if !session.flags.dirty {
            session.flags.dirty = true;
            self.dirty.push(slot);
            self.laden.grow_and_insert(slot as usize);
        }
    }

    /// Writes the messages of a bundle to a client for whom nothing waits. Answers how much of it
    /// the socket took, if that is not all.
    fn write(&mut self, door: &Door, bundle: &mut Bundle<'_>, sent: &mut Sent) -> Written {
        let Self { caps, press, meter, .. } = self;
        let form = bundle.form(door.window(), caps, press, meter);
        let bytes = form.bytes();
        match { door }.write(bytes) {
            Ok(taken) if taken == bytes.len() => {
                sent.bytes += taken as u64;
                sent.messages += form.frames().len() as u64;
                Written::All
            }
            Ok(taken) => Written::Part(taken),
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => Written::Part(0),
            Err(_) => Written::Lost,
        }
    }

    /// What the socket didn't take of a bundle is queued, or lost if the client is.
    fn after_write(
        &mut self,
        slot: u32,
        door: &Door,
        session: &mut Session,
        bundle: &mut Bundle<'_>,
        (written, sent): (Written, &mut Sent),
    ) {
        let Self { caps, press, meter, .. } = self;
        match written {
            Written::All => {}
            Written::Part(taken) => {
                let form = bundle.form(door.window(), caps, press, meter);
                let flushed = session.out.go_on_with(form.frames(), taken, meter);
                sent.bytes += flushed.bytes;
                sent.messages += flushed.messages;
                // Not marked as blocked: the flush at the end of the turn finds out how it is then.
                self.mark_dirty(slot, session);
            }
            Written::Lost => {
                self.stats.drop_messages(Drop::Closed, bundle.len() as u64);
                session.flags.doomed = true;
                self.victims.push((slot, Cause::Lost));
            }
        }
    }

    /// Drops what waits for the client and is worth nothing any more.
    pub(super) fn drop_expired(&self, session: &mut Session) {
        let expired = session.out.drop_expired(self.now, &self.meter);
        self.stats.drop_messages(Drop::Expired, expired);
    }

    /// Writes what the socket takes, and counts it, whatever became of the connection then.
    pub(super) fn flush(&mut self, slot: u32, mut door: &Door, session: &mut Session) -> State {
        self.drop_expired(session);
        let flushed = if door.is_sealed() {
            self.tunnels.flush(slot, door, &mut session.out, &self.meter)
        } else {
            session.out.flush(&mut door, &self.meter)
        };
        session.flags.blocked = flushed.state == State::Blocked;
        session.flags.writable = false;
        session.flags.sent_close |= flushed.closed;
        self.stats.bytes_out.add(flushed.bytes);
        self.stats.messages_out.add(flushed.messages);
        flushed.state
    }
}

impl Loop {
    /// The message and those behind it for the same clients, as many as fit into an empty queue:
    /// so that a client for whom nothing waits can take all of them.
    pub(super) fn run_of(&mut self, clients: &Clients, payload: Payload, answer: Answer) -> Run {
        let room = self.desk.caps.queue_bytes.min(LARGEST_RUN);
        let mut room = room.saturating_sub(wire::framed(payload.bytes.len()));
        let mut run = Run::new();
        run.push((payload, answer));
        let most = self.desk.caps.queue_entries.min(LONGEST_RUN);
        while run.len() < most
            && let Some(Work::Send(others, payload, _)) = self.work.front()
            && others == clients
            && let Some(left) = room.checked_sub(wire::framed(payload.bytes.len()))
            && let Some(Work::Send(_, payload, answer)) = self.work.pop_front()
        {
            room = left;
            run.push((payload, answer));
        }
        run
    }

    /// Delivers a run of messages to each of the clients; `last` says that nothing waits behind it.
    /// Answers how many deliveries that were.
    pub(super) fn deliver(&mut self, clients: &Clients, run: Run, last: bool) -> usize {
        let slots = match clients {
            Clients::All => None,
            some => Some(self.slots_of(some)),
        };
        let (payloads, answers): (SmallVec<[_; 1]>, SmallVec<[_; 1]>) = run.into_iter().unzip();
        let mut bundle = Bundle::new(&payloads, &self.clock);
        let receipts = self.queue(slots.as_deref(), &mut bundle, last);
        let deliveries = receipts.iter().map(|receipt| receipt.matched).sum();
        for (answer, receipt) in answers.into_iter().zip(receipts) {
            answer.give(receipt);
        }
        if last {
            self.write_through(slots.as_deref(), &mut bundle);
            self.close_victims();
        }
        drop(bundle);
        self.shed_queues();
        deliveries
    }

    /// Queues messages for one client; they go out at the end of the turn. Answers what became of
    /// each.
    pub(super) fn deliver_to(&mut self, slot: u32, payloads: &[Payload]) -> Receipts {
        let mut bundle = Bundle::new(payloads, &self.clock);
        let receipts = self.queue(Some(&[slot]), &mut bundle, false);
        drop(bundle);
        self.shed_queues();
        receipts
    }

    /// Queues the messages for those of the clients who are laden, or for all of them, and answers
    /// what becomes of each for all of them. Who is too slow for it is closed.
    fn queue(
        &mut self,
        slots: Option<&[u32]>,
        bundle: &mut Bundle<'_>,
        only_laden: bool,
    ) -> Receipts {
        // Each open session is counted there once.
        let open = || usize::try_from(self.desk.stats.clients.get()).unwrap_or(usize::MAX);
        let matched = slots.map_or_else(open, <[u32]>::len);
        let mut receipts = smallvec![Receipt::all_queued(matched); bundle.len()];
        self.offer_to(slots, bundle, &mut receipts, only_laden);
        self.close_victims();
        let queued = receipts.iter().map(|receipt| receipt.queued as u64).sum();
        self.desk.stats.messages_queued.add(queued);
        receipts
    }

    /// Offers the messages to those of the clients who are laden, or to all of them; takes off the
    /// receipts who did not take them.
    fn offer_to(
        &mut self,
        slots: Option<&[u32]>,
        bundle: &mut Bundle<'_>,
        receipts: &mut [Receipt],
        only_laden: bool,
    ) {
        let Self { sessions, doors, desk, .. } = self;
        let mut offer = |desk: &mut Desk, slot: u32, session: &mut Session| {
            let Some(door) = doors.open(slot) else { return };
            desk.offer_all(slot, door, session, bundle, |index, offer| {
                offer.enter(&mut receipts[index]);
            });
        };
        match slots {
            None if only_laden => {
                for slot in desk.laden.ones().collect::<Vec<_>>() {
                    if let Some(session) = sessions.get_mut(slot) {
                        offer(desk, slot_at(slot), session);
                    }
                }
            }
            None => {
                for (slot, session) in sessions {
                    offer(desk, slot_at(slot), session);
                }
            }
            Some(slots) => {
                for &slot in slots {
                    if (!only_laden || desk.laden.contains(slot as usize))
                        && let Some(session) = sessions.get_mut(slot as usize)
                    {
                        offer(desk, slot, session);
                    }
                }
            }
        }
    }

    /// Writes the messages to those of the clients who are not laden.
    fn write_through(&mut self, slots: Option<&[u32]>, bundle: &mut Bundle<'_>) {
        let mut sent = Sent::default();
        let Self { sessions, doors, desk, .. } = self;
        let mut write = |slot: u32, door: &Door| {
            if desk.laden.contains(slot as usize) {
                return;
            }
            let step = AssertUnwindSafe(|| desk.write(door, bundle, &mut sent));
            let written = catch_unwind(step);
            if let Ok(Written::All) = written {
                return;
            }
            let Some(session) = sessions.get_mut(slot as usize) else { return };
            if let Ok(written) = written {
                desk.after_write(slot, door, session, bundle, (written, &mut sent));
            } else {
                desk.fault(slot, session);
                desk.stats.drop_messages(Drop::Closed, bundle.len() as u64);
            }
        };
        match slots {
            None => doors.all_open().for_each(|(slot, door)| write(slot_at(slot), door)),
            Some(slots) => {
                let doors = slots.iter().filter_map(|&slot| Some((slot, doors.open(slot)?)));
                doors.for_each(|(slot, door)| write(slot, door));
            }
        }
        self.desk.stats.bytes_out.add(sent.bytes);
        self.desk.stats.messages_out.add(sent.messages);
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
        let Some(door) = self.doors.get(slot) else { return };
        if session.may_write() {
            match self.desk.flush(slot, door, session) {
                State::Unfinished => self.desk.mark_dirty(slot, session),
                State::Empty | State::Blocked => {}
                State::Broken => return self.lost(slot),
            }
        }
        if session.out.is_empty() && !door.is_sealed() {
            self.desk.laden.remove(slot as usize);
        }
        if session.flags.sent_close {
            return self.after_close_frame(slot);
        }
        if session.flags.hearing == Hearing::Paused && self.desk.has_drained(session) {
            session.flags.hearing = Hearing::Heard;
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

#[cfg(test)]
mod tests;
