//! The directory: which clients a uid has, and which shards hold members of a group.
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

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use smallvec::SmallVec;

use crate::{
    ids::{ClientId, Name},
    metrics::Single,
};

/// Where uids and groups are.
#[derive(Default)]
pub struct Directory {
    users: Stripes<Clients>,
    groups: Stripes<Places>,
    /// Held by a shard for a step that changes several names, and by each question for as long as
    /// it takes to answer: so nobody sees half of such a step.
    step: RwLock<()>,
}

impl Directory {
    /// Keeps everybody who asks waiting until what is returned is dropped: for a step that changes
    /// several names. Steps of one name need no such care.
    pub fn one_step(&self) -> RwLockWriteGuard<'_, ()> {
        // It guards nothing that a panic could leave half done.
        self.step.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a question about several names, which is to be answered as of one moment.
    pub fn one_look(&self) -> Look<'_> {
        Look { directory: self, _step: self.step.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Records that `client` is now bound to `uid`.
    pub fn bind(&self, uid: &Name, client: ClientId) {
        self.users.stripe(uid.as_str()).entry(uid.clone()).or_default().insert(client);
    }

    /// Records that `client` is no longer bound to `uid`.
    pub fn unbind(&self, uid: &Name, client: ClientId) {
        let mut stripe = self.users.stripe(uid.as_str());
        if let Some(clients) = stripe.get_mut(uid.as_str()) {
            clients.remove(client);
            if clients.is_empty() {
                stripe.remove(uid.as_str());
            }
        }
    }

    /// All uids that a client has; each was there when it was read.
    pub fn users(&self) -> Vec<Name> {
        (0..STRIPES).flat_map(|stripe| self.users_in(stripe)).collect()
    }

    /// The uids of one of the [`STRIPES`]: a name is always in the same, so each is in just one of
    /// these lists. Stripe by stripe, so that no shard waits for the whole list.
    pub fn users_in(&self, stripe: usize) -> Vec<Name> {
        let Some(stripe) = self.users.stripes.get(stripe) else { return Vec::new() };
        let _look = self.one_look();
        stripe.lock().keys().cloned().collect()
    }

    /// The groups of one of the [`STRIPES`], and how many members each has.
    pub fn groups_in(&self, stripe: usize) -> Vec<(Name, usize)> {
        let Some(stripe) = self.groups.stripes.get(stripe) else { return Vec::new() };
        let _look = self.one_look();
        stripe.lock().iter().map(|(name, places)| (name.clone(), members(places))).collect()
    }

    /// Records that `shard` now holds `members` clients of the group; zero forgets the place.
    pub fn set_members(&self, group: &Name, shard: u16, members: usize) {
        let mut stripe = self.groups.stripe(group.as_str());
        let places = stripe.entry(group.clone()).or_default();
        let known = places.iter().position(|place| place.shard == shard);
        match (known, members) {
            (Some(at), 0) => {
                places.swap_remove(at);
            }
            (Some(at), members) => places[at].members = members,
            (None, 0) => {}
            (None, members) => places.push(Place { shard, members }),
        }
        if places.is_empty() {
            stripe.remove(group.as_str());
        }
    }
}

/// The directory as of one moment: no step of several names is half done while this lives.
pub struct Look<'a> {
    directory: &'a Directory,
    _step: RwLockReadGuard<'a, ()>,
}

impl Look<'_> {
    /// As of another moment: whoever waited for this one to end has a turn first.
    #[must_use]
    pub fn renew(self) -> Self {
        let directory = self.directory;
        drop(self);
        directory.one_look()
    }

    /// The clients of a uid; none if nobody has it.
    pub fn clients_of(&self, uid: &str) -> Vec<ClientId> {
        self.directory.users.stripe(uid).get(uid).map_or_else(Vec::new, Clients::to_vec)
    }

    /// How many clients a uid has.
    pub fn count_clients_of(&self, uid: &str) -> usize {
        self.directory.users.stripe(uid).get(uid).map_or(0, Clients::len)
    }

    /// Whether any client has the uid.
    pub fn user_is_online(&self, uid: &str) -> bool {
        self.directory.users.stripe(uid).contains_key(uid)
    }

    /// Distinct uids.
    pub fn count_users(&self) -> u64 {
        self.directory.users.len()
    }

    /// The shards that hold members of the group; none if there is no such group.
    pub fn shards_of(&self, group: &str) -> SmallVec<[u16; 8]> {
        let stripe = self.directory.groups.stripe(group);
        stripe.get(group).into_iter().flatten().map(|place| place.shard).collect()
    }

    /// Members of the group on all shards.
    pub fn count_members(&self, group: &str) -> usize {
        let stripe = self.directory.groups.stripe(group);
        stripe.get(group).map_or(0, members)
    }

    /// Groups that exist, that is, have a member.
    pub fn count_groups(&self) -> u64 {
        self.directory.groups.len()
    }
}

/// Members of one group on one shard.
#[derive(Debug)]
struct Place {
    shard: u16,
    members: usize,
}

type Places = SmallVec<[Place; 1]>;

/// Members of one group on all shards.
fn members(places: &Places) -> usize {
    places.iter().map(|place| place.members).sum()
}

