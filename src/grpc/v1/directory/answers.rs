//! What the hub knows, as messages.

use tonic::Code;

use crate::{
    grpc::proto::v1::{Client, ClientEntry, Failure, GroupEntry},
    hub,
    ids::{ClientId, Name},
    shard::{Described, Found},
    timestamp,
};

pub(super) fn client(described: &Described) -> Client {
    let about = described.about.as_deref();
    let path = about.map(|about| &*about.path).filter(|path| !path.is_empty());
    let headers = about.into_iter().flat_map(|about| &about.headers);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Client {
        path: path.unwrap_or("/").to_owned(),
        headers: headers.map(|(name, value)| pair(name, value)).collect(),
        subprotocol: about.map_or_else(String::new, |about| about.subprotocol.to_string()),
        id: described.id.to_string(),
        uid: text(described.uid.as_ref()),
        groups: described.groups.iter().map(Name::to_string).collect(),
        attributes: described.attributes.iter().map(|(name, value)| pair(name, value)).collect(),
        address: described.peer.to_string(),
        connected_at: Some(timestamp::write(described.connected)),
        heard_at: Some(timestamp::write(described.heard)),
        // A duration of 32 bits of microseconds is one on the wire, too.
        round_trip: described.round_trip.and_then(|time| time.try_into().ok()),
        queued_messages: count(described.queued_messages),
        queued_bytes: count(described.queued_bytes),
        bytes_in: count(described.traffic.received),
        bytes_out: count(described.traffic.acknowledged),
        tls: described.tls,
        compression_window_bits: described.window.map_or(0, i32::from),
        shard: i32::from(described.id.shard()),
        expires_at: described.expires.map(timestamp::write),
    }
}

/// A client that is not there.
pub(super) fn missing(index: usize, client: ClientId) -> Failure {
    Failure {
        field: format!("clients[{index}]"),
        code: Code::NotFound as i32,
        message: format!("client {client} is not connected"),
    }
}

/// A client for which there was no room.
pub(super) fn left_out(index: usize, client: ClientId) -> Failure {
    Failure {
        field: format!("clients[{index}]"),
        code: Code::ResourceExhausted as i32,
        message: format!("answer full: ask for client {client} in another call"),
    }
}

pub(super) fn entry(found: &Found) -> ClientEntry {
    ClientEntry {
        id: found.id.to_string(),
        uid: text(found.uid.as_ref()),
        connected_at: Some(timestamp::write(found.connected)),
    }
}

pub(super) fn group_entry(group: &hub::GroupEntry) -> GroupEntry {
    GroupEntry { name: group.name.to_string(), members: count(group.members) }
}

/// A count on the wire: what an int64 can't hold is the most it can.
pub(super) fn count(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn text(name: Option<&Name>) -> String {
    name.map_or_else(String::new, Name::to_string)
}
