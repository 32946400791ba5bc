//! Who is in which group, and who is which user: the shard's own part of it.
//!
//! A group keeps the list of its members' slots, a session the list of its groups with its position
//! in each; so joining and leaving are a few moves, whatever the size of the group. The directory
//! above the shards learns of each change inside the step that makes it.

use std::collections::HashMap;

use slab::Slab;

use super::{
    inbox::{Clients, Picked},
    run::Loop,
    session::Membership,
};
use crate::ids::{ClientId, Name};

/// The groups with members on this shard.
#[derive(Default)]
pub(super) struct Groups {
    keys: HashMap<Name, u32>,
    groups: Slab<Group>,
}

struct Group {
    name: Name,
    members: Vec<u32>,
}

impl Groups {
    /// The slots of the members; none if the group has none here.
    pub(super) fn members(&self, name: &str) -> &[u32] {
        self.key(name)
            .and_then(|key| self.groups.get(key as usize))
            .map_or(&[], |group| &group.members)
    }

    /// The number by which memberships name the group; none if it has no member here.
    pub(super) fn key(&self, name: &str) -> Option<u32> {
        self.keys.get(name).copied()
    }

    fn key_or_new(&mut self, name: &Name) -> u32 {
        if let Some(key) = self.key(name.as_str()) {
            return key;
        }
        let group = Group { name: name.clone(), members: Vec::new() };
        // A group needs a member, a member a slot, and a slot has 24 bits; a client is in at most
        // `limits.groups_per_client` (a u16's worth) of them: 32 bits can be used up only on paper.
        let key = u32::try_from(self.groups.insert(group)).unwrap_or(u32::MAX);
        self.keys.insert(name.clone(), key);
        key
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
            Clients::OfUser(ids, uid) => {
                let bound = |&slot: &u32| {
                    self.sessions.get(slot as usize).is_some_and(|it| it.uid.as_ref() == Some(uid))
                };
                ids.iter().filter_map(|&id| self.find(id)).filter(bound).collect()
            }
            Clients::Group(name) => self.groups.members(name.as_str()).to_vec(),
            Clients::Picked(picked) => self.pick(picked),
        }
    }

    /// The slots of those who are selected, each once.
    fn pick(&self, Picked { selection, clients, of_users }: &Picked) -> Vec<u32> {
        let mut slots = if selection.all {
            self.slots_of(&Clients::All)
        } else {
            let bound = |&slot: &u32| {
                let uid = self.sessions.get(slot as usize).and_then(|it| it.uid.as_ref());
                uid.is_some_and(|uid| selection.names_user(uid))
            };
            let mut slots: Vec<_> = clients.iter().filter_map(|&id| self.find(id)).collect();
            slots.extend(of_users.iter().filter_map(|&id| self.find(id)).filter(bound));
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
        // First the new, then the old: a user is never seen offline in between.
        if let Some(uid) = &uid {
            self.directory.bind(uid, session.id);
        }
        if let Some(old) = std::mem::replace(&mut session.uid, uid) {
            self.directory.unbind(&old, session.id);
        }
        true
    }

    /// Puts the client into the group; answers whether it wasn't in it. The caller has looked at
    /// `limits.groups_per_client`.
    pub(super) fn join(&mut self, slot: u32, name: &Name) -> bool {
        if self.membership(slot, name).is_some() {
            return false;
        }
        let key = self.groups.key_or_new(name);
        let Some(session) = self.sessions.get_mut(slot as usize) else { return false };
        let members = &mut self.groups.groups[key as usize].members;
        // A position among slots, which have 24 bits.
        let seat = u32::try_from(members.len()).unwrap_or(u32::MAX);
        members.push(slot);
        session.groups.push(Membership { group: key, seat });
        self.directory.set_members(name, self.index, members.len());
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
        memberships.filter_map(|it| Some(&self.groups.groups.get(it.group as usize)?.name))
    }

    /// Where among the client's groups this one stands.
    fn membership(&self, slot: u32, name: &Name) -> Option<usize> {
        let key = self.groups.key(name.as_str())?;
        self.sessions.get(slot as usize)?.groups.iter().position(|it| it.group == key)
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
        let Some(key) = self.groups.key(name.as_str()) else { return 0 };
        let Some(group) = self.groups.groups.get_mut(key as usize) else { return 0 };
        let out = group.members.split_off(group.members.len().saturating_sub(most));
        let left = group.members.len();
        for &slot in &out {
            if let Some(session) = self.sessions.get_mut(slot as usize) {
                session.groups.retain(|it| it.group != key);
            }
        }
        if left == 0 {
            self.groups.groups.remove(key as usize);
            self.groups.keys.remove(name.as_str());
        }
        self.directory.set_members(name, self.index, left);
        out.len()
    }

    /// Takes one member out of a group's list. The last member moves into the gap and is told its
    /// new position.
    fn vacate(&mut self, Membership { group: key, seat }: Membership) {
        let group = &mut self.groups.groups[key as usize];
        group.members.swap_remove(seat as usize);
        if let Some(&moved) = group.members.get(seat as usize)
            && let Some(session) = self.sessions.get_mut(moved as usize)
            && let Some(membership) = session.groups.iter_mut().find(|it| it.group == key)
        {
            membership.seat = seat;
        }
        let members = group.members.len();
        self.directory.set_members(&group.name, self.index, members);
        if members == 0 {
            let group = self.groups.groups.remove(key as usize);
            self.groups.keys.remove(group.name.as_str());
        } else if group.members.capacity() > 4 * members && members > 64 {
            group.members.shrink_to_fit();
        }
    }
}
