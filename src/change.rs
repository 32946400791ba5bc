//! What a business system can change about a client, and what came of it.
//!
//! A [`Change`] is one step: whoever asks or sends sees all of it or nothing.

use std::time::{Duration, SystemTime};

use crate::{
    attributes::Retouch,
    ids::{ClientId, Name},
    message::{Payload, Receipt},
};

/// A change of one client, whole or not at all. Its parts are made in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Its uid; `Some(None)` takes it away.
    pub uid: Option<Option<Name>>,
    /// Groups that it leaves.
    pub leave: Vec<Name>,
    /// Groups that it joins.
    pub join: Vec<Name>,
    /// Its attributes.
    pub attributes: Option<Retouch>,
    /// When it is closed with 3000; `Some(None)` is never.
    pub expires: Option<Option<Expiry>>,
    /// Messages to it.
    pub messages: Vec<Payload>,
}

impl Change {
    /// Gives the client a uid, or takes it away.
    pub fn uid(uid: Option<Name>) -> Self {
        Self { uid: Some(uid), ..Self::default() }
    }

    /// Puts the client into groups.
    pub fn join(groups: Vec<Name>) -> Self {
        Self { join: groups, ..Self::default() }
    }

    /// Takes the client out of groups.
    pub fn leave(groups: Vec<Name>) -> Self {
        Self { leave: groups, ..Self::default() }
    }

    /// Whether others could see it half done, at a client that has a uid or none: whether it has more
    /// than one part of those that are known outside of the client's own shard.
    pub fn has_many_parts(&self, has_uid: bool) -> bool {
        let uids =
            self.uid.as_ref().map_or(0, |uid| usize::from(uid.is_some()) + usize::from(has_uid));
        uids + self.leave.len() + self.join.len() > 1
    }
}

/// When a client is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// As it was set, which is what is told of it.
    pub at: SystemTime,
    /// How long that is from when it was set. A clock that is set right meanwhile changes nothing.
    pub after: Duration,
}

impl Expiry {
    /// At this time; what is past is now.
    pub fn at(at: SystemTime, now: SystemTime) -> Self {
        Self { at, after: at.duration_since(now).unwrap_or_default() }
    }

    /// After so long; none if no clock can say when that is.
    pub fn after(after: Duration) -> Option<Self> {
        Some(Self { at: SystemTime::now().checked_add(after)?, after })
    }
}

/// A client to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Which.
    pub client: ClientId,
    /// Only if it still belongs to this user, through whom it was found.
    pub of: Option<Name>,
}

/// What a change changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The uid is another one now.
    pub uid: bool,
    /// Groups that it was in and left.
    pub left: usize,
    /// Groups that it was not in and joined.
    pub joined: usize,
    /// The attributes are others now.
    pub attributes: bool,
    /// What became of the messages, all together.
    pub receipt: Receipt,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The client is not connected, or no longer belongs to the user through whom it was found.
    #[error("the client is not connected")]
    UnknownClient,
    /// The client would be in more groups than it may be.
    #[error("the client would be in {groups} groups, limits.groups_per_client allows {limit}")]
    TooManyGroups {
        /// Groups it would be in.
        groups: usize,
        /// The limit.
        limit: usize,
    },
    /// The client would have more attributes than it may have.
    #[error("the client would have {count} attributes, limits.attributes allows {limit}")]
    TooManyAttributes {
        /// Attributes it would have.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The client's attributes would be larger than they may be.
    #[error(
        "the client's attributes would have {bytes} bytes, limits.attribute_bytes allows {limit}"
    )]
    LargeAttributes {
        /// Bytes of names and values.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_one_name_has_one_part_and_any_other_has_many() {
        let name = |text| Name::new(text, 9).expect("a short name");
        assert!(!Change::default().has_many_parts(true));
        assert!(!Change::join(vec![name("a")]).has_many_parts(true));
        assert!(!Change::leave(vec![name("a")]).has_many_parts(true));
        assert!(Change::join(vec![name("a"), name("b")]).has_many_parts(true));
        let moves = Change { leave: vec![name("a")], ..Change::join(vec![name("b")]) };
        assert!(moves.has_many_parts(true));
        let bind = Change::uid(Some(name("new")));
        assert!(!bind.has_many_parts(false));
        assert!(bind.has_many_parts(true), "the old one goes");
        assert!(!Change::uid(None).has_many_parts(true));
        assert!(Change { uid: bind.uid, ..Change::join(vec![name("a")]) }.has_many_parts(false));
    }
}
