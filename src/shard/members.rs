//! Who is in which group, and who is which user: the shard's own part of it.
//!
//! A group keeps the list of its members' slots, a session the list of its groups with its position
//! in each; so joining and leaving are a few moves, whatever the size of the group. Users are kept in
//! the same way, but that a client has at most one. The directory above the shards learns of each
//! change inside the step that makes it.

use std::collections::HashMap;

use slab::Slab;
use smallvec::SmallVec;

use super::{inbox::Clients, run::Loop, session::Membership};
use crate::{
    ids::{ClientId, Name},
    message::Selection,
};

/// The names that clients of this shard have, each with the list of its members: the groups, or the
/// users.
#[derive(Default)]
pub(super) struct Sets {
    keys: HashMap<Name, u32>,
    sets: Slab<Set>,
}

struct Set {
    name: Name,
    /// Most users have one client or two.
    members: SmallVec<[u32; 4]>,
}

/// What became of a set that somebody has left.
struct Vacated {
    name: Name,
    /// How many are left.
    members: usize,
    /// The member whose place it is now.
    moved: Option<u32>,
}

impl Sets {
    /// The slots of the members; none if the name has none here.
    pub(super) fn members(&self, name: &str) -> &[u32] {
        self.key(name).and_then(|key| self.sets.get(key as usize)).map_or(&[], |set| &set.members)
    }

    /// The number by which memberships name the set; none if it has no member here.
    pub(super) fn key(&self, name: &str) -> Option<u32> {
        self.keys.get(name).copied()
    }

    /// The name of a set.
    fn name(&self, key: u32) -> Option<&Name> {
        self.sets.get(key as usize).map(|set| &set.name)
    }

    fn key_or_new(&mut self, name: &Name) -> u32 {
        if let Some(key) = self.key(name.as_str()) {
            return key;
        }
        let set = Set { name: name.clone(), members: SmallVec::new() };
        // A set needs a member, a member a slot, and a slot has 24 bits; a client is in at most
        // `limits.groups_per_client` (a u16's worth) of them: 32 bits can be used up only on paper.
        let key = u32::try_from(self.sets.insert(set)).unwrap_or(u32::MAX);
        self.keys.insert(name.clone(), key);
        key
    }

    /// Adds a member that is not there yet; answers how many there are now, too.
    fn enter(&mut self, name: &Name, slot: u32) -> (Membership, usize) {
        let key = self.key_or_new(name);
        let members = &mut self.sets[key as usize].members;
        // A position among slots, which have 24 bits.
        let seat = u32::try_from(members.len()).unwrap_or(u32::MAX);
        members.push(slot);
        (Membership { set: key, seat }, members.len())
    }

    /// Takes one member out of the list. The last member moves into the gap, and is to be told its
    /// new position.
    fn vacate(&mut self, Membership { set: key, seat }: Membership) -> Vacated {
        let set = &mut self.sets[key as usize];
        set.members.swap_remove(seat as usize);
        let moved = set.members.get(seat as usize).copied();
        let (name, members) = (set.name.clone(), set.members.len());
        if members == 0 {
            self.sets.remove(key as usize);
            self.keys.remove(name.as_str());
        } else if set.members.capacity() > 4 * members && members > 64 {
            set.members.shrink_to_fit();
        }
        Vacated { name, members, moved }
    }

