//! Hearing a client: what its frames ask for, and what is answered at once.

use std::{num::NonZero, rc::Rc};

use super::{
    connection::{ReadState, Stage},
    context::Context,
    effect::{Effect, Effects},
    encode::{PLAIN, frame_for_one},
    outbound::{Outbound, is_full},
    rate_limit::RateLimit,
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
    sink::Accept,
    wire::{self, Event, Inflating, Violation, Work},
};

/// Frames that may wait while each ping still gets a pong of its own. Beyond that, and while the
/// client doesn't read, only the newest is answered, as RFC 6455 §5.5.3 allows.
const PONGS: usize = 64;

/// What a client says to be answered at once; 1.x clients keep themselves alive with it.
const PING: &[u8] = b"ping";

/// Work of a message or a ping beside its bytes: reporting it, or queueing what answers it.
const MESSAGE: usize = 1000;

/// Does what an event of the client's stream asks for.
pub(super) fn on_event(
    state: &mut State,
    slot: Slot,
    event: Event<'_>,
    work: &mut Work,
    effects: &mut Effects,
) {
    match event {
        Event::Message { kind, compressed: false, bytes } => {
            on_message(state, slot, (kind, &bytes), work, effects);
        }
        Event::Message { kind, compressed: true, bytes } => {
            let inflating = state.receiver.inflater.begin(kind, bytes);
            go_on_inflating(state, slot, inflating, work, effects);
        }
        Event::Ping(bytes) => on_ping(state, slot, &bytes, work, effects),
        // Any byte counts as a sign of life; what is left to be learnt is how long it took.
        Event::Pong(_) => {
            let State { context, connections, timers, .. } = state;
            if let Some(connection) = connections.get_mut(slot)
                && let Some(asked) = connection.asked.take()
            {
                let took = timers.micros(context).get().wrapping_sub(asked.get());
                connection.round_trip = NonZero::new(took.max(1));
            }
        }
        Event::Close(said) => on_close(state, slot, said.map(|(code, _)| code), effects),
    }
}

/// Inflates a message on; what it inflates to is bounded like any other message, and counts for the
/// client's rate as it shows. If the work is spent before it is whole, it is kept for later.
pub(super) fn go_on_inflating(
    state: &mut State,
    slot: Slot,
    mut inflating: Inflating<'_>,
    work: &mut Work,
    effects: &mut Effects,
) {
    let before = inflating.bytes().len();
    let outcome = inflating.go_on(state.context.settings.wire.max_message, work);
    let inflated = inflating.bytes().len().saturating_sub(before) as u64;
    // What a client on its way out says counts for nothing.
    let counts = state.connections.get(slot).is_some_and(|it| it.is_open() && !it.flags.closing);
    match outcome {
        Err(violation) => violated(state, slot, &violation, effects),
        Ok(_) if counts && !is_within_rates(state, slot, (0, inflated)) => {
            over_rate(state, slot, "over limits.client_bytes", effects);
        }
        Ok(true) => {
            on_message(state, slot, (inflating.kind(), inflating.bytes()), work, effects);
        }
        Ok(false) => {
            let State { connections, receiver, .. } = state;
            if let Some(connection) = connections.get_mut(slot) {
                connection.keep_inflating(inflating.into_owned(), &receiver.memory);
            }
            return;
        }
    }
    state.receiver.inflater.end(inflating);
}

/// A ping of the protocol counts for the client's rate like a message, since it makes an answer.
fn on_ping(state: &mut State, slot: Slot, bytes: &[u8], work: &mut Work, effects: &mut Effects) {
    work.charge(MESSAGE);
    // Nothing may follow a close frame (RFC 6455 §5.5.1), not even a pong.
    if !state.connections.get(slot).is_some_and(|it| it.is_open() && !it.flags.closing) {
        return;
    }
    if !is_within_rates(state, slot, (1, 0)) {
        return over_rate(state, slot, "over limits.client_messages", effects);
    }
    let State { connections, outbound, .. } = state;
    let Some(connection) = connections.get_mut(slot) else { return };
    let frame = outbound.frame(wire::pong(bytes));
    if connection.flags.blocked || connection.out.len() >= PONGS {
        connection.out.set_pong(frame);
    } else {
        connection.out.append(frame, Sort::Control);
    }
    outbound.mark_dirty(slot, connection);
}

