//! The modern API, `gateway.v1`, as tonic wants it.
//!
//! ```text
//!   request ──► convert: all that is wrong with it, each with its path ──► INVALID_ARGUMENT
//!                  └──► targets, payloads, changes ──► hub ──► numbers, failures item by item
//!                          └── with an idempotency key: once
//! ```

mod connections;
mod convert;
mod fault;
mod membership;
mod messages;
mod once;
mod stream;

use std::sync::Arc;

use tonic::service::Routes;

use super::{limit::Limited, proto::v1 as proto};
use crate::{config::Live, hub::Hub, net::Gate};

/// Answers the modern API's calls.
pub(super) struct V1 {
    hub: Hub,
    live: Live,
    once: once::Once,
    /// Streams that are open.
    streams: Gate,
}

macro_rules! services {
    ($($module:ident $server:ident;)+) => {
        /// The full names of the services.
        pub(super) const NAMES: &[&str] = &[$(proto::$module::SERVICE_NAME),+];

        /// Adds the services to `routes`.
        pub(super) fn add(mut routes: Routes, hub: Hub, live: &Live) -> Routes {
            let (once, streams) = (once::Once::default(), Gate::default());
            let api = Arc::new(V1 { hub, live: live.clone(), once, streams });
            $(
                routes = routes.add_service(Limited::new(
                    proto::$module::$server::from_arc(Arc::clone(&api)),
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
    membership_server MembershipServer;
    messages_server MessagesServer;
}

/// The methods of these services.
pub(super) const METHODS: &[&str] = &[
    "gateway.v1.Connections/Close",
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

/// A count on the wire.
fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_the_services_is_listed() {
        let described = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let mut methods = Vec::new();
        for file in &described.file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                if NAMES.contains(&name.as_str()) {
                    methods.extend(service.method.iter().map(|it| format!("{name}/{}", it.name())));
                }
            }
        }
        methods.sort_unstable();
        let mut listed = METHODS.to_vec();
        listed.sort_unstable();
        assert_eq!(methods, listed);
    }
}
