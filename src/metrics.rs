//! Counters that cost their writer nothing.
//!
//! Each shard writes only its own [`ShardStats`], so counting is a plain load and store, never an
//! atomic read-modify-write; whoever reads sums over the shards and makes no shard wait.

mod calls;
mod codes;
mod hook;
mod log;
mod process;
mod tokens;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

pub use calls::{Bucket, CODES, Calls, Histogram, Method, OTHER};
pub use codes::CloseCode;
pub use hook::HookStats;
pub use log::{drop_log_lines, log_lines_dropped};
pub use process::{Process, cpu_seconds, memory_bytes};
pub use tokens::{KeyStats, TokenFault, TokenStats};

use crate::close::Cause;

/// A number with exactly one writing thread and any number of readers.
///
/// The store is a release, the load an acquire: who was told of an event by its writer also sees
/// the number that counts it.
#[derive(Debug, Default)]
pub struct Single(AtomicU64);

impl Single {
    /// Adds `n`. Only the owning thread may call this.
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Subtracts `n`. Only the owning thread may call this.
    pub fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    /// Replaces the value. Only the owning thread may call this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Release);
    }

    /// The value now; any thread may call this.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A number with many writers, for what does not happen on a shard.
#[derive(Debug, Default)]
pub struct Shared(AtomicU64);

impl Shared {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are now, with many writers.
#[derive(Debug, Default)]
pub struct UnderWay(AtomicU64);

impl UnderWay {
    /// Counts one more until what is returned is dropped.
    pub fn enter(&self) -> Entered<'_> {
        self.begin();
        Entered(self)
    }

    /// Counts one more, until [`UnderWay::end`].
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less.
    pub fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One that is under way.
#[derive(Debug)]
pub struct Entered<'a>(&'a UnderWay);

impl std::ops::Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Why a message that was accepted for a client never reached its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// The queue was full and the policy is `drop-newest`, or the client was closed for it.
    Newest,
    /// The queue was full and the policy is `drop-oldest`.
    Oldest,
    /// The connection ended while the message was waiting in its queue.
    Closed,
    /// The client was behind, and the message was not to wait.
    Behind,
    /// A later message with the same key took its place.
    Replaced,
    /// It waited for longer than it was worth something.
    Expired,
}

impl Drop {
    /// Every cause, in the order of the counters.
    pub const ALL: [Self; 6] =
        [Self::Newest, Self::Oldest, Self::Closed, Self::Behind, Self::Replaced, Self::Expired];

    /// The name under which status and metrics count it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Oldest => "oldest",
            Self::Closed => "closed",
            Self::Behind => "behind",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
        }
    }
}

/// What one shard counts. Written by the shard, read by anyone.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Clients connected now (a client that is being closed is no longer one).
    pub clients: Single,
    /// Clients connected now that agreed to compression, by window size from 9 to 15 bits.
    pub windows: [Single; 7],
    /// Sockets held now, including those that wait for the end of a close handshake.
    pub sockets: Single,
    /// Clients ever connected.
    pub opened: Single,
    /// Clients ever closed, by [`Cause::index`].
    pub closed: [Single; Cause::ALL.len()],
    /// The same by the code of the gateway's close frame as well, by [`CloseCode::index`].
    pub close_codes: [[Single; CloseCode::ALL.len()]; Cause::ALL.len()],
    /// Messages received whole.
    pub messages_in: Single,
    /// Bytes read from sockets.
    pub bytes_in: Single,
    /// Messages accepted for a client: written to its socket at once, or put into its queue.
    pub messages_queued: Single,
    /// Messages written to a socket whole.
    pub messages_out: Single,
    /// Bytes written to sockets.
    pub bytes_out: Single,
    /// Messages dropped, in the order of [`Drop::ALL`].
    pub dropped: [Single; Drop::ALL.len()],
    /// Memory that queued messages take now, each message once.
    pub queued_bytes: Single,
    /// Memory that incomplete inbound messages take now.
    pub partial_bytes: Single,
    /// Clients connected now that aren't read until there is room for what they said.
    pub waiting_clients: Single,
    /// Panics kept to one session.
    pub panics: Single,
}

impl ShardStats {
    /// The gauge of clients that compress with this window size, if it is one.
    pub fn window(&self, bits: u8) -> Option<&Single> {
        self.windows.get(usize::from(bits.checked_sub(9)?))
    }

    /// Counts a client that was closed; no code is no close frame.
    pub fn close(&self, cause: Cause, code: Option<u16>) {
        self.closed[cause.index()].add(1);
        self.close_codes[cause.index()][CloseCode::of(code).index()].add(1);
    }

    /// Counts `n` dropped messages.
    pub fn drop_messages(&self, why: Drop, n: u64) {
        self.dropped[why as usize].add(n);
    }
}

