//! How many clients may come with the same uid.
//!
//! ```text
//!  enter ─┬─► Hold, which travels with the client's permit ─► on_close, or dropped with the permit
//!         ├─► and the clients to be closed before the newcomer may be told its answer
//!         └─► Full
//! ```
//!
//! A uid counts its clients from the handshake on until they can't be addressed any more. Where the
//! oldest makes room it is closed first and waited for, so there are never more than may be. What
//! is counted is who came with the uid; whom the business system binds to it is its own affair.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    config::{Auth, WhenUidIsFull},
    ids::{ClientId, Name},
    shard::ConnectionGuard,
};

/// The clients of each uid. While `auth.max_clients_per_uid` is off nobody is counted.
#[derive(Debug, Default)]
pub(super) struct Uids {
    /// Held for a few steps in memory, by handshakes and shards.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<Name, Vec<Entry>>,
    /// The number of the last who came.
    last: u64,
}

/// One client, in the order in which they came.
#[derive(Debug)]
struct Entry {
    number: u64,
    /// Which, as soon as its shard has it.
    client: Option<ClientId>,
    /// Whether it has to make room.
    leaves: bool,
}

/// There are as many as may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// One client's place under its uid.
#[derive(Debug)]
pub(super) struct Hold {
    uids: Arc<Uids>,
    uid: Name,
    number: u64,
}

impl Uids {
    /// Takes a place, if there is one or one can be made. The clients have to be closed before the
    /// newcomer is one; they may be some that others, who came just before, are closing too.
    pub(super) fn enter(
        self: &Arc<Self>,
        uid: &Name,
        auth: &Auth,
    ) -> Result<Option<(Hold, Vec<ClientId>)>, Full> {
        let most = auth.max_clients_per_uid;
        if most == 0 {
            return Ok(None);
        }
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        let entries = table.known.entry(uid.clone()).or_default();
        let staying = entries.iter().filter(|entry| !entry.leaves).count();
        let too_many = (staying + 1).saturating_sub(most);
        if too_many > 0 && auth.when_uid_is_full == WhenUidIsFull::Refuse {
            return Err(Full);
        }
        for oldest in entries.iter_mut().filter(|entry| !entry.leaves).take(too_many) {
            oldest.leaves = true;
        }
        let leaving = entries.iter().filter(|entry| entry.leaves).filter_map(|entry| entry.client);
        let leaving = leaving.collect();
        entries.push(Entry { number, client: None, leaves: false });
        Ok(Some((Hold { uids: Arc::clone(self), uid: uid.clone(), number }, leaving)))
    }

    /// The lock. No step that holds it can panic half-way.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    fn give_back(&self) {
        let mut table = self.uids.lock();
        if let Some(entries) = table.known.get_mut(&self.uid) {
            entries.retain(|entry| entry.number != self.number);
            if entries.is_empty() {
                table.known.remove(&self.uid);
            }
        }
    }
}

impl ConnectionGuard for Hold {
    fn on_open(&self, client: ClientId) -> bool {
        let mut table = self.uids.lock();
        let entries = table.known.get_mut(&self.uid);
        let mut entries = entries.into_iter().flatten();
        let Some(entry) = entries.find(|entry| entry.number == self.number) else { return false };
        entry.client = Some(client);
        !entry.leaves
    }

    fn on_close(&self) {
        self.give_back();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(most: usize, when_uid_is_full: WhenUidIsFull) -> Auth {
        Auth { max_clients_per_uid: most, when_uid_is_full, ..Auth::default() }
    }

    fn name(text: &str) -> Name {
        Name::new(text, 9).unwrap()
    }

    fn client(number: u64) -> ClientId {
        ClientId::new(0, 0, 0, number)
    }

    #[test]
    fn one_more_than_may_be_is_refused_until_one_is_gone() {
        let uids = Arc::new(Uids::default());
        let auth = auth(2, WhenUidIsFull::Refuse);
        let enter = |uid| uids.enter(&name(uid), &auth).map(|entered| entered.unwrap().0);
        let first = enter("ada").unwrap();
        let second = enter("ada").unwrap();
        assert_eq!(enter("ada").unwrap_err(), Full);
        let _bob = enter("bob").unwrap();
        assert!(first.on_open(client(1)));
        first.on_close();
        let third = enter("ada").unwrap();
        drop(first);
        assert_eq!(enter("ada").unwrap_err(), Full, "it is given back once");
        drop((second, third));
        assert_eq!(uids.lock().known.len(), 1, "who has nobody is forgotten");
    }

    #[test]
    fn the_oldest_leaves_and_who_comes_next_waits_for_it_too() {
        let uids = Arc::new(Uids::default());
        let auth = auth(2, WhenUidIsFull::CloseOldest);
        let enter = || uids.enter(&name("ada"), &auth).unwrap().unwrap();
        let (first, nobody) = enter();
        assert_eq!(nobody, []);
        let (second, _) = enter();
        assert!(first.on_open(client(1)) && second.on_open(client(2)));
        let (third, leaving) = enter();
        assert_eq!(leaving, [client(1)]);
        let (_fourth, leaving) = enter();
        assert_eq!(leaving, [client(1), client(2)], "the first is there still");
        first.on_close();
        let (_fifth, leaving) = enter();
        assert_eq!(leaving, [client(2)]);
        assert!(!third.on_open(client(3)), "it had to leave before it came");
    }

    #[test]
    fn a_lower_limit_makes_as_many_leave_as_it_takes() {
        let uids = Arc::new(Uids::default());
        let many = auth(3, WhenUidIsFull::CloseOldest);
        let holds: Vec<_> = (1..=3)
            .map(|number| {
                let (hold, _) = uids.enter(&name("ada"), &many).unwrap().unwrap();
                assert!(hold.on_open(client(number)));
                hold
            })
            .collect();
        let one = auth(1, WhenUidIsFull::CloseOldest);
        let (_last, leaving) = uids.enter(&name("ada"), &one).unwrap().unwrap();
        assert_eq!(leaving, [client(1), client(2), client(3)]);
        assert!(uids.enter(&name("ada"), &auth(0, WhenUidIsFull::Refuse)).unwrap().is_none());
        drop(holds);
    }
}
