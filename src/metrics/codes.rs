//! The close codes that are told apart in counters: those of the gateway's own, and two for the rest.
//!
//! A client may close with any code it likes, and the gateway answers with the same. So that a
//! client can't make up counters, codes that are not the gateway's own are counted as one.

use crate::close::{Cause, code};

/// The code of the close frame that the gateway sent, as counters know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// One of [`code`]'s, at this position in [`CloseCode::ALL`].
    Own(usize),
    /// One that the client or `drain.close_code` chose.
    Other,
    /// There was nobody to send a close frame to.
    None,
}

/// The gateway's own codes and what they are called.
const OWN: [(u16, &str); 12] = [
    (code::NORMAL, "1000"),
    (code::GOING_AWAY, "1001"),
    (code::PROTOCOL, "1002"),
    (code::BAD_DATA, "1007"),
    (code::POLICY, "1008"),
    (code::TOO_BIG, "1009"),
    (code::FAULT, "1011"),
    (code::RESTART, "1012"),
    (code::OVERLOADED, "1013"),
    (code::EXPIRED, "3000"),
    (code::REPLACED, "3001"),
    (code::SILENT, "3008"),
];

impl CloseCode {
    /// Every code, in the order of [`CloseCode::index`].
    pub const ALL: [Self; OWN.len() + 2] = [
        Self::Own(0),
        Self::Own(1),
        Self::Own(2),
        Self::Own(3),
        Self::Own(4),
        Self::Own(5),
        Self::Own(6),
        Self::Own(7),
        Self::Own(8),
        Self::Own(9),
        Self::Own(10),
        Self::Own(11),
        Self::Other,
        Self::None,
    ];

    /// The code as counters know it; none is no close frame.
    pub fn of(code: Option<u16>) -> Self {
        let Some(code) = code else { return Self::None };
        OWN.iter().position(|(own, _)| *own == code).map_or(Self::Other, Self::Own)
    }

    /// The code that this cause has unless somebody chose another.
    pub fn usual(cause: Cause) -> Self {
        Self::of(match cause {
            Cause::Api | Cause::Peer => Some(code::NORMAL),
            Cause::Stop => Some(code::GOING_AWAY),
            Cause::Protocol => Some(code::PROTOCOL),
            Cause::BadText => Some(code::BAD_DATA),
            Cause::Policy => Some(code::POLICY),
            Cause::TooBig => Some(code::TOO_BIG),
            Cause::Fault => Some(code::FAULT),
            Cause::Slow | Cause::Budget => Some(code::OVERLOADED),
            Cause::Silent => Some(code::SILENT),
            Cause::Expired => Some(code::EXPIRED),
            Cause::Replaced => Some(code::REPLACED),
            Cause::Lost => None,
        })
    }

    /// Position in [`CloseCode::ALL`], for tables of counters.
    pub fn index(self) -> usize {
        match self {
            Self::Own(at) => at,
            Self::Other => OWN.len(),
            Self::None => OWN.len() + 1,
        }
    }

    /// The name under which metrics count it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own(at) => OWN[at].1,
            Self::Other => "other",
            Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_at_its_index_under_a_name_of_its_own() {
        for (index, code) in CloseCode::ALL.into_iter().enumerate() {
            assert_eq!(code.index(), index);
            assert!(!CloseCode::ALL[..index].iter().any(|other| other.name() == code.name()));
        }
    }

    #[test]
    fn own_codes_keep_their_number_and_others_are_one() {
        for (number, name) in OWN {
            assert_eq!(number.to_string(), name);
            assert_eq!(CloseCode::of(Some(number)).name(), name);
        }
        for foreign in [1003, 1005, 3002, 4711, u16::MAX] {
            assert_eq!(CloseCode::of(Some(foreign)), CloseCode::Other);
        }
        assert_eq!(CloseCode::of(None).name(), "none");
        assert_eq!(CloseCode::usual(Cause::Slow).name(), "1013");
        assert_eq!(CloseCode::usual(Cause::Lost).name(), "none");
    }
}
