//! The memory that all calls take together, which `grpc.max_memory` bounds.
//!
//! ```text
//!  a call begins ──► a fixed part, its metadata ──┐
//!  its request ────► each message, by its length ─┼─► Memory ─► full: RESOURCE_EXHAUSTED
//!  its answer ─────► what nobody has taken yet ───┘
//! ```
//!
//! A charge is made before the bytes are held and is given back by drop. Peers that have proved
//! nothing have an account of their own, which no share of this bound is for: there are few calls of
//! theirs on each connection, so they can't use up what callers need, and health is told always.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Bytes that are held, by whom they are held for.
#[derive(Debug, Default)]
pub(super) struct Memory([AtomicUsize; 2]);

/// For whom memory is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A peer that may call.
    Caller,
    /// A peer that has proved nothing: see [`Trust`](super::trust::Trust).
    Stranger,
}

/// Bytes that somebody holds. They are given back by drop.
#[derive(Debug)]
pub(super) struct Charge {
    memory: Arc<Memory>,
    holder: Holder,
    bytes: usize,
}

impl Memory {
    /// What is held now, by the name of the holder.
    pub(super) fn held(&self) -> [(&'static str, u64); 2] {
        let held = |holder: Holder| self.of(holder).load(Relaxed) as u64;
        [("caller", held(Holder::Caller)), ("stranger", held(Holder::Stranger))]
    }

    /// Holds `bytes`, unless callers hold more than `limit` then.
    pub(super) fn charge(
        self: &Arc<Self>,
        holder: Holder,
        bytes: usize,
        limit: usize,
    ) -> Option<Charge> {
        let mut charge = Charge { memory: Arc::clone(self), holder, bytes: 0 };
        charge.grow(bytes, limit).then_some(charge)
    }

    /// Holds `bytes`, whatever is held already.
    pub(super) fn charge_anyway(self: &Arc<Self>, holder: Holder, bytes: usize) -> Charge {
        let mut charge = Charge { memory: Arc::clone(self), holder, bytes: 0 };
        charge.add(bytes);
        charge
    }

    fn of(&self, holder: Holder) -> &AtomicUsize {
        &self.0[holder as usize]
    }
}

impl Charge {
    /// Holds so many bytes more, unless callers hold more than `limit` then.
    pub(super) fn grow(&mut self, bytes: usize, limit: usize) -> bool {
        if self.holder == Holder::Stranger {
            self.add(bytes);
            return true;
        }
        let grown = |held: usize| held.checked_add(bytes).filter(|held| *held <= limit);
        let fits = self.memory.of(self.holder).fetch_update(Relaxed, Relaxed, grown).is_ok();
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    fn add(&mut self, bytes: usize) {
        self.memory.of(self.holder).fetch_add(bytes, Relaxed);
        self.bytes += bytes;
    }

    /// How many there are.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.of(self.holder).fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_is_given_back_and_never_more_than_the_limit_is_held() {
        let memory = Arc::new(Memory::default());
        let first = memory.charge(Holder::Caller, 60, 100).unwrap();
        assert!(memory.charge(Holder::Caller, 41, 100).is_none());
        let mut second = memory.charge(Holder::Caller, 30, 100).unwrap();
        assert!(!second.grow(11, 100) && second.grow(10, 100));
        assert_eq!((second.bytes(), memory.held()[0]), (40, ("caller", 100)));
        // A lowered limit takes nothing away, and nothing is added to it.
        assert!(memory.charge(Holder::Caller, 1, 50).is_none());
        drop(first);
        assert!(memory.charge(Holder::Caller, 1, 50).is_some());
        let third = memory.charge_anyway(Holder::Caller, 100);
        assert_eq!(memory.held()[0], ("caller", 140));
        drop((second, third));
        assert_eq!(memory.held(), [("caller", 0), ("stranger", 0)]);
    }

    #[test]
    fn strangers_take_nothing_from_callers() {
        let memory = Arc::new(Memory::default());
        let _callers = memory.charge(Holder::Caller, 100, 100).unwrap();
        let _strangers = memory.charge(Holder::Stranger, 50, 100).unwrap();
        assert_eq!(memory.held(), [("caller", 100), ("stranger", 50)]);
    }
}
