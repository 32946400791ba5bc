//! How many connections each shard was given, so that the next one goes to the shard with the fewest.
//!
//! A connection counts from when it is assigned, not from when its shard has taken it over: a burst of
//! connections comes faster than a busy shard looks into its inbox.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Connections that a shard was given and that are not gone.
#[derive(Debug, Default)]
pub(crate) struct Load {
    connections: AtomicUsize,
    /// Notified when the last one is gone.
    empty: Notify,
}

impl Load {
    /// Connections now.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// A connection is on its way to the shard.
    pub(crate) fn assigned(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    /// A connection is gone, or was not taken over.
    pub(super) fn released(&self) {
        let before = self.connections.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "more connections are gone than were assigned");
        if before == 1 {
            self.empty.notify_waiters();
        }
    }

    /// Waits until there is no connection.
    pub(crate) async fn until_empty(&self) {
        loop {
            // From here on a notification is not missed.
            let empty = self.empty.notified();
            if self.connections() == 0 {
                return;
            }
            empty.await;
        }
    }
}

/// Gives a connection to the shard with the fewest; answers which, if there is any.
pub(crate) fn assign<S>(shards: &[S], load: impl Fn(&S) -> &Load) -> Option<&S> {
    let shard = shards.iter().min_by_key(|shard| load(shard).connections())?;
    load(shard).assigned();
    Some(shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_spread_evenly_though_no_shard_has_taken_any_of_it() {
        let shards: [Load; 4] = Default::default();
        shards[2].assigned();
        for _ in 0..9_999 {
            assert!(assign(&shards, |load| load).is_some());
        }
        assert_eq!(shards.each_ref().map(Load::connections), [2_500; 4]);
        for _ in 0..100 {
            shards[1].released();
        }
        for _ in 0..100 {
            let shard = assign(&shards, |load| load);
            assert!(shard.is_some_and(|shard| std::ptr::eq(shard, &raw const shards[1])));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_the_last_one_is_woken_by_its_end() {
        let load = std::sync::Arc::new(Load::default());
        load.until_empty().await;
        load.assigned();
        load.assigned();
        let waiting = tokio::spawn({
            let load = std::sync::Arc::clone(&load);
            async move { load.until_empty().await }
        });
        tokio::task::yield_now().await;
        load.released();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "one is left");
        load.released();
        waiting.await.unwrap();
    }

    #[test]
    fn without_shards_there_is_nobody_to_give_it_to() {
        assert!(assign(&[], |load: &Load| load).is_none());
    }
}
