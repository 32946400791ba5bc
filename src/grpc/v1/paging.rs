//! Page tokens: where the next page of a list begins, in a form that means nothing to the caller.
//!
//! ```text
//!   base64url( run 8 │ list 1 │ filters 8 │ place … │ seal 8 )
//! ```
//!
//! A token says of which run of the gateway, which list and which filters it is, so that one that
//! is used elsewhere is refused rather than answered with something odd. The seal is a keyed hash
//! of all before it; the key is random and dies with the process.

use std::hash::{BuildHasher, Hash, RandomState};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::hub::{NamePlace, Place};

/// Makes and reads the tokens of one run.
#[derive(Debug)]
pub(super) struct Tokens {
    keys: RandomState,
    run: u64,
}

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Clients = 1,
    Uids = 2,
    Groups = 3,
}

/// A list with its filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List {
    kind: Kind,
    filters: u64,
}

/// Why a token is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenFault {
    /// It is no token, or not of this run.
    #[error("not a page token of this run of the gateway: start again with an empty token")]
    Unknown,
    /// It is of another call.
    #[error("page token of another list: use it with the call that returned it")]
    List,
    /// It is of the same call with other filters.
    #[error("page token of a list with other filters: repeat those of the call that returned it")]
    Filters,
}

/// What a token can say where a page begins.
pub(super) trait Cursor: Default {
    /// Appends its bytes.
    fn write(&self, bytes: &mut Vec<u8>);
    /// Reads it back.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// Bytes of the seal.
const SEAL: usize = 8;

impl Default for Tokens {
    fn default() -> Self {
        let keys = RandomState::new();
        let run = keys.hash_one("run");
        Self { keys, run }
    }
}

impl Tokens {
    /// The list of this kind with these filters.
    pub(super) fn list(&self, kind: Kind, filters: impl Hash) -> List {
        List { kind, filters: self.keys.hash_one(filters) }
    }

    /// The token for what follows; empty if nothing does.
    pub(super) fn token(&self, list: List, next: Option<&impl Cursor>) -> String {
        let Some(next) = next else { return String::new() };
        let mut bytes = self.run.to_be_bytes().to_vec();
        bytes.push(list.kind as u8);
        bytes.extend(list.filters.to_be_bytes());
        next.write(&mut bytes);
        bytes.extend(self.seal(&bytes));
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Where a page of the list begins; an empty token is for the first.
    pub(super) fn place<C: Cursor>(&self, list: List, token: &str) -> Result<C, TokenFault> {
        if token.is_empty() {
            return Ok(C::default());
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenFault::Unknown)?;
        let (said, seal) = bytes.split_last_chunk::<SEAL>().ok_or(TokenFault::Unknown)?;
        if *seal != self.seal(said) {
            return Err(TokenFault::Unknown);
        }
        // What is sealed was written here, so each part is there; the run is part of the seal.
        let (_, rest) = said.split_first_chunk::<8>().ok_or(TokenFault::Unknown)?;
        let (&kind, rest) = rest.split_first().ok_or(TokenFault::Unknown)?;
        let (filters, place) = rest.split_first_chunk::<8>().ok_or(TokenFault::Unknown)?;
        if kind != list.kind as u8 {
            return Err(TokenFault::List);
        }
        if u64::from_be_bytes(*filters) != list.filters {
            return Err(TokenFault::Filters);
        }
        C::read(place).ok_or(TokenFault::Unknown)
    }

    fn seal(&self, said: &[u8]) -> [u8; SEAL] {
        self.keys.hash_one(said).to_be_bytes()
    }
}

impl Cursor for Place {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.shard.to_be_bytes());
        bytes.extend(self.slot.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (shard, slot) = bytes.split_first_chunk()?;
        let slot = slot.try_into().ok()?;
        Some(Self { shard: u16::from_be_bytes(*shard), slot: u32::from_be_bytes(slot) })
    }
}

impl Cursor for NamePlace {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.stripe.to_be_bytes());
        bytes.extend(self.after.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (stripe, after) = bytes.split_first_chunk()?;
        let after = String::from_utf8(after.to_vec()).ok()?;
        Some(Self { stripe: u16::from_be_bytes(*stripe), after })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_place(shard: u16, slot: u32, stripe: u16, after: String) {
            let tokens = Tokens::default();
            let list = tokens.list(Kind::Clients, "all");
            let place = Place { shard, slot };
            prop_assert_eq!(tokens.place(list, &tokens.token(list, Some(&place))), Ok(place));
            let place = NamePlace { stripe, after };
            prop_assert_eq!(tokens.place(list, &tokens.token(list, Some(&place))), Ok(place));
        }

        #[test]
        fn what_is_no_token_is_refused(text in "\\PC+", word in "[A-Za-z0-9_-]{1,80}") {
            let tokens = Tokens::default();
            let list = tokens.list(Kind::Uids, "all");
            for text in [text, word] {
                let place = tokens.place::<NamePlace>(list, &text);
                prop_assert_eq!(place, Err(TokenFault::Unknown));
            }
        }

        #[test]
        fn no_bit_of_a_token_can_be_changed(at: prop::sample::Index, bit in 0..8) {
            let tokens = Tokens::default();
            let list = tokens.list(Kind::Groups, "all");
            let token = tokens.token(list, Some(&NamePlace { stripe: 3, after: "abc".into() }));
            let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(token).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            let token = BASE64_URL_SAFE_NO_PAD.encode(bytes);
            prop_assert_eq!(tokens.place::<NamePlace>(list, &token), Err(TokenFault::Unknown));
        }
    }

    #[test]
    fn a_token_is_for_its_own_list_filters_and_run() {
        let (tokens, others) = (Tokens::default(), Tokens::default());
        let list = |tokens: &Tokens, kind, filters: &str| tokens.list(kind, filters);
        let mine = list(&tokens, Kind::Clients, "a");
        let token = tokens.token(mine, Some(&Place::default()));
        let place = |tokens: &Tokens, list| tokens.place::<Place>(list, &token);
        assert_eq!(place(&tokens, mine), Ok(Place::default()));
        assert_eq!(place(&tokens, list(&tokens, Kind::Clients, "b")), Err(TokenFault::Filters));
        assert_eq!(place(&tokens, list(&tokens, Kind::Uids, "a")), Err(TokenFault::List));
        assert_eq!(place(&others, list(&others, Kind::Clients, "a")), Err(TokenFault::Unknown));
        assert_eq!(tokens.token(mine, None::<&Place>), "");
        assert_eq!(tokens.place(mine, ""), Ok(Place::default()));
    }
}
