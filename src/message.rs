//! What is sent, to whom, and what became of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{
    attributes::Attributes,
    ids::{ClientId, Name},
};

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
    /// How it waits for a client that does not read as fast as messages arrive.
    pub terms: Terms,
}

impl Payload {
    /// A message that says `text`, framed as `kind`.
    pub fn from_text(kind: Kind, text: String) -> Self {
        Self::new(kind, text.into())
    }

    /// A message of these bytes, on the usual terms. Who says [`Kind::Text`] vouches for UTF-8.
    pub fn new(kind: Kind, bytes: Bytes) -> Self {
        Self { kind, bytes, deflated: SmallVec::new(), terms: Terms::default() }
    }
}

/// On which terms a message waits in a client's queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Longest time in the queue, counted from when it was queued; none is as long as it takes. A
    /// message of which the first byte was written goes out whole.
    pub ttl: Option<Duration>,
    /// What happens if the client is behind.
    pub when_behind: WhenBehind,
}

/// What happens to a message for a client that is *behind*: whose socket has not taken everything
/// that was sent to it before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WhenBehind {
    /// It waits its turn.
    #[default]
    Queue,
    /// It is dropped for this client.
    Drop,
    /// It takes the place of an earlier one with the same key that waits unsent, at the end of the
    /// queue: so the order of what is answered stays the order of what is seen.
    Conflate(Name),
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
    /// All that are named in some way, less exceptions.
    Selection(Arc<Selection>),
}

/// The union of what is named, less the exceptions. Who is named several times is addressed once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Every client; then the next three are empty.
    pub all: bool,
    /// Clients by id.
    pub clients: Vec<ClientId>,
    /// Sorted, to be searched for every client.
    users: Vec<Name>,
    /// All members of these groups.
    pub groups: Vec<Name>,
    /// Who is left out.
    pub filter: Filter,
}

impl Selection {
    /// Every client, but for who is left out.
    pub fn everybody(filter: Filter) -> Self {
        Self { all: true, filter, ..Self::default() }
    }

    /// These clients, all clients of these users and all members of these groups, but for who is
    /// left out.
    pub fn of(
        clients: Vec<ClientId>,
        mut users: Vec<Name>,
        groups: Vec<Name>,
        filter: Filter,
    ) -> Self {
        users.sort_unstable();
        users.dedup();
        Self { all: false, clients, users, groups, filter }
    }

    /// Memory of the names that it holds by itself.
    pub fn bytes(&self) -> usize {
        let Self { clients, users, groups, filter, .. } = self;
        let ids = clients.len() + filter.except_clients.len();
        let names = users.len() + groups.len() + filter.except_users.len();
        ids * size_of::<ClientId>() + names * size_of::<Name>()
    }

    /// The users of whom all clients are meant, each once.
    pub fn users(&self) -> &[Name] {
        &self.users
    }

    /// Whether all clients of the user are meant.
    pub fn names_user(&self, uid: &Name) -> bool {
        self.users.binary_search(uid).is_ok()
    }
}

/// Who of those that are named is meant after all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Sorted, to be searched for every client.
    except_clients: Vec<ClientId>,
    except_users: Vec<Name>,
    attributes: Attributes,
}

impl Filter {
    /// Lets pass who is none of these clients, belongs to none of these users and has all of these
    /// attributes.
    pub fn new(
        mut except_clients: Vec<ClientId>,
        mut except_users: Vec<Name>,
        attributes: Attributes,
    ) -> Self {
        except_clients.sort_unstable();
        except_users.sort_unstable();
        Self { except_clients, except_users, attributes }
    }

    /// Whether a client passes.
    pub fn lets_pass(
        &self,
        client: ClientId,
        uid: Option<&Name>,
        attributes: Option<&Attributes>,
    ) -> bool {
        self.except_clients.binary_search(&client).is_err()
            && uid.is_none_or(|uid| self.except_users.binary_search(uid).is_err())
            && self.attributes.are_in(attributes)
    }

    /// Whether it lets everybody pass.
    pub fn is_empty(&self) -> bool {
        self.except_clients.is_empty() && self.except_users.is_empty() && self.attributes.is_empty()
    }
}

/// What became of one send: exact numbers, taken by the shards that own the clients. Everybody who
/// is `matched` is counted once more: `queued`, or for why not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Clients that the target named at the moment of the send.
    pub matched: usize,
    /// Clients whose queue took the message.
    pub queued: usize,
    /// Clients that were behind, for a message that is dropped then.
    pub behind: usize,
    /// Clients whose queue was full, and that stay connected.
    pub full: usize,
    /// Clients whose connection turned out to be broken, or that are closed for being too slow.
    pub closed: usize,
    /// Earlier messages that this one replaced.
    pub replaced: usize,
}

impl Receipt {
    /// Everybody matched and queued it.
    pub fn all_queued(matched: usize) -> Self {
        Self { matched, queued: matched, ..Self::default() }
    }
}

impl std::ops::AddAssign for Receipt {
    fn add_assign(&mut self, other: Self) {
        self.matched += other.matched;
        self.queued += other.queued;
        self.behind += other.behind;
        self.full += other.full;
        self.closed += other.closed;
        self.replaced += other.replaced;
    }
}
