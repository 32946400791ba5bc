//! Reading a client: its socket, and the events in what came of it.
//!
//! All connections of the shard read into one buffer; a connection owns bytes only while a message is
//! incomplete, or while there is something to be heard later: because its quantum of work is spent
//! ([`receiver`](super::receiver)), because it doesn't take its own answers, or because there is no
//! room for what it says ([`backpressure`](super::backpressure)).

use std::io::{ErrorKind, Read};

use super::{
    connection::Connection,
    effect::{Effect, Effects},
    guard::guarded,
    hear::{go_on_inflating, is_within_rates, on_event, over_rate, violated},
    slot::Slot,
    state::State,
};
use crate::{
    config::Messages,
    wire::{Decoder, Event, Work},
};

/// Bytes of the buffer that all reads of the shard share.
const READ_BUFFER: usize = 64 * 1024;

/// Clients that waited for room and are read in one turn.
const WAITING_PER_TURN: usize = 256;

/// What a system call costs, beside the bytes that it brings.
const SYSTEM_CALL: usize = 1000;

/// Reads those who have waited longest for room for what they said, as long as there is room.
pub(super) fn read_waiting(state: &mut State, effects: &mut Effects) {
    state.backpressure.begin();
    for _ in 0..WAITING_PER_TURN {
        let State { context, connections, backpressure, events, receiver, .. } = state;
        if backpressure.is_empty() {
            return;
        }
        // Where nobody is to hear what they say there is room for all of it.
        if context.settings.messages != Messages::Drop && !events.has_room(context) {
            return;
        }
        if receiver.leaves_the_rest_to_others() {
            break;
        }
        let Some((slot, client)) = backpressure.next(context, connections) else { return };
        guarded(slot, effects, |effects| {
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

/// Reads a connection, up to a quantum of work.
pub(super) fn read(state: &mut State, slot: Slot, effects: &mut Effects) {
    let Some(connection) = state.connections.get_mut(slot) else { return };
    connection.flags.to_read = false;
    if connection.partial_since.is_none() && connection.decoder.mid_message() {
        // Time didn't count while the client was not read.
        watch(state, slot, false);
    }
    let mut work = state.receiver.quantum();
    // A panic in an earlier step may have taken the buffer with it.
    let mut buffer = std::mem::take(&mut state.receiver.buffer);
    buffer.resize(READ_BUFFER, 0);
    let mut more = true;
    while more && !work.is_spent() {
        more = read_once(state, slot, &mut buffer, &mut work, effects);
    }
    state.receiver.buffer = buffer;
    state.receiver.count(work);
    if more {
        effects.push(Effect::ReadAgain(slot));
    }
}

/// Goes on with what is kept, or reads once; true if there may be more.
fn read_once(
    state: &mut State,
    slot: Slot,
    buffer: &mut [u8],
    work: &mut Work,
    effects: &mut Effects,
) -> bool {
    let Some(parts) = state.connections.parts(slot) else { return false };
    let connection = parts.connection;
    if !connection.is_read() {
        return false;
    }
    if let Some(inflating) = connection.take_inflating() {
        go_on_inflating(state, slot, inflating, work, effects);
        account(state, slot);
        return true;
    }
    let mut unread = connection.take_unread();
    if !unread.is_empty() {
        let left = hear(state, slot, unread.rest(), work, effects);
        unread.keep_last(left);
        if let Some(connection) = state.connections.get_mut(slot) {
            connection.keep_unread(unread, &state.receiver.memory);
        }
        return true;
    }
    let is_tls = parts.socket.is_tls();
    if is_tls && parts.tls.is_none_or(|tls| tls.has_ended()) {
        hung_up(state, slot, effects);
        return false;
    }
    work.charge(SYSTEM_CALL);
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
            let has_ended = if is_tls {
                open(state, slot, &buffer[..count], work, effects)
            } else {
                hear_new(state, slot, &mut buffer[..count], work, effects);
                false
            };
            let connection = state.connections.get(slot);
            more || has_ended || connection.is_some_and(Connection::has_unheard)
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
pub(super) fn open(
    state: &mut State,
    slot: Slot,
    bytes: &[u8],
    work: &mut Work,
    effects: &mut Effects,
) -> bool {
    let Some(parts) = state.connections.parts(slot) else { return false };
    let Some(tls) = parts.tls else { return false };
    // A panic in an earlier step may have taken the buffer with it.
    let mut opened = std::mem::take(&mut state.receiver.opened);
    opened.clear();
    let outcome = tls.open(bytes, &mut opened);
    work.charge(bytes.len());
    let (ended, answers) = (tls.has_ended(), tls.wants_write());
    if answers {
        state.outbound.mark_dirty(slot, parts.connection);
    }
    if !opened.is_empty() {
        hear_new(state, slot, &mut opened, work, effects);
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

/// Hears bytes of a buffer that others need, too: what is left for later is copied.
fn hear_new(
    state: &mut State,
    slot: Slot,
    bytes: &mut [u8],
    work: &mut Work,
    effects: &mut Effects,
) {
    let left = hear(state, slot, bytes, work, effects);
    if let Some(connection) = state.connections.get_mut(slot) {
        if left > 0 {
            connection.keep_copy(&bytes[bytes.len() - left..], &state.receiver.memory);
        } else {
            connection.account(&state.receiver.memory);
        }
    }
}

/// Pulls one event after the other out of the client's bytes and does what it asks. Answers how many of
/// the last bytes are left for later: those that came after the work was spent, or when the client was
/// not to be read any more.
fn hear(
    state: &mut State,
    slot: Slot,
    bytes: &mut [u8],
    work: &mut Work,
    effects: &mut Effects,
) -> usize {
    let limits = state.context.settings.wire;
    let mut input = bytes;
    let mut finished_one = false;
    let left = loop {
        let Some(connection) = state.connections.get_mut(slot) else { return 0 };
        if connection.flags.deaf {
            connection.decoder = Decoder::default();
            break 0;
        }
        if !connection.is_read() {
            break input.len();
        }
        match connection.decoder.next(&mut input, &limits, work) {
            Ok(Some(event)) => {
                finished_one |= matches!(event, Event::Message { .. });
                on_event(state, slot, event, work, effects);
            }
            Ok(None) => break input.len(),
            Err(violation) => {
                violated(state, slot, &violation, effects);
                return 0;
            }
        }
    };
    watch(state, slot, finished_one);
    left
}

/// Brings the memory of what the client said and nobody has heard up to date.
fn account(state: &mut State, slot: Slot) {
    if let Some(connection) = state.connections.get_mut(slot) {
        connection.account(&state.receiver.memory);
    }
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
