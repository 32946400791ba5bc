//! The names of things: which client, which user, which group.
//!
//! A [`ClientId`] is chosen by the gateway and says by itself where its session lives. A [`Name`]
//! is chosen by the business system and says nothing but itself.

use std::{fmt, str::FromStr, sync::Arc};

/// The identity of one client (one WebSocket connection): a UUID, version 8 (RFC 9562 §5.8).
///
/// Of its 122 free bits, 10 name the shard, 24 the slot and 24 the generation, so that going from
/// an id to its session needs no map; the other 64 are random, so that an id can't be guessed and
/// an id of an earlier run never meets a client of this one.
///
/// ```text
///  ssssssss-ssss-8ggg-vrrr-rrrrrrrrrrrr     s: shard 10, slot 24, generation 14 bits
///                                           g: generation 10, random 2 bits
///                                           v: variant 10, then 62 random bits
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId([u8; 16]);

/// Most shards a gateway can have: what fits into a [`ClientId`].
pub const MAX_SHARDS: usize = 1 << 10;
/// Most clients a shard can hold at once: what fits into a [`ClientId`].
pub const MAX_SLOTS: usize = 1 << 24;

const VERSION: u128 = 0x8 << 76;
const VARIANT: u128 = 0b10 << 62;

impl ClientId {
    /// Builds the id of the session in `slot` of `shard`.
    ///
    /// `generation` tells apart the sessions that use a slot one after the other; its low 24 bits
    /// count. Values of `shard` and `slot` beyond [`MAX_SHARDS`] and [`MAX_SLOTS`] are a fault of
    /// the caller and are cut off.
    pub fn new(shard: u16, slot: u32, generation: u32, random: u64) -> Self {
        let place = (u128::from(shard) & 0x3ff) << 48
            | (u128::from(slot) & 0xff_ffff) << 24
            | u128::from(generation) & 0xff_ffff;
        let random = u128::from(random);
        // The 58 bits of the place and 2 random ones fill the 60 bits around the version nibble.
        let upper = place << 2 | random >> 62;
        let bits = (upper >> 12) << 80
            | VERSION
            | (upper & 0xfff) << 64
            | VARIANT
            | random & 0x3fff_ffff_ffff_ffff;
        Self(bits.to_be_bytes())
    }

    /// The shard that holds the client.
    pub fn shard(self) -> u16 {
        ((self.place() >> 48) & 0x3ff) as u16
    }

    /// The slot within the shard.
    pub fn slot(self) -> u32 {
        ((self.place() >> 24) & 0xff_ffff) as u32
    }

    /// All its bits, the upper half first, for what is spread by them.
    pub fn halves(self) -> [u64; 2] {
        let bits = u128::from_be_bytes(self.0);
        [(bits >> 64) as u64, (bits & 0xffff_ffff_ffff_ffff) as u64]
    }

    /// The text form: 36 characters, lower case, on the stack.
    pub fn text(self) -> ClientIdText {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 0xf)];
            at += 2;
        }
        ClientIdText(text)
    }

    /// The 58 bits of shard, slot and generation.
    fn place(self) -> u64 {
        let mut upper = [0; 8];
        upper.copy_from_slice(&self.0[..8]);
        let upper = u64::from_be_bytes(upper);
        // Around the version nibble, and without the two random bits at the end.
        ((upper >> 16) << 12 | upper & 0xfff) >> 2
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text().as_str())
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What was given is not the text form of a client id of this gateway.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a client id: expected a UUID (version 8) of 36 characters")]
pub struct NotAClientId;

impl FromStr for ClientId {
    type Err = NotAClientId;

    /// Reads the text form; hexadecimal digits may be upper case, the dashes must be in place.
    fn from_str(text: &str) -> Result<Self, NotAClientId> {
        let text: &[u8; 36] = text.as_bytes().try_into().map_err(|_| NotAClientId)?;
        let mut bits: u128 = 0;
        for (at, &character) in text.iter().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                if character != b'-' {
                    return Err(NotAClientId);
                }
                continue;
            }
            let digit = char::from(character).to_digit(16).ok_or(NotAClientId)?;
            bits = bits << 4 | u128::from(digit);
        }
        let marked = bits & (0xf << 76 | 0b11 << 62) == VERSION | VARIANT;
        marked.then_some(Self(bits.to_be_bytes())).ok_or(NotAClientId)
    }
}

/// The text form of a [`ClientId`], without an allocation.
#[derive(Clone, Copy)]
pub struct ClientIdText([u8; 36]);

impl ClientIdText {
    /// The 36 characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A name that the business system chose: a uid or the name of a group.
///
/// Never empty, at most `limits.names` bytes long, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a text can't be a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// There is nothing to call anybody by.
    #[error("empty name")]
    Empty,
    /// It would cost more memory than the operator allows.
    #[error("{bytes} bytes, limits.names allows {limit}")]
    TooLong {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

impl Name {
    /// Takes `text` as a name if it has 1 to `limit` bytes (`limits.names`).
    pub fn new(text: &str, limit: usize) -> Result<Self, NameFault> {
        match text.len() {
            0 => Err(NameFault::Empty),
            bytes if bytes > limit => Err(NameFault::TooLong { bytes, limit }),
            _ => Ok(Self(text.into())),
        }
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_keeps_its_place_and_survives_its_text_form(
            shard in 0u16..1024, slot in 0u32..1 << 24, generation: u32, random: u64,
        ) {
            let id = ClientId::new(shard, slot, generation, random);
            let text = id.to_string();
            prop_assert_eq!((id.shard(), id.slot()), (shard, slot));
            prop_assert_eq!(text.len(), 36);
            prop_assert_eq!(&text[14..15], "8");
            prop_assert!("89ab".contains(&text[19..20]));
            prop_assert_eq!(text.parse(), Ok(id));
            prop_assert_eq!(text.to_uppercase().parse(), Ok(id));
        }

        #[test]
        fn ids_that_differ_in_one_part_differ(slot in 0u32..1 << 24, generation in 0u32..1 << 24, random: u64) {
            let id = ClientId::new(1, slot, generation, random);
            prop_assert_ne!(id, ClientId::new(2, slot, generation, random));
            prop_assert_ne!(id, ClientId::new(1, slot ^ 1, generation, random));
            prop_assert_ne!(id, ClientId::new(1, slot, generation ^ 1, random));
            prop_assert_ne!(id, ClientId::new(1, slot, generation, random ^ 1 << 63));
        }

        #[test]
        fn arbitrary_text_is_refused_not_feared(text in "\\PC*") {
            prop_assert!(text.parse::<ClientId>().is_err());
        }
    }

    #[test]
    fn other_uuids_are_no_client_ids() {
        for text in [
            "",
            "00000000-0000-0000-0000-000000000000",
            "123e4567-e89b-42d3-a456-426614174000",
            "123e4567-e89b-82d3-c456-426614174000",
            "123e4567ee89b-82d3-a456-426614174000",
            "123e4567-e89b-82d3-a456-42661417400g",
        ] {
            assert_eq!(text.parse::<ClientId>(), Err(NotAClientId), "{text}");
        }
    }

    #[test]
    fn a_name_has_bounds() {
        assert_eq!(Name::new("", 4), Err(NameFault::Empty));
        assert_eq!(Name::new("abcde", 4), Err(NameFault::TooLong { bytes: 5, limit: 4 }));
        assert_eq!(Name::new("abcd", 4).map(|name| name.to_string()), Ok("abcd".to_owned()));
    }
}
