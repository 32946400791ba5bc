//! A shard: one thread, one poll loop, and the sockets that live on it.
//!
//! An established WebSocket is handed to the shard with the fewest clients and stays there until it
//! closes. The shard owns everything about it (socket, parser, queue, uid, groups, timers), so no
//! step of a session takes a lock, and what the shard says of its clients is the truth.
//!
//! ```text
//!               ┌─────────────────────────── one turn ───────────────────────────┐
//!  sockets ──►  │ poll ─► read, parse, answer ─► commands ─► timers ─► flush dirty│ ──► sockets
//!  inbox   ──►  │           (inbound)            (deliver)   (wheel)   (outbound) │
//!               └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Messages that arrive together are appended together and leave in one system call per socket:
//! batching without a timer and without added latency. Each step of a session runs under
//! `catch_unwind`, so a panic costs that one session (close code 1011) and nobody else.

mod adopt;
mod answer;
mod bundle;
mod caps;
mod change;
mod clock;
mod deliver;
mod door;
mod drain;
mod ear;
mod encode;
mod farewell;
mod inbound;
mod inbox;
mod leave;
mod line;
mod members;
mod offer;
mod outbound;
mod parts;
mod query;
mod run;
mod session;
mod tunnel;
mod wheel;

use std::{
    fmt, io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use smallvec::SmallVec;

pub use crate::about::About;
pub use adopt::REPLACED;
pub use clock::Clock;
pub(crate) use drain::Pace;
pub(crate) use inbox::{Bounds, Clients, Command, Cost, Full, Inbox};
pub use query::{Described, Found, Search};
pub(crate) use query::{Scan, Scanned};

use crate::{
    change::Change, config::Live, directory::Directory, ids::ClientId, metrics::ShardStats,
    sink::EventSink, tls::Established,
};

/// A connection that has just been upgraded to WebSocket.
#[derive(Debug)]
pub struct Newcomer {
    /// The socket, non-blocking.
    pub stream: TcpStream,
    /// The TLS of the connection, its handshake done; none if it is plain.
    pub tls: Option<Box<Established>>,
    /// The answer to the upgrade, which goes out before the first message.
    pub greeting: Vec<u8>,
    /// Bytes that were read beyond the upgrade request: the first of the client's frames.
    pub leftover: Vec<u8>,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// The compression window that was agreed, 9 to 15 bits; none if there is no compression.
    pub window: Option<u8>,
    /// What is to be remembered of its request; none if there is nothing.
    pub about: Option<Arc<About>>,
    /// Its place under `limits.max_clients`.
    pub seat: Seat,
    /// What it becomes in the step in which it is let in, before anybody is told of it; none if
    /// nothing is known of it.
    pub change: Option<Box<Change>>,
}

/// The places under `limits.max_clients`.
#[derive(Clone, Debug, Default)]
pub struct Seats(Arc<Place>);

/// A place for one client; dropping it gives the place back.
#[derive(Debug)]
pub struct Seat(Arc<Place>);

/// What a seat keeps for its client until the place is given back, and tells of its life.
pub trait Keepsake: fmt::Debug + Send + Sync {
    /// The client is there, and nobody knows of it yet; false if it must not stay.
    fn seated(&self, client: ClientId) -> bool {
        let _ = client;
        true
    }

    /// The client can't be addressed any more.
    fn retired(&self) {}
}

/// What a seat points at: the same for all, but for those that keep something.
#[derive(Debug, Default)]
struct Place {
    taken: Arc<AtomicUsize>,
    kept: SmallVec<[Arc<dyn Keepsake>; 2]>,
}

impl Seats {
    /// Takes a place, if fewer than `limit` are taken.
    pub fn take(&self, limit: usize) -> Option<Seat> {
        let more = |taken| (taken < limit).then_some(taken + 1);
        self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Seat(Arc::clone(&self.0)))
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Acquire)
    }
}

impl Seat {
    /// Keeps one thing more for as long as the place is taken. It stands beside the place, so that
    /// a client without one pays nothing for it.
    pub fn keep(&mut self, keepsake: Arc<dyn Keepsake>) {
        let mut kept = self.0.kept.clone();
        kept.push(keepsake);
        self.0 = Arc::new(Place { taken: Arc::clone(&self.0.taken), kept });
    }

    /// The client is there; false if it must not stay.
    fn seated(&self, client: ClientId) -> bool {
        self.0.kept.iter().all(|kept| kept.seated(client))
    }

    /// The client can't be addressed any more.
    fn retired(&self) {
        for kept in &self.0.kept {
            kept.retired();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A running shard, as the hub sees it.
pub(crate) struct Shard {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) stats: Arc<ShardStats>,
}

/// The threads of the shards.
#[derive(Debug)]
pub struct Threads(Vec<thread::JoinHandle<()>>);

/// What all shards share.
pub(crate) struct World {
    pub(crate) live: Live,
    pub(crate) directory: Arc<Directory>,
    pub(crate) sink: Arc<dyn EventSink>,
    /// Number of shards.
    pub(crate) shards: usize,
    pub(crate) clock: Clock,
}

/// Starts one thread per shard.
pub(crate) fn start(world: World) -> io::Result<(Vec<Shard>, Threads)> {
    let world = Arc::new(world);
    let mut shards = Vec::new();
    let mut threads = Vec::new();
    for index in 0..world.shards {
        let index = u16::try_from(index).map_err(io::Error::other)?;
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), run::WAKER)?;
        let waker = Arc::new(waker);
        let inbox = Arc::new(Inbox::new(Arc::clone(&waker)));
        // As for the inbox: it fails only if the shard is awake anyway.
        let ear = world.sink.ear(index, Arc::new(move || drop(waker.wake())));
        let stats = Arc::new(ShardStats::default());
        let (world, inbox_end, stats_end) =
            (Arc::clone(&world), Arc::clone(&inbox), Arc::clone(&stats));
        let thread = thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || run::run(index, poll, inbox_end, stats_end, ear, &world))?;
        shards.push(Shard { inbox, stats });
        threads.push(thread);
    }
    Ok((shards, Threads(threads)))
}

impl Threads {
    /// Whether a shard has ended by itself, which only a fault of its loop can bring about.
    pub fn any_ended(&self) -> bool {
        self.0.iter().any(thread::JoinHandle::is_finished)
    }

    /// Whether all have ended, which [`Command::Stop`] brings about.
    pub fn all_ended(&self) -> bool {
        self.0.iter().all(thread::JoinHandle::is_finished)
    }

    /// The names of those that have not.
    pub fn running(&self) -> Vec<&str> {
        let running = self.0.iter().filter(|thread| !thread.is_finished());
        running.filter_map(|thread| thread.thread().name()).collect()
    }

    /// Waits for the threads to end, for ever if one is stuck: see
    /// [`all_ended`](Self::all_ended). A thread that panicked has said so on standard error.
    pub fn join(self) {
        for thread in self.0 {
            let _ = thread.join();
        }
    }
}
