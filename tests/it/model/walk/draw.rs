//! What calls are made of, drawn at random: mostly good, sometimes bad.

use std::collections::BTreeMap;

use gateway_websocket::grpc::proto::v1::{AttributeChange, Kind, Message, Target};

use super::{CROWD, GOODBYE, Walk, Way};
use crate::model::{
    queue::Said,
    world::{ATTRIBUTE_BYTES, ATTRIBUTES, Attributes, is_name},
};

/// Names of users and of groups that are in use.
const NAMES: usize = 11;

/// One of the names that are in use; one is the longest that a name may be.
pub(super) fn name(what: char, number: usize) -> String {
    if number == 9 { what.to_string().repeat(256) } else { format!("{what}{number}") }
}

/// Whether the modern API takes it for an id: all that are drawn and have this length are.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 36
}

pub(super) fn are_valid(attributes: &Attributes) -> bool {
    let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    attributes.len() <= ATTRIBUTES
        && bytes <= ATTRIBUTE_BYTES
        && attributes.keys().all(|name| is_name(name))
}

pub(super) fn is_valid(target: &Target) -> bool {
    let Target { clients, uids, groups, except_clients, except_uids, .. } = target;
    let names_some = !(clients.is_empty() && uids.is_empty() && groups.is_empty());
    target.all != names_some
        && [clients, except_clients].into_iter().flatten().all(|id| is_id(id))
        && [uids, groups, except_uids].into_iter().flatten().all(|name| is_name(name))
        && are_valid(&target.attributes.clone().into_iter().collect())
}

pub(super) fn is_valid_change(change: &AttributeChange) -> bool {
    are_valid(&change.set.clone().into_iter().collect())
        && change.remove.len() <= ATTRIBUTES
        && change.remove.iter().all(|name| is_name(name))
}

/// What clients read of a message, if it is one.
pub(super) fn said(message: Option<&Message>) -> Option<Said> {
    let Message { kind, data } = message?;
    let binary = match Kind::try_from(*kind).ok()? {
        Kind::Unspecified | Kind::Text => false,
        Kind::Binary => true,
    };
    let is_good = binary || std::str::from_utf8(data).is_ok();
    is_good.then(|| Said { binary, data: data.to_vec() })
}

impl Walk {
    /// The id of a client: mostly of one that is connected.
    pub(super) fn client(&mut self) -> String {
        if self.random.once_in(12) { self.nobody() } else { self.connected() }
    }

    /// The id of a connected client, and rather of one that is stuck.
    pub(super) fn connected(&mut self) -> String {
        let stuck = self.world.who_is_stuck();
        if !stuck.is_empty() && self.random.once_in(4) {
            return self.random.one_of(stuck.iter()).clone();
        }
        self.random.one_of(self.world.in_order().iter()).clone()
    }

    pub(super) fn nobody(&mut self) -> String {
        match self.random.below(8) {
            0 => String::new(),
            1 => "no id at all".into(),
            2 => "00000000-0000-8000-8000-000000000000".into(),
            _ if self.past.is_empty() => "nobody has gone yet".into(),
            // The last ones to go are the ones whose slots are taken next.
            _ => self.random.one_of(self.past.iter().rev().take(CROWD)).clone(),
        }
    }

    /// The same, for calls that are refused as a whole for what is no id: rarely such.
    pub(super) fn id(&mut self) -> String {
        let id = self.client();
        if is_id(&id) || self.random.once_in(8) { id } else { self.connected() }
    }

    pub(super) fn way(&mut self) -> Way {
        let (read, halfway) = (self.random.once_in(2), self.random.once_in(3));
        match self.random.below(3) {
            0 => Way::Goodbye(read.then_some(GOODBYE)),
            1 => Way::Drop { halfway, read },
            _ => Way::Call { read },
        }
    }

    pub(super) fn name(&mut self, what: char) -> String {
        match self.random.below(60) {
            0 => String::new(),
            1 => what.to_string().repeat(257),
            _ => self.good_name(what),
        }
    }

