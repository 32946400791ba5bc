//! Who is in which group, and who is which user: the shard's own part of it.
//!
//! A group keeps the list of its members' slots, a connection the list of its groups with its position
//! in each; so joining and leaving are a few moves, whatever the size of the group. Users are kept in
//! the same way, but that a client has at most one. The directory above the shards learns of each
//! change inside the step that makes it.

use std::sync::Arc;

use super::{
    connection::{Connection, Membership as Place},
    connections::Connections,
    inbox::Recipients,
    member_index::{MemberIndex, Removed},
    slot::Slot,
};
use crate::{
    directory::Directory,
    ids::{ClientId, Name},
    message::Selection,
};

pub(super) struct Membership {
    /// The number of this shard, by which the directory knows it.
    shard: u16,
    directory: Arc<Directory>,
    groups: MemberIndex,
    users: MemberIndex,
}

impl Membership {
    /// Shard `shard`, on which nobody is yet.
    pub(super) fn new(shard: u16, directory: Arc<Directory>) -> Self {
        Self { shard, directory, groups: MemberIndex::default(), users: MemberIndex::default() }
    }

    /// Where the names of all shards are, for steps that change several of them.
    pub(super) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// The slots of those of the clients that are open.
    pub(super) fn slots_of(&self, connections: &Connections, recipients: &Recipients) -> Vec<Slot> {
        match recipients {
            Recipients::All => connections.open().map(|(slot, _)| slot).collect(),
            Recipients::These(ids) => ids.iter().filter_map(|&id| connections.find(id)).collect(),
            Recipients::User(uid) => self.users.members(uid.as_str()).to_vec(),
            Recipients::Group(name) => self.groups.members(name.as_str()).to_vec(),
            Recipients::Selected(selection) => self.select(connections, selection),
        }
    }

    /// The slots of those who are selected, each once.
    fn select(&self, connections: &Connections, selection: &Selection) -> Vec<Slot> {
        let mut slots = if selection.all {
            self.slots_of(connections, &Recipients::All)
        } else {
            // Clients of other shards are not found here.
            let clients = selection.clients.iter();
            let mut slots: Vec<_> = clients.filter_map(|&id| connections.find(id)).collect();
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
                connections.get(slot).is_some_and(|it| {
                    selection.filter.lets_pass(it.id, it.uid.as_ref(), it.attributes.as_deref())
                })
            });
        }
        slots
    }

    /// The slots of a group's members.
    pub(super) fn members(&self, group: &Name) -> &[Slot] {
        self.groups.members(group.as_str())
    }

    /// The number by which members name their group; none if it has no member here.
    pub(super) fn group_key(&self, group: &Name) -> Option<u32> {
        self.groups.key(group.as_str())
    }

    /// The names of the client's groups.
    pub(super) fn groups_of(&self, connection: &Connection) -> impl Iterator<Item = &Name> {
        connection.groups.iter().filter_map(|place| self.groups.name(place.set))
    }

    /// The clients of each of the users, as far as they are here.
    pub(super) fn clients_of_each(
        &self,
        connections: &Connections,
        uids: &[Name],
    ) -> Vec<Vec<ClientId>> {
        let clients_of = |uid: &Name| {
            let slots = self.users.members(uid.as_str()).iter();
            slots.filter_map(|&slot| Some(connections.get(slot)?.id)).collect()
        };
        uids.iter().map(clients_of).collect()
    }

    /// Which of the users have a client here that is in the group.
    pub(super) fn users_in(
        &self,
        connections: &Connections,
        group: &Name,
        uids: &[Name],
    ) -> Vec<bool> {
        let key = self.group_key(group);
        let is_member = |&slot: &Slot| {
            let connection = connections.get(slot);
            connection.is_some_and(|it| it.groups.iter().any(|it| Some(it.set) == key))
        };
        uids.iter().map(|uid| self.users.members(uid.as_str()).iter().any(is_member)).collect()
    }

    /// Gives the client a uid, or takes it away; answers whether that changed anything.
    pub(super) fn bind(
        &mut self,
        connections: &mut Connections,
        slot: Slot,
        uid: Option<Name>,
    ) -> bool {
        let Some(connection) = connections.get_mut(slot).filter(|it| it.uid != uid) else {
            return false;
        };
        let old = connection.uid.take().map(|_| connection.user);
        // First the new, then the old: a user is never seen offline in between.
        if let Some(uid) = uid {
            let (place, members) = self.users.insert(&uid, slot);
            self.directory.users.set(&uid, self.shard, members);
            (connection.uid, connection.user) = (Some(uid), place);
        }
        if let Some(old) = old {
            let Removed { name, members, moved } = self.users.remove(old);
            if let Some(moved) = moved.and_then(|slot| connections.get_mut(slot)) {
                moved.user.position = old.position;
            }
            self.directory.users.set(&name, self.shard, members);
        }
        true
    }

    /// Puts the client into the group; answers whether it wasn't in it. The caller has looked at
    /// `limits.groups_per_client`.
    pub(super) fn join(&mut self, connections: &mut Connections, slot: Slot, name: &Name) -> bool {
        let Some(connection) = connections.get_mut(slot) else { return false };
        if self.position(connection, name).is_some() {
            return false;
        }
        let (place, members) = self.groups.insert(name, slot);
        connection.groups.push(place);
        self.directory.groups.set(name, self.shard, members);
        true
    }

    /// Takes the client out of the group; answers whether it was in it.
    pub(super) fn leave(&mut self, connections: &mut Connections, slot: Slot, name: &Name) -> bool {
        let Some(connection) = connections.get_mut(slot) else { return false };
        let Some(at) = self.position(connection, name) else { return false };
        let place = connection.groups.swap_remove(at);
        self.give_up(connections, place);
        true
    }

    /// Takes the client out of all its groups.
    pub(super) fn leave_all(&mut self, connections: &mut Connections, slot: Slot) {
        let Some(connection) = connections.get_mut(slot) else { return };
        for place in std::mem::take(&mut connection.groups) {
            self.give_up(connections, place);
        }
    }

    /// Takes up to `most` members out of the group, the last of all with the group itself; they stay
    /// connected. Answers how many that were.
    pub(super) fn dissolve(
        &mut self,
        connections: &mut Connections,
        name: &Name,
        most: usize,
    ) -> usize {
        let Some((key, out, left)) = self.groups.dissolve(name.as_str(), most) else { return 0 };
        for &slot in &out {
            if let Some(connection) = connections.get_mut(slot) {
                connection.groups.retain(|it| it.set != key);
            }
        }
        self.directory.groups.set(name, self.shard, left);
        out.len()
    }

    /// Where among the client's groups this one stands.
    fn position(&self, connection: &Connection, name: &Name) -> Option<usize> {
        let key = self.group_key(name)?;
        connection.groups.iter().position(|it| it.set == key)
    }

    /// Gives up a place in a group.
    fn give_up(&mut self, connections: &mut Connections, place: Place) {
        let Removed { name, members, moved } = self.groups.remove(place);
        if let Some(connection) = moved.and_then(|slot| connections.get_mut(slot))
            && let Some(moved) = connection.groups.iter_mut().find(|it| it.set == place.set)
        {
            moved.position = place.position;
        }
        self.directory.groups.set(&name, self.shard, members);
    }
}
