//! Queueing a message for one client: whether its queue takes it, and what happens if not.
//!
//! The bounds of a queue say how far behind a client may be, not how much may come at once: who takes
//! what it gets, only not within the same millisecond, is not slow. So a queue may be over its bounds
//! for `limits.slow_client_grace` from when its socket first refused
//! something, and up to [`MOST`] times its bounds. After that `limits.slow_client` decides.

use std::rc::Rc;

use super::{
    batch::Batch,
    connection::Connection,
    connections::Parts,
    context::Context,
    effect::{Effect, Effects},
    guard::guarded,
    outbound::{Outbound, drop_expired},
    slot::Slot,
    write_queue::{Frame, Sort, State},
};
use crate::{
    close::{Cause, code},
    config::SlowClient,
    ids::Name,
    message::{Receipt, WhenBehind},
    metrics::Drop,
};

/// How many times its bounds a queue may hold while its client may still turn out not to be slow.
pub(super) const MOST: usize = 16;

/// What became of one message for one client.
pub(super) enum EnqueueResult {
    /// The client is not there any more.
    Gone,
    /// It waits; so many earlier messages made place for it.
    Queued(u64),
    /// The client is behind, and the message was not to wait.
    Behind,
    /// The queue is full.
    Full,
    /// The client is being closed, for this message or by a fault.
    Closed,
}

impl EnqueueResult {
    /// Corrects a receipt that says that everybody has queued the message.
    pub(super) fn enter(self, receipt: &mut Receipt) {
        if let Self::Queued(replaced) = self {
            receipt.replaced += usize::try_from(replaced).unwrap_or(usize::MAX);
            return;
        }
        receipt.queued -= 1;
        match self {
            Self::Gone | Self::Queued(_) => receipt.matched -= 1,
            Self::Behind => receipt.behind += 1,
            Self::Full => receipt.full += 1,
            Self::Closed => receipt.closed += 1,
        }
    }
}

/// How much a queue may hold.
#[derive(Clone, Copy)]
struct Bounds {
    bytes: usize,
    entries: usize,
}

impl Bounds {
    /// Whether a message of `bytes` fits; into an empty queue any message does, since what is
    /// larger than the queue could otherwise never be sent to anybody.
    fn fits(self, connection: &Connection, bytes: usize) -> bool {
        let out = &connection.out;
        out.is_empty() || out.bytes() + bytes <= self.bytes && out.len() < self.entries
    }

    /// Whether it fits if all with the key that can be replaced make place for it.
    fn fits_in_place_of(self, key: Option<&Name>, connection: &Connection, bytes: usize) -> bool {
        let out = &connection.out;
        self.fits(connection, bytes)
            || key.is_some_and(|key| {
                let (entries, replaced) = out.unsent_with_key(key);
                entries > 0
                    && (out.len() == entries
                        || out.bytes() - replaced + bytes <= self.bytes
                            && out.len() - entries < self.entries)
            })
    }
}

/// The bounds that a client's queue has now.
fn bounds(context: &Context, connection: &Connection) -> Bounds {
    let settings = &context.settings;
    let (bytes, entries) = (settings.queue_bytes, settings.queue_entries);
    let is_slow = connection
        .behind_since
        .is_some_and(|since| context.tick - since >= settings.slow_client_grace);
    if is_slow || settings.slow_client_grace == 0 {
        return Bounds { bytes, entries };
    }
    Bounds { bytes: bytes.saturating_mul(MOST), entries: entries.saturating_mul(MOST) }
}

/// Queues the messages of a batch for one client; tells what became of each. A panic marks this
/// client for closing; others get their messages all the same.
pub(super) fn enqueue_all(
    outbound: &mut Outbound,
    context: &Context,
    parts: &mut Parts<'_>,
    batch: &mut Batch<'_>,
    effects: &mut Effects,
    mut outcome: impl FnMut(usize, EnqueueResult),
) {
    for index in 0..batch.len() {
        let queued = guarded(parts.slot, effects, |effects| {
            let Outbound { compressor, memory, .. } = outbound;
            let window = parts.socket.window();
            let encoded = batch.encoded(window, &context.settings, compressor, memory);
            let frame = Rc::clone(&encoded.frames()[index]);
            let when_behind = batch.when_behind(index);
            enqueue(outbound, context, parts, (frame, when_behind), effects)
        });
        outcome(
            index,
            queued.unwrap_or_else(|| {
                parts.connection.flags.closing = true;
                EnqueueResult::Closed
            }),
        );
    }
}

