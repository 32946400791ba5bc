//! Hearing a client: reading its socket, parsing, answering.
//!
//! All sessions of the shard read into one buffer; a session owns bytes only while a message is
//! incomplete, or while it isn't listened to: because it doesn't take its own answers, or because
//! there is no room for what it says (`line`).

use std::{
    io::{ErrorKind, Read},
    num::NonZero,
    rc::Rc,
};

use super::{
    deliver::Desk,
    door::Door,
    encode::{PLAIN, frame_for_one},
    outbound::{Frame, Sort},
    run::Loop,
    session::{Hearing, Stage, slot_at},
};
use crate::{
    close::{Cause, Close, code},
    config::Messages,
    message::Kind,
    sink::Heard,
    wire::{self, Event, Flow, Violation},
};

/// Bytes of the buffer that all reads of the shard share.
const READ_BUFFER: usize = 64 * 1024;

/// Reads of one socket in one turn before its neighbours have theirs.
const READS_PER_TURN: usize = 4;

/// Frames that may wait while each ping still gets a pong of its own. Beyond that, and while the
/// client doesn't read, only the newest is answered, as RFC 6455 §5.5.3 allows.
const PONGS: usize = 64;

/// What a client says to be answered at once; 1.x clients keep themselves alive with it.
const PING: &[u8] = b"ping";

impl Loop {
    /// Goes on with a session whose input was left over.
    pub(super) fn read_again(&mut self, slot: u32) {
        if let Some(session) = self.sessions.get_mut(slot as usize) {
            session.flags.again = false;
            // Time didn't count while the client was not listened to.
            self.watch(slot, false);
            self.read(slot);
        }
    }

