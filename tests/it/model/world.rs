//! The model: what the gateway should know, in maps of texts. It knows nothing of shards, slots or
//! sockets, and shares no type with the gateway but a target as the API words it.

use std::collections::{BTreeMap, BTreeSet};

use gateway_websocket::grpc::proto::v1::Target;
use prost_types::Timestamp;

use super::{
    GROUPS_PER_CLIENT,
    queue::{Fate, Losses, Policy, Queue, Said, Terms},
};

/// Bytes of the longest uid, group or attribute's name (`limits.names`).
pub const LONGEST_NAME: usize = 256;

/// Attributes of one client, and bytes of them all (`limits.attributes`, `limits.attribute_bytes`).
pub const ATTRIBUTES: usize = 4;
pub const ATTRIBUTE_BYTES: usize = 60;

/// Name and value.
pub type Attributes = BTreeMap<String, String>;

/// Who is connected, and what they have been sent and not read yet.
#[derive(Default)]
pub struct World {
    clients: BTreeMap<String, Person>,
    /// Milliseconds of the shards' clock.
    pub now: u64,
    pub policy: Policy,
    /// Clients that were too slow, and what they will read.
    pub closed: Vec<(String, Vec<Said>)>,
    pub tally: Tally,
}

#[derive(Clone, Default)]
pub struct Facts {
    pub uid: Option<String>,
    pub groups: BTreeSet<String>,
    pub attributes: Attributes,
    /// When it is closed, in milliseconds of the shards' clock.
    pub expires: Option<u64>,
    /// The same as it was set.
    pub expires_at: Option<Timestamp>,
}

#[derive(Default)]
struct Person {
    /// The how-manieth it is: unlike its id, the same when a seed is repeated.
    number: u64,
    facts: Facts,
    queue: Queue,
}

/// What the gateway should have counted.
#[derive(Default)]
pub struct Tally {
    pub opened: u64,
    /// Closed by a call.
    pub api: u64,
    /// Closed by the client's close frame.
    pub peer: u64,
    /// Gone without a close frame.
    pub lost: u64,
    /// Closed for reading too slowly.
    pub slow: u64,
    /// Closed because their time was over.
    pub expired: u64,
    /// Messages put into queues, if that is known.
    pub queued: Option<u64>,
    /// Messages that clients have said.
    pub heard: u64,
    pub losses: Losses,
}

impl Tally {
    /// Whether everything happened that can happen.
    pub fn has_all(&self, policy: Policy) -> bool {
        let Self { opened, api, peer, lost, slow, expired, queued: _, heard, losses } = *self;
        let Losses { newest, oldest, behind, replaced, expired: late } = losses;
        let full = match policy {
            Policy::Disconnect => slow,
            Policy::DropNewest => newest,
            Policy::DropOldest => oldest,
        };
        let counts = [opened, api, peer, lost, expired, heard, full, behind, replaced, late];
        counts.into_iter().all(|count| count > 0)
    }
}

/// The numbers of a send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub matched: u64,
    pub queued: u64,
    pub behind: u64,
    pub full: u64,
    pub closed: u64,
    pub replaced: u64,
}

impl std::ops::AddAssign for Numbers {
    fn add_assign(&mut self, other: Self) {
        self.matched += other.matched;
        self.queued += other.queued;
        self.behind += other.behind;
        self.full += other.full;
        self.closed += other.closed;
        self.replaced += other.replaced;
    }
}

/// Why one client can't be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Unknown,
    Limit,
}

impl World {
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    pub fn connect(&mut self, client: &str) {
        self.tally.opened += 1;
        let person = Person { number: self.tally.opened, ..Person::default() };
        let before = self.clients.insert(client.into(), person);
        assert!(before.is_none(), "{client} was given to two clients");
    }

    /// The client goes; answers what it has not read.
    pub fn disconnect(&mut self, client: &str) -> Vec<Said> {
        let person = self.clients.remove(client).expect("only a connected client goes");
        let Person { mut queue, .. } = person;
        queue.expire(self.now, &mut self.tally.losses);
        queue.read()
    }

