//! The directory: on which shards a uid has clients, and a group members.
//!
//! The truth about a client lives on the shard that owns it. The directory is the index above the
//! shards: whoever sends to a user or a group asks it where to go, and it answers the questions
//! that concern no single shard (how many users, which groups). The owning shard updates it inside
//! the step that binds, joins or drops, before that step is answered; the delivery of a message
//! never touches it.
//!
//! Names are spread over striped mutexes: each is held for one look-up or one small change, so
//! shards hardly ever meet there, and no lock is held while another is taken. How many names there
//! are is told without a lock.
//!
//! A step that changes several names is numbered, so that who has looked several names up can tell
//! whether he has seen half of it: he looks without holding anybody up, and looks again, or asks
//! everybody, if a step came in between.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    ops::{Deref, DerefMut},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use smallvec::SmallVec;

use crate::{ids::Name, metrics::Single};

/// Where uids and groups are.
#[derive(Default)]
pub struct Directory {
    /// Uids that a client has.
    pub users: Names,
    /// Groups that have a member.
    pub groups: Names,
    /// Held by a shard for a step that changes several names.
    step: Mutex<()>,
    /// Twice the steps that were made; odd while one is under way.
    steps: AtomicU64,
}

/// A step that changes several names; it lasts until this is dropped.
pub struct Step<'a> {
    steps: &'a AtomicU64,
    _alone: MutexGuard<'a, ()>,
}

/// Times that somebody looks again because of steps in between, before he makes the shards wait.
const LOOKS: usize = 3;

impl Directory {
    /// Begins a step that changes several names. A step of one name needs no such care.
    pub fn one_step(&self) -> Step<'_> {
        // It guards nothing that a panic could leave half done.
        let alone = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        self.steps.fetch_add(1, Ordering::Relaxed);
        // Who sees something of the step sees that it has begun.
        fence(Ordering::Release);
        Step { steps: &self.steps, _alone: alone }
    }

    /// Looks names up; none if a step came in between, so that what was seen is of no one moment.
    pub fn look<T>(&self, look: impl FnOnce(&Self) -> T) -> Option<T> {
        let before = self.steps.load(Ordering::Acquire);
        if !before.is_multiple_of(2) {
            return None;
        }
        let seen = look(self);
        fence(Ordering::Acquire);
        (self.steps.load(Ordering::Relaxed) == before).then_some(seen)
    }

    /// Looks names up as of one moment. Steps may have to wait meanwhile, so they are to be few.
    pub fn one_look<T>(&self, mut look: impl FnMut(&Self) -> T) -> T {
        (0..LOOKS).find_map(|_| self.look(&mut look)).unwrap_or_else(|| {
            let _nobody_steps = self.step.lock().unwrap_or_else(PoisonError::into_inner);
            look(self)
        })
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.steps.fetch_add(1, Ordering::Release);
    }
}

/// Names, and how many clients each has on which shards. A name is there while it has one.
pub struct Names {
    stripes: Box<[Stripe]>,
    hasher: RandomState,
}

/// Parts of each list of names, with a lock of their own: enough that a few dozen shards rarely meet,
/// few enough that walking them all is cheap.
pub const STRIPES: usize = 64;

impl Names {
    /// Records that `shard` now holds `clients` of the name; zero forgets the place.
    pub fn set(&self, name: &Name, shard: u16, clients: usize) {
        let mut stripe = self.stripe(name.as_str());
        let places = match stripe.get_mut(name.as_str()) {
            Some(places) => places,
            None if clients == 0 => return,
            None => stripe.entry(name.clone()).or_default(),
        };
        match places.iter().position(|place| place.shard == shard) {
            Some(at) if clients == 0 => {
                places.swap_remove(at);
            }
            Some(at) => places[at].clients = clients,
            None if clients == 0 => {}
            None => places.push(Place { shard, clients }),
        }
        if places.is_empty() {
            stripe.remove(name.as_str());
        }
    }

    /// The shards that hold clients of the name; none if there is no such name.
    pub fn shards(&self, name: &str) -> SmallVec<[u16; 8]> {
        let stripe = self.stripe(name);
        stripe.get(name).into_iter().flatten().map(|place| place.shard).collect()
    }

    /// Clients of the name on all shards.
    pub fn count(&self, name: &str) -> usize {
        self.stripe(name).get(name).map_or(0, clients)
    }

    /// Whether any client has the name.
    pub fn contains(&self, name: &str) -> bool {
        self.stripe(name).contains_key(name)
    }

