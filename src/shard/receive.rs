//! Reading a client: its socket, its messages, and what is answered at once.
//!
//! All connections of the shard read into one buffer; a connection owns bytes only while a message is
//! incomplete, or while it isn't read: because it doesn't take its own answers, or because there is
//! no room for what it says ([`backpressure`](super::backpressure)).

use std::{
    io::{ErrorKind, Read},
    num::NonZero,
    rc::Rc,
};

use super::{
    connection::{Connection, ReadState, Stage},
    context::Context,
    effect::{Effect, Effects},
    encode::{PLAIN, frame_for_one},
    guard::guarded,
    memory::Budget,
    outbound::{Outbound, is_full},
    slot::Slot,
    socket::Socket,
    state::State,
    wheel::Tick,
    write_queue::{Frame, Sort},
};
use crate::{
    close::{Cause, Close, code},
    config::Messages,
    message::Kind,
    sink::Heard,
    wire::{self, Event, Flow, Inflater, Violation},
};

/// Bytes of the buffer that all reads of the shard share.
const READ_BUFFER: usize = 64 * 1024;

/// Reads of one socket in one turn before its neighbours have theirs.
const READS_PER_TURN: usize = 4;

/// Frames that may wait while each ping still gets a pong of its own. Beyond that, and while the
/// client doesn't read, only the newest is answered, as RFC 6455 §5.5.3 allows.
const PONGS: usize = 64;

/// Clients that waited for room and are read in one turn.
const WAITING_PER_TURN: usize = 256;

/// What a client says to be answered at once; 1.x clients keep themselves alive with it.
const PING: &[u8] = b"ping";

pub(super) struct Receiver {
    /// Memory of what was said and nobody has heard yet.
    pub(super) memory: Budget,
    /// Connections with input left over from the last turn.
    again: Vec<Slot>,
    /// Taken out while a connection is being read.
    buffer: Vec<u8>,
    /// What was opened of a client's TLS; taken out while it is being heard.
    opened: Vec<u8>,
    inflater: Inflater,
    /// What the inflater writes to; taken out while a message is being heard.
    inflated: Vec<u8>,
    /// The answers to `ping`, each to that of its kind.
    text_pong: Rc<Frame>,
    binary_pong: Rc<Frame>,
}

impl Receiver {
    pub(super) fn new(outbound: &Outbound) -> Self {
        let pong = |kind| Frame::constant(wire::encode(kind, b"pong"), &outbound.memory);
        Self {
            memory: Budget::default(),
            again: Vec::new(),
            buffer: Vec::new(),
            opened: Vec::new(),
            inflater: Inflater::default(),
            inflated: Vec::new(),
            text_pong: pong(Kind::Text),
            binary_pong: pong(Kind::Binary),
        }
    }

    /// Whether the next turn must not be waited for.
    pub(super) fn goes_on(&self) -> bool {
        !self.again.is_empty()
    }

    /// Asks for the connection to be read again next turn.
    pub(super) fn read_again(&mut self, slot: Slot, connection: &mut Connection) {
        if !connection.flags.again {
            connection.flags.again = true;
            self.again.push(slot);
        }
    }

    /// The connections to be read again.
    pub(super) fn take_again(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.again)
    }
}

/// Goes on with a connection whose input was left over.
pub(super) fn read_again(state: &mut State, slot: Slot, effects: &mut Effects) {
    if let Some(connection) = state.connections.get_mut(slot) {
        connection.flags.again = false;
        // Time didn't count while the client was not read.
        watch(state, slot, false);
        read(state, slot, effects);
    }
}