    /// What waits unsent for the client is dropped.
    pub fn discard(&mut self, client: &str) {
        self.clients.get_mut(client).unwrap().queue.discard();
    }

    // What can be changed.

    /// Changes a client, whole or not at all; answers what it was before and what it is now.
    pub fn change(
        &mut self,
        client: &str,
        change: impl FnOnce(&mut Facts),
    ) -> Result<(Facts, Facts), Refused> {
        let person = self.clients.get_mut(client).ok_or(Refused::Unknown)?;
        let before = person.facts.clone();
        let mut after = before.clone();
        change(&mut after);
        let bytes: usize =
            after.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        let is_new = after.attributes != before.attributes;
        if !after.groups.is_subset(&before.groups) && after.groups.len() > GROUPS_PER_CLIENT
            || is_new && (after.attributes.len() > ATTRIBUTES || bytes > ATTRIBUTE_BYTES)
        {
            return Err(Refused::Limit);
        }
        person.facts = after.clone();
        Ok((before, after))
    }

    pub fn bind(&mut self, client: &str, uid: &str) -> bool {
        is_name(uid) && self.change(client, |facts| facts.uid = Some(uid.into())).is_ok()
    }

    pub fn unbind(&mut self, client: &str) -> bool {
        self.change(client, |facts| facts.uid = None).is_ok()
    }

    pub fn join(&mut self, client: &str, group: &str) -> bool {
        let join = |facts: &mut Facts| facts.groups.extend([group.to_owned()]);
        is_name(group) && self.change(client, join).is_ok()
    }

    pub fn leave(&mut self, client: &str, group: &str) -> bool {
        let exists = !self.members(group).is_empty();
        exists && self.change(client, |facts| facts.groups.retain(|it| it != group)).is_ok()
    }

    /// Answers how many members the group had.
    pub fn dissolve(&mut self, group: &str) -> usize {
        let people = self.clients.values_mut();
        people.filter_map(|person| person.facts.groups.take(group)).count()
    }

    /// Clients whose time is over.
    pub fn who_expired(&self) -> Vec<String> {
        self.who(|person| person.facts.expires.is_some_and(|at| at <= self.now))
    }

    // What is sent.

    /// Clients that a target means.
    pub fn whom(&self, target: &Target) -> Vec<String> {
        let has = |names: &[String], uid: &Option<String>| {
            uid.as_ref().is_some_and(|uid| names.contains(uid))
        };
        let clients = self.clients.iter().filter(|(client, Person { facts, .. })| {
            let named = target.all
                || target.clients.contains(client)
                || has(&target.uids, &facts.uid)
                || target.groups.iter().any(|group| facts.groups.contains(group));
            named
                && !target.except_clients.contains(client)
                && !has(&target.except_uids, &facts.uid)
                && target.attributes.iter().all(|(name, value)| facts.has(name, value))
        });
        clients.map(|(client, _)| client.clone()).collect()
    }

    /// Sends a message to each of these clients; answers what becomes of it.
    pub fn send(&mut self, clients: &[String], said: &Said, terms: &Terms) -> Numbers {
        let mut numbers = Numbers::default();
        for client in clients {
            let Some(person) = self.clients.get_mut(client) else { continue };
            numbers.matched += 1;
            let place = (self.now, self.policy, &mut self.tally.losses);
            match person.queue.offer(said, terms, place) {
                Fate::Queued(replaced) => {
                    numbers.queued += 1;
                    numbers.replaced += replaced;
                }
                Fate::Behind => numbers.behind += 1,
                Fate::Full => numbers.full += 1,
                Fate::TooSlow => {
                    numbers.closed += 1;
                    person.queue.discard();
                    let unread = self.disconnect(client);
                    self.closed.push((client.clone(), unread));
                    self.tally.slow += 1;
                }
            }
        }
        *self.tally.queued.get_or_insert_default() += numbers.queued;
        numbers
    }

    pub fn send_to_client(&mut self, client: &str, message: &str) -> bool {
        !message.is_empty() && self.say(&[client.into()], message) == 1
    }

