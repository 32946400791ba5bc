//! A consumer group at work: shards append to it, subscribers sleep until there is something.
//!
//! The [`Group`] stands behind a lock, for each shard's turn and each subscriber's batch once: what
//! is done under it never waits.
//!
//! # What is done under the locks that shards take
//!
//! | lock | by | at most |
//! |---|---|---|
//! | the group, here | a shard: `append` | 256 events, and a drop for each that they take the room of |
//! | | a shard: `name_clients`, `named`, `watch` | 1024 clients; 256 partitions; one account |
//! | | `take` | 128 items; for every three of them 256 partitions and 1000 names, or one partition's |
//! | | `acknowledge` | a look at 4096 items in flight, and 256 settled; then the lock is let go |
//! | | `leave`, `set_bounds` | 256 items put back or dropped; then the lock is let go |
//! | | `join`, the end of `leave` | 256 partitions; those of one who has gone with each subscriber |
//! | | `tend`, `stats` | one look at each subscriber |
//! | | `end` | a swap |
//! | [`Links`] | a shard that begins or ends; whoever wakes | a wake for each shard |
//! | the book of [`Events`](super::Events) | a shard, before its first turn | no more after it |
//!
//! Events that are kept no longer are dropped after the lock was let go.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;

use super::{
    event::{Delivery, Event},
    group::{Acknowledgement, Bounds, Group, Key, Stats, SubscribeOptions, UnknownCursor},
    links::Links,
    seat::{Ended, Seat},
};
use crate::ids::{ClientId, Name};

/// A consumer group and its subscribers.
pub(super) struct ConsumerGroup {
    name: Name,
    links: Arc<Links>,
    /// Whether messages find no room; changed under the lock, read without it.
    pauses: AtomicBool,
    state: Mutex<State>,
}

struct State {
    group: Group,
    seats: BTreeMap<Key, Arc<Seat>>,
    /// Since when there is no subscriber.
    vacant: Option<Instant>,
    /// Whether it was ended: an ear may not know yet.
    over: bool,
}

impl ConsumerGroup {
    /// A group that is there before any client.
    pub(super) fn new(name: Name, bounds: Bounds, links: Arc<Links>) -> Self {
        Self::of(name, Group::new(bounds), links)
    }

    /// A group of which so many shards will name the clients.
    pub(super) fn late(name: Name, bounds: Bounds, links: Arc<Links>, shards: usize) -> Self {
        Self::of(name, Group::late(bounds, shards), links)
    }

    fn of(name: Name, group: Group, links: Arc<Links>) -> Self {
        let (seats, vacant) = (BTreeMap::new(), Some(Instant::now()));
        let state = Mutex::new(State { group, seats, vacant, over: false });
        Self { name, links, pauses: AtomicBool::new(false), state }
    }

    /// What it is called.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Whether messages find no room.
    pub(super) fn pauses(&self) -> bool {
        self.pauses.load(Ordering::SeqCst)
    }

    /// Takes note of what clients of one shard did, if they are in slots below `named`.
    pub(super) fn append(&self, events: &[Arc<Event>], named: u32) {
        self.change(|state| {
            let named = events.iter().filter(|event| event.client.slot() < named);
            for event in named.filter(|_| !state.over) {
                state.group.append(event);
            }
        });
    }

    /// These clients of a shard are connected.
    pub(super) fn name_clients(&self, clients: &[ClientId]) {
        self.change(|state| state.group.name(clients));
    }

    /// A shard has named its clients.
    pub(super) fn named(&self) {
        self.change(|state| state.group.named());
    }

    /// Lets one more subscribe, if there are fewer than `most`.
    pub(super) fn join(&self, options: SubscribeOptions, most: usize) -> Option<(Key, Arc<Seat>)> {
        self.change(|state| {
            if state.seats.len() >= most {
                return None;
            }
            let (key, seat) = (state.group.join(options), Arc::new(Seat::default()));
            state.seats.insert(key, Arc::clone(&seat));
            state.vacant = None;
            Some((key, seat))
        })
    }

