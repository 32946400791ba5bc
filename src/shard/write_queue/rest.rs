//! What waits in a queue behind its first frame: in order, and found by its key without a search.
//!
//! ```text
//!   entries   │ 7 │ 8 │ 11 │ 12 │    numbers grow, with gaps where something was taken out
//!   keyed     price ─► 8, 12         so what has a key is found by its number, wherever it is now
//!   earliest  no entry is worth nothing before that, so nothing has to be looked through
//! ```

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use smallvec::SmallVec;

use super::Entry;
use crate::ids::Name;

/// Numbers of the entries with one key. Mostly one: what comes later replaces what waits.
type Numbers = SmallVec<[u32; 4]>;

/// Memory that finding an entry by its key takes.
pub(super) const KEYED_BYTES: usize = size_of::<(Name, Numbers)>();

/// Numbers from the first entry to the last at most: then they begin anew. In tests few, so that
/// they do.
const SPAN: u32 = if cfg!(test) { 50 } else { u32::MAX / 2 };

/// Entries in order; see the module.
#[derive(Debug, Default)]
pub(super) struct Rest {
    entries: VecDeque<Entry>,
    /// The numbers of the entries with a key; nothing if none has one.
    #[expect(
        clippy::box_collection,
        reason = "few queues have keys, and 8 bytes, not 48, are less"
    )]
    keyed: Option<Box<HashMap<Name, Numbers>>>,
    /// No entry expires before that; none if none does.
    earliest: Option<Instant>,
}

impl Rest {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn push_back(&mut self, mut entry: Entry) {
        entry.number = self.entries.back().map_or(0, |last| last.number.wrapping_add(1));
        if !entry.frame.is_plain() {
            self.note(&entry);
        }
        self.entries.push_back(entry);
        self.check_span();
    }

    pub(super) fn push_front(&mut self, mut entry: Entry) {
        entry.number = self.entries.front().map_or(0, |first| first.number.wrapping_sub(1));
        if !entry.frame.is_plain() {
            self.note(&entry);
        }
        self.entries.push_front(entry);
        self.check_span();
    }

    pub(super) fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        if !entry.frame.is_plain() {
            self.unlist(&entry);
        }
        Some(entry)
    }

    /// Takes out the first entry for which that is so.
    pub(super) fn take_first(&mut self, which: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let at = self.entries.iter().position(which)?;
        let entry = self.entries.remove(at)?;
        self.unlist(&entry);
        Some(entry)
    }

    /// The entries with the key.
    pub(super) fn with_key(&self, key: &Name) -> impl Iterator<Item = &Entry> {
        let numbers = self.keyed.as_ref().and_then(|keyed| keyed.get(key));
        let numbers = numbers.into_iter().flatten();
        numbers.filter_map(|&number| self.entries.get(self.position(number)?))
    }

    /// Takes out the entries with the key.
    pub(super) fn take_with_key(&mut self, key: &Name, mut taken: impl FnMut(Entry)) {
        let Some(keyed) = &mut self.keyed else { return };
        let numbers = keyed.remove(key).unwrap_or_default();
        if keyed.is_empty() {
            self.keyed = None;
        }
        for number in numbers {
            let entry = self.position(number).and_then(|at| self.entries.remove(at));
            if let Some(entry) = entry {
                taken(entry);
            }
        }
    }

    /// Takes out the entries that are worth nothing any more.
    pub(super) fn take_expired(&mut self, now: Instant, mut taken: impl FnMut(Entry)) {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return;
        }
        self.earliest = None;
        for _ in 0..self.entries.len() {
            let Some(entry) = self.entries.pop_front() else { return };
            match entry.frame.until() {
                Some(until) if until <= now => {
                    self.unlist(&entry);
                    taken(entry);
                }
                until => {
                    self.expect(until);
                    self.entries.push_back(entry);
                }
            }
        }
    }

    /// Where the entry with the number is. Each is at least one more than the one before it.
    fn position(&self, number: u32) -> Option<usize> {
        let first = self.entries.front()?.number;
        let distance = |number: u32| number.wrapping_sub(first);
        self.entries.binary_search_by_key(&distance(number), |it| distance(it.number)).ok()
    }

    /// Remembers what an entry that comes in says of itself.
    fn note(&mut self, entry: &Entry) {
        self.expect(entry.frame.until());
        if let Some(key) = entry.frame.key() {
            let keyed = self.keyed.get_or_insert_default();
            keyed.entry(key.clone()).or_default().push(entry.number);
        }
    }

    fn expect(&mut self, until: Option<Instant>) {
        self.earliest = self.earliest.into_iter().chain(until).min();
    }

    /// Forgets by which key an entry was found that was taken out. `earliest` stays as it is: at
    /// worst it costs one look at all that is left.
    fn unlist(&mut self, entry: &Entry) {
        let Some(key) = entry.frame.key() else { return };
        let Some(keyed) = &mut self.keyed else { return };
        if let Some(numbers) = keyed.get_mut(key) {
            numbers.retain(|number| *number != entry.number);
            if numbers.is_empty() {
                keyed.remove(key);
            }
        }
        if keyed.is_empty() {
            self.keyed = None;
        }
    }

    /// The numbers of the first and the last must not be too far apart, as they are when one stays
    /// while very many behind it are replaced: so no two entries ever have the same.
    fn check_span(&mut self) {
        if let (Some(first), Some(last)) = (self.entries.front(), self.entries.back())
            && last.number.wrapping_sub(first.number) >= SPAN
        {
            self.renumber();
        }
    }

    #[cold]
    fn renumber(&mut self) {
        self.keyed = None;
        let mut entries = std::mem::take(&mut self.entries);
        for (number, entry) in (0..).zip(&mut entries) {
            entry.number = number;
            self.note(entry);
        }
        self.entries = entries;
    }
}
