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
    sink::Heard,
    wire::{self, Event, Flow, Violation},
};

/// Frames that may wait while each ping still gets a pong of its own. Beyond that, and while the
/// client doesn't read, only the newest is answered, as RFC 6455 §5.5.3 allows.
const PONGS: usize = 64;

/// What a client says to be answered at once; 1.x clients keep themselves alive with it.
const PING: &[u8] = b"ping";

/// Does what an event of the client's stream asks for.
pub(super) fn on_event(
    state: &mut State,
    slot: Slot,
    event: Event<'_>,
    effects: &mut Effects,
) -> Flow {
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
    (rate_limit, credit): (RateLimit, Tick),
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