fn on_message(
    state: &mut State,
    slot: Slot,
    (kind, bytes): (Kind, &[u8]),
    work: &mut Work,
    effects: &mut Effects,
) {
    work.charge(MESSAGE + bytes.len());
    let Some(connection) = state.connections.get(slot) else { return };
    if !connection.is_open() || connection.flags.closing {
        // The client is on its way out: what it still says reaches nobody.
        return;
    }
    let before = (connection.rate_limit, state.backpressure.credit(slot));
    if !is_within_rates(state, slot, (1, 0)) {
        state.context.stats.messages_in.add(1);
        return over_rate(state, slot, "over limits.client_messages", effects);
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
    if tell(state, slot, kind, bytes) == Accept::Backpressure {
        // As if it had not come yet: it is counted when it is heard.
        return wait_for_room(state, slot, before, &wire::as_heard(kind, bytes));
    }
    let State { context, connections, outbound, .. } = state;
    context.stats.messages_in.add(1);
    if context.settings.messages == Messages::Echo {
        let Outbound { compressor, memory, .. } = outbound;
        let window = connections.sockets.get(slot).map_or(PLAIN, Socket::window);
        let frame = frame_for_one(kind, bytes, window, &context.settings, compressor, memory);
        answer(state, slot, frame, Sort::Message);
    }
}

/// Tells who listens what a client said.
fn tell(state: &mut State, slot: Slot, kind: Kind, bytes: &[u8]) -> Accept {
    let State { context, connections, backpressure, events, .. } = state;
    if context.settings.messages == Messages::Drop {
        return Accept::Accepted;
    }
    // Nobody gets ahead of those who wait.
    if backpressure.bars(slot) {
        return Accept::Backpressure;
    }
    let Some(connection) = connections.get(slot) else { return Accept::Accepted };
    let heard = events.message(connection, kind, bytes);
    backpressure.note(heard);
    heard
}

/// Puts back a message that found no room, with what its client could say `before` it, and its client
/// into the backpressure queue.
fn wait_for_room(
    state: &mut State,
    slot: Slot,
    (rate_limit, credit): (RateLimit, Tick),
    message: &[u8],
) {
    let State { context, connections, receiver, backpressure, .. } = state;
    let Some(connection) = connections.get_mut(slot) else { return };
    connection.rate_limit = rate_limit;
    connection.put_back(message, &receiver.memory);
    backpressure.push(context, connections, slot, credit);
}

/// Whether `ping` in a message of this kind is answered: in text always, a kindness to people who try
/// by hand, and in the kind that `websocket.message_format` says, as in 1.x.
fn answers_pings_in(context: &Context, kind: Kind) -> bool {
    kind == Kind::Text || kind == context.settings.message_format
}

/// Queues an answer to something the client said. A client that doesn't take its answers isn't read
/// until it does, so it can't make its own queue grow.
fn answer(state: &mut State, slot: Slot, frame: Rc<Frame>, sort: Sort) {
    let State { context, connections, outbound, .. } = state;
    let Some(connection) = connections.get_mut(slot) else { return };
    if sort == Sort::Message {
        context.stats.messages_queued.add(1);
    }
    connection.out.append(frame, sort);
    outbound.mark_dirty(slot, connection);
    if is_full(context, connection) {
        connection.flags.reading = ReadState::Paused;
    }
}

/// The client broke the protocol (RFC 6455 §7.1.7): nothing that it says can be understood any more.
pub(super) fn violated(
    state: &mut State,
    slot: Slot,
    violation: &Violation,
    effects: &mut Effects,
) {
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

/// A client said more than it may.
pub(super) fn over_rate(
    state: &mut State,
    slot: Slot,
    reason: &'static str,
    effects: &mut Effects,
) {
    if let Some(connection) = state.connections.get_mut(slot) {
        connection.flags.closing = true;
        connection.flags.deaf = true;
        effects.close(slot, Cause::Policy, code::POLICY, reason);
    }
}

/// Whether what came of the client is no more than it may say.
pub(super) fn is_within_rates(state: &mut State, slot: Slot, what: (u32, u64)) -> bool {
    let State { context, connections, backpressure, .. } = state;
    let Some(connection) = connections.get_mut(slot) else { return true };
    let rates = context.settings.rates;
    connection.rate_limit.take(context.tick, what, rates)
        || backpressure.pays(slot, &mut connection.rate_limit, rates)
}
