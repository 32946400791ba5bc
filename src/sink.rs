//! Where a shard reports what happens to its clients.
//!
//! The shard calls; somebody above listens. An [`Ear`] runs on its shard's thread, inside the step of
//! one session, so it must not block. If it panics, that session is closed with 1011 and the shard
//! goes on.
//!
//! ```text
//!  opened, message, closed ─► ear of the shard ─► (end of the turn, or enough of it) ─► who listens
//!  message ◄─ no room: it is kept, its client isn't read until there is ◄─ wake ───────┤
//!  goodbye ◄─ unanswered: the end waits a little until it is ◄─ wake ──────────────────┘
//! ```

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    about::About,
    attributes::Attributes,
    close::Cause,
    ids::{ClientId, Name},
    message::Kind,
};

/// Makes a shard take a turn soon; may be called from any thread, at any time.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Tells whether something that a client has said is still not answered.
pub type Unanswered = Box<dyn Fn() -> bool + Send>;

/// Listens to the clients of all shards.
pub trait EventSink: Send + Sync {
    /// The ear of one shard, made once, before the shard's first turn.
    fn ear(&self, shard: u16, wake: Wake) -> Box<dyn Ear>;
}

/// Listens to the clients of one shard.
///
/// For one client the calls come in order: `opened`, any number of `message`, one `closed`.
pub trait Ear: Send {
    /// Whether anybody wants to know; if not, nothing is collected for it.
    fn listens(&self) -> bool {
        true
    }

    /// A client is connected and can be addressed.
    fn opened(&mut self, opened: &Opened<'_>) {
        let _ = opened;
    }

    /// A client said something other than `ping`. The bytes of a text are valid UTF-8.
    fn message(&mut self, who: Who<'_>, kind: Kind, bytes: &[u8]) -> Accept {
        let _ = (who, kind, bytes);
        Accept::Accepted
    }

    /// A client is no longer connected; nothing can be sent to it any more.
    fn closed(&mut self, who: Who<'_>, closed: &Closed) {
        let _ = (who, closed);
    }

    /// Whether messages that found no room may be offered again. If not, the shard is woken when they
    /// may.
    fn has_room(&self) -> bool {
        true
    }

    /// What the client has said that was not answered yet, if anything was not. The shard is woken
    /// when that has changed, or may have.
    fn unanswered(&mut self, client: ClientId) -> Option<Unanswered> {
        let _ = client;
        None
    }

    /// The first slot that a roll call has not come to yet, if one is under way: the shard names
    /// whoever is open in some slots from there on by [`present`](Self::present).
    fn roll_call(&mut self) -> Option<u32> {
        None
    }

    /// The answer to a roll call: who is open in the slots up to `next`; none if there are no more.
    fn present(&mut self, clients: &[ClientId], next: Option<u32>) {
        let _ = (clients, next);
    }

    /// The turn is over: what was heard in it can be passed on together.
    fn end_turn(&mut self) {}
}

/// A client, and the user that it belongs to now.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The client.
    pub client: ClientId,
    /// Its uid.
    pub uid: Option<&'a Name>,
}

/// A client that has connected.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// Which, and whose.
    pub who: Who<'a>,
    /// Its groups.
    pub groups: &'a [Name],
    /// Its attributes; none if it has none.
    pub attributes: Option<&'a Attributes>,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// What is remembered of its request.
    pub about: Option<&'a Arc<About>>,
}

/// How a client has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Why.
    pub cause: Cause,
    /// The close code that was sent; 1006 if none could be.
    pub code: u16,
    /// How long it was connected, to a tenth of a second.
    pub lasted: Duration,
    /// Bytes that its socket has received.
    pub bytes_in: u64,
    /// Bytes that its socket has sent.
    pub bytes_out: u64,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// It was taken, or nobody wanted it.
    Accepted,
    /// There is no room for it: it is to be offered again when there is, for which the shard is woken.
    /// Until then its client isn't read.
    Backpressure,
}

/// Nobody listens: what clients say is dropped (or echoed, as `websocket.messages` says).
#[derive(Debug, Default)]
pub struct NoSink;

impl EventSink for NoSink {
    fn ear(&self, _: u16, _: Wake) -> Box<dyn Ear> {
        Box::new(NoEar)
    }
}

#[derive(Debug)]
struct NoEar;

impl Ear for NoEar {
    fn listens(&self) -> bool {
        false
    }
}