    /// Takes up to `most` members out, the last of all with the set itself; answers by which number
    /// memberships name it, who was taken out, and how many are left.
    fn dissolve(&mut self, name: &str, most: usize) -> Option<(u32, Vec<u32>, usize)> {
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

impl Loop {
    /// The slot of a client that is connected.
    pub(super) fn find(&self, client: ClientId) -> Option<u32> {
        let slot = client.slot();
        let session = self.sessions.get(slot as usize)?;
        (session.id == client && session.is_open()).then_some(slot)
    }

    /// The slots of those of the clients that are connected.
    pub(super) fn slots_of(&self, clients: &Clients) -> Vec<u32> {
        match clients {
            Clients::All => {
                let open = self.sessions.iter().filter(|(_, session)| session.is_open());
                open.filter_map(|(slot, _)| u32::try_from(slot).ok()).collect()
            }
            Clients::These(ids) => ids.iter().filter_map(|&id| self.find(id)).collect(),
            Clients::User(uid) => self.users.members(uid.as_str()).to_vec(),
            Clients::Group(name) => self.groups.members(name.as_str()).to_vec(),
            Clients::Selected(selection) => self.select(selection),
        }
    }

    /// The slots of those who are selected, each once.
    fn select(&self, selection: &Selection) -> Vec<u32> {
        let mut slots = if selection.all {
            self.slots_of(&Clients::All)
        } else {
            // Clients of other shards are not found here.
            let mut slots: Vec<_> =
                selection.clients.iter().filter_map(|&id| self.find(id)).collect();
            for uid in selection.users() {
                slots.extend_from_slice(self.users.members(uid.as_str()));
            }
            for group in &selection.groups {
                slots.extend_from_slice(self.groups.members(group.as_str()));
            }
            slots.sort_unstable();
            slots.dedup();
            slots
        };
        if !selection.filter.is_empty() {
            slots.retain(|&slot| {
                self.sessions.get(slot as usize).is_some_and(|it| {
                    selection.filter.lets_pass(it.id, it.uid.as_ref(), it.attributes.as_deref())
                })
            });
        }
        slots
    }

    /// Gives the client a uid, or takes it away; answers whether that changed anything.
    pub(super) fn bind(&mut self, slot: u32, uid: Option<Name>) -> bool {
        let Some(session) = self.sessions.get_mut(slot as usize).filter(|it| it.uid != uid) else {
            return false;
        };
        let old = session.uid.take().map(|_| session.user);
        // First the new, then the old: a user is never seen offline in between.
        if let Some(uid) = uid {
            let (membership, members) = self.users.enter(&uid, slot);
            self.directory.users.set(&uid, self.index, members);
            (session.uid, session.user) = (Some(uid), membership);
        }
        if let Some(old) = old {
            let Vacated { name, members, moved } = self.users.vacate(old);
            if let Some(moved) = moved.and_then(|slot| self.sessions.get_mut(slot as usize)) {
                moved.user.seat = old.seat;
            }
            self.directory.users.set(&name, self.index, members);
        }
        true
    }

    /// The clients of each of the users, as far as they are here.
    pub(super) fn clients_of_each(&self, uids: &[Name]) -> Vec<Vec<ClientId>> {
        let clients_of = |uid: &Name| {
            let slots = self.users.members(uid.as_str()).iter();
            slots.filter_map(|&slot| Some(self.sessions.get(slot as usize)?.id)).collect()
        };
        uids.iter().map(clients_of).collect()
    }

    /// Which of the users have a client here that is in the group.
    pub(super) fn users_in(&self, group: &Name, uids: &[Name]) -> Vec<bool> {
        let key = self.groups.key(group.as_str());
        let is_member = |&slot: &u32| {
            let session = self.sessions.get(slot as usize);
            session.is_some_and(|it| it.groups.iter().any(|it| Some(it.set) == key))
        };
        uids.iter().map(|uid| self.users.members(uid.as_str()).iter().any(is_member)).collect()
    }

    /// Puts the client into the group; answers whether it wasn't in it. The caller has looked at
    /// `limits.groups_per_client`.
    pub(super) fn join(&mut self, slot: u32, name: &Name) -> bool {
        if self.membership(slot, name).is_some() {
            return false;
        }
        let Some(session) = self.sessions.get_mut(slot as usize) else { return false };
        let (membership, members) = self.groups.enter(name, slot);
        session.groups.push(membership);
        self.directory.groups.set(name, self.index, members);
        true
    }

    /// Takes the client out of the group; answers whether it was in it.
    pub(super) fn leave_group(&mut self, slot: u32, name: &Name) -> bool {
        let Some(at) = self.membership(slot, name) else { return false };
        let Some(session) = self.sessions.get_mut(slot as usize) else { return false };
        let membership = session.groups.swap_remove(at);
        self.vacate(membership);
        true
    }

    /// The names of the client's groups.
    pub(super) fn groups_of(&self, slot: u32) -> impl Iterator<Item = &Name> {
        let memberships = self.sessions.get(slot as usize).into_iter().flat_map(|it| &it.groups);
        memberships.filter_map(|it| self.groups.name(it.set))
    }

    /// Where among the client's groups this one stands.
    fn membership(&self, slot: u32, name: &Name) -> Option<usize> {
        let key = self.groups.key(name.as_str())?;
        self.sessions.get(slot as usize)?.groups.iter().position(|it| it.set == key)
    }

    /// Takes the client out of all its groups.
    pub(super) fn leave_all_groups(&mut self, slot: u32) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        for membership in std::mem::take(&mut session.groups) {
            self.vacate(membership);
        }
    }

    /// Takes up to `most` members out of the group, the last of all with the group itself; they stay
    /// connected. Answers how many that were.
    pub(super) fn dissolve(&mut self, name: &Name, most: usize) -> usize {
        let Some((key, out, left)) = self.groups.dissolve(name.as_str(), most) else { return 0 };
        for &slot in &out {
            if let Some(session) = self.sessions.get_mut(slot as usize) {
                session.groups.retain(|it| it.set != key);
            }
        }
        self.directory.groups.set(name, self.index, left);
        out.len()
    }

    /// Gives up a place in a group.
    fn vacate(&mut self, membership: Membership) {
        let Vacated { name, members, moved } = self.groups.vacate(membership);
        if let Some(session) = moved.and_then(|slot| self.sessions.get_mut(slot as usize))
            && let Some(moved) = session.groups.iter_mut().find(|it| it.set == membership.set)
        {
            moved.seat = membership.seat;
        }
        self.directory.groups.set(&name, self.index, members);
    }
}
