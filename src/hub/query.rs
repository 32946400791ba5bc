//! Who is there: everything about clients, and lists page by page.
//!
//! A page says where the next one begins ([`Place`], [`NamePlace`]); nothing is kept between two
//! pages, so a list costs nothing while nobody asks for its next page. What is there from the first
//! page to the last is in exactly one of them.
//!
//! ```text
//!   clients: shard by shard, in each slot by slot ──► Scan, Scan, … (one at a time)
//!   uids, groups: stripe by stripe of the directory, in each by name
//!   uids of a group: the same, of those who have a client in it
//! ```

use std::{collections::HashSet, sync::Arc};

use super::{
    Hub, HubError, only,
    pages::{GroupEntry, NamePlace, Page, Pages},
};
use crate::{
    directory::{Names, STRIPES},
    ids::{ClientId, MAX_SLOTS, Name},
    shard::{Command, Cost, Described, Found, Recipients, Scan, Scanned, Search},
};

/// Clients that a shard describes in one step: each costs it some microseconds.
const DESCRIBED: usize = 128;

/// Clients that a shard looks up in one step.
const LOOKED_UP: usize = 4096;

/// Members of a group up to which they are listed at once, rather than all uids looked at.
const FEW_MEMBERS: usize = 1024;

/// Names that are looked up in the directory as of one moment.
const NAMES: usize = 1024;

/// Steps after which a page is answered as it is, and be it empty: so a call ends soon, however
/// few are found.
const STEPS: usize = 64;

/// Where a part of a list of clients begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The shard.
    pub shard: u16,
    /// The slot there.
    pub slot: u32,
}

/// How many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Distinct uids that have a client.
    pub users: u64,
    /// Groups that have a member.
    pub groups: u64,
    /// Members of each group that was asked for.
    pub members: Vec<usize>,
    /// Clients of each user that was asked for.
    pub clients: Vec<usize>,
}

impl Hub {
    /// Everything that is known of clients, in their order; nothing of those that are not
    /// connected.
    pub async fn describe(
        &self,
        clients: Vec<ClientId>,
    ) -> Result<Vec<Option<Described>>, HubError> {
        let mut described = vec![None; clients.len()];
        for (indexes, answer) in self.by_shard(&clients, DESCRIBED, Command::Describe).await? {
            for (index, one) in indexes.into_iter().zip(answer) {
                described[index] = one;
            }
        }
        Ok(described)
    }

    /// Which of the clients are connected, in their order.
    pub async fn are_online(&self, clients: Vec<ClientId>) -> Result<Vec<bool>, HubError> {
        let mut online = vec![false; clients.len()];
        let list = |ids: Vec<ClientId>, reply| Command::List(Recipients::These(ids.into()), reply);
        for (indexes, answer) in self.by_shard(&clients, LOOKED_UP, list).await? {
            // The answer leaves out who is not there and keeps the order.
            let mut there = answer.into_iter().peekable();
            for index in indexes {
                online[index] = there.next_if_eq(&clients[index]).is_some();
            }
        }
        Ok(online)
    }

    /// Which of the users have a client, in their order.
    pub fn users_are_online(&self, uids: &[Name]) -> Vec<bool> {
        let users = &self.0.directory.users;
        let mut online = Vec::with_capacity(uids.len());
        for some in uids.chunks(NAMES) {
            let are_there = |uid: &Name| users.contains(uid.as_str());
            online.extend(
                self.0.directory.one_look(|_| some.iter().map(are_there).collect::<Vec<_>>()),
            );
        }
        online
    }

    /// How many users and groups there are, and how many members each of these groups and clients
    /// each of these users has; as of one moment, if no more than [`NAMES`] are asked for.
    pub fn counts(&self, groups: &[Name], uids: &[Name]) -> Counts {
        let directory = &self.0.directory;
        let (mut members, mut clients) = (Vec::new(), Vec::new());
        let (some_groups, other_groups) = groups.split_at(groups.len().min(NAMES));
        let (some_uids, other_uids) = uids.split_at(uids.len().min(NAMES - some_groups.len()));
        let counts = directory.one_look(|directory| {
            members.clear();
            clients.clear();
            members.extend(count_each(&directory.groups, some_groups));
            clients.extend(count_each(&directory.users, some_uids));
            (directory.users.len(), directory.groups.len())
        });
        members.extend(count_each(&directory.groups, other_groups));
        clients.extend(count_each(&directory.users, other_uids));
        Counts { users: counts.0, groups: counts.1, members, clients }
    }

