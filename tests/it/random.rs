//! Numbers that look random and follow from a seed (splitmix64), and seeds that differ from run to
//! run unless the environment names one.

use std::{
    env,
    hash::{BuildHasher as _, RandomState},
};

/// The seeds of one run: `count` new ones, or as many as `<NAME>_SEEDS` says, or just the one that
/// `<NAME>_SEED` repeats.
pub fn seeds(name: &str, count: u64) -> impl Iterator<Item = u64> {
    let (first, count) = if let Some(seed) = number(&format!("{name}_SEED")) {
        (seed, 1)
    } else {
        // The seeds of the standard library's maps differ from run to run.
        let first = RandomState::new().hash_one(());
        (first, number(&format!("{name}_SEEDS")).unwrap_or(count))
    };
    (0..count).map(move |nth| first.wrapping_add(nth))
}

/// A number from the environment.
pub fn number(key: &str) -> Option<u64> {
    let text = env::var(key).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{key} must be a number, not {text:?}")))
}

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// One of the numbers below `end`, which isn't zero.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of the things, of which there is at least one.
    pub fn one_of<T>(&mut self, things: impl ExactSizeIterator<Item = T>) -> T {
        let mut things = things;
        let at = self.below(things.len());
        things.nth(at).unwrap()
    }
}
