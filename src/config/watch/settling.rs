//! When files that were changed have come to rest: a state machine without clock, disk or system.
//!
//! ```text
//!            Written                    Closed, Replaced
//!  at rest ─────────► being written ─────────────────────► quiet ──QUIET without a sign──► rested
//!     └──────────── Touched, Replaced, Unsure ───────────────┘
//! ```
//!
//! A reload reads all files together, so nothing has rested before everything has.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A file that is complete has rested when nothing happened to it for so long: an editor's steps
/// (backup, new file, rename) and a certificate with its key are closer together than this.
pub(super) const QUIET: Duration = Duration::from_millis(200);

/// The same, where it is not known whether somebody is writing still.
pub(super) const DOUBT: Duration = Duration::from_secs(2);

/// What was seen of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Somebody opened it; our own reading shows like this too, so it begins nothing.
    Opened,
    /// Its content was changed, and who did it has it open.
    Written,
    /// Somebody who could write has closed it.
    Closed,
    /// It was made, or got other permissions: nothing is said of its content.
    Touched,
    /// Something complete took its place, or nothing did: who still writes to the old one writes
    /// to what nobody will read.
    Replaced,
    /// It may be another one, and what happened to it was not seen.
    Unsure,
}

/// A file that has not rested.
#[derive(Debug)]
struct Unrest {
    since: Instant,
    writing: bool,
    /// Opened since, and not closed by a writer: readers are among them.
    open: u32,
    due: Instant,
}

/// All files of which something was seen since they were taken last.
#[derive(Debug, Default)]
pub(super) struct Settling {
    files: BTreeMap<PathBuf, Unrest>,
}

impl Settling {
    /// Something was seen of a file; answers whether that changes when to look at it.
    pub(super) fn note(&mut self, file: &Path, sign: Sign, now: Instant) -> bool {
        if sign == Sign::Opened {
            if let Some(unrest) = self.files.get_mut(file) {
                unrest.open = unrest.open.saturating_add(1);
            }
            return false;
        }
        let unrest = self.files.entry(file.to_owned()).or_insert_with(|| Unrest {
            since: now,
            writing: false,
            open: 0,
            due: now,
        });
        match sign {
            Sign::Opened => {}
            Sign::Written => return !std::mem::replace(&mut unrest.writing, true),
            Sign::Closed => {
                unrest.open = unrest.open.saturating_sub(1);
                unrest.writing = false;
                // The system doesn't say who of several it was, nor who only reads. The others
                // have their time to go on.
                unrest.due = now + if unrest.open == 0 { QUIET } else { DOUBT };
            }
            Sign::Touched => unrest.due = unrest.due.max(now + QUIET),
            Sign::Replaced => {
                unrest.open = 0;
                unrest.writing = false;
                unrest.due = now + QUIET;
            }
            Sign::Unsure => {
                unrest.open = 0;
                unrest.writing = false;
                unrest.due = now + DOUBT;
            }
        }
        true
    }

    /// Nothing was seen of any file since they were taken last.
    pub(super) fn is_at_rest(&self) -> bool {
        self.files.is_empty()
    }

    /// Forgets files that are none of ours any more.
    pub(super) fn keep(&mut self, files: &[PathBuf]) {
        self.files.retain(|file, _| files.contains(file));
    }

