//! The modern API, `gateway.v1`, as tonic wants it.
//!
//! ```text
//!   request ──► convert: all that is wrong with it, each with its path ──► INVALID_ARGUMENT
//!                  └──► targets, payloads, changes ──► hub ──► numbers, failures item by item
//!                          └── with an idempotency key: once
//! ```

mod connections;
mod convert;
mod directory;
mod events;
mod fault;
mod membership;
mod messages;
mod once;
mod paging;
mod stream;

use std::sync::Arc;

use tonic::{Status, service::Routes};

use self::directory::Directory;
use super::{
    GZIP,
    limit::Limited,
    proto::v1::{self as proto, directory_server::DirectoryServer},
};
use crate::{
    config::Live,
    events::Events,
    hub::Hub,
    net::{Gate, Place},
};

/// Answers the modern API's calls.
pub(super) struct V1 {
    hub: Hub,
    events: Events,
    live: Live,
    once: once::Once,
    streams: Streams,
}

/// The places of streams that are open. Cheap to clone.
#[derive(Clone)]
struct Streams {
    live: Live,
    gate: Arc<Gate>,
}

impl Streams {
    /// A place for one more, which lasts until it is dropped.
    fn enter(&self) -> Result<Place, Status> {
        let limit = self.live.snapshot().api.max_streams;
        self.gate.try_enter(limit).ok_or_else(|| {
            let text = format!("too many streams: api.max_streams ({limit}) reached");
            fault::exhausted("api.max_streams", text)
        })
    }
}

macro_rules! services {
    ($($module:ident $server:ident;)+) => {
        /// The full names of the services.
        pub(super) const NAMES: &[&str] =
            &[proto::directory_server::SERVICE_NAME, $(proto::$module::SERVICE_NAME),+];

        /// Adds the services to `routes`.
        pub(super) fn add(mut routes: Routes, hub: Hub, events: Events, live: &Live) -> Routes {
            let streams = Streams { live: live.clone(), gate: Arc::default() };
            let directory = Directory::new(hub.clone(), live.clone(), streams.clone());
            routes = routes.add_service(Limited::new(
                DirectoryServer::new(directory)
                    .accept_compressed(GZIP)
                    .send_compressed(GZIP),
                live.clone(),
                DirectoryServer::max_decoding_message_size,
            ));
            let once = once::Once::default();
            let api = Arc::new(V1 { hub, events, live: live.clone(), once, streams });
            $(
                routes = routes.add_service(Limited::new(
                    proto::$module::$server::from_arc(Arc::clone(&api))
                        .accept_compressed(GZIP)
                        .send_compressed(GZIP),
                    live.clone(),
                    proto::$module::$server::max_decoding_message_size,
                ));
            )+
            routes
        }
    };
}

services! {
    connections_server ConnectionsServer;
    events_server EventsServer;
    membership_server MembershipServer;
    messages_server MessagesServer;
}

/// The methods of these services.
pub(super) const METHODS: &[&str] = &[
    "gateway.v1.Connections/Close",
    "gateway.v1.Directory/CheckOnline",
    "gateway.v1.Directory/Count",
    "gateway.v1.Directory/DescribeClients",
    "gateway.v1.Directory/ListClients",
    "gateway.v1.Directory/ListGroups",
    "gateway.v1.Directory/ListUids",
    "gateway.v1.Directory/StreamClients",
    "gateway.v1.Directory/StreamGroups",
    "gateway.v1.Directory/StreamUids",
    "gateway.v1.Events/Subscribe",
    "gateway.v1.Membership/Bind",
    "gateway.v1.Membership/Unbind",
    "gateway.v1.Membership/Join",
    "gateway.v1.Membership/Leave",
    "gateway.v1.Membership/Dissolve",
    "gateway.v1.Membership/Apply",
    "gateway.v1.Membership/GetAttributes",
    "gateway.v1.Membership/SetAttributes",
    "gateway.v1.Messages/Send",
    "gateway.v1.Messages/SendStream",
];

/// Those of them that have a stream of answers.
pub(super) const STREAMS: &[&str] = &[
    "gateway.v1.Directory/StreamClients",
    "gateway.v1.Directory/StreamGroups",
    "gateway.v1.Directory/StreamUids",
    "gateway.v1.Events/Subscribe",
    "gateway.v1.Messages/SendStream",
];

/// A count on the wire.
fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{FileDescriptorSet, MethodDescriptorProto};

    use super::*;

    #[test]
    fn every_method_of_the_services_is_listed() {
        let described = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let (mut methods, mut streams) = (Vec::new(), Vec::new());
        for file in &described.file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                if NAMES.contains(&name.as_str()) {
                    let named = |it: &MethodDescriptorProto| format!("{name}/{}", it.name());
                    methods.extend(service.method.iter().map(named));
                    let streaming = service.method.iter().filter(|it| it.server_streaming());
                    streams.extend(streaming.map(named));
                }
            }
        }
        methods.sort_unstable();
        let mut listed = METHODS.to_vec();
        listed.sort_unstable();
        assert_eq!(methods, listed);
        streams.sort_unstable();
        assert_eq!(streams, STREAMS);
    }
}