/// Reads those who have waited longest for room for what they said, as long as there is room.
pub(super) fn read_waiting(state: &mut State, effects: &mut Effects) {
    state.backpressure.begin();
    for _ in 0..WAITING_PER_TURN {
        let State { context, connections, backpressure, events, .. } = state;
        if backpressure.is_empty() {
            return;
        }
        // Where nobody is to hear what they say there is room for all of it.
        if context.settings.messages != Messages::Drop && !events.has_room(context) {
            return;
        }
        let Some((slot, client)) = backpressure.next(context, connections) else { return };
        guarded(slot, effects, |effects| {
            // Time didn't count while the client was not read.
            watch(state, slot, false);
            read(state, slot, effects);
            // Its silence counts again.
            effects.push(Effect::Schedule(slot));
        });
        if !state.backpressure.was_read(&state.connections, client) {
            return;
        }
    }
    state.backpressure.pause();
}

/// Reads what the socket has, up to this turn's bound.
pub(super) fn read(state: &mut State, slot: Slot, effects: &mut Effects) {
    // A panic in an earlier step may have taken the buffer with it.
    let mut buffer = std::mem::take(&mut state.receiver.buffer);
    buffer.resize(READ_BUFFER, 0);
    let mut more = true;
    for _ in 0..READS_PER_TURN {
        more = read_once(state, slot, &mut buffer, effects);
        if !more {
            break;
        }
    }
    state.receiver.buffer = buffer;
    if more {
        effects.push(Effect::ReadAgain(slot));
    }
}

/// Reads once; true if there may be more.
fn read_once(state: &mut State, slot: Slot, buffer: &mut [u8], effects: &mut Effects) -> bool {
    let Some(parts) = state.connections.parts(slot) else { return false };
    let connection = parts.connection;
    if !connection.is_read() {
        return false;
    }
    let mut unread = connection.take_unread();
    if !unread.is_empty() {
        connection.account(&state.receiver.memory);
        hear(state, slot, &mut unread, effects);
        return true;
    }
    let is_tls = parts.socket.is_tls();
    if is_tls && parts.tls.is_none_or(|tls| tls.has_ended()) {
        hung_up(state, slot, effects);
        return false;
    }
    match { parts.socket }.read(buffer) {
        Ok(0) => {
            hung_up(state, slot, effects);
            false
        }
        Ok(count) => {
            connection.heard = state.context.tick;
            // With edge-triggered readiness a short read means that the next bytes will be
            // announced, unless the end of the stream was announced together with these.
            let more = count == buffer.len() || connection.flags.hung_up;
            if !arrived(state, slot, count, effects) {
                return more;
            }
            if is_tls {
                return open(state, slot, &buffer[..count], effects) || more;
            }
            hear(state, slot, &mut buffer[..count], effects);
            more
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) if error.kind() == ErrorKind::Interrupted => true,
        Err(_) => {
            effects.push(Effect::Lost(slot));
            false
        }
    }
}

/// Counts bytes that have just arrived, sealed or not; false if they are more than
/// `limits.client_bytes` allows, in which case the client is to be closed and they aren't heard.
///
/// Only here and only once: what is kept back until the client takes its answers was counted when it
/// came.
pub(super) fn arrived(state: &mut State, slot: Slot, count: usize, effects: &mut Effects) -> bool {
    let count = count as u64;
    state.context.stats.bytes_in.add(count);
    let Some(connection) = state.connections.get_mut(slot) else { return false };
    if !connection.is_open() || connection.flags.deaf {
        return true;
    }
    if is_within_rates(state, slot, (0, count)) {
        return true;
    }
    over_rate(state, slot, "over limits.client_bytes", effects);
    false
}

/// A client said more than it may.
fn over_rate(state: &mut State, slot: Slot, reason: &'static str, effects: &mut Effects) {
    if let Some(connection) = state.connections.get_mut(slot) {
        connection.flags.closing = true;
        connection.flags.deaf = true;
        effects.close(slot, Cause::Policy, code::POLICY, reason);
    }
}

/// Whether what came of the client is no more than it may say.
fn is_within_rates(state: &mut State, slot: Slot, what: (u32, u64)) -> bool {
    let State { context, connections, backpressure, .. } = state;
    let Some(connection) = connections.get_mut(slot) else { return true };
    let rates = context.settings.rates;
    connection.rate_limit.take(context.tick, what, rates)
        || backpressure.pays(slot, &mut connection.rate_limit, rates)
}

