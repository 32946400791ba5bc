//! What is told to who subscribes.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;

use crate::{
    about::About,
    attributes::Attributes,
    ids::{ClientId, Name},
    message::Kind,
    sink::Closed,
};

/// One thing that a client did. All consumer groups share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Who did it.
    pub client: ClientId,
    /// Its uid at that time.
    pub uid: Option<Name>,
    /// When.
    pub at: SystemTime,
    /// What.
    pub what: What,
}

/// What a client did.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It connected.
    Opened(Box<Newly>),
    /// It said something. The bytes of a text are valid UTF-8.
    Message {
        /// Text or binary.
        kind: Kind,
        /// The content.
        bytes: Bytes,
    },
    /// It is gone.
    Closed(Closed),
}

/// What is known of a client that has just connected.
#[derive(Clone, Debug, PartialEq)]
pub struct Newly {
    /// Its groups.
    pub groups: Vec<Name>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// What is remembered of its request.
    pub about: Option<Arc<About>>,
}

impl Event {
    /// Whether it is a message: these have a buffer of their own.
    pub(super) fn is_message(&self) -> bool {
        matches!(self.what, What::Message { .. })
    }

    /// The memory that it takes, about.
    pub(super) fn weight(&self) -> usize {
        let beside = match &self.what {
            What::Message { bytes, .. } => bytes.len(),
            What::Closed(_) => 0,
            What::Opened(newly) => newly.weight(),
        };
        OVERHEAD + beside
    }
}

impl Newly {
    fn weight(&self) -> usize {
        let groups = self.groups.len() * size_of::<Name>();
        // What is remembered of the request is shared, but each client may be the last to share it.
        let about = self.about.as_ref().map_or(0, |about| {
            let headers = about.headers.iter().map(|(name, value)| name.len() + value.len());
            about.path.len() + about.subprotocol.len() + headers.sum::<usize>()
        });
        size_of::<Self>() + groups + self.attributes.bytes() + about
    }
}

/// What an event takes beside its content: itself, and its places in queues.
pub(super) const OVERHEAD: usize = 192;

/// One item of a subscriber's stream. Each has a cursor of its own, to be acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Its place in the consumer group's order.
    pub cursor: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// What is delivered.
    pub what: Delivered,
}

/// What an item tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivered {
    /// What a client did.
    Event(Arc<Event>),
    /// Events that there was no room for. A snapshot of their partitions follows at once.
    Missed {
        /// Of which partitions they were.
        partitions: Partitions,
        /// The cursor of the first.
        first: u64,
        /// The cursor of the last; events in between may still be there.
        last: u64,
        /// Messages among them.
        messages: u64,
        /// `opened` and `closed` among them.
        changes: u64,
    },
    /// Who is connected.
    Snapshot {
        /// Of which partitions: who is of these and not named is not connected.
        partitions: Partitions,
        /// All of them.
        clients: Vec<ClientId>,
    },
}

/// Some partitions of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitions {
    /// All that there are.
    All,
    /// These, by number; see [`partition_of`](super::partition_of).
    These(Vec<u16>),
}