    /// How many names there are.
    pub fn len(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.len.get()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All names; each was there when it was read.
    pub fn all(&self) -> Vec<Name> {
        (0..STRIPES).flat_map(|stripe| self.in_stripe(stripe)).map(|(name, _)| name).collect()
    }

    /// The names of one of the [`STRIPES`], and how many clients each has: a name is always in the
    /// same, so each is in just one of these lists. Stripe by stripe, so that no shard waits for the
    /// whole list.
    pub fn in_stripe(&self, stripe: usize) -> Vec<(Name, usize)> {
        let Some(stripe) = self.stripes.get(stripe) else { return Vec::new() };
        stripe.lock().iter().map(|(name, places)| (name.clone(), clients(places))).collect()
    }

    /// Which of the [`STRIPES`] a name is in.
    pub fn stripe_of(&self, name: &str) -> usize {
        let hash = self.hasher.hash_one(name);
        // The modulus keeps the index below STRIPES, whatever the width of usize.
        #[expect(clippy::cast_possible_truncation, reason = "STRIPES fits into any usize")]
        let stripe = (hash % STRIPES as u64) as usize;
        stripe
    }

    fn stripe(&self, name: &str) -> Locked<'_> {
        self.stripes[self.stripe_of(name)].lock()
    }
}

impl Default for Names {
    fn default() -> Self {
        let stripes = std::iter::repeat_with(Stripe::default).take(STRIPES).collect();
        Self { stripes, hasher: RandomState::new() }
    }
}

/// Clients of one name on one shard.
#[derive(Debug)]
struct Place {
    shard: u16,
    clients: usize,
}

type Places = SmallVec<[Place; 1]>;

/// Clients of one name on all shards.
fn clients(places: &Places) -> usize {
    places.iter().map(|place| place.clients).sum()
}

type Map = HashMap<Name, Places>;

#[derive(Default)]
struct Stripe {
    map: Mutex<Map>,
    /// How many names there are; written under the lock.
    len: Single,
}

/// A stripe of which somebody has the lock.
struct Locked<'a> {
    map: MutexGuard<'a, Map>,
    len: &'a Single,
}

impl Stripe {
    /// A panic while a stripe was locked leaves each single map entry whole, so poison is no reason
    /// to take the directory away from everybody.
    fn lock(&self) -> Locked<'_> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { map, len: &self.len }
    }
}

impl Deref for Locked<'_> {
    type Target = Map;

    fn deref(&self) -> &Map {
        &self.map
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Map {
        &mut self.map
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let len = self.map.len() as u64;
        if self.len.get() != len {
            self.len.set(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text, 64).expect("a short name")
    }

    #[test]
    fn a_name_is_where_its_clients_are() {
        let names = Names::default();
        let lobby = name("lobby");
        for (shard, clients) in [(2, 5), (0, 1), (2, 4)] {
            names.set(&lobby, shard, clients);
        }
        assert_eq!(names.shards("lobby").as_slice(), [2, 0]);
        assert_eq!((names.count("lobby"), names.len(), names.contains("lobby")), (5, 1, true));
        assert_eq!(names.in_stripe(names.stripe_of("lobby")), [(lobby.clone(), 5)]);
        names.set(&lobby, 2, 0);
        assert_eq!(names.shards("lobby").as_slice(), [0]);
        names.set(&lobby, 1, 0);
        names.set(&lobby, 0, 0);
        names.set(&lobby, 0, 0);
        assert_eq!((names.count("lobby"), names.len(), names.contains("lobby")), (0, 0, false));
        assert!(names.all().is_empty());
    }

    #[test]
    fn each_name_is_in_one_stripe() {
        let names = Names::default();
        let mut all: Vec<_> = (0..1000).map(|number| name(&format!("user {number}"))).collect();
        for name in &all {
            names.set(name, 0, 1);
        }
        let mut listed = names.all();
        listed.sort();
        all.sort();
        assert_eq!(listed, all);
    }

    #[test]
    fn a_look_notices_a_step_and_one_of_several_names_is_never_half_seen() {
        let directory = Directory::default();
        assert_eq!(directory.look(|_| 7), Some(7));
        let step = directory.one_step();
        assert_eq!(directory.look(|_| 7), None);
        drop(step);
        assert_eq!(directory.look(|it| drop(it.one_step())), None);
        assert_eq!(directory.look(|_| 7), Some(7));

        // One client that hops between two names, while somebody counts them.
        let (here, there) = (name("here"), name("there"));
        directory.users.set(&here, 0, 1);
        std::thread::scope(|scope| {
            let hops = scope.spawn(|| {
                for _ in 0..20_000 {
                    for (from, to) in [(&here, &there), (&there, &here)] {
                        let _step = directory.one_step();
                        directory.users.set(from, 0, 0);
                        directory.users.set(to, 0, 1);
                    }
                }
            });
            let count = |it: &Directory| it.users.count("here") + it.users.count("there");
            while !hops.is_finished() {
                assert_eq!(directory.one_look(count), 1);
                assert!(directory.look(count).is_none_or(|seen| seen == 1));
            }
        });
    }
}
