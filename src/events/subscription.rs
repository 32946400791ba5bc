//! One subscriber's place in a consumer group.

use std::{fmt, sync::Arc};

use tokio::sync::Notify;

use super::{
    consumer_group::ConsumerGroup,
    event::Delivery,
    group::Key,
    seat::{Ended, Seat},
};
use crate::ids::Name;

/// Why nobody can subscribe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// There is no such group, and none may be made.
    #[error(
        "no consumer group {group:?}: events.groups lists them, events.allow_new_groups lets \
         subscribers add others"
    )]
    UnknownGroup {
        /// The group that was asked for.
        group: Name,
    },
    /// The group has all the subscribers that it may have.
    #[error("consumer group full: events.max_subscribers ({limit}) reached")]
    TooManySubscribers {
        /// Subscribers allowed.
        limit: usize,
    },
    /// There are all the groups that there may be.
    #[error("too many consumer groups: events.max_groups ({limit}) reached")]
    TooManyGroups {
        /// Groups allowed.
        limit: usize,
    },
    /// The gateway stops.
    #[error("the gateway is stopping")]
    Stopped,
}

/// What is wrong with an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongAck {
    /// It is for another run of the gateway.
    #[error("epoch {theirs} is over, current epoch is {ours}")]
    Epoch {
        /// The epoch that was acknowledged.
        theirs: u64,
        /// The epoch that it is.
        ours: u64,
    },
    /// No event has had that cursor yet.
    #[error("no event has cursor {cursor} yet, the last is {last}")]
    UnknownCursor {
        /// The cursor that was acknowledged.
        cursor: u64,
        /// The last that was given to an event of the group.
        last: u64,
    },
}

/// One subscriber's place in a consumer group. Dropping it leaves the group: what was not
/// acknowledged goes to others.
pub struct Subscription {
    pub(super) group: Arc<ConsumerGroup>,
    pub(super) key: Key,
    pub(super) seat: Arc<Seat>,
    pub(super) window: usize,
    pub(super) epoch: u64,
    /// Stirred when it has left.
    pub(super) keeper: Arc<Notify>,
}

impl Subscription {
    /// How many items may be under way without being acknowledged.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Whether so many items are under way that no more can be taken until some are acknowledged.
    pub fn is_full(&self) -> bool {
        self.group.is_full(self.key)
    }

    /// Waits for items, and takes at least one: at most `most`, and more than one only if they have
    /// at most `most_bytes` together. Can be dropped without losing any.
    pub async fn take(&mut self, most: usize, most_bytes: usize) -> Result<Vec<Delivery>, Ended> {
        loop {
            if let Some(ended) = self.seat.ended.get() {
                return Err(*ended);
            }
            let taken = self.group.take(self.key, most, most_bytes);
            if !taken.is_empty() {
                return Ok(taken);
            }
            self.seat.stirred.notified().await;
        }
    }

    /// Waits until the subscription is over; takes nothing.
    pub async fn ended(&self) -> Ended {
        loop {
            if let Some(ended) = self.seat.ended.get() {
                return *ended;
            }
            // Who takes looks whether there is anything before he sleeps.
            self.seat.stirred.notified().await;
        }
    }

    /// What is wrong with an acknowledgement, if it is wrong; takes no note of it.
    pub fn check(&self, epoch: u64, cursor: u64) -> Result<(), WrongAck> {
        if epoch != self.epoch {
            return Err(WrongAck::Epoch { theirs: epoch, ours: self.epoch });
        }
        if self.seat.ended.get().is_some() {
            // The group may know nothing any more.
            return Ok(());
        }
        let last = self.group.last();
        if cursor > last { Err(WrongAck::UnknownCursor { cursor, last }) } else { Ok(()) }
    }

    /// Takes note that an item, and all that came before it on this subscription, were done. One that
    /// is not under way is nothing new.
    pub fn acknowledge(&self, epoch: u64, cursor: u64) -> Result<(), WrongAck> {
        if epoch != self.epoch {
            return Err(WrongAck::Epoch { theirs: epoch, ours: self.epoch });
        }
        if self.seat.ended.get().is_some() {
            // The group may know nothing any more.
            return Ok(());
        }
        let done = self.group.acknowledge(self.key, cursor);
        done.map_err(|future| WrongAck::UnknownCursor { cursor, last: future.last })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.group.leave(self.key);
        self.keeper.notify_one();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("group", self.group.name()).finish_non_exhaustive()
    }
}
