//! The shards that report events, as consumer groups know them: to be woken.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::sink::Wake;

/// The ears of all shards, to be woken.
#[derive(Default)]
pub(super) struct Links {
    ears: Mutex<Vec<Arc<Link>>>,
    /// Clients of all shards whose end waits for acknowledgements.
    leaving: AtomicUsize,
}

/// An ear, as others see it.
pub(super) struct Link {
    wake: Wake,
    /// Whether it has refused a message.
    refused: AtomicBool,
    /// Clients of the shard whose end waits for acknowledgements.
    leaving: AtomicUsize,
}

/// A client's end waits: one of those that are counted.
pub(super) struct Leaving {
    links: Arc<Links>,
    link: Arc<Link>,
}

impl Leaving {
    pub(super) fn new(links: &Arc<Links>, link: &Arc<Link>) -> Self {
        links.leaving.fetch_add(1, Ordering::SeqCst);
        link.leaving.fetch_add(1, Ordering::SeqCst);
        Self { links: Arc::clone(links), link: Arc::clone(link) }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.link.leaving.fetch_sub(1, Ordering::SeqCst);
        self.links.leaving.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Links {
    /// One more shard reports.
    pub(super) fn add(&self, wake: Wake) -> Arc<Link> {
        let (refused, leaving) = (AtomicBool::new(false), AtomicUsize::new(0));
        let link = Arc::new(Link { wake, refused, leaving });
        self.lock().push(Arc::clone(&link));
        link
    }

    /// A shard reports no longer.
    pub(super) fn remove(&self, link: &Arc<Link>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, link));
    }

    /// How many ears there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Makes all shards take a turn.
    pub(super) fn wake_all(&self) {
        for link in self.lock().iter() {
            (link.wake)();
        }
    }

    /// Makes those shards take a turn whose clients wait for room.
    pub(super) fn wake_refused(&self) {
        for link in self.lock().iter().filter(|link| link.refused.swap(false, Ordering::SeqCst)) {
            (link.wake)();
        }
    }

    /// Makes those shards take a turn in which the end of clients waits for acknowledgements.
    pub(super) fn wake_leaving(&self) {
        // Nobody pays for this where nobody waits.
        if self.leaving.load(Ordering::SeqCst) == 0 {
            return;
        }
        for link in self.lock().iter().filter(|link| link.leaving.load(Ordering::SeqCst) > 0) {
            (link.wake)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Makes its shard take a turn.
    pub(super) fn wake(&self) {
        (self.wake)();
    }

    /// It has refused a message, and is to be woken when there is room.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::SeqCst);
    }
}
