//! What is turned away, counted, and told to the log now and then: whoever is turned away comes
//! again, perhaps a thousand times a second.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{metrics::Shared, net::Told};

/// What callers are turned away for. Written by the connections, read by anyone.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Connections from addresses that `grpc.allow` doesn't list.
    pub addresses: Refused,
    /// Connections that did not complete the TLS handshake.
    pub handshakes: Refused,
    /// Connections on which no HTTP/2 was begun within `limits.handshake`.
    pub silent: Refused,
    /// Connections that carried no call with a valid token within `limits.handshake`.
    pub idle: Refused,
    /// Connections without an accepted call that made room for another.
    pub evicted: Refused,
    /// Requests that are no call: of another content type than gRPC's.
    pub content: Refused,
    /// Calls without a valid token.
    pub tokens: Refused,
    /// Connections that a reload ended.
    pub ended: Refused,
    /// Calls over what a connection may have under way before it carried a valid token.
    pub calls: Refused,
    /// Requests and answers for which `grpc.max_memory` had no room.
    pub memory: Refused,
}

impl Refusals {
    /// How often each was, by the name under which metrics count it.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("address", self.addresses.count()),
            ("tls", self.handshakes.count()),
            ("silent", self.silent.count()),
            ("idle", self.idle.count()),
            ("evicted", self.evicted.count()),
            ("content-type", self.content.count()),
            ("token", self.tokens.count()),
            ("ended", self.ended.count()),
            ("calls", self.calls.count()),
            ("memory", self.memory.count()),
        ]
    }
}

/// One kind of refusal.
#[derive(Debug, Default)]
pub struct Refused {
    count: Shared,
    /// When it was last told. The lock is held for the comparison only.
    told: Mutex<Told>,
}

/// One kind is told of this often, whoever it is.
const TELL_EVERY: Duration = Duration::from_secs(5);

impl Refused {
    /// How often it was.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// Counts one more that is nothing to tell of.
    pub(super) fn note_quietly(&self) {
        self.count.increment();
    }

    /// Counts one more, and tells of it unless another was told of just now.
    pub(super) fn note(&self, peer: SocketAddr, what: &str, why: impl std::fmt::Display) {
        self.count.increment();
        if self.is_due(Instant::now()) {
            let so_far = self.count();
            tracing::warn!(%peer, %why, so_far, "{what}");
        } else {
            tracing::debug!(%peer, %why, "{what}");
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.note(now, TELL_EVERY).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_is_told_of_now_and_then() {
        let refused = Refused::default();
        let start = Instant::now();
        assert!(refused.is_due(start));
        assert!(!refused.is_due(start));
        assert!(!refused.is_due(start + TELL_EVERY / 2));
        assert!(refused.is_due(start + TELL_EVERY));
        assert!(!refused.is_due(start + TELL_EVERY));
    }
}
