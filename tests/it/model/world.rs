//! The model: what the gateway should know, in maps of texts. It knows nothing of shards, slots or
//! sockets, and shares no type with the gateway.

use std::collections::{BTreeMap, BTreeSet};

use super::GROUPS_PER_CLIENT;

/// Bytes of the longest uid or group (`limits.names`).
const LONGEST_NAME: usize = 256;

/// Who is connected, and what they have been sent and not read yet.
#[derive(Default)]
pub struct World {
    clients: BTreeMap<String, Person>,
    groups: BTreeMap<String, BTreeSet<String>>,
    pub tally: Tally,
}

#[derive(Default)]
struct Person {
    uid: Option<String>,
    groups: usize,
    unread: Vec<String>,
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
    /// Messages put into queues, if that is known.
    pub queued: Option<u64>,
    /// Messages that clients have said.
    pub heard: u64,
}

impl World {
    pub fn connect(&mut self, client: &str) {
        let before = self.clients.insert(client.into(), Person::default());
        assert!(before.is_none(), "{client} was given to two clients");
        self.tally.opened += 1;
    }

    /// The client goes; answers what it has not read.
    pub fn disconnect(&mut self, client: &str) -> Vec<String> {
        self.groups.retain(|_, members| {
            members.remove(client);
            !members.is_empty()
        });
        self.clients.remove(client).expect("only a connected client goes").unread
    }

    pub fn bind(&mut self, client: &str, uid: &str) -> bool {
        match self.clients.get_mut(client) {
            Some(person) if is_name(uid) => {
                person.uid = Some(uid.into());
                true
            }
            _ => false,
        }
    }

    pub fn unbind(&mut self, client: &str) -> bool {
        let person = self.clients.get_mut(client);
        person.map(|person| person.uid = None).is_some()
    }

    pub fn join(&mut self, client: &str, group: &str) -> bool {
        let Some(person) = self.clients.get_mut(client) else {
            return false;
        };
        if self.groups.get(group).is_some_and(|members| members.contains(client)) {
            return true;
        }
        if !is_name(group) || person.groups == GROUPS_PER_CLIENT {
            return false;
        }
        person.groups += 1;
        self.groups.entry(group.into()).or_default().insert(client.into())
    }

    pub fn leave(&mut self, client: &str, group: &str) -> bool {
        let (Some(person), Some(members)) =
            (self.clients.get_mut(client), self.groups.get_mut(group))
        else {
            return false;
        };
        if members.remove(client) {
            person.groups -= 1;
        }
        if members.is_empty() {
            self.groups.remove(group);
        }
        true
    }

    pub fn dissolve(&mut self, group: &str) -> bool {
        let Some(members) = self.groups.remove(group) else {
            return false;
        };
        for member in members {
            self.clients.get_mut(&member).unwrap().groups -= 1;
        }
        true
    }

    pub fn send_to_client(&mut self, client: &str, message: &str) -> bool {
        !message.is_empty() && self.send(&[client.into()], message) == 1
    }

    pub fn send_to_user(&mut self, uid: &str, message: &str) -> bool {
        !message.is_empty() && self.send(&self.clients_of(uid), message) > 0
    }

    /// Answers for how many members the message is.
    pub fn send_to_group(&mut self, group: &str, message: &str) -> usize {
        self.send(&self.members(group), message)
    }

    pub fn send_to_all(&mut self, message: &str) -> bool {
        if !message.is_empty() {
            self.send(&self.clients(), message);
        }
        !message.is_empty()
    }

    fn send(&mut self, clients: &[String], message: &str) -> usize {
        let sent = clients.iter().filter(|client| self.expect(client, message)).count();
        *self.tally.queued.get_or_insert_default() += sent as u64;
        sent
    }

    /// The client will read this next; false if there is no such client.
    pub fn expect(&mut self, client: &str, message: &str) -> bool {
        let person = self.clients.get_mut(client);
        person.map(|person| person.unread.push(message.into())).is_some()
    }

    /// What the client has not read, which it does now.
    pub fn read(&mut self, client: &str) -> Vec<String> {
        std::mem::take(&mut self.clients.get_mut(client).unwrap().unread)
    }

    /// Clients with more than `messages` unread, or a large one.
    pub fn who_should_read(&self, messages: usize, large: usize) -> Vec<String> {
        let clients = self.clients.iter().filter(|(_, person)| {
            let unread = &person.unread;
            unread.len() > messages || unread.last().is_some_and(|last| last.len() >= large)
        });
        clients.map(|(client, _)| client.clone()).collect()
    }

    // What the gateway should answer; lists are sorted.

    pub fn is_online(&self, client: &str) -> bool {
        self.clients.contains_key(client)
    }

    pub fn clients(&self) -> Vec<String> {
        self.clients.keys().cloned().collect()
    }

    pub fn uid_of(&self, client: &str) -> String {
        let person = self.clients.get(client);
        person.and_then(|person| person.uid.clone()).unwrap_or_default()
    }

    pub fn clients_of(&self, uid: &str) -> Vec<String> {
        let bound = self.clients.iter().filter(|(_, person)| person.uid.as_deref() == Some(uid));
        bound.map(|(client, _)| client.clone()).collect()
    }

    pub fn users(&self) -> Vec<String> {
        let users = self.clients.values().filter_map(|person| person.uid.clone());
        users.collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub fn members(&self, group: &str) -> Vec<String> {
        self.groups.get(group).into_iter().flatten().cloned().collect()
    }

    pub fn groups(&self) -> Vec<String> {
        self.groups.keys().cloned().collect()
    }
}

fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len())
}