    /// The clients of each of the users, in their order.
    pub async fn clients_of_each(&self, uids: &[Name]) -> Result<Vec<Vec<ClientId>>, HubError> {
        let mut clients = vec![Vec::new(); uids.len()];
        let mut uids = uids;
        let mut rest = clients.as_mut_slice();
        while let Some((some, others)) = uids.split_at_checked(uids.len().min(LOOKED_UP))
            && !some.is_empty()
        {
            let (filled, unfilled) = rest.split_at_mut(some.len());
            let some: Arc<[Name]> = some.into();
            let ask = |(), reply| Command::ClientsOfEach(Arc::clone(&some), reply);
            for answer in self.ask(self.all_shards(), ask)? {
                for (clients, here) in filled.iter_mut().zip(answer.await?) {
                    clients.extend(here);
                }
            }
            (uids, rest) = (others, unfilled);
        }
        Ok(clients)
    }

    /// Clients from a place on, at most as many as are wanted, and perhaps fewer.
    pub async fn page_of_clients(
        &self,
        search: &Arc<Search>,
        from: Place,
        most: usize,
    ) -> Result<Page<Found, Place>, HubError> {
        let mut entries = Vec::new();
        let mut place = from;
        for _ in 0..STEPS {
            let Some((scanned, next)) = self.scan(search, place, most - entries.len()).await?
            else {
                return Ok(Page { entries, next: None });
            };
            entries.extend(scanned);
            place = next;
            if entries.len() >= most {
                break;
            }
        }
        let next = (usize::from(place.shard) < self.0.shards.len()).then_some(place);
        Ok(Page { entries, next })
    }

    /// Uids from a place on that begin with the prefix.
    pub async fn page_of_uids(
        &self,
        prefix: &str,
        from: &NamePlace,
        most: usize,
    ) -> Page<Name, NamePlace> {
        let mut pages = Pages::new(from, most);
        while let Some(stripe) = pages.next_stripe() {
            // A stripe of a million names takes a millisecond or two.
            tokio::task::yield_now().await;
            pages.fill(self.uids_in(stripe, prefix));
        }
        pages.page()
    }

    /// Groups from a place on that begin with the prefix.
    pub async fn page_of_groups(
        &self,
        prefix: &str,
        from: &NamePlace,
        most: usize,
    ) -> Page<GroupEntry, NamePlace> {
        let mut pages = Pages::new(from, most);
        while let Some(stripe) = pages.next_stripe() {
            tokio::task::yield_now().await;
            let groups = self.0.directory.one_look(|it| it.groups.in_stripe(stripe)).into_iter();
            let groups = groups.map(|(name, members)| GroupEntry { name, members });
            pages.fill(groups.filter(|group| group.name.as_str().starts_with(prefix)).collect());
        }
        pages.page()
    }

    /// Uids from a place on that begin with the prefix and have a client in the group.
    pub async fn page_of_uids_in(
        &self,
        group: &Name,
        prefix: &str,
        from: &NamePlace,
        most: usize,
    ) -> Result<Page<Name, NamePlace>, HubError> {
        let few = self.0.directory.groups.count(group.as_str()) <= FEW_MEMBERS;
        let mut members = if few { Some(self.uids_of_members(group, prefix).await?) } else { None };
        let mut pages = Pages::new(from, most);
        while let Some(stripe) = pages.next_stripe() {
            tokio::task::yield_now().await;
            pages.fill(match &mut members {
                Some(by_stripe) => std::mem::take(&mut by_stripe[stripe]),
                None => self.of_them_in(group, self.uids_in(stripe, prefix)).await?,
            });
        }
        Ok(pages.page())
    }

    /// The uids of one stripe of the directory that begin with the prefix.
    fn uids_in(&self, stripe: usize, prefix: &str) -> Vec<Name> {
        let uids = self.0.directory.one_look(|it| it.users.in_stripe(stripe)).into_iter();
        uids.map(|(uid, _)| uid).filter(|uid| uid.as_str().starts_with(prefix)).collect()
    }