    pub fn send_to_user(&mut self, uid: &str, message: &str) -> bool {
        !message.is_empty() && self.say(&self.clients_of(uid), message) > 0
    }

    /// Answers for how many members the message is queued.
    pub fn send_to_group(&mut self, group: &str, message: &str) -> u64 {
        self.say(&self.members(group), message)
    }

    pub fn send_to_all(&mut self, message: &str) -> bool {
        if !message.is_empty() {
            self.say(&self.clients(), message);
        }
        !message.is_empty()
    }

    fn say(&mut self, clients: &[String], message: &str) -> u64 {
        self.send(clients, &Said::text(message), &Terms::default()).queued
    }

    /// The client, who keeps up, will read this next; it is none of what is counted.
    pub fn expect(&mut self, client: &str, message: &str) {
        let place = (self.now, self.policy, &mut self.tally.losses);
        let queue = &mut self.clients.get_mut(client).unwrap().queue;
        queue.offer(&Said::text(message), &Terms::default(), place);
    }

    /// What the client has not read, which it does now.
    pub fn read(&mut self, client: &str) -> Vec<Said> {
        let queue = &mut self.clients.get_mut(client).unwrap().queue;
        queue.expire(self.now, &mut self.tally.losses);
        queue.read()
    }

    /// Clients that keep up and have more than `messages` unread, or a large one.
    pub fn who_should_read(&self, messages: usize, large: usize) -> Vec<String> {
        self.who(|Person { queue, .. }| {
            let is_large = |last: &Said| last.data.len() >= large;
            let unread = queue.sent();
            !queue.is_stuck() && (unread.len() > messages || unread.last().is_some_and(is_large))
        })
    }

    /// Everybody, in the order in which they came.
    pub fn in_order(&self) -> Vec<String> {
        self.ordered(|_| true)
    }

    /// Clients that are stuck, in the order in which they came.
    pub fn who_is_stuck(&self) -> Vec<String> {
        self.ordered(|person| person.queue.is_stuck())
    }

    /// Clients that are not, in the order in which they came.
    pub fn who_keeps_up(&self) -> Vec<String> {
        self.ordered(|person| !person.queue.is_stuck())
    }

    fn ordered(&self, matches: impl Fn(&Person) -> bool) -> Vec<String> {
        let mut clients = self.who(matches);
        clients.sort_by_key(|client| self.clients[client].number);
        clients
    }

    fn who(&self, matches: impl Fn(&Person) -> bool) -> Vec<String> {
        let clients = self.clients.iter().filter(|(_, person)| matches(person));
        clients.map(|(client, _)| client.clone()).collect()
    }

    // What the gateway should answer; lists are sorted.

    pub fn is_online(&self, client: &str) -> bool {
        self.clients.contains_key(client)
    }

    pub fn clients(&self) -> Vec<String> {
        self.clients.keys().cloned().collect()
    }

    pub fn facts(&self, client: &str) -> Option<&Facts> {
        self.clients.get(client).map(|person| &person.facts)
    }

    /// Messages that wait for the client.
    pub fn waiting(&self, client: &str) -> usize {
        self.clients[client].queue.waiting(self.now)
    }

    pub fn uid_of(&self, client: &str) -> String {
        self.facts(client).and_then(|facts| facts.uid.clone()).unwrap_or_default()
    }

    pub fn clients_of(&self, uid: &str) -> Vec<String> {
        self.who(|person| person.facts.uid.as_deref() == Some(uid))
    }

    pub fn users(&self) -> Vec<String> {
        let users = self.clients.values().filter_map(|person| person.facts.uid.clone());
        users.collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub fn members(&self, group: &str) -> Vec<String> {
        self.who(|person| person.facts.groups.contains(group))
    }

    pub fn groups(&self) -> Vec<String> {
        let groups = self.clients.values().flat_map(|person| person.facts.groups.clone());
        groups.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Facts {
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.attributes.get(name).is_some_and(|is| is == value)
    }
}

pub fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len())
}