    /// When all will have rested if nothing more is seen; none if there is nothing to wait for, or
    /// nothing but the end of a writer.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.files.values().any(|unrest| unrest.writing) {
            return None;
        }
        self.files.values().map(|unrest| unrest.due).max()
    }

    /// The files that were changed, if all have rested.
    pub(super) fn take(&mut self, now: Instant) -> Option<Vec<PathBuf>> {
        self.due().filter(|due| *due <= now)?;
        Some(std::mem::take(&mut self.files).into_keys().collect())
    }

    /// A file that somebody has been writing to for at least `patience`.
    pub(super) fn held(&self, patience: Duration, now: Instant) -> Option<&Path> {
        let held = |unrest: &Unrest| unrest.writing && now.duration_since(unrest.since) >= patience;
        self.files.iter().find(|(_, unrest)| held(unrest)).map(|(file, _)| file.as_path())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Milliseconds, and what is seen then.
    type Story<'a> = &'a [(u64, Sign)];

    /// When the file of the story has rested: milliseconds from its beginning.
    fn rests(story: Story) -> Option<u64> {
        let begin = Instant::now();
        let mut settling = Settling::default();
        for (at, sign) in story {
            let now = begin + Duration::from_millis(*at);
            assert_eq!(settling.take(now), None, "rested before {at} of {story:?}");
            settling.note(Path::new("f"), *sign, now);
        }
        let due = settling.due()?;
        assert_eq!(settling.take(due.checked_sub(Duration::from_millis(1)).unwrap()), None);
        assert_eq!(settling.take(due), Some(vec![PathBuf::from("f")]));
        assert_eq!(settling.due(), None);
        Some(u64::try_from((due - begin).as_millis()).unwrap())
    }

    #[test]
    fn a_file_rests_when_it_is_written_out_and_quiet() {
        use Sign::{Closed, Opened, Replaced, Touched, Unsure, Written};
        let table: &[(&str, Story, Option<u64>)] = &[
            ("nothing", &[], None),
            ("our own reading", &[(0, Opened), (5, Opened)], None),
            ("written at once", &[(0, Opened), (0, Written), (0, Closed)], Some(200)),
            ("truncated first", &[(0, Written), (0, Opened), (1, Written), (2, Closed)], Some(202)),
            ("in pieces", &[(0, Written), (90_000, Written), (180_000, Closed)], Some(180_200)),
            ("not closed yet", &[(0, Written), (90_000, Written)], None),
            ("closed unchanged", &[(0, Closed)], Some(200)),
            ("moved over", &[(7, Replaced)], Some(207)),
            ("moved over a half-written one", &[(0, Written), (7, Replaced)], Some(207)),
            ("removed, made again", &[(0, Replaced), (1, Touched), (2, Written)], None),
            (
                "vim",
                &[
                    (0, Replaced),
                    (1, Touched),
                    (1, Opened),
                    (2, Written),
                    (3, Closed),
                    (4, Touched),
                ],
                Some(204),
            ),
            ("permissions while written", &[(0, Written), (5, Touched)], None),
            (
                "two writers, one ends",
                &[(0, Written), (0, Opened), (1, Written), (1, Opened), (2, Closed)],
                Some(2002),
            ),
            (
                "two writers, both end",
                &[(0, Written), (0, Opened), (1, Written), (1, Opened), (2, Closed), (3, Closed)],
                Some(203),
            ),
            (
                "the other writer goes on",
                &[
                    (0, Written),
                    (0, Opened),
                    (1, Written),
                    (1, Opened),
                    (2, Closed),
                    (1000, Written),
                ],
                None,
            ),
            ("unsure", &[(0, Unsure)], Some(2000)),
            ("unsure, then written out", &[(0, Unsure), (10, Written), (20, Closed)], Some(220)),
            ("unsure, then permissions", &[(0, Unsure), (10, Touched)], Some(2000)),
            ("signs were lost while written", &[(0, Written), (10, Unsure)], Some(2010)),
        ];
        for (name, story, expected) in table {
            assert_eq!(rests(story), *expected, "{name}");
        }
    }

    #[test]
    fn nothing_rests_before_everything_does() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut settling = Settling::default();
        settling.note(Path::new("certificate"), Sign::Replaced, at(0));
        settling.note(Path::new("key"), Sign::Written, at(100));
        assert_eq!(settling.take(at(60_000)), None);
        assert_eq!(settling.held(Duration::from_mins(2), at(60_000)), None);
        assert_eq!(settling.held(Duration::from_secs(59), at(60_000)), Some(Path::new("key")));
        settling.note(Path::new("key"), Sign::Closed, at(60_000));
        assert_eq!(settling.take(at(60_199)), None);
        assert_eq!(settling.take(at(60_200)), Some(vec!["certificate".into(), "key".into()]));
    }

    #[test]
    fn a_file_that_is_none_of_ours_any_more_holds_nothing_up() {
        let now = Instant::now();
        let mut settling = Settling::default();
        settling.note(Path::new("old"), Sign::Written, now);
        settling.note(Path::new("new"), Sign::Replaced, now);
        settling.keep(&["new".into()]);
        assert_eq!(settling.take(now + QUIET), Some(vec!["new".into()]));
    }

    fn signs() -> impl Strategy<Value = Vec<(u64, usize, Sign)>> {
        use Sign::{Closed, Opened, Replaced, Touched, Unsure, Written};
        let sign = prop::sample::select(vec![Opened, Written, Closed, Touched, Replaced, Unsure]);
        // Steps around both times, so that resting in between is tried too.
        let step = prop_oneof![0..50u64, 150..250u64, 1900..2100u64];
        prop::collection::vec((step, 0..3usize, sign), 0..60)
    }

    proptest! {
        /// Whatever happens: a file is handed out only if something but its opening was seen, no
        /// file is written to at that time, all are quiet, and nothing that changed is forgotten.
        #[test]
        fn what_rests_is_closed_and_quiet_and_nothing_is_forgotten(signs in signs()) {
            let files = ["a", "b", "c"].map(PathBuf::from);
            let mut now = Instant::now();
            let mut settling = Settling::default();
            // What a file's last sign of each kind was, kept apart from the machine.
            let mut written: [bool; 3] = [false; 3];
            let mut last: [Option<Instant>; 3] = [None; 3];
            for (step, file, sign) in signs {
                now += Duration::from_millis(step);
                if let Some(taken) = settling.take(now) {
                    let changed = files.iter().zip(last).filter(|(_, last)| last.is_some());
                    let changed: Vec<_> = changed.map(|(file, _)| file.clone()).collect();
                    prop_assert_eq!(taken, changed);
                    prop_assert_eq!(written, [false; 3]);
                    let quiet = last.iter().flatten().all(|last| now - *last >= QUIET);
                    prop_assert!(quiet);
                    last = [None; 3];
                }
                settling.note(&files[file], sign, now);
                match sign {
                    Sign::Opened => continue,
                    Sign::Written => written[file] = true,
                    Sign::Touched => {}
                    Sign::Closed | Sign::Replaced | Sign::Unsure => written[file] = false,
                }
                last[file] = Some(now);
            }
            // Once every writer is done, everything rests within the longer time.
            for (file, _) in files.iter().zip(written).filter(|(_, written)| *written) {
                settling.note(file, Sign::Closed, now);
            }
            let any = last.iter().any(Option::is_some);
            prop_assert_eq!(settling.take(now + DOUBT).is_some(), any);
        }
    }
}
