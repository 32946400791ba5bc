//! Where a shard reports what happens to its clients.
//!
//! The shard calls; somebody above listens. A sink runs on the shard's thread, inside the step of
//! one session, so it must not block. If it panics, that session is closed with 1011 and the shard
//! goes on.

use crate::{close::Cause, ids::ClientId, message::Kind};

/// Listens to the sessions of all shards.
///
/// For one client the calls come in order: `opened`, any number of `message`, one `closed`.
pub trait EventSink: Send + Sync {
    /// A client is connected and can be addressed.
    fn opened(&self, client: ClientId) {
        let _ = client;
    }

    /// A client said something other than `ping`. The bytes of a text are valid UTF-8.
    fn message(&self, client: ClientId, kind: Kind, bytes: &[u8]) {
        let _ = (client, kind, bytes);
    }

    /// A client is no longer connected; nothing can be sent to it any more.
    fn closed(&self, client: ClientId, cause: Cause) {
        let _ = (client, cause);
    }
}

/// Nobody listens: what clients say is dropped (or echoed, as `websocket.messages` says).
#[derive(Debug, Default)]
pub struct NoSink;

impl EventSink for NoSink {}