/// Queues a message for one client, if it takes it.
pub(super) fn enqueue(
    outbound: &mut Outbound,
    context: &Context,
    parts: &mut Parts<'_>,
    (frame, when_behind): (Rc<Frame>, &WhenBehind),
    effects: &mut Effects,
) -> EnqueueResult {
    let connection = &mut *parts.connection;
    if !connection.is_open() || connection.flags.closing {
        return EnqueueResult::Gone;
    }
    let mut key = None;
    match when_behind {
        WhenBehind::Drop if connection.flags.blocked => {
            context.stats.drop_messages(Drop::Behind, 1);
            return EnqueueResult::Behind;
        }
        WhenBehind::Queue | WhenBehind::Drop => {}
        WhenBehind::Conflate(name) => {
            // What is worth nothing any more can't be replaced.
            drop_expired(context, connection);
            key = Some(name);
        }
    }
    let mut replaced = 0;
    let bytes = frame.len();
    if !bounds(context, connection).fits_in_place_of(key, connection, bytes) {
        match make_room(outbound, context, parts, (bytes, key), effects) {
            Ok(meanwhile) => replaced = meanwhile,
            Err(refused) => return refused,
        }
    }
    let connection = &mut *parts.connection;
    // Only now: who is refused replaces nothing.
    replaced += replace(context, key, connection);
    connection.out.append(frame, Sort::Message);
    outbound.mark_dirty(parts.slot, connection);
    EnqueueResult::Queued(replaced)
}

/// Drops what is replaced; answers how many messages that were.
fn replace(context: &Context, key: Option<&Name>, connection: &mut Connection) -> u64 {
    let replaced = key.map_or(0, |key| connection.out.drop_with_key(key));
    context.stats.drop_messages(Drop::Replaced, replaced);
    replaced
}

/// Marks a client for closing because it is too slow or its connection broke.
fn give_up(connection: &mut Connection, slot: Slot, cause: Cause, effects: &mut Effects) {
    connection.flags.closing = true;
    if cause == Cause::Slow {
        let reason = "does not read as fast as messages arrive";
        effects.close(slot, cause, code::OVERLOADED, reason);
    } else {
        effects.push(Effect::Lost(slot));
    }
}

/// The queue is full: write what the socket takes, then apply `limits.slow_client`. Answers how many
/// messages with the key were replaced for it.
fn make_room(
    outbound: &mut Outbound,
    context: &Context,
    parts: &mut Parts<'_>,
    (bytes, key): (usize, Option<&Name>),
    effects: &mut Effects,
) -> Result<u64, EnqueueResult> {
    drop_expired(context, parts.connection);
    let fits = |connection: &Connection| {
        bounds(context, connection).fits_in_place_of(key, connection, bytes)
    };
    if fits(parts.connection) {
        return Ok(0);
    }
    // The socket is tried once even if it refused before: the poll may not have told yet that it
    // takes more. A flush that ended with its turn says nothing of how fast the client reads.
    let mut state = State::Unfinished;
    while state == State::Unfinished {
        state = outbound.flush(context, parts);
        if state == State::Broken {
            give_up(parts.connection, parts.slot, Cause::Lost, effects);
            return Err(EnqueueResult::Closed);
        }
        if fits(parts.connection) {
            return Ok(0);
        }
    }
    let connection = &mut *parts.connection;
    let bounds = bounds(context, connection);
    let mut refused = EnqueueResult::Full;
    match context.settings.slow_client {
        SlowClient::Disconnect => {
            give_up(connection, parts.slot, Cause::Slow, effects);
            refused = EnqueueResult::Closed;
        }
        // Nothing is dropped for a message that would not fit afterwards either.
        SlowClient::DropOldest if connection.out.begun_bytes() + bytes <= bounds.bytes => {
            let replaced = replace(context, key, connection);
            while !bounds.fits(connection, bytes) {
                if !connection.out.drop_oldest() {
                    break;
                }
                context.stats.drop_messages(Drop::Oldest, 1);
            }
            if bounds.fits(connection, bytes) {
                return Ok(replaced);
            }
        }
        SlowClient::DropNewest | SlowClient::DropOldest => {}
    }
    context.stats.drop_messages(Drop::Newest, 1);
    Err(refused)
}
