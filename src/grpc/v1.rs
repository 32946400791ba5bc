//! The modern API: package `gateway.v1`.

mod directory;
mod fault;
mod paging;

use tonic::service::Routes;

use super::{limit::Limited, proto::v1};
use crate::{config::Live, hub::Hub};

/// Adds the services to `routes`.
pub(super) fn add(routes: Routes, hub: Hub, live: &Live) -> Routes {
    use v1::directory_server::DirectoryServer;
    routes.add_service(Limited::new(
        DirectoryServer::new(directory::Directory::new(hub, live.clone())),
        live.clone(),
        DirectoryServer::max_decoding_message_size,
    ))
}
