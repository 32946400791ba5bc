//! Why a connection ends, and the close code that says so.
//!
//! The codes are API: clients see them, metrics count by them, tests assert them.

use crate::message::Payload;

/// The close codes that the gateway sends (RFC 6455 §7.4; 3000 and up are registered or ours).
pub mod code {
    /// Closed because the business system asked for it, or in answer to the client's own close.
    pub const NORMAL: u16 = 1000;
    /// The gateway is stopping.
    pub const GOING_AWAY: u16 = 1001;
    /// The client broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// Text that is not UTF-8.
    pub const BAD_DATA: u16 = 1007;
    /// A rate, a deadline or a policy was not kept.
    pub const POLICY: u16 = 1008;
    /// A message over the size limit.
    pub const TOO_BIG: u16 = 1009;
    /// A fault of the gateway's own.
    pub const FAULT: u16 = 1011;
    /// The gateway restarts; come back soon.
    pub const RESTART: u16 = 1012;
    /// The client reads too slowly, or the gateway's memory budget is used up.
    pub const OVERLOADED: u16 = 1013;
    /// The time until which the client was allowed in is over.
    pub const EXPIRED: u16 = 3000;
    /// Another client came with the same uid, and there may be no more of them.
    pub const REPLACED: u16 = 3001;
    /// Nothing was heard from the client for the heartbeat timeout.
    pub const SILENT: u16 = 3008;
}

/// What ended a connection; each cause has one close code and one name in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The business system closed the client.
    Api,
    /// The client said goodbye with a close frame.
    Peer,
    /// The connection broke without a close frame.
    Lost,
    /// The gateway stops or drains.
    Stop,
    /// The client broke RFC 6455.
    Protocol,
    /// The client sent text that is not UTF-8.
    BadText,
    /// The client did not keep a rate, a deadline or a count.
    Policy,
    /// The client sent a message over `limits.max_message`.
    TooBig,
    /// A panic in the gateway, kept to this one session.
    Fault,
    /// The client reads slower than others write to it (`limits.slow_client`).
    Slow,
    /// A memory budget of the process was used up and this client held most of it.
    Budget,
    /// Nothing was heard for `websocket.heartbeat_timeout`.
    Silent,
    /// The time until which it was allowed in is over.
    Expired,
    /// It was the oldest of its uid when one more came than there may be.
    Replaced,
}

impl Cause {
    /// Every cause, in the order of [`Cause::index`].
    pub const ALL: [Self; 14] = [
        Self::Api,
        Self::Peer,
        Self::Lost,
        Self::Stop,
        Self::Protocol,
        Self::BadText,
        Self::Policy,
        Self::TooBig,
        Self::Fault,
        Self::Slow,
        Self::Budget,
        Self::Silent,
        Self::Expired,
        Self::Replaced,
    ];

    /// Position in [`Cause::ALL`], for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which status and metrics count it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Peer => "peer",
            Self::Lost => "lost",
            Self::Stop => "stop",
            Self::Protocol => "protocol",
            Self::BadText => "bad-text",
            Self::Policy => "policy",
            Self::TooBig => "too-big",
            Self::Fault => "fault",
            Self::Slow => "slow",
            Self::Budget => "budget",
            Self::Silent => "silent",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
        }
    }
}

/// A close frame to be sent, and the cause that is counted for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// What is counted.
    pub cause: Cause,
    /// The close code on the wire.
    pub code: u16,
    /// The reason on the wire: at most 123 bytes, longer ones are cut at a character.
    pub reason: std::borrow::Cow<'static, str>,
    /// A message that goes out before the close frame.
    pub last: Option<Payload>,
    /// Whether what waits for the client is dropped rather than written first.
    pub drop_pending: bool,
}

impl Close {
    /// A close for `cause`, with `code` and a short text for people.
    pub fn new(cause: Cause, code: u16, reason: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { cause, code, reason: reason.into(), last: None, drop_pending: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_stands_at_its_index_under_a_name_of_its_own() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause.index(), index);
            assert!(!Cause::ALL[..index].iter().any(|other| other.name() == cause.name()));
        }
    }
}