/// Opens what came through a client's TLS, and hears what it said; true if that was the last of it,
/// so that the end has to be seen to.
pub(super) fn open(state: &mut State, slot: Slot, bytes: &[u8], effects: &mut Effects) -> bool {
    let Some(parts) = state.connections.parts(slot) else { return false };
    let Some(tls) = parts.tls else { return false };
    // A panic in an earlier step may have taken the buffer with it.
    let mut opened = std::mem::take(&mut state.receiver.opened);
    opened.clear();
    let outcome = tls.open(bytes, &mut opened);
    let (ended, answers) = (tls.has_ended(), tls.wants_write());
    if answers {
        state.outbound.mark_dirty(slot, parts.connection);
    }
    if !opened.is_empty() {
        hear(state, slot, &mut opened, effects);
    }
    state.receiver.opened = opened;
    match outcome {
        Ok(any) => {
            // A message is waited for from its first record on, however many follow.
            let connection = state.connections.get(slot);
            let mid_message = connection.is_some_and(|it| it.decoder.mid_message());
            watch(state, slot, any && !mid_message);
            ended
        }
        Err(error) => {
            tracing::debug!(shard = state.context.index, slot = slot.number(), %error, "TLS failed");
            effects.push(Effect::Lost(slot));
            false
        }
    }
}

/// Parses bytes of the client and does what they ask.
fn hear(state: &mut State, slot: Slot, bytes: &mut [u8], effects: &mut Effects) {
    let limits = state.context.settings.wire;
    let Some(connection) = state.connections.get_mut(slot) else { return };
    if connection.flags.deaf {
        return;
    }
    let mut decoder = std::mem::take(&mut connection.decoder);
    let mut finished_one = false;
    let heard = decoder.feed(bytes, &limits, |event| {
        finished_one |= matches!(event, Event::Message { .. });
        on_event(state, slot, event, effects)
    });
    let Some(connection) = state.connections.get_mut(slot) else { return };
    if !connection.flags.deaf {
        connection.decoder = decoder;
    }
    match heard {
        Ok(consumed) if consumed < bytes.len() && !connection.flags.deaf => {
            connection.keep_unread(&bytes[consumed..], &state.receiver.memory);
        }
        Ok(_) => connection.account(&state.receiver.memory),
        Err(violation) => return violated(state, slot, &violation, effects),
    }
    watch(state, slot, finished_one);
}

/// Keeps the time since something of the client is incomplete, a message or a record of TLS; `anew`
/// says that what was incomplete before is not what is now.
pub(super) fn watch(state: &mut State, slot: Slot, anew: bool) {
    let State { context, connections, timers, .. } = state;
    let Some(parts) = connections.parts(slot) else { return };
    let connection = parts.connection;
    let mid_record = parts.tls.is_some_and(|tls| tls.is_mid_record());
    let incomplete = connection.decoder.mid_message() || mid_record;
    // Who is not read can't go on with it.
    if !incomplete || !connection.is_read() {
        connection.partial_since = None;
    } else if anew || connection.partial_since.is_none() {
        let now = context.tick;
        connection.partial_since = Some(now);
        // Without pings and heartbeats nothing may be in the wheel at all.
        let deadline = context.settings.message_deadline;
        if deadline.is_some_and(|limit| {
            connection.timer <= now || connection.timer > now.saturating_add(limit)
        }) {
            timers.schedule(&context.settings, slot, connection);
        }
    }
}

