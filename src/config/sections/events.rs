//! `[events]`: who hears what clients do, and how much is kept for them until they have.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::value::{Size, Words, span};

/// `[events]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// Consumer groups that are there from the start; each gets everything.
    pub groups: Words,
    /// Whether who subscribes may make others.
    pub allow_new_groups: bool,
    /// How long such a group is kept after its last subscriber has left.
    #[serde(with = "span")]
    pub new_group_expiry: Duration,
    /// Groups at once, of both sorts.
    pub max_groups: usize,
    /// Subscribers of one group at once.
    pub max_subscribers: usize,
    /// Messages that a group keeps.
    pub buffer_messages: usize,
    /// `opened` and `closed` that a group keeps.
    pub buffer_changes: usize,
    /// Bytes of the messages that a group keeps; as many again are for `opened` and `closed`.
    pub buffer_bytes: Size,
    /// What happens to a message that finds no room.
    pub when_full: WhenFull,
    /// Events under way to one subscriber that it has not acknowledged.
    pub max_unacknowledged: usize,
    /// Time a subscriber has to acknowledge; zero is for ever.
    #[serde(with = "span")]
    pub ack_timeout: Duration,
    /// Time that the end of a client which says goodbye or breaks the protocol waits until what it
    /// said before is acknowledged; zero is none.
    #[serde(with = "span")]
    pub answer_wait: Duration,
}

/// What happens when a message finds the buffer of a consumer group full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The oldest messages are dropped, which is told.
    DropOldest,
    /// The client that said it isn't read until there is room.
    Pause,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            groups: Words::default(),
            allow_new_groups: false,
            new_group_expiry: Duration::from_mins(10),
            max_groups: 16,
            max_subscribers: 64,
            buffer_messages: 65_536,
            buffer_changes: 65_536,
            buffer_bytes: Size::mib(64),
            when_full: WhenFull::DropOldest,
            max_unacknowledged: 1024,
            ack_timeout: Duration::from_secs(30),
            answer_wait: Duration::ZERO,
        }
    }
}
