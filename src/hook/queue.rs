//! Whose question is put next: clients wait in lines, one line for each address or user, and the
//! lines take turns.
//!
//! ```text
//!  10.0.0.1   ● ● ● ● ●  ┐                     full: the newest of the longest line leaves,
//!  10.0.0.7   ●          ├─► one each, in turn  or who comes, if its own line is the longest
//!  user "ada" ● ●        ┘
//! ```
//!
//! So a burst from one address costs that address time, and nobody else more than one question per
//! line. A user is told apart only where a token was verified: then it is known who asks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::net::Address;

/// Who shares a line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// A user, by a token that was verified.
    User(String),
    /// Where it comes from.
    Address(Address),
}

/// How many may be under way, and how many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) under_way: usize,
    pub(super) waiting: usize,
}

/// Who is next. Its lock is held for one step and never while something is waited for.
#[derive(Debug, Default)]
pub(super) struct FairQueue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bounds: Bounds,
    under_way: usize,
    waiting: usize,
    /// The next number of a ticket, or of a line's place in the order.
    next: u64,
    lines: HashMap<Asker, Line>,
    /// The lines in the order in which they are served.
    order: BTreeMap<u64, Asker>,
    /// The lines by length, and the place of each in the order.
    lengths: BTreeSet<(usize, u64)>,
}

/// Those who wait in one line, by ticket. It is never empty while it is in the state.
#[derive(Debug)]
struct Line {
    place: u64,
    waiters: BTreeMap<u64, oneshot::Sender<Outcome>>,
}

/// What became of one who waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Granted,
    Crowded,
}

/// There is no room to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crowded;

/// The right to put one question; dropping it gives it to the next.
#[derive(Debug)]
pub(super) struct Permit<'q>(&'q FairQueue);

/// A place in a line; dropping it leaves the line.
#[derive(Debug)]
pub(super) struct Waiting<'q> {
    queue: &'q FairQueue,
    asker: Asker,
    ticket: u64,
    told: oneshot::Receiver<Outcome>,
}

/// How somebody came in.
#[derive(Debug)]
pub(super) enum Entry<'q> {
    Permitted(Permit<'q>),
    Waits(Waiting<'q>),
}

impl Default for Bounds {
    fn default() -> Self {
        Self { under_way: 1, waiting: 0 }
    }
}

impl From<IpAddr> for Asker {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.into())
    }
}

