//! What the log says of a back end that fails: enough to act upon, however many clients come.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Failure,
    breaker::{Rule, Turn},
};
use crate::config::value::span;

/// Lines about failures are at least so far apart; in between they are at the level `debug`.
const APART: Duration = Duration::from_secs(10);

/// Tells of failures.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The lock is held to look at the clock.
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    /// Failures since then that were not told.
    since: u64,
}

impl Told {
    /// Whether a failure is to be told now, and how many were not.
    fn note(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + APART) {
            self.since += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

impl Log {
    /// A client that there is no verdict on.
    pub(super) fn failure(&self, failure: &Failure, peer: SocketAddr) {
        let cause = failure.cause();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now());
        if let Some(more) = told {
            let not_told = more;
            tracing::warn!(%peer, cause, %failure, not_told, "no word from the connect hook");
        } else {
            tracing::debug!(%peer, cause, %failure, "no word from the connect hook");
        }
    }

    /// The breaker opened or closed.
    pub(super) fn turn(&self, turn: Turn, rule: Rule) {
        match turn {
            Turn::Opened => tracing::warn!(
                failures = rule.failures,
                pause = span::format(rule.pause),
                "the connect hook fails again and again: nobody is asked about for a while"
            ),
            Turn::Closed => {
                // The next failure is news.
                *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Told::default();
                tracing::info!("the connect hook answers again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_counted() {
        let now = Instant::now();
        let mut told = Told::default();
        assert_eq!(told.note(now), Some(0));
        assert_eq!(told.note(now), None);
        assert_eq!(told.note(now + APART - Duration::from_nanos(1)), None);
        assert_eq!(told.note(now + APART), Some(2));
        assert_eq!(told.note(now + APART), None);
    }
}