/// Why a connection did not become a client.
#[derive(Debug, Default)]
pub struct HandshakeStats {
    /// Connections accepted.
    pub accepted: Shared,
    /// Handshakes under way now.
    pub under_way: UnderWay,
    /// Requests that are no WebSocket upgrade, or a wrong one.
    pub refused: Shared,
    /// Upgrades refused with 503 because `limits.max_clients` is reached or the gateway drains.
    pub full: Shared,
    /// Connections over `limits.address_clients` or `limits.address_connections`.
    pub address: Shared,
    /// Connections of addresses that could not be counted any more: `limits.addresses` was reached.
    pub strangers: Shared,
    /// Connections of listed proxies that did not say for whom, or not in the form required.
    pub proxy: Shared,
    /// Handshakes that did not end within `limits.handshake`.
    pub timeouts: Shared,
    /// Connections that were silent longest when there was no place for another, or for another of
    /// their address.
    pub evicted: Shared,
    /// Connections that broke before the upgrade, or whose head was too large.
    pub broken: Shared,
    /// TLS handshakes that failed, whatever was wrong with them.
    pub tls: Shared,
    /// Clients of a uid of which there were as many as `auth.max_clients_per_uid` allows.
    pub uid: Shared,
    /// Tokens that were believed, and requests without a good one, by what was wrong.
    pub tokens: TokenStats,
    /// How it went with the keys for tokens.
    pub keys: KeyStats,
    /// Clients that the connect hook refused, or had no word on.
    pub hook: Shared,
}

impl HandshakeStats {
    /// The handshakes that failed, each cause under its name.
    pub fn failures(&self) -> Vec<(&'static str, &Shared)> {
        let tokens = TokenFault::ALL.map(|fault| (fault.cause(), self.tokens.of(fault)));
        let others = [
            ("refused", &self.refused),
            ("full", &self.full),
            ("address", &self.address),
            ("strangers", &self.strangers),
            ("proxy", &self.proxy),
            ("timeouts", &self.timeouts),
            ("evicted", &self.evicted),
            ("broken", &self.broken),
            ("tls", &self.tls),
            ("uid", &self.uid),
            ("hook", &self.hook),
        ];
        others.into_iter().chain(tokens).collect()
    }
}

/// Calls that were refused because something is full: nothing was done for them.
#[derive(Debug, Default)]
pub struct BusyStats {
    /// As many calls waited for a shard as `limits.inbox` allows.
    pub inbox: Shared,
    /// The shard's share of `limits.queued_bytes` was used up.
    pub queued_bytes: Shared,
}

impl BusyStats {
    /// Each under the key of the limit.
    pub fn limits(&self) -> [(&'static str, &Shared); 2] {
        [("limits.inbox", &self.inbox), ("limits.queued_bytes", &self.queued_bytes)]
    }
}

/// Connections of callers, at one moment.
#[derive(Clone, Debug)]
pub struct Callers {
    /// gRPC connections there are.
    pub connections: u64,
    /// What was turned away so far, by cause.
    pub refused: Vec<(&'static str, u64)>,
    /// Bytes that their calls hold now, by whom they are held for.
    pub memory: [(&'static str, u64); 2],
}

/// How reloads of the configuration ended.
#[derive(Debug, Default)]
pub struct Reloads {
    /// Something changed and is in force.
    pub accepted: Shared,
    /// There was nothing to change.
    pub unchanged: Shared,
    /// Faulty, and nothing was changed.
    pub refused: Shared,
    /// When the last one ended: seconds since 1970-01-01 UTC; zero if there was none.
    pub last: Shared,
}

impl Reloads {
    /// Counts one as accepted: `changed` keys have a new value.
    pub fn accept(&self, changed: usize) {
        if changed == 0 {
            self.unchanged.increment();
        } else {
            self.accepted.increment();
        }
        self.last.set(now());
    }

    /// Counts one as refused.
    pub fn refuse(&self) {
        self.refused.increment();
        self.last.set(now());
    }

    /// Each outcome under its name.
    pub fn outcomes(&self) -> [(&'static str, &Shared); 3] {
        [("accepted", &self.accepted), ("unchanged", &self.unchanged), ("refused", &self.refused)]
    }
}

/// Seconds since 1970-01-01 UTC.
fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_counted_until_it_ends() {
        let gauge = UnderWay::default();
        let first = gauge.enter();
        let second = gauge.enter();
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert_eq!(gauge.get(), 1);
        drop(second);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn a_closed_client_is_counted_by_cause_and_by_code() {
        let stats = ShardStats::default();
        stats.close(Cause::Api, Some(1000));
        stats.close(Cause::Peer, Some(4711));
        stats.close(Cause::Lost, None);
        for (cause, code) in [(Cause::Api, "1000"), (Cause::Peer, "other"), (Cause::Lost, "none")] {
            assert_eq!(stats.closed[cause.index()].get(), 1);
            let row = &stats.close_codes[cause.index()];
            let counted = row.iter().zip(CloseCode::ALL).filter(|(n, _)| n.get() > 0);
            let names: Vec<_> = counted.map(|(_, code)| code.name()).collect();
            assert_eq!(names, [code]);
        }
    }

    #[test]
    fn reloads_are_told_apart() {
        let reloads = Reloads::default();
        assert_eq!(reloads.last.get(), 0);
        reloads.accept(3);
        reloads.accept(0);
        reloads.refuse();
        assert_eq!(reloads.outcomes().map(|(_, n)| n.get()), [1, 1, 1]);
        assert!(reloads.last.get() > 1_700_000_000);
    }
}
