//! The calls of one connection of which not all is written yet: those under way, and those whose
//! answers wait for the peer.
//!
//! A peer that has proved nothing is read only while there are few of them, so what it can pile up
//! is what it is ready to take.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// How many there are. The lock is held for a few instructions, never over an await.
#[derive(Debug, Default)]
pub(super) struct Backlog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    calls: usize,
    /// Who waits until there are fewer.
    waiting: Option<Waker>,
}

impl Backlog {
    /// One more; answers how many there are with it.
    pub(super) fn enter(&self) -> usize {
        let mut state = self.state();
        state.calls += 1;
        state.calls
    }

    /// One less.
    pub(super) fn leave(&self) {
        self.state().calls -= 1;
        self.wake();
    }

    /// Lets who waits look again.
    pub(super) fn wake(&self) {
        let waiting = self.state().waiting.take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Waits until there are fewer than `limit`, or until [`Backlog::wake`].
    pub(super) fn poll_below(&self, limit: usize, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.calls < limit {
            return Poll::Ready(());
        }
        state.waiting = Some(context.waker().clone());
        Poll::Pending
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc};

    use super::*;

    #[tokio::test]
    async fn who_waits_goes_on_when_a_call_has_left() {
        let backlog = Arc::new(Backlog::default());
        poll_fn(|context| backlog.poll_below(1, context)).await;
        assert_eq!(backlog.enter(), 1);
        let waiting = tokio::spawn({
            let backlog = Arc::clone(&backlog);
            async move { poll_fn(|context| backlog.poll_below(1, context)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        backlog.leave();
        waiting.await.unwrap();
        assert_eq!(backlog.enter(), 1);
    }
}