fn on_event(state: &mut State, slot: Slot, event: Event<'_>, effects: &mut Effects) -> Flow {
    match event {
        Event::Message { kind, compressed: false, bytes } => {
            on_message(state, slot, (kind, bytes), effects)
        }
        Event::Message { kind, compressed: true, bytes } => {
            inflate(state, slot, (kind, bytes), effects)
        }
        Event::Ping(bytes) => {
            let State { connections, outbound, .. } = state;
            // Nothing may follow a close frame (RFC 6455 §5.5.1), not even a pong.
            if let Some(connection) = connections.get_mut(slot).filter(|it| it.is_open()) {
                let frame = outbound.frame(wire::pong(bytes));
                if connection.flags.blocked || connection.out.len() >= PONGS {
                    connection.out.set_pong(frame);
                } else {
                    connection.out.append(frame, Sort::Control);
                }
                outbound.mark_dirty(slot, connection);
            }
            Flow::Continue
        }
        // Any byte counts as a sign of life; what is left to be learnt is how long it took.
        Event::Pong(_) => {
            let State { context, connections, timers, .. } = state;
            if let Some(connection) = connections.get_mut(slot)
                && let Some(asked) = connection.asked.take()
            {
                let took = timers.micros(context).get().wrapping_sub(asked.get());
                connection.round_trip = NonZero::new(took.max(1));
            }
            Flow::Continue
        }
        Event::Close(said) => {
            on_close(state, slot, said.map(|(code, _)| code), effects);
            Flow::Stop
        }
    }
}

/// A compressed message: what it inflates to is bounded like any other message.
fn inflate(
    state: &mut State,
    slot: Slot,
    (kind, bytes): (Kind, &[u8]),
    effects: &mut Effects,
) -> Flow {
    let limit = state.context.settings.wire.max_message;
    let mut inflated = std::mem::take(&mut state.receiver.inflated);
    let outcome = state.receiver.inflater.inflate(kind, bytes, limit, &mut inflated);
    let flow = match outcome {
        Ok(()) => on_message(state, slot, (kind, &inflated), effects),
        Err(violation) => {
            violated(state, slot, &violation, effects);
            Flow::Stop
        }
    };
    wire::trim(&mut inflated);
    state.receiver.inflated = inflated;
    flow
}

fn on_message(
    state: &mut State,
    slot: Slot,
    (kind, bytes): (Kind, &[u8]),
    effects: &mut Effects,
) -> Flow {
    let Some(connection) = state.connections.get(slot) else { return Flow::Stop };
    if !connection.is_open() || connection.flags.closing {
        // The client is on its way out: what it still says reaches nobody.
        return Flow::Continue;
    }
    let before = (connection.rate_limit, state.backpressure.credit(slot));
    if !is_within_rates(state, slot, (1, 0)) {
        state.context.stats.messages_in.add(1);
        over_rate(state, slot, "over limits.client_messages", effects);
        return Flow::Stop;
    }
    if bytes == PING && answers_pings_in(&state.context, kind) {
        state.context.stats.messages_in.add(1);
        let pong = match kind {
            Kind::Text => &state.receiver.text_pong,
            Kind::Binary => &state.receiver.binary_pong,
        };
        let pong = Rc::clone(pong);
        return answer(state, slot, pong, Sort::Control);
    }
    if tell(state, slot, kind, bytes) == Heard::NoRoom {
        // As if it had not come yet: it is counted when it is heard.
        wait_for_room(state, slot, before, &wire::as_heard(kind, bytes));
        return Flow::Stop;
    }
    let State { context, connections, outbound, .. } = state;
    context.stats.messages_in.add(1);
    if context.settings.messages == Messages::Echo {
        let Outbound { compressor, memory, .. } = outbound;
        let window = connections.sockets.get(slot).map_or(PLAIN, Socket::window);
        let frame = frame_for_one(kind, bytes, window, &context.settings, compressor, memory);
        return answer(state, slot, frame, Sort::Message);
    }
    Flow::Continue
}

/// Tells who listens what a client said.
fn tell(state: &mut State, slot: Slot, kind: Kind, bytes: &[u8]) -> Heard {
    let State { context, connections, backpressure, events, .. } = state;
    if context.settings.messages == Messages::Drop {
        return Heard::Taken;
    }
    // Nobody gets ahead of those who wait.
    if backpressure.bars(slot) {
        return Heard::NoRoom;
    }
    let Some(connection) = connections.get(slot) else { return Heard::Taken };
    let heard = events.message(connection, kind, bytes);
    backpressure.note(heard);
    heard
}

