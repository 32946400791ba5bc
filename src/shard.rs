//! A shard: one thread, one poll loop, and the sockets that live on it.
//!
//! An established WebSocket is handed to the shard with the fewest clients and stays there until it
//! closes. The shard owns everything about it (socket, decoder, queue, uid, groups, timers), so what the
//! shard says of its clients is the truth.
//!
//! ```text
//!               ┌────────────────────────── one turn ──────────────────────────┐
//!  sockets ──►  │ read ─► jobs ─► closes that are due ─► timers ─► flush dirty  │ ──► sockets
//!  inbox   ──►  │  └────── each step's effects are applied after it ──────┘     │
//!               └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! The [event loop](event_loop) takes the turns. [State] holds the owners of all data; steps that concern
//! several of them stand in files of their own and say by [effects](effect) what is to be done to a
//! connection beside that. Messages that arrive together leave in one system call per socket: batching
//! without a timer and without added latency. A panic in a step costs that connection (close code 1011)
//! and nobody else.
//!
//! [State]: state::State

mod adopt;
mod backpressure;
mod batch;
mod change;
mod clock;
mod closing;
mod connection;
mod connections;
mod context;
mod deferred;
mod drain;
mod effect;
mod encode;
mod enqueue;
mod event_loop;
mod events;
mod guard;
mod hear;
mod inbox;
mod jobs;
mod load;
mod member_index;
mod membership;
mod memory;
mod new_connection;
mod outbound;
mod permit;
mod queries;
mod question;
mod rate_limit;
mod receive;
mod receiver;
mod reply;
mod send;
mod settings;
mod slot;
mod socket;
mod state;
mod timers;
mod tls;
mod wheel;
mod world;
mod write_queue;

use std::{io, sync::Arc, thread};

pub use crate::about::About;
pub use adopt::REPLACED;
pub use clock::Clock;
pub(crate) use drain::Pace;
pub(crate) use inbox::{Bounds, Command, Cost, Full, Inbox, Recipients};
pub(crate) use load::{Load, assign};
pub use new_connection::NewConnection;
pub use permit::{ConnectionGuard, ConnectionLimit, ConnectionPermit};
pub use question::{Described, Found, Search};
pub(crate) use question::{Scan, Scanned};
pub(crate) use world::World;

use crate::metrics::ShardStats;

/// A running shard, as the hub sees it.
pub(crate) struct Shard {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) stats: Arc<ShardStats>,
    pub(crate) load: Arc<Load>,
}

/// The threads of the shards.
#[derive(Debug)]
pub struct Threads(Vec<thread::JoinHandle<()>>);

/// Starts one thread per shard.
pub(crate) fn start(world: World) -> io::Result<(Vec<Shard>, Threads)> {
    let world = Arc::new(world);
    let mut shards = Vec::new();
    let mut threads = Vec::new();
    for index in 0..world.shards {
        let index = u16::try_from(index).map_err(io::Error::other)?;
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), event_loop::WAKER)?;
        let waker = Arc::new(waker);
        let inbox = Arc::new(Inbox::new(Arc::clone(&waker)));
        // As for the inbox: it fails only if the shard is awake anyway.
        let ear = world.sink.ear(index, Arc::new(move || drop(waker.wake())));
        let stats = Arc::new(ShardStats::default());
        let load = Arc::new(Load::default());
        let (world, inbox_end) = (Arc::clone(&world), Arc::clone(&inbox));
        let counts = (Arc::clone(&stats), Arc::clone(&load));
        let thread = thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || event_loop::run(index, poll, inbox_end, counts, ear, &world))?;
        shards.push(Shard { inbox, stats, load });
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
