//! What is sent, to whom, and what became of it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::ids::{ClientId, Name};

/// The two kinds of WebSocket message (RFC 6455 §5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

/// The content of one message. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Text or binary. Who builds a text payload vouches for its being UTF-8.
    pub kind: Kind,
    /// The content, not framed and not compressed.
    pub bytes: Bytes,
    /// The content compressed ahead, for messages so large that a shard would be held up by it:
    /// by window size (RFC 7692 §7.1.2), where that makes it smaller.
    pub deflated: SmallVec<[(u8, Bytes); 1]>,
}

impl Payload {
    /// A message that says `text`, framed as `kind`.
    pub fn from_text(kind: Kind, text: String) -> Self {
        Self { kind, bytes: text.into(), deflated: SmallVec::new() }
    }
}

/// Whom a send or a close addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every client of the gateway.
    All,
    /// One client.
    Client(ClientId),
    /// All clients bound to a uid.
    User(Name),
    /// All members of a group.
    Group(Name),
}

/// What became of one send: exact numbers, taken by the shards that own the clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Clients that the target named at the moment of the send.
    pub matched: usize,
    /// Clients whose queue took the message.
    pub queued: usize,
}

impl std::ops::AddAssign for Receipt {
    fn add_assign(&mut self, other: Self) {
        self.matched += other.matched;
        self.queued += other.queued;
    }
}
