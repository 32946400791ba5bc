//! What all shards share.

use std::sync::Arc;

use super::clock::Clock;
use crate::{config::Live, directory::Directory, sink::EventSink};

/// What a shard is started with.
pub(crate) struct World {
    pub(crate) live: Live,
    pub(crate) directory: Arc<Directory>,
    pub(crate) sink: Arc<dyn EventSink>,
    /// Number of shards.
    pub(crate) shards: usize,
    pub(crate) clock: Clock,
}