    /// The same, for calls that are refused as a whole for a bad name: rarely such.
    fn rarely_bad(&mut self, what: char) -> String {
        if self.random.once_in(4) { self.name(what) } else { self.good_name(what) }
    }

    fn good_name(&mut self, what: char) -> String {
        let number = self.random.below(NAMES);
        name(what, number)
    }

    /// Fewer than `end` things.
    fn few(&mut self, end: usize, mut draw: impl FnMut(&mut Self) -> String) -> Vec<String> {
        (0..self.random.below(end)).map(|_| draw(self)).collect()
    }

    pub(super) fn ids(&mut self, end: usize) -> Vec<String> {
        self.few(end, Self::id)
    }

    pub(super) fn names(&mut self, what: char, end: usize) -> Vec<String> {
        self.few(end, |walk| walk.rarely_bad(what))
    }

    /// A message that nobody else sends, if it isn't empty.
    pub(super) fn message(&mut self, number: u64) -> String {
        match self.random.below(400) {
            0..4 => String::new(),
            4 => format!("{number} {}", "large ".repeat(11_000)),
            5..20 => format!("{number} {}", "grüße ".repeat(30)),
            _ => format!("message {number}"),
        }
    }

    /// The same as the modern API takes it; nothing large if it is to be `small`.
    pub(super) fn modern_message(&mut self, number: u64, small: bool) -> Option<Message> {
        let text = if small { format!("message {number}") } else { self.message(number) };
        let (kind, data) = match self.random.below(60) {
            0 => return None,
            1 => (9, text.into()),
            2 => (Kind::Text.into(), b"no \xff text".to_vec()),
            3..10 => (Kind::Binary.into(), [text.as_bytes(), &[0xff]].concat()),
            10..30 => (Kind::Unspecified.into(), text.into()),
            _ => (Kind::Text.into(), text.into()),
        };
        Some(Message { kind, data: data.into() })
    }

    pub(super) fn target(&mut self) -> Target {
        let mut target = Target::default();
        match self.random.below(24) {
            0 => target.all = true,
            1..6 => target.clients.push(self.id()),
            6..9 => target.uids.push(self.rarely_bad('u')),
            9..11 => target.groups.push(self.rarely_bad('g')),
            // Sometimes nobody at all.
            _ => {
                target.clients = self.ids(4);
                target.uids = self.names('u', 3);
                target.groups = self.names('g', 3);
                target.all = self.random.once_in(60);
            }
        }
        if self.random.once_in(3) {
            target.except_clients = self.ids(4);
            target.except_uids = self.names('u', 3);
        }
        if self.random.once_in(5) {
            target.attributes = self.attributes(2).into_iter().collect();
        }
        target
    }

    /// At most so many attributes, mostly.
    pub(super) fn attributes(&mut self, most: usize) -> Attributes {
        if self.random.once_in(40) {
            let too_many = (0..=ATTRIBUTES).map(|number| (format!("a{number}"), String::new()));
            return too_many.collect();
        }
        let mut attributes = BTreeMap::new();
        for _ in 0..=self.random.below(most) {
            let value = match self.random.below(30) {
                0 => "x".repeat(ATTRIBUTE_BYTES),
                1..4 => "longer ".repeat(4),
                _ => self.random.below(2).to_string(),
            };
            attributes.insert(self.attribute(), value);
        }
        attributes
    }

    fn attribute(&mut self) -> String {
        if self.random.once_in(60) { String::new() } else { format!("a{}", self.random.below(5)) }
    }

    pub(super) fn attribute_change(&mut self) -> AttributeChange {
        let set = if self.random.once_in(3) { Attributes::new() } else { self.attributes(3) };
        let end = if self.random.once_in(20) { ATTRIBUTES + 3 } else { 3 };
        AttributeChange {
            set: set.into_iter().collect(),
            remove: self.few(end, Self::attribute),
            replace: self.random.once_in(4),
        }
    }
}
