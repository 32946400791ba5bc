//! The clock that the shards go by: the system's, or one that stands still until it is moved.
//!
//! What is to happen after a while can so be tested without waiting, and what is to happen before
//! without hurrying.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Tells the time. Clones of one clock show the same.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Paused>>);

#[derive(Debug)]
struct Paused {
    since: Instant,
    /// Microseconds by which it was moved on.
    moved: AtomicU64,
}

impl Clock {
    /// A clock that stands still.
    pub fn paused() -> Self {
        Self(Some(Arc::new(Paused { since: Instant::now(), moved: AtomicU64::new(0) })))
    }

    /// Moves a clock that stands still. A shard sees it in its next turn, which any call begins.
    pub fn advance(&self, by: Duration) {
        if let Some(paused) = &self.0 {
            let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
            paused.moved.fetch_add(micros, Ordering::Release);
        }
    }

    /// What it shows.
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(paused) => {
                paused.since + Duration::from_micros(paused.moved.load(Ordering::Acquire))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_clock_moves_when_it_is_moved() {
        let clock = Clock::paused();
        let (start, same) = (clock.now(), clock.clone());
        assert_eq!(clock.now(), start);
        same.advance(Duration::from_millis(1500));
        assert_eq!(clock.now() - start, Duration::from_millis(1500));
    }
}
