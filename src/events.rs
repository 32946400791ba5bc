//! What clients do, for those who subscribe.
//!
//! ```text
//!  shards ─► ears ─► group ─► Subscription::take ─► in flight ─► acknowledge
//!                    group ─► …        │                └► lost, overdue: back to the front
//!                                      └ of one group each client has one subscriber at a time
//! ```
//!
//! It knows nothing of gRPC: `grpc/` carries deliveries to subscribers and brings back what they
//! acknowledge.

mod event;
mod subscription;

use std::sync::Arc;

pub use event::{Delivered, Delivery, Event, Newly, What};
pub use subscription::{Ended, SubscribeError, Subscription, WrongAck};

use crate::{
    config::Live,
    ids::Name,
    sink::{Ear, EventSink, NoSink, Wake},
};

/// What clients do, for those who subscribe. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    epoch: u64,
}

impl Events {
    /// Nothing has happened yet. The groups of `events.groups` are there; reloads are followed. To
    /// be called within a tokio runtime.
    pub fn new(live: &Live) -> Self {
        let _ = live;
        Self(Arc::new(Shared { epoch: 1 }))
    }

    /// Chosen at random when the gateway starts.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Joins a consumer group. `window` is how many items may be under way without being
    /// acknowledged, up to `events.max_unacknowledged`; none is as many as that.
    pub fn subscribe(
        &self,
        group: &Name,
        window: Option<usize>,
    ) -> Result<Subscription, SubscribeError> {
        let _ = (group, window);
        Err(SubscribeError::Stopped)
    }

    /// Ends all subscriptions, and lets nobody subscribe any more.
    pub fn stop(&self) {}
}

impl EventSink for Events {
    fn ear(&self, shard: u16, wake: Wake) -> Box<dyn Ear> {
        NoSink.ear(shard, wake)
    }
}
