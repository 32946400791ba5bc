//! Where a subscriber sleeps, and why it may be woken for good.

use std::{sync::OnceLock, time::Duration};

use tokio::sync::Notify;

use crate::config::value::span;

/// Why a subscription is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// An item was not acknowledged in time.
    #[error(
        "the event at cursor {cursor} was not acknowledged within events.ack_timeout ({})",
        span::format(*timeout)
    )]
    Overdue {
        /// The cursor of the oldest item that was not acknowledged.
        cursor: u64,
        /// The time that there was.
        timeout: Duration,
    },
    /// The configuration no longer names the group.
    #[error("the consumer group was removed from events.groups")]
    Gone,
    /// The gateway stops.
    #[error("the gateway is stopping")]
    Stopped,
}

/// Where a subscriber sleeps.
#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) stirred: Notify,
    pub(super) ended: OnceLock<Ended>,
}

impl Seat {
    pub(super) fn end(&self, why: Ended) {
        let _ = self.ended.set(why);
        self.stirred.notify_one();
    }
}
