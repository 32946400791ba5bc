//! Who is there: everything about clients, and lists page by page.
//!
//! A page says where the next one begins ([`Place`], [`NamePlace`]); nothing is kept between two
//! pages, so a list costs nothing while nobody asks for its next page. What is there from the first
//! page to the last is in exactly one of them.
//!
//! ```text
//!   clients: shard by shard, in each slot by slot ──► Scan, Scan, … (one at a time)
//!   uids, groups: stripe by stripe of the directory, in each by name
//!   uids of a group: a walk over its members for each page, by name
//! ```

use std::{collections::BTreeSet, sync::Arc};

use super::{Hub, HubError, only};
use crate::{
    directory::{Look, STRIPES},
    ids::{ClientId, MAX_SLOTS, Name},
    shard::{Clients, Command, Cost, Described, Found, Scan, Scanned, Search},
};

/// Clients that a shard describes in one step: each costs it some microseconds.
const DESCRIBED: usize = 128;

/// Clients that a shard looks up in one step.
const LOOKED_UP: usize = 4096;

/// Names that are looked up in the directory as of one moment.
const NAMES: usize = 1024;

/// Steps after which a page is answered as it is, and be it empty: so a call ends soon, however
/// few are found.
const STEPS: usize = 64;

/// A part of a list, and where the next part begins; none if this was the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, P> {
    /// What is there.
    pub entries: Vec<T>,
    /// Where the next part begins.
    pub next: Option<P>,
}

/// Where a part of a list of clients begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The shard.
    pub shard: u16,
    /// The slot there.
    pub slot: u32,
}

/// Where a part of a list of names begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NamePlace {
    /// The stripe of the directory; zero for lists that are sorted as a whole.
    pub stripe: u16,
    /// The name behind which it begins; empty for the first.
    pub after: String,
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

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// Its name.
    pub name: Name,
    /// Its members.
    pub members: usize,
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
        let list = |ids: Vec<ClientId>, reply| Command::List(Clients::These(ids.into()), reply);
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
        self.look_up(uids, |look, uid| look.user_is_online(uid.as_str()))
    }

    /// How many users and groups there are, and how many members each of these groups and clients
    /// each of these users has; as of one moment, if no more than [`NAMES`] are asked for.
    pub fn counts(&self, groups: &[Name], uids: &[Name]) -> Counts {
        let mut look = self.0.directory.one_look();
        let (users, in_all) = (look.count_users(), look.count_groups());
        let (mut members, mut clients) = (Vec::new(), Vec::new());
        let mut left = NAMES;
        let members_of: fn(&Look<'_>, &str) -> usize = |look, name| look.count_members(name);
        let clients_of: fn(&Look<'_>, &str) -> usize = |look, name| look.count_clients_of(name);
        for (names, of, counts) in
            [(groups, members_of, &mut members), (uids, clients_of, &mut clients)]
        {
            for name in names {
                if left == 0 {
                    look = look.renew();
                    left = NAMES;
                }
                left -= 1;
                counts.push(of(&look, name.as_str()));
            }
        }
        Counts { users, groups: in_all, members, clients }
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
        let names_in = |stripe| {
            let mut names = self.0.directory.users_in(stripe);
            names.retain(|name| name.as_str().starts_with(prefix));
            names
        };
        page_of_names(from, most, names_in).await
    }

    /// Groups from a place on that begin with the prefix.
    pub async fn page_of_groups(
        &self,
        prefix: &str,
        from: &NamePlace,
        most: usize,
    ) -> Page<GroupEntry, NamePlace> {
        let groups_in = |stripe| {
            let groups = self.0.directory.groups_in(stripe).into_iter();
            let groups = groups.map(|(name, members)| GroupEntry { name, members });
            groups.filter(|group| group.name.as_str().starts_with(prefix)).collect()
        };
        page_of_names(from, most, groups_in).await
    }

    /// Uids behind a place that begin with the prefix and have a client in the group, by name.
    pub async fn page_of_uids_in(
        &self,
        group: &Name,
        prefix: &str,
        from: &NamePlace,
        most: usize,
    ) -> Result<Page<Name, NamePlace>, HubError> {
        let search = Search {
            uid_prefix: prefix.to_owned(),
            group: Some(group.clone()),
            ..Search::default()
        };
        let search = Arc::new(search);
        // The smallest names are kept, and one more that tells whether there are others.
        let mut names = BTreeSet::new();
        let mut place = Place::default();
        while let Some((found, next)) = self.scan(&search, place, usize::MAX).await? {
            for uid in found.into_iter().filter_map(|one| one.uid) {
                let is_behind = uid.as_str() > from.after.as_str();
                if is_behind && names.insert(uid) && names.len() > most + 1 {
                    names.pop_last();
                }
            }
            place = next;
        }
        let more = names.len() > most;
        if more {
            names.pop_last();
        }
        let next = names.last().filter(|_| more);
        let next = next.map(|last| NamePlace { stripe: 0, after: last.to_string() });
        Ok(Page { entries: names.into_iter().collect(), next })
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

    fn look_up<T>(&self, names: &[Name], of: impl Fn(&Look<'_>, &Name) -> T) -> Vec<T> {
        let mut answers = Vec::with_capacity(names.len());
        for some in names.chunks(NAMES) {
            let look = self.0.directory.one_look();
            answers.extend(some.iter().map(|name| of(&look, name)));
        }
        answers
    }
}

/// Names from a place on, stripe by stripe.
async fn page_of_names<T: Named>(
    from: &NamePlace,
    most: usize,
    names_in: impl Fn(usize) -> Vec<T>,
) -> Page<T, NamePlace> {
    let mut entries: Vec<T> = Vec::new();
    let mut after = from.after.as_str();
    for stripe in from.stripe..STRIPES_U16 {
        // A stripe of a million names takes a millisecond or two.
        tokio::task::yield_now().await;
        let mut names = names_in(usize::from(stripe));
        names.retain(|one| one.name() > after);
        after = "";
        let room = most - entries.len();
        let more = names.len() > room;
        if more {
            names.select_nth_unstable_by(room, |a, b| a.name().cmp(b.name()));
            names.truncate(room);
        }
        names.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        entries.append(&mut names);
        if more {
            let after = entries.last().map_or_else(String::new, |last| last.name().to_owned());
            return Page { entries, next: Some(NamePlace { stripe, after }) };
        }
        if entries.len() >= most && stripe + 1 < STRIPES_U16 {
            let next = NamePlace { stripe: stripe + 1, after: String::new() };
            return Page { entries, next: Some(next) };
        }
    }
    Page { entries, next: None }
}

#[expect(clippy::cast_possible_truncation, reason = "there are a few dozen")]
const STRIPES_U16: u16 = STRIPES as u16;

/// What has a name to be sorted by.
trait Named {
    fn name(&self) -> &str;
}

impl Named for Name {
    fn name(&self) -> &str {
        self.as_str()
    }
}

impl Named for GroupEntry {
    fn name(&self) -> &str {
        self.name.as_str()
    }
}
