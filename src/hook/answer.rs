//! What the back end's answer means for the client: a pure function.
//!
//! An answer is taken as a whole or not at all. One that makes no sense is a failure of the back end,
//! and nothing of it is done.

use std::{collections::BTreeMap, time::SystemTime};

use prost_types::Timestamp;

use crate::{
    attributes::{Attributes, Retouch},
    change::{Change, Expiry},
    config::Config,
    ids::{Name, NameFault},
    message::{Kind, Payload},
    proto::v1::{self, AdmitResponse, Allow, Refuse, admit_response},
    timestamp,
};

/// What the back end says of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may connect.
    Allow {
        /// What it gets as it does.
        change: Box<Change>,
        /// The sub-protocol that is answered; none leaves it to the configuration.
        subprotocol: Option<String>,
    },
    /// It may not.
    Refuse {
        /// The status that it is answered, 400 to 599.
        status: u16,
        /// The text that it is answered.
        body: String,
    },
}

/// An answer that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// It is larger than it may be.
    #[error("it has more than {0} bytes (hook.max_answer)")]
    TooLarge(usize),
    /// It is no message, or another one.
    #[error("it can't be decoded: {0}")]
    Undecodable(String),
    /// It says neither yes nor no.
    #[error("it has no verdict")]
    NoVerdict,
    /// It refuses with something that is no refusal.
    #[error("refuse.status: {0} is neither 0 nor from 400 to 599")]
    Status(i32),
    /// It refuses with a novel.
    #[error("refuse.body: {0} bytes, at most {MOST_BODY} allowed")]
    LongBody(usize),
    /// A name that is none.
    #[error("{0}: {1}")]
    Name(String, NameFault),
    /// More than there may be of something.
    #[error("{what}: {count} entries, {key} allows {limit}")]
    TooMany {
        /// The field; with what the client's token says.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The key of the limit.
        key: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Attributes that are too large.
    #[error("allow.attributes: {bytes} bytes, limits.attribute_bytes allows {limit}")]
    LargeAttributes {
        /// Bytes of names and values, with those of the client's token.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A sub-protocol that the client would not understand.
    #[error("allow.subprotocol: not offered by the client")]
    Subprotocol,
    /// A time out of time.
    #[error("allow.expires_at: outside the years 1 to 9999")]
    Time,
    /// A kind of message that there is not.
    #[error("allow.messages[{0}].kind: unknown kind of message")]
    Kind(usize),
    /// A text that is none.
    #[error("allow.messages[{0}].data: text is not valid UTF-8")]
    NoText(usize),
}

/// Bytes of a refusal's text.
const MOST_BODY: usize = 4096;

/// The status of a refusal that names none.
const FORBIDDEN: u16 = 403;

/// What an answer is read against.
pub(super) struct Terms<'a> {
    /// The limits in force.
    pub(super) config: &'a Config,
    /// What the client gets by its token.
    pub(super) token: &'a Change,
    /// The sub-protocols that the client offers.
    pub(super) offers: &'a [String],
    /// The time now.
    pub(super) now: SystemTime,
}

