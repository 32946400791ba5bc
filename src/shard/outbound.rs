//! What goes out of a shard: which sockets have something to be written, and the writing of it.
//!
//! A client is *backlogged* if something waits in its queue. Only these can refuse a message, so only
//! these are looked at before a call is answered; all others get it by one `send(2)` past the queue.
//! A socket is *dirty* if it is to be written to at the end of the turn.

use std::rc::Rc;

use fixedbitset::FixedBitSet;

use super::{
    connection::{Connection, ReadState},
    connections::{Connections, Parts},
    context::Context,
    effect::{Effect, Effects},
    encode::Compressor,
    guard::guarded,
    memory::Budget,
    slot::Slot,
    write_queue::{Flushed, Frame, State},
};
use crate::metrics::Drop;

#[derive(Default)]
pub(super) struct Outbound {
    /// Memory of the frames that wait, and of their places in the queues.
    pub(super) memory: Budget,
    pub(super) compressor: Compressor,
    /// Sockets with something to write.
    dirty: Vec<Slot>,
    /// Every client with something in its queue. It may hold one whose queue was emptied in this
    /// turn, but never lacks one. A client with TLS is in it as long as it lives: what is sent to it
    /// has to pass its TLS stream.
    backlogged: FixedBitSet,
    /// What TLS records are sealed into.
    sealed: Vec<u8>,
}

impl Outbound {
    /// A frame that waits on the usual terms.
    pub(super) fn frame(&self, bytes: Box<[u8]>) -> Rc<Frame> {
        Frame::new(bytes, &self.memory)
    }

    /// Whether nothing is to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.dirty.is_empty()
    }

    pub(super) fn is_backlogged(&self, slot: Slot) -> bool {
        self.backlogged.contains(slot.index())
    }

    /// The clients that are backlogged.
    pub(super) fn backlogged(&self) -> Vec<Slot> {
        self.backlogged.ones().map(Slot::at).collect()
    }

    /// From now on what is sent to the client goes through its queue.
    pub(super) fn set_backlogged(&mut self, slot: Slot) {
        self.backlogged.grow_and_insert(slot.index());
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.backlogged.remove(slot.index());
    }

    /// Asks for the socket to be written to at the end of the turn: something was queued, or its
    /// queue can go on.
    pub(super) fn mark_dirty(&mut self, slot: Slot, connection: &mut Connection) {
        if !connection.flags.dirty {
            connection.flags.dirty = true;
            self.dirty.push(slot);
            self.set_backlogged(slot);
        }
    }

    /// Writes what the socket takes, and counts it, whatever became of the connection then.
    pub(super) fn flush(&mut self, context: &Context, parts: &mut Parts<'_>) -> State {
        let Parts { connection, socket, tls, .. } = parts;
        drop_expired(context, connection);
        let flushed = match tls {
            Some(tls) => {
                tls.flush(&mut &**socket, &mut connection.out, &self.memory, &mut self.sealed)
            }
            None if !socket.is_tls() => connection.out.flush(&mut &**socket),
            // Without its TLS nothing may leave by a socket of TLS.
            None => Flushed { state: State::Broken, ..Flushed::default() },
        };
        connection.flags.blocked = flushed.state == State::Blocked;
        connection.flags.writable = false;
        connection.flags.sent_close |= flushed.closed;
        if connection.out.is_empty() {
            connection.behind_since = None;
        } else if connection.flags.blocked {
            connection.behind_since.get_or_insert(context.tick);
        }
        context.stats.bytes_out.add(flushed.bytes);
        context.stats.messages_out.add(flushed.messages);
        flushed.state
    }

    /// Writes to every socket that has something to be written.
    pub(super) fn flush_dirty(
        &mut self,
        context: &Context,
        connections: &mut Connections,
        effects: &mut Effects,
    ) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            guarded(slot, effects, |effects| self.flush_one(context, connections, slot, effects));
        }
        // The list keeps its memory; on it are now those that have more to write next turn.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    fn flush_one(
        &mut self,
        context: &Context,
        connections: &mut Connections,
        slot: Slot,
        effects: &mut Effects,
    ) {
        let Some(mut parts) = connections.parts(slot) else { return };
        parts.connection.flags.dirty = false;
        if parts.connection.may_write() {
            match self.flush(context, &mut parts) {
                State::Unfinished => self.mark_dirty(slot, parts.connection),
                State::Empty | State::Blocked => {}
                State::Broken => return effects.push(Effect::Lost(slot)),
            }
        }
        let Parts { connection, socket, tls, .. } = parts;
        if connection.out.is_empty() && !socket.is_tls() {
            self.backlogged.remove(slot.index());
        }
        if connection.flags.sent_close {
            if connection.flags.heard_close {
                // The server is the first to close the TCP connection (RFC 6455 §7.1.1).
                effects.push(Effect::Remove(slot));
            } else if connection.flags.deaf {
                // Bytes left unread would turn our goodbye into a reset: end our side, read on until
                // the client ends its own or `limits.close_wait` is over.
                if let Some(tls) = tls {
                    tls.end(socket);
                }
                socket.shut_write();
            }
        } else if connection.flags.reading == ReadState::Paused && has_drained(context, connection)
        {
            connection.flags.reading = ReadState::Reading;
            effects.push(Effect::ReadAgain(slot));
        }
    }

    /// Those who hold most of the memory of what waits, the longest queue first: whoever is closing
    /// may hold as much as others.
    pub(super) fn holders(connections: &Connections) -> Vec<Slot> {
        let queues = connections.iter().filter(|(_, connection)| !connection.out.is_empty());
        let mut queues: Vec<_> = queues.map(|(slot, it)| (it.out.bytes(), slot)).collect();
        queues.sort_unstable_by(|a, b| b.cmp(a));
        queues.into_iter().map(|(_, slot)| slot).collect()
    }
}

/// Drops what waits for the client and is worth nothing any more.
pub(super) fn drop_expired(context: &Context, connection: &mut Connection) {
    let expired = connection.out.drop_expired(context.now);
    context.stats.drop_messages(Drop::Expired, expired);
}

/// Whether nothing more fits into the client's queue.
pub(super) fn is_full(context: &Context, connection: &Connection) -> bool {
    let settings = &context.settings;
    connection.out.bytes() >= settings.queue_bytes || connection.out.len() >= settings.queue_entries
}

/// Whether a paused client has taken enough of its answers to be read again.
fn has_drained(context: &Context, connection: &Connection) -> bool {
    let settings = &context.settings;
    connection.out.bytes() <= settings.queue_bytes / 2
        && connection.out.len() <= settings.queue_entries / 2
}
