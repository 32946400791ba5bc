//! Counters that cost their writer nothing.
//!
//! Each shard writes only its own [`ShardStats`], so counting is a plain load and store, never an
//! atomic read-modify-write; whoever reads sums over the shards and makes no shard wait.

use std::sync::atomic::{AtomicU64, Ordering};

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
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
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
}

impl Drop {
    /// Every cause, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::Newest, Self::Oldest, Self::Closed];

    /// The name under which status and metrics count it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Oldest => "oldest",
            Self::Closed => "closed",
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
    /// Panics kept to one session.
    pub panics: Single,
}

impl ShardStats {
    /// The gauge of clients that compress with this window size, if it is one.
    pub fn window(&self, bits: u8) -> Option<&Single> {
        self.windows.get(usize::from(bits.checked_sub(9)?))
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
    /// Requests that are no WebSocket upgrade, or a wrong one.
    pub refused: Shared,
    /// Upgrades refused with 503 because `limits.max_clients` is reached or the gateway drains.
    pub full: Shared,
    /// Handshakes that did not end within `limits.handshake`.
    pub timeouts: Shared,
    /// Connections that broke before the upgrade, or whose head was too large.
    pub broken: Shared,
    /// TLS handshakes that failed, whatever was wrong with them.
    pub tls: Shared,
}