/// Puts back a message that found no room, with what its client could say `before` it, and its client
/// into the backpressure queue.
fn wait_for_room(
    state: &mut State,
    slot: Slot,
    (rate_limit, credit): (super::rate_limit::RateLimit, Tick),
    message: &[u8],
) {
    let State { context, connections, receiver, backpressure, .. } = state;
    let Some(connection) = connections.get_mut(slot) else { return };
    connection.rate_limit = rate_limit;
    connection.keep_unread(message, &receiver.memory);
    backpressure.push(context, connections, slot, credit);
}

/// Whether `ping` in a message of this kind is answered: in text always, a kindness to people who try
/// by hand, and in the kind that `websocket.message_format` says, as in 1.x.
fn answers_pings_in(context: &Context, kind: Kind) -> bool {
    kind == Kind::Text || kind == context.settings.message_format
}

/// Queues an answer to something the client said. A client that doesn't take its answers isn't read
/// until it does, so it can't make its own queue grow.
fn answer(state: &mut State, slot: Slot, frame: Rc<Frame>, sort: Sort) -> Flow {
    let State { context, connections, outbound, .. } = state;
    let Some(connection) = connections.get_mut(slot) else { return Flow::Stop };
    if sort == Sort::Message {
        context.stats.messages_queued.add(1);
    }
    connection.out.append(frame, sort);
    outbound.mark_dirty(slot, connection);
    if is_full(context, connection) {
        connection.flags.reading = ReadState::Paused;
        return Flow::Stop;
    }
    Flow::Continue
}

/// The client broke the protocol (RFC 6455 §7.1.7): nothing that it says can be understood any more.
fn violated(state: &mut State, slot: Slot, violation: &Violation, effects: &mut Effects) {
    let Some(connection) = state.connections.get_mut(slot) else { return };
    connection.flags.deaf = true;
    match connection.stage {
        Stage::Open => effects.push(Effect::CloseWhenAnswered(slot, Box::new(violation.close()))),
        // Its close frame will never be heard: our part is done once ours is out.
        Stage::Closing(_) => state.outbound.mark_dirty(slot, connection),
    }
    effects.push(Effect::StopReading(slot));
}

/// The client's close frame arrived (RFC 6455 §5.5.1): answer it unless ours went first.
fn on_close(state: &mut State, slot: Slot, said: Option<u16>, effects: &mut Effects) {
    let Some(connection) = state.connections.get_mut(slot) else { return };
    connection.flags.heard_close = true;
    connection.flags.deaf = true;
    match connection.stage {
        Stage::Open => {
            let close = Close::new(Cause::Peer, said.unwrap_or(code::NORMAL), "");
            effects.push(Effect::CloseWhenAnswered(slot, Box::new(close)));
        }
        // The answer to ours: nothing is left to be said, once ours is out.
        Stage::Closing(_) => state.outbound.mark_dirty(slot, connection),
    }
}

/// The client's end of the stream.
fn hung_up(state: &mut State, slot: Slot, effects: &mut Effects) {
    let Some(connection) = state.connections.get_mut(slot) else { return };
    if connection.flags.heard_close && !connection.flags.sent_close {
        // It said goodbye and shut its sending side; our answer is still to go out.
        return state.outbound.mark_dirty(slot, connection);
    }
    effects.push(Effect::Lost(slot));
}

/// Those who hold most of the memory of what nobody has heard yet, the largest first: whoever is
/// closing may hold as much as others.
pub(super) fn holders(state: &State) -> Vec<Slot> {
    let connections = &state.connections;
    let held = connections
        .iter()
        .map(|(slot, it)| (it.unheard_bytes() + connections.tls.held(slot), slot));
    let mut held: Vec<_> = held.filter(|&(bytes, _)| bytes > 0).collect();
    held.sort_unstable_by(|a, b| b.cmp(a));
    held.into_iter().map(|(_, slot)| slot).collect()
}
