//! What the log says now and then: whoever is turned away comes again, perhaps a thousand times a
//! second.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// When a kind of line was last told, and how many were not since then.
#[derive(Debug, Default)]
pub struct Told {
    last: Option<Instant>,
    since: u64,
}

impl Told {
    /// Whether a line is to be told now, if they have to be so far apart, and how many were not.
    pub fn note(&mut self, now: Instant, apart: Duration) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < apart) {
            self.since += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

/// The same for each of many, such as addresses.
#[derive(Debug)]
pub struct ToldOfEach<K> {
    apart: Duration,
    /// The lock is held for one look-up, or one walk over [`MOST`] entries.
    told: Mutex<HashMap<K, Told>>,
}

/// Of so many is remembered when they were told of. Beyond that nothing is told.
const MOST: usize = 1024;

impl<K: Eq + Hash> ToldOfEach<K> {
    /// Lines about the same one have to be so far apart.
    pub fn new(apart: Duration) -> Self {
        Self { apart, told: Mutex::default() }
    }

    /// Whether a line about `whom` is to be told now, and how many were not.
    pub fn note(&self, whom: K, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST && !told.contains_key(&whom) {
            let recent = |last| now.saturating_duration_since(last) < self.apart;
            told.retain(|_, told| told.last.is_some_and(recent));
            if told.len() >= MOST {
                return None;
            }
        }
        told.entry(whom).or_default().note(now, self.apart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APART: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_not_told_is_counted() {
        let now = Instant::now();
        let mut told = Told::default();
        assert_eq!(told.note(now, APART), Some(0));
        assert_eq!(told.note(now, APART), None);
        assert_eq!(told.note(now + Duration::from_millis(9_999), APART), None);
        assert_eq!(told.note(now + APART, APART), Some(2));
        assert_eq!(told.note(now + APART, APART), None);
    }

    #[test]
    fn each_is_told_of_and_not_too_many_are_remembered() {
        let start = Instant::now();
        let told = ToldOfEach::new(APART);
        for whom in 0..MOST {
            assert_eq!(told.note(whom, start), Some(0));
            assert_eq!(told.note(whom, start), None);
        }
        assert_eq!(told.note(MOST, start), None);
        assert_eq!(told.note(0, start + APART), Some(1));
        assert_eq!(told.note(MOST, start + APART), Some(0));
        assert_eq!(told.told.lock().unwrap().len(), 2, "the others are forgotten");
    }
}
