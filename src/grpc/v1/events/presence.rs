//! What the log says of a subscriber: that it came, stands still, goes on, has left. Once each.

use std::{error::Error as _, time::Duration};

use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::access::Caller;

/// A subscriber that takes nothing more for so long is mentioned.
const STILL: Duration = Duration::from_secs(10);

/// A subscriber as the log knows it. That it has left is logged when this is dropped.
#[derive(Debug)]
pub(super) struct Presence {
    group: String,
    caller: String,
    moved: Instant,
    /// It was mentioned that it stands still.
    mentioned: bool,
    why: String,
}

impl Presence {
    /// It has come.
    pub(super) fn new(group: &str, caller: Option<&Caller>, window: usize) -> Self {
        let presence = Self {
            group: group.to_owned(),
            caller: caller.map(ToString::to_string).unwrap_or_default(),
            moved: Instant::now(),
            mentioned: false,
            why: "it hung up".to_owned(),
        };
        tracing::info!(group, caller = presence.caller, window, "subscriber joined");
        presence
    }

    /// It took or acknowledged something.
    pub(super) fn moves(&mut self) {
        self.moved = Instant::now();
        if std::mem::take(&mut self.mentioned) {
            tracing::info!(group = self.group, caller = self.caller, "subscriber goes on");
        }
    }

    /// Waits until it has stood still for long; for ever if that was mentioned.
    pub(super) async fn stands_still(&self) {
        if self.mentioned {
            std::future::pending::<()>().await;
        }
        sleep_until(self.moved + STILL).await;
    }

    /// It has: `full` is its window, or else it is its connection that takes nothing. Nothing is
    /// mentioned of one that has nothing to take.
    pub(super) fn mention(&mut self, full: bool, unread: bool) {
        if !full && !unread {
            self.moved = Instant::now();
            return;
        }
        self.mentioned = true;
        let why = if full { "it acknowledges nothing" } else { "it reads nothing" };
        let seconds = STILL.as_secs();
        tracing::warn!(
            group = self.group,
            caller = self.caller,
            why,
            seconds,
            "subscriber stalled"
        );
    }

    /// Its stream has ended like this.
    pub(super) fn ends(&mut self, outcome: &Result<(), Status>) {
        match outcome {
            Ok(()) => "it closed its side".clone_into(&mut self.why),
            // What comes from below is the end of its connection, however it is put.
            Err(status) if status.source().is_some() => {}
            Err(status) => status.message().clone_into(&mut self.why),
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let Self { group, caller, why, .. } = self;
        tracing::info!(group, caller, why, "subscriber left");
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_standstill_is_mentioned_once_until_it_moves() {
        let mut presence = Presence::new("g", None, 8);
        let still = async |presence: &Presence, within: Duration| {
            timeout(within, presence.stands_still()).await.is_ok()
        };
        let shortly = Duration::from_millis(1);
        for full in [true, false] {
            assert!(!still(&presence, STILL.checked_sub(shortly).unwrap()).await);
            assert!(still(&presence, 2 * shortly).await);
            presence.mention(full, true);
            assert!(!still(&presence, 10 * STILL).await, "it was mentioned");
            presence.moves();
        }
        assert!(still(&presence, STILL + shortly).await);
        presence.mention(false, false);
        assert!(!presence.mentioned, "it has nothing to take");
        assert!(!still(&presence, shortly).await);
        assert!(still(&presence, STILL).await);
    }
}
