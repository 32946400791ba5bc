//! The same change to many clients, in steps that are short for the shards.
//!
//! Each client is changed whole or not at all; in between, the shards have a turn for their sockets.

use std::{pin::pin, sync::Arc};

use super::{Hub, HubError};
use crate::{
    change::{Change, Changed, Refusal, Subject},
    shard::Full,
};

/// Parts of changes that a shard makes in one step: about a millisecond's worth.
const PARTS_PER_STEP: usize = 4096;

impl Hub {
    /// Changes clients in the same way; answers what became of each, in their order. If there is no
    /// room for the first of them, nothing is done; the others wait for room.
    pub async fn change_many(
        &self,
        subjects: &[Subject],
        change: Change,
    ) -> Result<Vec<Result<Changed, Refusal>>, HubError> {
        let parts = 1 + change.leave.len() + change.join.len();
        let change = Arc::new(change);
        let mut results = Vec::with_capacity(subjects.len());
        for step in subjects.chunks((PARTS_PER_STEP / parts).max(1)) {
            let changed = loop {
                match self.change_all(step.to_vec(), Arc::clone(&change)).await {
                    Err(HubError::Busy { shard, .. }) if !results.is_empty() => {
                        self.room(shard).await;
                    }
                    other => break other?,
                }
            };
            results.extend(changed);
        }
        Ok(results)
    }

    /// Waits until there is room for one more call, or never will be.
    async fn room(&self, shard: usize) {
        let inbox = &self.0.shards[shard].inbox;
        loop {
            let mut room = pin!(inbox.room());
            // What becomes free from here on is told.
            room.as_mut().enable();
            match inbox.reserve((1, 0), self.bounds()) {
                Ok(_) | Err(Full::Closed) => return,
                Err(Full::Calls | Full::Bytes) => room.await,
            }
        }
    }
}
