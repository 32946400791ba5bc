//! Lists of names, page by page: stripe by stripe of the directory, in each by name.
//!
//! A name is always in the same stripe, so what is there from the first page to the last is in exactly
//! one of them, whatever comes and goes meanwhile.

use crate::{directory::STRIPES, ids::Name};

/// A part of a list, and where the next part begins; none if this was the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, P> {
    /// What is there.
    pub entries: Vec<T>,
    /// Where the next part begins.
    pub next: Option<P>,
}

/// Where a part of a list of names begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NamePlace {
    /// The stripe of the directory; a number below [`STRIPES`].
    pub stripe: u16,
    /// The name behind which it begins; empty for the first.
    pub after: String,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// Its name.
    pub name: Name,
    /// Its members.
    pub members: usize,
}

/// A page of names that is being filled.
pub(super) struct Pages<T> {
    entries: Vec<T>,
    most: usize,
    /// The stripe that is filled in next.
    stripe: usize,
    /// The name behind which it begins.
    after: String,
    /// Where the next page begins, once this one is full.
    next: Option<NamePlace>,
}

impl<T: Named> Pages<T> {
    pub(super) fn new(from: &NamePlace, most: usize) -> Self {
        let (stripe, after) = (usize::from(from.stripe), from.after.clone());
        Self { entries: Vec::new(), most, stripe, after, next: None }
    }

    /// Which stripe's names are wanted; none if the page is full or the list at its end.
    pub(super) fn next_stripe(&self) -> Option<usize> {
        (self.next.is_none() && self.stripe < STRIPES).then_some(self.stripe)
    }

    /// Takes the names of the stripe that was wanted, as many as there is room for.
    pub(super) fn fill(&mut self, mut names: Vec<T>) {
        let after = std::mem::take(&mut self.after);
        names.retain(|one| one.name() > after.as_str());
        let room = self.most - self.entries.len();
        let more = names.len() > room;
        if more {
            names.select_nth_unstable_by(room, |a, b| a.name().cmp(b.name()));
            names.truncate(room);
        }
        names.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        self.entries.append(&mut names);
        if more {
            let after = self.entries.last().map_or(after, |last| last.name().to_owned());
            self.next = Some(place(self.stripe, after));
        } else {
            self.stripe += 1;
            if self.entries.len() >= self.most && self.stripe < STRIPES {
                self.next = Some(place(self.stripe, String::new()));
            }
        }
    }

    pub(super) fn page(self) -> Page<T, NamePlace> {
        Page { entries: self.entries, next: self.next }
    }
}

fn place(stripe: usize, after: String) -> NamePlace {
    // There are a few dozen.
    NamePlace { stripe: u16::try_from(stripe).unwrap_or(u16::MAX), after }
}

/// What has a name to be sorted by.
pub(super) trait Named {
    fn name(&self) -> &str;
}

impl Named for Name {
    fn name(&self) -> &str {
        self.as_str()
    }
}

impl Named for GroupEntry {
    fn name(&self) -> &str {
        self.name.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_on_one_page_whatever_the_size_of_the_pages() {
        let stripe = |stripe: usize| -> Vec<Name> {
            let names = (0..stripe % 7).rev().map(|n| Name::new(&format!("{stripe} {n}"), 9));
            names.map(|name| name.expect("a short name")).collect()
        };
        let all: Vec<_> = (0..STRIPES)
            .map(stripe)
            .flat_map(|mut it| {
                it.sort();
                it
            })
            .collect();
        for most in [1, 2, 3, 5, 100, 1000] {
            let (mut listed, mut from, mut pages) = (Vec::new(), Some(NamePlace::default()), 0);
            while let Some(place) = from {
                let mut page = Pages::new(&place, most);
                while let Some(wanted) = page.next_stripe() {
                    page.fill(stripe(wanted));
                }
                let page = page.page();
                assert!(page.entries.len() <= most);
                listed.extend(page.entries);
                (from, pages) = (page.next, pages + 1);
            }
            assert_eq!(listed, all);
            assert!(pages <= all.len().div_ceil(most) + 1, "{pages} pages of {most}");
        }
    }
}
