//! How many of something may be at once, by a limit that may change while they are.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A place within; it is given back by drop.
pub type Place = OwnedSemaphorePermit;

/// Lets a limited number in: handshakes, connections.
#[derive(Debug)]
pub struct Gate {
    places: Arc<Semaphore>,
    /// Places there are, taken ones included. The lock is held for the comparison only.
    size: Mutex<usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(0)), size: Mutex::new(0) }
    }
}

impl Gate {
    /// Waits until fewer than `limit` are inside. Can be dropped without losing a place.
    ///
    /// A lowered limit takes effect as places come back; a raised one with the next who comes, so
    /// who waits while the limit changes has to come again (`Live::swaps` says when).
    pub async fn enter(&self, limit: usize) -> Option<Place> {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        self.resize(limit);
        loop {
            // The semaphore is never closed, so there always is a permit.
            let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
            let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
            if *size <= limit {
                return Some(place);
            }
            // A place that came back while somebody waited was nobody's to take away; now it is
            // one too many.
            place.forget();
            *size -= 1;
        }
    }

    /// A place, if fewer than `limit` are inside.
    pub fn try_enter(&self, limit: usize) -> Option<Place> {
        self.resize(limit.clamp(1, Semaphore::MAX_PERMITS));
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    fn resize(&self, limit: usize) {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        if limit > *size {
            self.places.add_permits(limit - *size);
            *size = limit;
        } else if limit < *size {
            *size -= self.places.forget_permits(*size - limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_shut(gate: &Gate, limit: usize) -> bool {
        timeout(Duration::from_millis(20), gate.enter(limit)).await.is_err()
    }

    #[tokio::test]
    async fn the_gate_follows_its_limit() {
        let gate = Gate::default();
        let first = gate.enter(2).await;
        let second = gate.enter(2).await;
        assert!(is_shut(&gate, 2).await);
        let third = gate.enter(3).await;
        assert!(third.is_some());
        drop((first, second));
        assert!(is_shut(&gate, 1).await, "one is under way and one is allowed");
        drop(third);
        let only = gate.enter(1).await;
        assert!(only.is_some());
        assert!(gate.try_enter(1).is_none());
        drop(only);
        assert!(gate.try_enter(1).is_some());
    }

    #[tokio::test]
    async fn a_lowered_limit_holds_for_who_waits_as_well() {
        let gate = Arc::new(Gate::default());
        let mut inside = Vec::new();
        for _ in 0..3 {
            inside.push(gate.enter(3).await);
        }
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(1).await }
        });
        // It waits before a place comes back: the runtime has one thread.
        tokio::task::yield_now().await;
        for _ in 0..2 {
            inside.pop();
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished(), "{} are inside and one is allowed", inside.len());
        }
        inside.pop();
        assert!(waiting.await.unwrap().is_some());
    }
}