    /// Reads what the socket has, up to this turn's bound.
    pub(super) fn read(&mut self, slot: u32) {
        // A panic in an earlier step may have taken the buffer with it.
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ_BUFFER, 0);
        for _ in 0..READS_PER_TURN {
            if !self.read_once(slot, &mut buffer) {
                self.buffer = buffer;
                return;
            }
        }
        self.buffer = buffer;
        self.read_later(slot);
    }

    /// Reads once; true if there may be more.
    fn read_once(&mut self, slot: u32, buffer: &mut [u8]) -> bool {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return false;
        };
        if !session.is_heard() {
            return false;
        }
        if let Some(mut unread) = session.unread.take() {
            self.partial -= unread.len();
            self.hear(slot, &mut unread);
            return true;
        }
        let Some(mut door) = self.doors.get(slot) else {
            return false;
        };
        let sealed = door.is_sealed();
        if sealed && self.desk.tunnels.get(slot).is_none_or(|tunnel| tunnel.has_ended()) {
            self.hung_up(slot);
            return false;
        }
        match door.read(buffer) {
            Ok(0) => {
                self.hung_up(slot);
                false
            }
            Ok(count) => {
                session.heard = self.desk.tick;
                // With edge-triggered readiness a short read means that the next bytes will be
                // announced, unless the end of the stream was announced together with these.
                let more = count == buffer.len() || session.flags.hung_up;
                if !self.arrived(slot, count) {
                    return more;
                }
                if sealed {
                    return self.open(slot, &buffer[..count]) || more;
                }
                self.hear(slot, &mut buffer[..count]);
                more
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(_) => {
                self.lost(slot);
                false
            }
        }
    }

    /// Counts bytes that have just arrived, sealed or not; false if they are more than
    /// `limits.client_bytes` allows, in which case the client is closed and they aren't heard.
    ///
    /// Only here and only once: what is kept back until the client takes its answers was counted
    /// when it came.
    pub(super) fn arrived(&mut self, slot: u32, count: usize) -> bool {
        let count = count as u64;
        self.desk.stats.bytes_in.add(count);
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return false;
        };
        if !session.is_open() || session.flags.deaf {
            return true;
        }
        if self.is_within_rates(slot, (0, count)) {
            return true;
        }
        let close = Close::new(Cause::Policy, code::POLICY, "over limits.client_bytes");
        self.close(slot, &close);
        false
    }

    /// Opens what came through a client's tunnel, and hears what it said; true if that was the last
    /// of it, so that the end has to be seen to.
    pub(super) fn open(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let Some(tunnel) = self.desk.tunnels.get(slot) else { return false };
        // A panic in an earlier step may have taken the buffer with it.
        let mut opened = std::mem::take(&mut self.opened);
        opened.clear();
        let outcome = tunnel.open(bytes, &mut opened);
        tunnel.count(&mut self.partial);
        self.desk.stats.partial_bytes.set(self.partial as u64);
        let (ended, answers) = (tunnel.has_ended(), tunnel.wants_write());
        if answers && let Some(session) = self.sessions.get_mut(slot as usize) {
            self.desk.mark_dirty(slot, session);
        }
        if !opened.is_empty() {
            self.hear(slot, &mut opened);
        }
        self.opened = opened;
        match outcome {
            Ok(any) => {
                // A message is waited for from its first record on, however many follow.
                let session = self.sessions.get(slot as usize);
                let mid_message = session.is_some_and(|session| session.decoder.mid_message());
                self.watch(slot, any && !mid_message);
                ended
            }
            Err(error) => {
                tracing::debug!(shard = self.index, slot, %error, "TLS failed");
                self.lost(slot);
                false
            }
        }
    }

    /// Parses bytes of the client and does what they ask.
    fn hear(&mut self, slot: u32, bytes: &mut [u8]) {
        let limits = self.desk.caps.wire;
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if session.flags.deaf {
            return;
        }
        let mut decoder = std::mem::take(&mut session.decoder);
        // Off the books while it is out of the session: a panic below takes it along.
        self.partial -= decoder.partial_bytes();
        let mut finished_one = false;
        let heard = decoder.feed(bytes, &limits, |event| {
            finished_one |= matches!(event, Event::Message { .. });
            self.on_event(slot, event)
        });
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if session.flags.deaf {
            decoder = wire::Decoder::default();
        }
        self.partial += decoder.partial_bytes();
        self.desk.stats.partial_bytes.set(self.partial as u64);
        session.decoder = decoder;
        match heard {
            Ok(consumed) if consumed < bytes.len() && !session.flags.deaf => {
                self.keep_back(slot, &bytes[consumed..]);
            }
            Ok(_) => {}
            Err(violation) => return self.violated(slot, &violation),
        }
        self.watch(slot, finished_one);
    }

    /// Keeps bytes of the client until it is listened to again.
    pub(super) fn keep_back(&mut self, slot: u32, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        if bytes.is_empty() {
            return;
        }
        // Before them comes the message that found no room.
        let mut kept = session.unread.take().map(Vec::from).unwrap_or_default();
        kept.reserve_exact(bytes.len());
        kept.extend_from_slice(bytes);
        session.unread = Some(kept.into_boxed_slice());
        self.partial += bytes.len();
        self.desk.stats.partial_bytes.set(self.partial as u64);
    }

    /// Keeps the time since something of the client is incomplete, a message or a record of TLS;
    /// `anew` says that what was incomplete before is not what is now.
    pub(super) fn watch(&mut self, slot: u32, anew: bool) {
        let tunnel = self.desk.tunnels.get(slot);
        let mid_record = tunnel.is_some_and(|tunnel| tunnel.is_mid_record());
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        let incomplete = session.decoder.mid_message() || mid_record;
        // Who is not listened to can't go on with it.
        if !incomplete || !session.is_heard() {
            session.partial_since = None;
        } else if anew || session.partial_since.is_none() {
            let now = self.desk.tick;
            session.partial_since = Some(now);
            // Without pings and heartbeats nothing may be in the wheel at all.
            let deadline = self.desk.caps.message_deadline;
            if deadline.is_some_and(|limit| {
                session.timer <= now || session.timer > now.saturating_add(limit)
            }) {
                self.schedule(slot);
            }
        }
    }

    fn on_event(&mut self, slot: u32, event: Event<'_>) -> Flow {
        match event {
            Event::Message { kind, compressed: false, bytes } => self.on_message(slot, kind, bytes),
            Event::Message { kind, compressed: true, bytes } => self.inflate(slot, kind, bytes),
            Event::Ping(bytes) => {
                let frame = Frame::new(wire::pong(bytes), &self.desk.meter);
                // Nothing may follow a close frame (RFC 6455 §5.5.1), not even a pong.
                if let Some(session) = self.sessions.get_mut(slot as usize)
                    && session.is_open()
                {
                    if session.flags.blocked || session.out.len() >= PONGS {
                        session.out.set_pong(frame);
                    } else {
                        session.out.append(frame, Sort::Control, &self.desk.meter);
                    }
                    self.desk.mark_dirty(slot, session);
                }
                Flow::Continue
            }
            // Any byte counts as a sign of life; what is left to be learnt is how long it took.
            Event::Pong(_) => {
                if let Some(session) = self.sessions.get_mut(slot as usize)
                    && let Some(asked) = session.asked.take()
                {
                    let took = self.wheel.micros(self.clock.now()).get().wrapping_sub(asked.get());
                    session.round_trip = NonZero::new(took.max(1));
                }
                Flow::Continue
            }
            Event::Close(said) => {
                self.on_close(slot, said.map(|(code, _)| code));
                Flow::Stop
            }
        }
    }

    /// A compressed message: what it inflates to is bounded like any other message.
    fn inflate(&mut self, slot: u32, kind: Kind, bytes: &[u8]) -> Flow {
        let limit = self.desk.caps.wire.max_message;
        let mut inflated = std::mem::take(&mut self.inflated);
        let outcome = self.inflater.inflate(kind, bytes, limit, &mut inflated);
        let flow = match outcome {
            Ok(()) => self.on_message(slot, kind, &inflated),
            Err(violation) => {
                self.violated(slot, &violation);
                Flow::Stop
            }
        };
        wire::trim(&mut inflated);
        self.inflated = inflated;
        flow
    }

    fn on_message(&mut self, slot: u32, kind: Kind, bytes: &[u8]) -> Flow {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return Flow::Stop;
        };
        if !session.is_open() {
            // The client is on its way out: what it still says reaches nobody.
            return Flow::Continue;
        }
        let before = (session.allowance, self.line.grace(slot));
        if !self.is_within_rates(slot, (1, 0)) {
            self.desk.stats.messages_in.add(1);
            let close = Close::new(Cause::Policy, code::POLICY, "over limits.client_messages");
            self.close(slot, &close);
            return Flow::Continue;
        }
        if bytes == PING && self.answers_pings_in(kind) {
            self.desk.stats.messages_in.add(1);
            let pong = match kind {
                Kind::Text => &self.frames.text_pong,
                Kind::Binary => &self.frames.binary_pong,
            };
            let pong = Rc::clone(pong);
            return self.answer(slot, pong, Sort::Control);
        }
        if self.tell_message(slot, kind, bytes) == Heard::NoRoom {
            // As if it had not come yet: it is counted when it is heard.
            self.wait_for_room(slot, before, wire::as_heard(kind, bytes));
            return Flow::Stop;
        }
        self.desk.stats.messages_in.add(1);
        if self.desk.caps.messages == Messages::Echo {
            let Desk { caps, press, meter, .. } = &mut self.desk;
            let window = self.doors.get(slot).map_or(PLAIN, Door::window);
            let frame = frame_for_one(kind, bytes, window, caps, press, meter);
            return self.answer(slot, frame, Sort::Message);
        }
        Flow::Continue
    }

    /// Whether `ping` in a message of this kind is answered: in text always, a kindness to people
    /// who try by hand, and in the kind that `websocket.message_format` says, as in 1.x.
    fn answers_pings_in(&self, kind: Kind) -> bool {
        kind == Kind::Text || kind == self.desk.caps.message_format
    }

    /// Queues an answer to something the client said. A client that doesn't take its answers isn't
    /// listened to until it does, so it can't make its own queue grow.
    fn answer(&mut self, slot: u32, frame: Rc<Frame>, sort: Sort) -> Flow {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return Flow::Stop;
        };
        if sort == Sort::Message {
            self.desk.stats.messages_queued.add(1);
        }
        session.out.append(frame, sort, &self.desk.meter);
        self.desk.mark_dirty(slot, session);
        if self.desk.is_full(session) {
            session.flags.hearing = Hearing::Paused;
            return Flow::Stop;
        }
        Flow::Continue
    }

    /// The client broke the protocol (RFC 6455 §7.1.7): nothing that it says can be understood any
    /// more.
    fn violated(&mut self, slot: u32, violation: &Violation) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        match session.stage {
            Stage::Open => self.close_when_answered(slot, violation.close()),
            // Its close frame will never be heard: our part is done once ours is out.
            Stage::Closing(_) => self.desk.mark_dirty(slot, session),
        }
        self.stop_listening(slot);
    }

    /// The client's close frame arrived (RFC 6455 §5.5.1): answer it unless ours went first.
    fn on_close(&mut self, slot: u32, said: Option<u16>) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        session.flags.heard_close = true;
        session.flags.deaf = true;
        match session.stage {
            Stage::Open => {
                let close = Close::new(Cause::Peer, said.unwrap_or(code::NORMAL), "");
                self.close_when_answered(slot, close);
            }
            // The answer to ours: nothing is left to be said, once ours is out.
            Stage::Closing(_) => self.desk.mark_dirty(slot, session),
        }
    }

    /// The client's end of the stream.
    fn hung_up(&mut self, slot: u32) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if session.flags.heard_close && !session.flags.sent_close {
            // It said goodbye and shut its sending side; our answer is still to go out.
            return self.desk.mark_dirty(slot, session);
        }
        self.lost(slot);
    }

    /// Asks for the session to be read again next turn.
    pub(super) fn read_later(&mut self, slot: u32) {
        if let Some(session) = self.sessions.get_mut(slot as usize)
            && !session.flags.again
        {
            session.flags.again = true;
            self.again.push(slot);
        }
    }

    /// Whether what came of the client is no more than it may say.
    fn is_within_rates(&mut self, slot: u32, what: (u32, u64)) -> bool {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return true };
        let rates = self.desk.caps.rates;
        session.allowance.take(self.desk.tick, what, rates)
            || self.line.is_excused(slot, &mut session.allowance, rates)
    }

    /// Over the shard's share of `limits.partial_bytes`: closes the clients that hold most of it.
    pub(super) fn shed_partials(&mut self) {
        let share = self.desk.caps.partial_share;
        if self.partial <= share {
            return;
        }
        let holders = self.sessions.iter().filter(|(_, session)| session.is_open());
        let mut holders: Vec<_> = holders
            .map(|(slot, session)| {
                let sealed = self.desk.tunnels.counted(slot_at(slot));
                (session.unheard_bytes() + sealed, slot)
            })
            .filter(|&(bytes, _)| bytes > 0)
            .collect();
        holders.sort_unstable_by(|a, b| b.cmp(a));
        for (_, slot) in holders {
            // A tenth less than allowed, so that the next byte doesn't start the search anew.
            if self.partial <= share - share / 10 {
                break;
            }
            let slot = slot_at(slot);
            let reason = "limits.partial_bytes is used up";
            let close = Close::new(Cause::Budget, code::OVERLOADED, reason);
            self.guard(slot, |shard| shard.close(slot, &close));
        }
    }
}
