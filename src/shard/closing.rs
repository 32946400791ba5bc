//! The end of a connection.
//!
//! It has two halves. First the client *retires*: it is taken off every list and count, so that from
//! here on nobody can reach it; this happens before the call that closes it is answered. Then its
//! socket is seen off: what was queued goes out, the close frame follows, the client's answer is
//! awaited for `limits.close_wait`, and the socket is let go.
//!
//! ```text
//!   open ── close ──► closing: queue, close frame ──► its close frame ──► removed
//!     │                  └── limits.close_wait over ──► cut off ──────────►│
//!     └── lost ───────────────────────────────────────────────────────────►│
//! ```

use std::rc::Rc;

use super::{
    backpressure::set_reading, batch::Batch, connection::ReadState, connections::Removed,
    encode::PLAIN, outbound::Outbound, slot::Slot, socket::Socket, state::State, write_queue::Sort,
};
use crate::{
    close::{Cause, Close},
    metrics::Drop,
    wire,
};

/// Begins to close the client, for the cause and with the code given.
pub(super) fn close(state: &mut State, slot: Slot, close: &Close) {
    let last = close.last.as_ref();
    let clock = state.context.clock.clone();
    let mut last = last.map(|last| Batch::new(std::slice::from_ref(last), &clock));
    close_after(state, last.as_mut(), slot, close);
}

/// The same, where many may get the same last message.
pub(super) fn close_after(
    state: &mut State,
    last: Option<&mut Batch<'_>>,
    slot: Slot,
    close: &Close,
) {
    let until = state.context.tick.saturating_add(state.context.settings.close_wait);
    if !state.connections.begin_close(slot, until) {
        return;
    }
    retire(state, slot, close.cause, Some(close.code));
    if matches!(close.cause, Cause::Budget | Cause::Policy) {
        stop_reading(state, slot);
    }
    let State { context, connections, outbound, receiver, timers, .. } = state;
    let Some(parts) = connections.parts(slot) else { return };
    let (connection, window) = (parts.connection, parts.socket.window());
    if close.drop_pending || !reads(close.cause) {
        let dropped = connection.out.discard();
        context.stats.drop_messages(Drop::Closed, dropped);
    }
    if let Some(last) = last {
        let Outbound { compressor, memory, .. } = outbound;
        for frame in last.encoded(window, &context.settings, compressor, memory).frames() {
            connection.out.append(Rc::clone(frame), Sort::Message);
            context.stats.messages_queued.add(1);
        }
    }
    let frame = outbound.frame(wire::close(close.code, &close.reason));
    connection.out.append(frame, Sort::Close);
    // Read again, if only for the client's own close frame.
    if !connection.is_read() {
        set_reading(context, connection, ReadState::Reading);
        receiver.read_again(slot, connection);
    }
    outbound.mark_dirty(slot, connection);
    timers.schedule(&context.settings, slot, connection);
}

/// What the client still says is thrown away, and with it what it has said half.
pub(super) fn stop_reading(state: &mut State, slot: Slot) {
    let Some(parts) = state.connections.parts(slot) else { return };
    parts.connection.flags.deaf = true;
    parts.connection.forget_unheard();
    if let Some(tls) = parts.tls {
        tls.go_blind();
    }
}

/// The connection broke: there is nobody to say goodbye to.
pub(super) fn lost(state: &mut State, slot: Slot) {
    if state.connections.begin_close(slot, state.context.tick) {
        retire(state, slot, Cause::Lost, None);
    }
    remove(state, slot);
}

/// The end of the close handshake is waited for no longer.
pub(super) fn cut_off(state: &mut State, slot: Slot) {
    if let Some(socket) = state.connections.sockets.get(slot) {
        socket.end_with_reset();
    }
    remove(state, slot);
}

/// Lets go of the socket and of everything that waited for it.
pub(super) fn remove(state: &mut State, slot: Slot) {
    let State { context, connections, outbound, backpressure, .. } = state;
    let Some(Removed { mut connection, socket, tls }) = connections.remove(slot) else { return };
    outbound.forget(slot);
    set_reading(context, &mut connection, ReadState::Reading);
    backpressure.forget(slot);
    let mut dropped = connection.out.abandon();
    if let (Some(socket), Some(mut tls)) = (socket, tls) {
        dropped += tls.messages();
        tls.end(&socket);
    }
    context.stats.drop_messages(Drop::Closed, dropped);
    context.stats.sockets.sub(1);
    context.load.released();
    tracing::debug!(client = %connection.id, "connection ended");
}

/// Takes the client off every list and count; no code is no close frame.
fn retire(state: &mut State, slot: Slot, cause: Cause, code: Option<u16>) {
    let State { context, connections, membership, events, .. } = state;
    let metrics = &context.stats;
    metrics.clients.set(connections.count_open() as u64);
    let window = connections.sockets.get(slot).map_or(PLAIN, Socket::window);
    if let Some(gauge) = metrics.window(window) {
        gauge.sub(1);
    }
    metrics.close(cause, code);
    let uid = connections.get(slot).and_then(|it| it.uid.clone());
    membership.bind(connections, slot, None);
    membership.leave_all(connections, slot);
    let socket = connections.sockets.get(slot);
    let Some(connection) = connections.get(slot) else { return };
    connection.permit.on_close();
    tracing::debug!(client = %connection.id, cause = cause.name(), "client closed");
    events.closed(context, (connection, uid.as_ref()), socket, (cause, code));
}

/// Whether a client that is closed for this cause can be expected to read what is queued for it.
fn reads(cause: Cause) -> bool {
    !matches!(cause, Cause::Slow | Cause::Budget | Cause::Silent | Cause::Fault | Cause::Lost)
}
