//! Fan-out: the same bytes onto many sockets, past the queues or through them.
//!
//! What waits for the shard comes as *runs*: messages for the same clients, one behind the other.
//! A client for whom nothing waits can't refuse a message, so a call can be answered before any of
//! these clients is even looked at; only the *backlogged*, who have something queued, are asked first:
//!
//! ```text
//!   run ──► backlogged clients ──► queue, or limits.slow_client
//!    │            └── exact numbers ──► answers
//!    └────► all others ──► one send(2) each, of the whole run ──► what a socket doesn't take: queue
//! ```
//!
//! If messages for other clients wait behind the run, everybody is treated as backlogged: queued now
//! and written at the end of the turn, so that all that waits for one client leaves in one system
//! call.

use std::io::{
    ErrorKind::{Interrupted, WouldBlock},
    Write,
};

use smallvec::{SmallVec, smallvec};

use super::{
    batch::Batch,
    connection::Connection,
    connections::{Connections, Parts},
    context::Context,
    effect::{Effect, Effects},
    enqueue::enqueue_all,
    guard::guarded,
    outbound::Outbound,
    slot::Slot,
    socket::Socket,
};
use crate::{message::Receipt, metrics::Drop};

/// What became of each message of a run.
pub(super) type Receipts = SmallVec<[Receipt; 1]>;

/// Which clients a run is for: all, or those in these slots.
pub(super) type Slots<'a> = Option<&'a [Slot]>;

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

/// Queues the messages for those of the clients who are backlogged, or for all of them, and answers
/// what becomes of each for all of them. Who is too slow for it is to be closed.
pub(super) fn queue(
    outbound: &mut Outbound,
    context: &Context,
    connections: &mut Connections,
    (slots, only_backlogged): (Slots<'_>, bool),
    batch: &mut Batch<'_>,
    effects: &mut Effects,
) -> Receipts {
    let matched = slots.map_or_else(|| connections.count_open(), <[Slot]>::len);
    let mut receipts = smallvec![Receipt::all_queued(matched); batch.len()];
    let mut enqueue = |outbound: &mut Outbound, parts: Option<Parts<'_>>| {
        let Some(mut parts) = parts.filter(|parts| parts.socket.is_open()) else { return };
        enqueue_all(outbound, context, &mut parts, batch, effects, |index, result| {
            result.enter(&mut receipts[index]);
        });
    };
    match slots {
        None if only_backlogged => {
            for slot in outbound.backlogged() {
                enqueue(outbound, connections.parts(slot));
            }
        }
        None => {
            for slot in (0..connections.end().index()).map(Slot::at) {
                enqueue(outbound, connections.parts(slot));
            }
        }
        Some(slots) => {
            for &slot in slots {
                if !only_backlogged || outbound.is_backlogged(slot) {
                    enqueue(outbound, connections.parts(slot));
                }
            }
        }
    }
    let queued = receipts.iter().map(|receipt: &Receipt| receipt.queued as u64).sum();
    context.stats.messages_queued.add(queued);
    receipts
}

/// Writes the messages to those of the clients who are not backlogged.
pub(super) fn write_through(
    outbound: &mut Outbound,
    context: &Context,
    connections: &mut Connections,
    slots: Slots<'_>,
    batch: &mut Batch<'_>,
    effects: &mut Effects,
) {
    let mut sent = Sent::default();
    let (sockets, slab) = connections.walk();
    let mut to_one = |slot: Slot, socket: &Socket| {
        if outbound.is_backlogged(slot) {
            return;
        }
        let written =
            guarded(slot, effects, |_| write(outbound, context, socket, batch, &mut sent));
        if let Some(Written::All) = written {
            return;
        }
        let Some(connection) = slab.get_mut(slot.index()) else { return };
        match written {
            Some(Written::All) => {}
            Some(Written::Part(taken)) => {
                queue_rest(outbound, context, (slot, socket, connection), batch, taken, &mut sent);
            }
            Some(Written::Lost) | None => {
                context.stats.drop_messages(Drop::Closed, batch.len() as u64);
                connection.flags.closing = true;
                if written.is_some() {
                    effects.push(Effect::Lost(slot));
                }
            }
        }
    };
    match slots {
        None => sockets.all_open().for_each(|(slot, socket)| to_one(slot, socket)),
        Some(slots) => {
            let sockets = slots.iter().filter_map(|&slot| Some((slot, sockets.open(slot)?)));
            sockets.for_each(|(slot, socket)| to_one(slot, socket));
        }
    }
    context.stats.bytes_out.add(sent.bytes);
    context.stats.messages_out.add(sent.messages);
}

/// Writes the messages of a batch to a client for whom nothing waits. Answers how much of it the
/// socket took, if that is not all.
fn write(
    outbound: &mut Outbound,
    context: &Context,
    socket: &Socket,
    batch: &mut Batch<'_>,
    sent: &mut Sent,
) -> Written {
    let Outbound { compressor, memory, .. } = outbound;
    let encoded = batch.encoded(socket.window(), &context.settings, compressor, memory);
    let bytes = encoded.bytes();
    match { socket }.write(bytes) {
        Ok(taken) if taken == bytes.len() => {
            sent.bytes += taken as u64;
            sent.messages += encoded.frames().len() as u64;
            Written::All
        }
        Ok(taken) => Written::Part(taken),
        Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => Written::Part(0),
        Err(_) => Written::Lost,
    }
}

/// What the socket didn't take of a batch is queued.
fn queue_rest(
    outbound: &mut Outbound,
    context: &Context,
    (slot, socket, connection): (Slot, &Socket, &mut Connection),
    batch: &mut Batch<'_>,
    taken: usize,
    sent: &mut Sent,
) {
    let Outbound { compressor, memory, .. } = outbound;
    let encoded = batch.encoded(socket.window(), &context.settings, compressor, memory);
    let flushed = connection.out.go_on_with(encoded.frames(), taken);
    sent.bytes += flushed.bytes;
    sent.messages += flushed.messages;
    connection.behind_since.get_or_insert(context.tick);
    // Not marked as blocked: the flush at the end of the turn finds out how it is then.
    outbound.mark_dirty(slot, connection);
}

#[cfg(test)]
mod tests;
