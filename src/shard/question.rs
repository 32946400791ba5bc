//! Questions about clients, and what is answered.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    about::About,
    attributes::Attributes,
    ids::{ClientId, Name},
    net::traffic::Traffic,
};

/// Everything that is known of one client.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its id, which tells its shard, too.
    pub id: ClientId,
    /// Its uid.
    pub uid: Option<Name>,
    /// Its groups.
    pub groups: Vec<Name>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Who is at the other end; an address of IPv4 as such, whatever it was accepted on.
    pub peer: SocketAddr,
    /// What is remembered of its request.
    pub about: Option<Arc<About>>,
    /// When it connected, to a tenth of a second.
    pub connected: SystemTime,
    /// When something was last heard from it, to a tenth of a second.
    pub heard: SystemTime,
    /// When it will be closed, to a tenth of a second.
    pub expires: Option<SystemTime>,
    /// Time from the last ping that was answered to its pong.
    pub round_trip: Option<Duration>,
    /// Messages that wait in its queue.
    pub queued_messages: u64,
    /// Bytes that wait in its queue.
    pub queued_bytes: u64,
    /// What its socket has carried.
    pub traffic: Traffic,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The compression window that was agreed.
    pub window: Option<u8>,
}

/// Which clients are searched for. What is not set is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Only clients whose uid begins so; empty is anybody, with a uid or without.
    pub uid_prefix: String,
    /// Only members of the group.
    pub group: Option<Name>,
    /// Only clients that connected at or after this time. Times are known to a tenth of a second;
    /// in doubt a client is found.
    pub since: Option<SystemTime>,
    /// Only clients that have each of these attributes.
    pub attributes: Attributes,
}

/// A client that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: ClientId,
    /// Its uid.
    pub uid: Option<Name>,
    /// When it connected, to a tenth of a second.
    pub connected: SystemTime,
}

/// One step of a search.
pub(crate) struct Scan {
    pub(crate) search: Arc<Search>,
    /// The first slot to be looked at.
    pub(crate) from: u32,
    /// Clients to be found at most.
    pub(crate) most: usize,
}

/// What a step has found.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) found: Vec<Found>,
    /// Where the next step goes on; none if that was the last.
    pub(crate) next: Option<u32>,
}
