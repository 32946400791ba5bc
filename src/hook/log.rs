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
use crate::net::Told;

/// Lines about failures are at least so far apart; in between they are at the level `debug`.
const APART: Duration = Duration::from_secs(10);

/// Tells of failures.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The lock is held to look at the clock.
    told: Mutex<Told>,
}

impl Log {
    /// A client that there is no verdict on.
    pub(super) fn failure(&self, failure: &Failure, peer: SocketAddr) {
        let cause = failure.cause();
        let now = Instant::now().into_std();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).note(now, APART);
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
