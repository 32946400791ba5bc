//! Lists of members by name: which slots are in a group, or belong to a user.

use std::collections::HashMap;

use slab::Slab;
use smallvec::SmallVec;

use super::{connection::Membership as Place, slot::Slot};
use crate::ids::Name;

/// The names that clients of this shard have, each with the list of its members: the groups, or the
/// users. Joining and leaving are a few moves, whatever the size of a list.
#[derive(Default)]
pub(super) struct MemberIndex {
    keys: HashMap<Name, u32>,
    sets: Slab<Members>,
}

struct Members {
    name: Name,
    /// Most users have one client or two.
    members: SmallVec<[Slot; 4]>,
}

/// What became of a list that somebody has left.
pub(super) struct Removed {
    pub(super) name: Name,
    /// How many are left.
    pub(super) members: usize,
    /// The member whose place it is now.
    pub(super) moved: Option<Slot>,
}

impl MemberIndex {
    /// The slots of the members; none if the name has none here.
    pub(super) fn members(&self, name: &str) -> &[Slot] {
        self.key(name).and_then(|key| self.sets.get(key as usize)).map_or(&[], |set| &set.members)
    }

    /// The number by which memberships name the set; none if it has no member here.
    pub(super) fn key(&self, name: &str) -> Option<u32> {
        self.keys.get(name).copied()
    }

    /// The name of a set.
    pub(super) fn name(&self, key: u32) -> Option<&Name> {
        self.sets.get(key as usize).map(|set| &set.name)
    }

    fn key_or_new(&mut self, name: &Name) -> u32 {
        if let Some(key) = self.key(name.as_str()) {
            return key;
        }
        let set = Members { name: name.clone(), members: SmallVec::new() };
        // A set needs a member, a member a slot, and a slot has 24 bits; a client is in at most
        // `limits.groups_per_client` (a u16's worth) of them: 32 bits can be used up only on paper.
        let key = u32::try_from(self.sets.insert(set)).unwrap_or(u32::MAX);
        self.keys.insert(name.clone(), key);
        key
    }

    /// Adds a member that is not there yet; answers how many there are now, too.
    pub(super) fn insert(&mut self, name: &Name, slot: Slot) -> (Place, usize) {
        let key = self.key_or_new(name);
        let members = &mut self.sets[key as usize].members;
        // A position among slots, which have 24 bits.
        let position = u32::try_from(members.len()).unwrap_or(u32::MAX);
        members.push(slot);
        (Place { set: key, position }, members.len())
    }

    /// Takes one member out of the list. The last member moves into the gap, and is to be told its
    /// new position.
    pub(super) fn remove(&mut self, Place { set: key, position }: Place) -> Removed {
        let set = &mut self.sets[key as usize];
        set.members.swap_remove(position as usize);
        let moved = set.members.get(position as usize).copied();
        let (name, members) = (set.name.clone(), set.members.len());
        if members == 0 {
            self.sets.remove(key as usize);
            self.keys.remove(name.as_str());
        } else if set.members.capacity() > 4 * members && members > 64 {
            set.members.shrink_to_fit();
        }
        Removed { name, members, moved }
    }

    /// Takes up to `most` members out, the last of all with the set itself; answers by which number
    /// memberships name it, who was taken out, and how many are left.
    pub(super) fn dissolve(&mut self, name: &str, most: usize) -> Option<(u32, Vec<Slot>, usize)> {
        let key = self.key(name)?;
        let members = &mut self.sets.get_mut(key as usize)?.members;
        let out = members.drain(members.len().saturating_sub(most)..).collect();
        let left = members.len();
        if left == 0 {
            self.sets.remove(key as usize);
            self.keys.remove(name);
        }
        Some((key, out, left))
    }
}