    /// Lets a subscriber go, if it is still there.
    pub(super) fn leave(&self, key: Key) {
        self.change(|state| state.seats.remove(&key).map(drop));
        while !self.change(|state| state.group.leave(key)) {}
        self.change(State::look_at_seats);
    }

    /// Gives a subscriber what there is for it.
    pub(super) fn take(&self, key: Key, most: usize, most_bytes: usize) -> Vec<Delivery> {
        let now = Instant::now().into_std();
        self.change(|state| state.group.take(key, now, most, most_bytes))
    }

    /// Whether a subscriber has all that its window allows.
    pub(super) fn is_full(&self, key: Key) -> bool {
        self.lock().group.is_full(key)
    }

    /// Takes note of what a subscriber has done.
    pub(super) fn acknowledge(&self, key: Key, cursor: u64) -> Result<(), UnknownCursor> {
        let mut progress = Acknowledgement::of(cursor);
        while !self.change(|state| state.group.acknowledge(key, &mut progress))? {}
        self.links.wake_leaving();
        Ok(())
    }

    /// Watches the last that a client did, if it is still kept and somebody could acknowledge it.
    pub(super) fn watch(&self, client: ClientId) -> Option<Weak<()>> {
        let mut state = self.lock();
        if state.seats.is_empty() { None } else { state.group.watch(client) }
    }

    /// The last cursor that was given out.
    pub(super) fn last(&self) -> u64 {
        self.lock().group.last()
    }

    /// Puts other bounds in force.
    pub(super) fn set_bounds(&self, bounds: Bounds) {
        if *self.lock().group.bounds() == bounds {
            return;
        }
        while !self.change(|state| state.group.set_bounds(bounds)) {}
    }

    /// Lets go who should have acknowledged by now. When to look again; none is when somebody has
    /// come.
    pub(super) fn tend(&self, now: Instant) -> Option<Instant> {
        let (timeout, overdue) = {
            let state = self.lock();
            (state.group.bounds().ack_timeout?, state.group.overdue(now.into_std()))
        };
        for (key, cursor) in overdue {
            if let Some(seat) = self.lock().seats.get(&key) {
                seat.end(Ended::Overdue { cursor, timeout });
            }
            self.leave(key);
        }
        let state = self.lock();
        if state.seats.is_empty() {
            return None;
        }
        // What is taken from now on is due later than that.
        let oldest = state.group.oldest_sent().map_or(now, Instant::from_std);
        Some(oldest + timeout)
    }

    /// Since when there is no subscriber.
    pub(super) fn vacant(&self) -> Option<Instant> {
        self.lock().vacant
    }

    /// Ends all subscriptions and forgets everything.
    pub(super) fn end(&self, why: Ended) {
        let bounds = *self.lock().group.bounds();
        let mut group = Group::new(bounds);
        let seats = self.change(|state| {
            std::mem::swap(&mut state.group, &mut group);
            state.over = true;
            std::mem::take(&mut state.seats)
        });
        for seat in seats.into_values() {
            seat.end(why);
        }
        // What it has kept is given back here, where no shard waits for it.
        drop(group);
        self.links.wake_leaving();
    }

    /// How it stands.
    pub(super) fn stats(&self) -> Stats {
        self.lock().group.stats()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something under the lock, and wakes who can go on after it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let done = change(&mut state);
        let State { group, seats, .. } = &mut *state;
        for key in group.stirred() {
            if let Some(seat) = seats.get(&key) {
                seat.stirred.notify_one();
            }
        }
        let pauses = group.pauses();
        let before = self.pauses.swap(pauses, Ordering::SeqCst);
        let gone = group.gone();
        drop(state);
        drop(gone);
        if before && !pauses {
            self.links.wake_refused();
        }
        done
    }
}

impl State {
    /// Takes note of it if nobody subscribes any more.
    fn look_at_seats(&mut self) {
        if self.seats.is_empty() && self.vacant.is_none() {
            self.vacant = Some(Instant::now());
        }
    }
}