impl FairQueue {
    /// Comes in: at once if there is room and nobody waits, else at the end of its line.
    pub(super) fn enter(&self, asker: Asker, bounds: Bounds) -> Result<Entry<'_>, Crowded> {
        let mut state = self.lock();
        state.set(bounds);
        if state.waiting == 0 && state.under_way < bounds.under_way {
            state.under_way += 1;
            return Ok(Entry::Permitted(Permit(self)));
        }
        if state.waiting >= bounds.waiting {
            let own = state.lines.get(&asker).map_or(0, |line| line.waiters.len());
            // Not for one who would be as many as those it takes the place from.
            if state.longest().is_none_or(|longest| longest <= own + 1) {
                return Err(Crowded);
            }
            state.shorten();
        }
        let (ticket, told) = state.wait(&asker);
        Ok(Entry::Waits(Waiting { queue: self, asker, ticket, told }))
    }

    /// Goes by other bounds from now on.
    pub(super) fn set(&self, bounds: Bounds) {
        self.lock().set(bounds);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set(&mut self, bounds: Bounds) {
        if self.bounds == bounds {
            return;
        }
        self.bounds = bounds;
        self.grant();
        while self.waiting > bounds.waiting {
            self.shorten();
        }
    }

    /// Lets in as many as may be under way, one of each line in turn.
    fn grant(&mut self) {
        while self.under_way < self.bounds.under_way {
            let Some(asker) = self.order.values().next().cloned() else { return };
            let Some(mut line) = self.unlink(&asker) else { return };
            if let Some((_, told)) = line.waiters.pop_first() {
                self.waiting -= 1;
                // Who has left meanwhile has taken itself out of the line.
                self.under_way += usize::from(told.send(Outcome::Granted).is_ok());
            }
            line.place = self.number();
            self.link(asker, line);
        }
    }

    /// Adds one to the line of `asker`.
    fn wait(&mut self, asker: &Asker) -> (u64, oneshot::Receiver<Outcome>) {
        let (tell, told) = oneshot::channel();
        let ticket = self.number();
        let line = self.unlink(asker);
        let mut line = line.unwrap_or(Line { place: ticket, waiters: BTreeMap::new() });
        line.waiters.insert(ticket, tell);
        self.waiting += 1;
        self.link(asker.clone(), line);
        (ticket, told)
    }

    /// Turns the newest of the longest line away.
    fn shorten(&mut self) {
        let longest = self.lengths.last().and_then(|(_, place)| self.order.get(place)).cloned();
        let Some(asker) = longest else { return };
        let Some(mut line) = self.unlink(&asker) else { return };
        if let Some((_, told)) = line.waiters.pop_last() {
            self.waiting -= 1;
            // Nobody may listen any more.
            let _ = told.send(Outcome::Crowded);
        }
        self.link(asker, line);
    }

    /// Takes one out of its line; whether it was there.
    fn leave(&mut self, asker: &Asker, ticket: u64) -> bool {
        let Some(mut line) = self.unlink(asker) else { return false };
        let was_there = line.waiters.remove(&ticket).is_some();
        self.waiting -= usize::from(was_there);
        self.link(asker.clone(), line);
        was_there
    }

    fn finish(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.grant();
    }

    fn longest(&self) -> Option<usize> {
        self.lengths.last().map(|(length, _)| *length)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn unlink(&mut self, asker: &Asker) -> Option<Line> {
        let line = self.lines.remove(asker)?;
        self.order.remove(&line.place);
        self.lengths.remove(&(line.waiters.len(), line.place));
        Some(line)
    }

    fn link(&mut self, asker: Asker, line: Line) {
        if line.waiters.is_empty() {
            return;
        }
        self.order.insert(line.place, asker.clone());
        self.lengths.insert((line.waiters.len(), line.place));
        self.lines.insert(asker, line);
    }
}

impl<'q> Waiting<'q> {
    /// Waits for the permit; can be dropped and called again.
    pub(super) async fn permit(&mut self) -> Result<Permit<'q>, Crowded> {
        match (&mut self.told).await {
            Ok(Outcome::Granted) => Ok(Permit(self.queue)),
            Ok(Outcome::Crowded) | Err(_) => Err(Crowded),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        let left = state.leave(&self.asker, self.ticket);
        // It was let in and hasn't heard of it.
        if !left && self.told.try_recv() == Ok(Outcome::Granted) {
            state.finish();
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.lock().finish();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Bounds = Bounds { under_way: 1, waiting: 4 };

    fn asker(last: u8) -> Asker {
        IpAddr::from([10, 0, 0, last]).into()
    }

    fn permitted(queue: &FairQueue, of: u8, bounds: Bounds) -> Permit<'_> {
        match queue.enter(asker(of), bounds) {
            Ok(Entry::Permitted(permit)) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn waits(queue: &FairQueue, of: u8, bounds: Bounds) -> Waiting<'_> {
        match queue.enter(asker(of), bounds) {
            Ok(Entry::Waits(waiting)) => waiting,
            other => panic!("{other:?}"),
        }
    }

    fn is_granted(waiting: &mut Waiting<'_>) -> bool {
        let granted = waiting.told.try_recv() == Ok(Outcome::Granted);
        if granted {
            // As if its permit had been taken and given back.
            waiting.queue.lock().finish();
        }
        granted
    }

    #[test]
    fn lines_take_turns_and_each_is_served_in_order() {
        let queue = FairQueue::default();
        let first = permitted(&queue, 1, ONE);
        let mut waiting = [1, 1, 2, 1].map(|of| waits(&queue, of, ONE));
        drop(first);
        let mut served = Vec::new();
        while served.len() < waiting.len() {
            let at = waiting.iter_mut().position(is_granted).expect("somebody is next");
            served.push(at);
        }
        assert_eq!(served, [0, 2, 1, 3]);
    }

    #[test]
    fn when_it_is_full_the_longest_line_gives_way() {
        let queue = FairQueue::default();
        let _first = permitted(&queue, 1, ONE);
        let mut many: Vec<_> = (0..4).map(|_| waits(&queue, 1, ONE)).collect();
        assert_eq!(queue.enter(asker(1), ONE).err(), Some(Crowded), "its own is the longest");
        let _other = waits(&queue, 2, ONE);
        let told: Vec<_> = many.iter_mut().map(|one| one.told.try_recv().ok()).collect();
        assert_eq!(told, [None, None, None, Some(Outcome::Crowded)], "the newest leaves");
        let _second = waits(&queue, 2, ONE);
        assert_eq!(queue.enter(asker(2), ONE).err(), Some(Crowded), "two and two");
        let none = Bounds { waiting: 0, ..ONE };
        assert_eq!(queue.enter(asker(3), none).err(), Some(Crowded));
    }

    #[test]
    fn other_bounds_let_those_in_who_wait_or_turn_them_away() {
        let queue = FairQueue::default();
        let _first = permitted(&queue, 1, ONE);
        let (mut second, mut third) = (waits(&queue, 1, ONE), waits(&queue, 1, ONE));
        queue.set(Bounds { under_way: 2, waiting: 0 });
        assert_eq!(second.told.try_recv(), Ok(Outcome::Granted));
        assert_eq!(third.told.try_recv(), Ok(Outcome::Crowded));
    }

    #[test]
    fn who_leaves_before_hearing_of_its_permit_gives_it_on() {
        let queue = FairQueue::default();
        let first = permitted(&queue, 1, ONE);
        let (second, mut third) = (waits(&queue, 1, ONE), waits(&queue, 2, ONE));
        drop(first);
        drop(second);
        assert!(is_granted(&mut third));
    }

    proptest! {
        /// Whatever happens in whatever order, nobody is lost and no more get in than may.
        #[test]
        fn the_books_are_right(
            steps in prop::collection::vec((0..4u8, 0..5u8, 1..4usize, 0..5usize), 1..60),
        ) {
            let queue = FairQueue::default();
            let (mut inside, mut waiting) = (Vec::new(), Vec::new());
            for (what, of, under_way, room) in steps {
                let bounds = Bounds { under_way, waiting: room };
                match what {
                    0 | 1 => match queue.enter(asker(of), bounds) {
                        Ok(Entry::Permitted(permit)) => inside.push(permit),
                        Ok(Entry::Waits(one)) => waiting.push(one),
                        Err(Crowded) => {}
                    },
                    2 if !inside.is_empty() => drop(inside.swap_remove(usize::from(of) % inside.len())),
                    3 if !waiting.is_empty() => drop(waiting.swap_remove(usize::from(of) % waiting.len())),
                    _ => queue.set(bounds),
                }
                waiting.retain_mut(|one| match one.told.try_recv() {
                    Ok(Outcome::Granted) => {
                        inside.push(Permit(&queue));
                        false
                    }
                    Ok(Outcome::Crowded) => false,
                    Err(_) => true,
                });
                let state = queue.lock();
                prop_assert_eq!(state.under_way, inside.len());
                prop_assert_eq!(state.waiting, waiting.len());
                prop_assert_eq!(state.waiting, state.lines.values().map(|it| it.waiters.len()).sum::<usize>());
                prop_assert_eq!(state.lines.len(), state.order.len());
                prop_assert_eq!(state.lines.len(), state.lengths.len());
                prop_assert!(state.waiting == 0 || state.under_way >= state.bounds.under_way);
                prop_assert!(state.waiting <= state.bounds.waiting);
            }
            drop((inside, waiting));
            prop_assert_eq!(queue.lock().under_way, 0);
        }
    }
}
