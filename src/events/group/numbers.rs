//! What a group keeps, may keep, and has done.

use std::time::Duration;

use crate::config::{self, WhenFull};

/// What a group may keep and give, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::events) struct Bounds {
    /// Messages, waiting and in flight.
    pub(in crate::events) messages: usize,
    /// `opened` and `closed`, waiting and in flight.
    pub(in crate::events) changes: usize,
    /// Bytes of either.
    pub(in crate::events) bytes: usize,
    /// What happens to messages beyond.
    pub(in crate::events) when_full: WhenFull,
    /// Items in flight to one subscriber.
    pub(in crate::events) window: usize,
    /// Time to acknowledge; none is for ever.
    pub(in crate::events) ack_timeout: Option<Duration>,
}

impl From<&config::Events> for Bounds {
    fn from(events: &config::Events) -> Self {
        Self {
            messages: events.buffer_messages,
            changes: events.buffer_changes,
            bytes: events.buffer_bytes.bytes(),
            when_full: events.when_full,
            window: events.max_unacknowledged,
            ack_timeout: Some(events.ack_timeout).filter(|timeout| !timeout.is_zero()),
        }
    }
}

/// Events of one sort that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

impl Held {
    pub(super) fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        self.count -= 1;
        self.bytes -= bytes;
    }

    /// One event of so many bytes.
    pub(super) fn one(bytes: usize) -> Self {
        Self { count: 1, bytes }
    }

    /// Whether there is room for these too.
    pub(super) fn has_room(self, more: Self, most: usize, most_bytes: usize) -> bool {
        self.count + more.count <= most && self.bytes.saturating_add(more.bytes) <= most_bytes
    }

    /// Whether the bounds are reached, `was` being the last answer: it takes more room to have room
    /// again, so that those who wait for it don't come and go one by one.
    pub(super) fn is_full(self, was: bool, most: usize, most_bytes: usize) -> bool {
        if was {
            let beyond = |held: usize, most: usize| held as u128 * 8 >= most as u128 * 7;
            beyond(self.count, most) || beyond(self.bytes, most_bytes)
        } else {
            self.count >= most || self.bytes >= most_bytes
        }
    }
}

/// How it stands with a consumer group, and what it has done since it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Whether `events.groups` names it.
    pub configured: bool,
    /// `opened` that were appended.
    pub opened: u64,
    /// Messages that were appended.
    pub messages: u64,
    /// `closed` that were appended.
    pub closed: u64,
    /// Items that were given to a subscriber, all of them.
    pub delivered: u64,
    /// Those of them that were given before.
    pub redelivered: u64,
    /// Items that were acknowledged.
    pub acknowledged: u64,
    /// Messages that there was no room for.
    pub missed_messages: u64,
    /// Those of them whose client held more than an even share of the room.
    pub over_share: u64,
    /// `opened` and `closed` that there was no room for.
    pub missed_changes: u64,
    /// Messages that wait or are in flight now.
    pub held_messages: u64,
    /// `opened` and `closed` that wait or are in flight now.
    pub held_changes: u64,
    /// Bytes of both.
    pub held_bytes: u64,
    /// Items in flight now.
    pub unacknowledged: u64,
    /// Subscribers there are now.
    pub subscribers: u64,
    /// Whether clients are paused for it now.
    pub pauses: bool,
}
