//! Memory budgets of a shard: what is held is charged, and given back when it is dropped.
//!
//! ```text
//!   Budget ◄── charge ── Charge (lives as long as the memory that it stands for)
//!      │                    └── dropped: given back
//!      └── used: what the limits and the metrics look at
//! ```
//!
//! A [`Charge`] travels with what it stands for, so no path out of the shard, a panic included, can
//! forget to give it back, and no sum is moved by hand.

use std::{cell::Cell, rc::Rc, sync::Arc};

use crate::metrics::{ShardStats, Single};

/// What is used of one kind of memory on a shard, in bytes. Clones share one account.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget(Rc<Account>);

#[derive(Debug, Default)]
struct Account {
    used: Cell<usize>,
    /// The metric that shows it at any time, if one does.
    metric: Option<(Arc<ShardStats>, Metric)>,
}

type Metric = fn(&ShardStats) -> &Single;

/// Bytes that are held; dropping it gives them back.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// A budget that a metric shows.
    pub(super) fn told(stats: &Arc<ShardStats>, metric: Metric) -> Self {
        let metric = Some((Arc::clone(stats), metric));
        Self(Rc::new(Account { used: Cell::new(0), metric }))
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.0.used.get()
    }

    fn set(&self, bytes: usize) {
        self.0.used.set(bytes);
        if let Some((stats, metric)) = &self.0.metric {
            metric(stats).set(bytes as u64);
        }
    }

    /// Charges bytes that are about to be held.
    pub(super) fn charge(&self, bytes: usize) -> Charge {
        self.add(bytes);
        Charge { budget: self.clone(), bytes }
    }

    /// Takes bytes on the account. Whoever calls it gives them back in its own `Drop`.
    pub(super) fn add(&self, bytes: usize) {
        self.set(self.used().saturating_add(bytes));
    }

    /// Gives bytes back.
    pub(super) fn give_back(&self, bytes: usize) {
        debug_assert!(self.used() >= bytes, "more is given back than was charged");
        self.set(self.used().saturating_sub(bytes));
    }
}

impl Charge {
    /// The account that it is on.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Bytes that it stands for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes it stand for so many bytes.
    pub(super) fn resize(&mut self, bytes: usize) {
        self.budget.give_back(self.bytes);
        self.budget.add(bytes);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_used_is_what_is_held(steps in prop::collection::vec((0u8..4, 0usize..1000), 0..200)) {
            let budget = Budget::default();
            let mut held: Vec<Charge> = Vec::new();
            for (step, bytes) in steps {
                match step {
                    0 | 1 => held.push(budget.charge(bytes)),
                    2 if !held.is_empty() => {
                        let at = bytes % held.len();
                        held[at].resize(bytes);
                    }
                    _ => drop(held.pop()),
                }
                prop_assert_eq!(budget.used(), held.iter().map(Charge::bytes).sum::<usize>());
            }
            drop(held);
            prop_assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn a_panic_gives_back_what_it_takes_along() {
        let budget = Budget::default();
        let kept = budget.charge(5);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let _lost = budget.charge(100);
            panic!("on purpose");
        }));
        assert!(outcome.is_err());
        assert_eq!(budget.used(), kept.bytes());
    }
}
