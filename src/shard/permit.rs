//! How many connections there may be: a permit for each, and who is told how it fares.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use smallvec::SmallVec;

use crate::ids::ClientId;

/// The permits under `limits.max_clients`.
#[derive(Clone, Debug, Default)]
pub struct ConnectionLimit(Arc<Kept>);

/// The right to be connected; dropping it gives it back.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<Kept>);

/// What a permit keeps for its connection until it is given back, and tells of its life.
pub trait ConnectionGuard: fmt::Debug + Send + Sync {
    /// The client is there, and nobody knows of it yet; false if it must not stay.
    fn on_open(&self, client: ClientId) -> bool {
        let _ = client;
        true
    }

    /// The client can't be addressed any more.
    fn on_close(&self) {}
}

/// What a permit points at: the same for all, but for those that keep something.
#[derive(Debug, Default)]
struct Kept {
    taken: Arc<AtomicUsize>,
    guards: SmallVec<[Arc<dyn ConnectionGuard>; 2]>,
}

impl ConnectionLimit {
    /// Takes a permit, if fewer than `limit` are taken.
    pub fn take(&self, limit: usize) -> Option<ConnectionPermit> {
        let more = |taken| (taken < limit).then_some(taken + 1);
        self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(ConnectionPermit(Arc::clone(&self.0)))
    }

    /// Permits taken.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Acquire)
    }
}

impl ConnectionPermit {
    /// Keeps one guard more for as long as the permit is taken. It stands beside the permit, so that
    /// a client without one pays nothing for it.
    pub fn keep(&mut self, guard: Arc<dyn ConnectionGuard>) {
        let mut guards = self.0.guards.clone();
        guards.push(guard);
        self.0 = Arc::new(Kept { taken: Arc::clone(&self.0.taken), guards });
    }

    /// The client is there; false if it must not stay.
    pub(super) fn on_open(&self, client: ClientId) -> bool {
        self.0.guards.iter().all(|guard| guard.on_open(client))
    }

    /// The client can't be addressed any more.
    pub(super) fn on_close(&self) {
        for guard in &self.0.guards {
            guard.on_close();
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