    /// The uids that the members of a group have and that begin with the prefix, each once, by the
    /// stripes of the directory.
    async fn uids_of_members(
        &self,
        group: &Name,
        prefix: &str,
    ) -> Result<Vec<Vec<Name>>, HubError> {
        let (uid_prefix, group) = (prefix.to_owned(), Some(group.clone()));
        let search = Arc::new(Search { uid_prefix, group, ..Search::default() });
        let mut uids = HashSet::new();
        let mut place = Place::default();
        while let Some((found, next)) = self.scan(&search, place, usize::MAX).await? {
            uids.extend(found.into_iter().filter_map(|one| one.uid));
            place = next;
        }
        let mut by_stripe = vec![Vec::new(); STRIPES];
        for uid in uids {
            by_stripe[self.0.directory.users.stripe_of(uid.as_str())].push(uid);
        }
        Ok(by_stripe)
    }

    /// Those of the users that have a client in the group.
    async fn of_them_in(&self, group: &Name, uids: Vec<Name>) -> Result<Vec<Name>, HubError> {
        let mut there = Vec::new();
        for some in uids.chunks(LOOKED_UP) {
            let some: Arc<[Name]> = some.into();
            let mut have = vec![false; some.len()];
            let ask = |(), reply| Command::UsersIn(group.clone(), Arc::clone(&some), reply);
            for answer in self.ask(self.all_shards(), ask)? {
                for (has, here) in have.iter_mut().zip(answer.await?) {
                    *has |= here;
                }
            }
            there.extend(some.iter().zip(have).filter(|(_, has)| *has).map(|(uid, _)| uid.clone()));
        }
        Ok(there)
    }

    fn all_shards(&self) -> impl Iterator<Item = (usize, ())> + use<> {
        (0..self.0.shards.len()).map(|shard| (shard, ()))
    }

    /// Waits until there is room for a call in each shard's inbox, for who would rather wait than
    /// be refused.
    pub async fn room(&self) {
        for shard in 0..self.0.shards.len() {
            self.room_for(shard, Cost::CALL).await;
        }
    }

    /// One step of a search; none if it is over.
    async fn scan(
        &self,
        search: &Arc<Search>,
        place: Place,
        most: usize,
    ) -> Result<Option<(Vec<Found>, Place)>, HubError> {
        let shard = usize::from(place.shard);
        if shard >= self.0.shards.len() || place.slot as usize >= MAX_SLOTS {
            return Ok(None);
        }
        let scan = Scan { search: Arc::clone(search), from: place.slot, most };
        let answers = self.ask([(shard, scan)], Command::Scan)?;
        let Scanned { found, next } = only(answers).await?;
        let next = match next {
            Some(slot) => Place { slot, ..place },
            None => Place { shard: place.shard + 1, slot: 0 },
        };
        Ok(Some((found, next)))
    }

    /// Asks each client's shard about it, a few clients at a time; answers with which of the
    /// clients each answer is for.
    async fn by_shard<T>(
        &self,
        clients: &[ClientId],
        at_once: usize,
        command: impl Fn(Vec<ClientId>, tokio::sync::oneshot::Sender<Vec<T>>) -> Command,
    ) -> Result<Vec<(Vec<usize>, Vec<T>)>, HubError> {
        let mut indexes: Vec<Vec<usize>> = vec![Vec::new(); self.0.shards.len()];
        for (index, client) in clients.iter().enumerate() {
            // No other gateway's client is one of ours.
            if let Some(indexes) = indexes.get_mut(usize::from(client.shard())) {
                indexes.push(index);
            }
        }
        let rounds = indexes.iter().map(Vec::len).max().unwrap_or(0).div_ceil(at_once);
        let mut all = Vec::new();
        for round in 0..rounds {
            // The next few only when these are answered: the shard goes on in between.
            let shards = indexes.iter().enumerate();
            let parts = shards
                .filter_map(|(shard, indexes)| Some((shard, indexes.chunks(at_once).nth(round)?)));
            let (parts, routes): (Vec<_>, Vec<_>) = parts
                .map(|(shard, part)| {
                    let ids: Vec<_> = part.iter().map(|&index| clients[index]).collect();
                    (part.to_vec(), (shard, ids))
                })
                .unzip();
            let answers = self.ask(routes, &command)?;
            for (part, answer) in parts.into_iter().zip(answers) {
                all.push((part, answer.await?));
            }
        }
        Ok(all)
    }
}

/// How many clients each of the names has.
fn count_each(names: &Names, of: &[Name]) -> impl Iterator<Item = usize> {
    of.iter().map(|name| names.count(name.as_str()))
}