/// The clients of one uid: mostly one or two, so a short list; a set once there are many, so that
/// a uid shared by thousands doesn't make each of their departures a search.
enum Clients {
    Few(SmallVec<[ClientId; 1]>),
    #[expect(clippy::box_collection, reason = "the rare case, and twice as large as the other")]
    Many(Box<HashSet<ClientId>>),
}

/// Clients of a uid from which on a set is cheaper than a list.
const MANY: usize = 32;

impl Default for Clients {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl Clients {
    fn insert(&mut self, client: ClientId) {
        match self {
            Self::Few(few) if few.contains(&client) => {}
            Self::Few(few) if few.len() < MANY => few.push(client),
            Self::Few(few) => {
                *self = Self::Many(Box::new(few.drain(..).chain([client]).collect()));
            }
            Self::Many(many) => {
                many.insert(client);
            }
        }
    }

    fn remove(&mut self, client: ClientId) {
        match self {
            Self::Few(few) => {
                if let Some(at) = few.iter().position(|&other| other == client) {
                    few.swap_remove(at);
                }
            }
            Self::Many(many) => {
                many.remove(&client);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    fn to_vec(&self) -> Vec<ClientId> {
        match self {
            Self::Few(few) => few.to_vec(),
            Self::Many(many) => many.iter().copied().collect(),
        }
    }
}

type Map<V> = HashMap<Name, V>;

/// A map by name, cut into stripes with a lock each.
struct Stripes<V> {
    stripes: Box<[Stripe<V>]>,
    hasher: RandomState,
}

struct Stripe<V> {
    map: Mutex<Map<V>>,
    /// How many names there are; written under the lock.
    len: Single,
}

/// A stripe of which somebody has the lock.
struct Locked<'a, V> {
    map: MutexGuard<'a, Map<V>>,
    len: &'a Single,
}

/// Parts of the directory, each with a lock of its own: enough that a few dozen shards rarely meet,
/// few enough that walking them all is cheap.
pub const STRIPES: usize = 64;

impl<V> Default for Stripes<V> {
    fn default() -> Self {
        let stripes = std::iter::repeat_with(Stripe::default).take(STRIPES).collect();
        Self { stripes, hasher: RandomState::new() }
    }
}

impl<V> Default for Stripe<V> {
    fn default() -> Self {
        Self { map: Mutex::default(), len: Single::default() }
    }
}

impl<V> Stripe<V> {
    /// A panic while a stripe was locked leaves each single map entry whole, so poison is no reason
    /// to take the directory away from everybody.
    fn lock(&self) -> Locked<'_, V> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { map, len: &self.len }
    }
}

impl<V> Deref for Locked<'_, V> {
    type Target = Map<V>;

    fn deref(&self) -> &Map<V> {
        &self.map
    }
}

impl<V> DerefMut for Locked<'_, V> {
    fn deref_mut(&mut self) -> &mut Map<V> {
        &mut self.map
    }
}

impl<V> Drop for Locked<'_, V> {
    fn drop(&mut self) {
        let len = self.map.len() as u64;
        if self.len.get() != len {
            self.len.set(len);
        }
    }
}

impl<V> Stripes<V> {
    fn stripe(&self, name: &str) -> Locked<'_, V> {
        let hash = self.hasher.hash_one(name);
        // The modulus keeps the index below STRIPES, whatever the width of usize.
        #[expect(clippy::cast_possible_truncation, reason = "STRIPES fits into any usize")]
        self.stripes[(hash % STRIPES as u64) as usize].lock()
    }

    fn len(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.len.get()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text, 64).expect("a short name")
    }

    #[test]
    fn a_uid_lives_from_its_first_client_to_its_last() {
        let directory = Directory::default();
        let ada = name("ada");
        let clients: Vec<_> = (0..100).map(|slot| ClientId::new(0, slot, 1, 7)).collect();
        for &client in clients.iter().chain(&clients) {
            directory.bind(&ada, client);
        }
        let mut found = directory.one_look().clients_of("ada");
        found.sort();
        let mut expected = clients.clone();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(directory.one_look().count_users(), 1);
        for &client in &clients {
            assert!(directory.one_look().user_is_online("ada"));
            directory.unbind(&ada, client);
        }
        assert!(!directory.one_look().user_is_online("ada"));
        assert_eq!((directory.one_look().count_users(), directory.users().len()), (0, 0));
    }

    #[test]
    fn a_group_is_where_its_members_are() {
        let directory = Directory::default();
        let lobby = name("lobby");
        directory.set_members(&lobby, 2, 5);
        directory.set_members(&lobby, 0, 1);
        directory.set_members(&lobby, 2, 4);
        assert_eq!(directory.one_look().shards_of("lobby").as_slice(), [2, 0]);
        assert_eq!(
            (directory.one_look().count_members("lobby"), directory.one_look().count_groups()),
            (5, 1)
        );
        directory.set_members(&lobby, 2, 0);
        assert_eq!(directory.one_look().shards_of("lobby").as_slice(), [0]);
        directory.set_members(&lobby, 0, 0);
        directory.set_members(&lobby, 1, 0);
        assert_eq!(
            (directory.one_look().count_members("lobby"), directory.one_look().count_groups()),
            (0, 0)
        );
    }
}
