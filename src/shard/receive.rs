//! Reading a client: its socket, its messages, and what is answered at once.
//!
//! All connections of the shard read into one buffer; a connection owns bytes only while a message is
//! incomplete, or while it isn't read: because it doesn't take its own answers, or because there is
//! no room for what it says ([`backpressure`](super::backpressure)).

use std::io::{ErrorKind, Read};

use super::{
    effect::{Effect, Effects},
    guard::guarded,
    hear::{is_within_rates, on_event, over_rate, violated},
    slot::Slot,
    state::State,
};
use crate::{config::Messages, wire::Event};

/// Bytes of the buffer that all reads of the shard share.
const READ_BUFFER: usize = 64 * 1024;

/// Reads of one socket in one turn before its neighbours have theirs.
const READS_PER_TURN: usize = 4;

/// Clients that waited for room and are read in one turn.
const WAITING_PER_TURN: usize = 256;

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