impl Terms<'_> {
    /// Reads an answer.
    pub(super) fn read(&self, answer: AdmitResponse) -> Result<Verdict, Nonsense> {
        match answer.verdict {
            None => Err(Nonsense::NoVerdict),
            Some(admit_response::Verdict::Refuse(refuse)) => refused(refuse),
            Some(admit_response::Verdict::Allow(allow)) => self.allowed(allow),
        }
    }

    fn allowed(&self, allow: Allow) -> Result<Verdict, Nonsense> {
        let mut change = self.token.clone();
        if !allow.uid.is_empty() {
            change.uid = Some(Some(self.name("allow.uid", &allow.uid)?));
        }
        self.add_groups(&mut change.join, &allow.groups)?;
        if !allow.attributes.is_empty() {
            change.attributes = Some(self.attributes(change.attributes.take(), allow.attributes)?);
        }
        if let Some(at) = allow.expires_at {
            change.expires = Some(Some(Expiry::at(time(at)?, self.now)));
        }
        change.messages = self.messages(allow.messages)?;
        let subprotocol = Some(allow.subprotocol).filter(|it| !it.is_empty());
        if subprotocol.as_ref().is_some_and(|it| !self.offers.contains(it)) {
            return Err(Nonsense::Subprotocol);
        }
        Ok(Verdict::Allow { change: Box::new(change), subprotocol })
    }

    /// Adds groups to those of the token, each once.
    fn add_groups(&self, join: &mut Vec<Name>, groups: &[String]) -> Result<(), Nonsense> {
        let limit = self.config.limits.groups_per_client;
        // Before they are compared with each other.
        fits("allow.groups", groups.len(), ("limits.groups_per_client", limit))?;
        for (index, text) in groups.iter().enumerate() {
            join.push(self.name(&format!("allow.groups[{index}]"), text)?);
        }
        join.sort_unstable();
        join.dedup();
        fits("allow.groups", join.len(), ("limits.groups_per_client", limit))
    }

    /// Lays attributes over those of the token.
    fn attributes(
        &self,
        token: Option<Retouch>,
        pairs: BTreeMap<String, String>,
    ) -> Result<Retouch, Nonsense> {
        let limits = &self.config.limits;
        let mut set = token.map_or(Attributes::NONE, |token| token.set);
        for (name, value) in pairs {
            set.set(self.name("a name in allow.attributes", &name)?, value.into_boxed_str());
        }
        fits("allow.attributes", set.len(), ("limits.attributes", limits.attributes))?;
        let (bytes, limit) = (set.bytes(), limits.attribute_bytes.bytes());
        if bytes > limit {
            return Err(Nonsense::LargeAttributes { bytes, limit });
        }
        Ok(Retouch { set, ..Retouch::default() })
    }

    fn messages(&self, messages: Vec<v1::Message>) -> Result<Vec<Payload>, Nonsense> {
        fits("allow.messages", messages.len(), ("api.max_sends", self.config.api.max_sends))?;
        let each = messages.into_iter().enumerate();
        each.map(|(index, message)| self.message(index, message)).collect()
    }

    fn message(&self, index: usize, message: v1::Message) -> Result<Payload, Nonsense> {
        let kind = match v1::Kind::try_from(message.kind) {
            Ok(v1::Kind::Unspecified) => self.config.websocket.message_format,
            Ok(v1::Kind::Text) => Kind::Text,
            Ok(v1::Kind::Binary) => Kind::Binary,
            Err(_) => return Err(Nonsense::Kind(index)),
        };
        if kind == Kind::Text && simdutf8::basic::from_utf8(&message.data).is_err() {
            return Err(Nonsense::NoText(index));
        }
        Ok(Payload::new(kind, message.data))
    }

    fn name(&self, field: &str, text: &str) -> Result<Name, Nonsense> {
        Name::new(text, self.config.limits.names)
            .map_err(|why| Nonsense::Name(field.to_owned(), why))
    }
}

/// A time of the years 1 to 9999.
fn time(at: Timestamp) -> Result<SystemTime, Nonsense> {
    timestamp::read(at).ok_or(Nonsense::Time)
}

fn refused(refuse: Refuse) -> Result<Verdict, Nonsense> {
    let Refuse { status, body } = refuse;
    let told = match u16::try_from(status) {
        Ok(0) => FORBIDDEN,
        Ok(told @ 400..=599) => told,
        _ => return Err(Nonsense::Status(status)),
    };
    if body.len() > MOST_BODY {
        return Err(Nonsense::LongBody(body.len()));
    }
    Ok(Verdict::Refuse { status: told, body })
}

fn fits(
    what: &'static str,
    count: usize,
    (key, limit): (&'static str, usize),
) -> Result<(), Nonsense> {
    if count > limit {
        return Err(Nonsense::TooMany { what, count, key, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
