//! The hub: who is connected, and how to reach them.
//!
//! A *client* is one WebSocket. It may be bound to one *user* and sit in any number of *groups*.
//! The hub is the handle that every surface holds: it knows which shard to ask, waits for the
//! answers and adds them up.
//!
//! # Invariants
//!
//! * **A sender never waits for a receiver.** A call is answered when each addressed shard has
//!   queued the message; a slow client fills its own queue and meets the slow-client policy.
//! * **All or nobody.** A call that addresses several shards first takes a place in each inbox; if
//!   one is full the call is refused as a whole.
//! * **What was answered is seen.** Whoever asks after an answer sees what the answer said.

mod changes;
mod pages;
mod pulse;
mod query;
mod routes;
mod sends;

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;
use tokio::sync::oneshot;

pub use pages::{GroupEntry, NamePlace, Page};
pub use pulse::{Beat, Lag, Pulse};
pub use query::Place;

use crate::{
    attributes::Attributes,
    change::Refusal,
    close::Close,
    config::{self, Live},
    directory::Directory,
    ids::{ClientId, Name},
    message::{Payload, Receipt, Target},
    metrics::{BusyStats, HandshakeStats, ShardStats},
    shard::{
        self, Bounds, Clock, Command, ConnectionLimit, ConnectionPermit, NewConnection, Pace,
        Shard, Threads, assign,
    },
    sink::EventSink,
    wire,
};

/// Reaches every client of the gateway. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    shards: Vec<Shard>,
    directory: Arc<Directory>,
    live: Live,
    permits: ConnectionLimit,
    handshakes: HandshakeStats,
    busy: BusyStats,
    pulses: pulse::Pulses,
    draining: AtomicBool,
    /// Files the process may open: the room for `limits.max_clients`.
    files: u64,
}

/// Why the hub did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// The client is not connected.
    #[error("client {0} is not connected")]
    UnknownClient(ClientId),
    /// The client can't be changed like that.
    #[error(transparent)]
    Refused(Refusal),
    /// The caller should slow down and try again: nothing was done.
    #[error("shard {shard} is busy: {what} is used up; try again")]
    Busy {
        /// The shard that has no room.
        shard: usize,
        /// The key of the limit that is used up.
        what: &'static str,
    },
    /// The gateway is stopping, or a fault of its own kept a shard from answering: something may have
    /// been done.
    #[error("no answer: the gateway is stopping, or met a fault of its own (see its log)")]
    Stopped,
}

/// Why there is no place for another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// `limits.max_clients` are connected.
    #[error("gateway full: limits.max_clients ({limit}) reached")]
    Clients {
        /// The limit.
        limit: usize,
    },
    /// The gateway goes out of service.
    #[error("the gateway is going out of service")]
    Draining,
}

impl Hub {
    /// Starts the shard threads, which go by `clock`; what happens to their clients is told to
    /// `sink`.
    pub fn start(
        live: &Live,
        sink: Arc<dyn EventSink>,
        clock: Clock,
    ) -> io::Result<(Self, Threads)> {
        let directory = Arc::new(Directory::default());
        let world = shard::World {
            live: live.clone(),
            directory: Arc::clone(&directory),
            sink,
            shards: live.snapshot().resolved_shards(),
            clock,
        };
        let (shards, threads) = shard::start(world)?;
        let hub = Self(Arc::new(Inner {
            pulses: pulse::Pulses::new(shards.len()),
            shards,
            directory,
            live: live.clone(),
            permits: ConnectionLimit::default(),
            handshakes: HandshakeStats::default(),
            busy: BusyStats::default(),
            draining: AtomicBool::new(false),
            files: config::machine::files(),
        }));
        Ok((hub, threads))
    }

    /// Takes a place for a connection that is about to be upgraded.
    pub fn permit(&self) -> Result<ConnectionPermit, Full> {
        if self.0.draining.load(Ordering::Acquire) {
            return Err(Full::Draining);
        }
        let limit = self.max_clients();
        self.0.permits.take(limit).ok_or(Full::Clients { limit })
    }

    /// Clients that may be connected at once.
    pub fn max_clients(&self) -> usize {
        self.0.live.snapshot().places(self.0.files).clients
    }

    /// Hands an upgraded connection to the shard with the fewest sockets.
    pub fn adopt(&self, new: NewConnection) {
        if let Some(shard) = assign(&self.0.shards, |shard| &shard.load) {
            shard.inbox.push(Command::Adopt(Box::new(new)));
        }
    }

    /// Sends a message. The answer is exact, and given when every addressed shard has queued it.
    pub async fn send(&self, target: Target, payload: Payload) -> Result<Receipt, HubError> {
        let payload = self.deflated(payload).await;
        let routes = self.routes(&target);
        let answers =
            self.ask(routes, |clients, reply| Command::Send(clients, payload.clone(), reply))?;
        let mut total = Receipt::default();
        for answer in answers {
            total += answer.await?;
        }
        Ok(total)
    }

    /// Closes the clients of the target; answers how many. They are off every list by then.
    pub async fn close(&self, target: Target, mut close: Close) -> Result<usize, HubError> {
        if let Some(last) = close.last.take() {
            close.last = Some(self.deflated(last).await);
        }
        let answers = self.ask(self.routes(&target), |clients, reply| {
            Command::Close(clients, close.clone(), reply)
        })?;
        let mut total = 0;
        for answer in answers {
            total += answer.await?;
        }
        Ok(total)
    }

    /// Whether the client is connected.
    pub async fn is_online(&self, client: ClientId) -> Result<bool, HubError> {
        match self.uid_of(client).await {
            Ok(_) => Ok(true),
            Err(HubError::UnknownClient(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The uid of a client, if it has one.
    pub async fn uid_of(&self, client: ClientId) -> Result<Option<Name>, HubError> {
        let unknown = || HubError::UnknownClient(client);
        let route = self.route(client).ok_or_else(unknown)?;
        let answers = self.ask([route], |_, reply| Command::UidOf(client, reply))?;
        only(answers).await?.ok_or_else(unknown)
    }

    /// The attributes of a client.
    pub async fn attributes_of(&self, client: ClientId) -> Result<Attributes, HubError> {
        let unknown = || HubError::UnknownClient(client);
        let route = self.route(client).ok_or_else(unknown)?;
        let answers = self.ask([route], |_, reply| Command::AttributesOf(client, reply))?;
        only(answers).await?.ok_or_else(unknown)
    }

    /// The ids of all clients. Each was connected when its shard was read.
    pub async fn clients(&self) -> Result<Vec<ClientId>, HubError> {
        self.list(&Target::All).await
    }

    /// The ids of the clients in a group.
    pub async fn members(&self, group: &str) -> Result<Vec<ClientId>, HubError> {
        match any_name(group) {
            Some(group) => self.list(&Target::Group(group)).await,
            None => Ok(Vec::new()),
        }
    }

    /// Whether the group exists, that is, has a member.
    pub fn group_exists(&self, group: &str) -> bool {
        self.count_members(group) > 0
    }

    /// Clients connected now.
    pub fn count_clients(&self) -> u64 {
        self.shard_stats().map(|stats| stats.clients.get()).sum()
    }

    /// Sockets held now, including those of clients that are being closed.
    pub fn count_sockets(&self) -> u64 {
        self.shard_stats().map(|stats| stats.sockets.get()).sum()
    }

    /// Waits until no socket is held, nor on its way to a shard.
    pub async fn until_empty(&self) {
        while self.0.shards.iter().any(|shard| shard.load.connections() > 0) {
            for shard in &self.0.shards {
                shard.load.until_empty().await;
            }
        }
    }

    /// Distinct uids that have a client.
    pub fn count_users(&self) -> u64 {
        self.0.directory.one_look(|directory| directory.users.len())
    }

    /// Groups that have a member.
    pub fn count_groups(&self) -> u64 {
        self.0.directory.one_look(|directory| directory.groups.len())
    }

    /// Clients in a group.
    pub fn count_members(&self, group: &str) -> u64 {
        self.0.directory.groups.count(group) as u64
    }

    /// Distinct uids that have a client.
    pub fn users(&self) -> Vec<Name> {
        self.0.directory.users.all()
    }

    /// The clients of a uid.
    pub async fn clients_of(&self, uid: &str) -> Result<Vec<ClientId>, HubError> {
        match any_name(uid) {
            Some(uid) => self.list(&Target::User(uid)).await,
            None => Ok(Vec::new()),
        }
    }

    /// Whether the uid has a client.
    pub fn user_is_online(&self, uid: &str) -> bool {
        self.0.directory.users.contains(uid)
    }

    /// What each shard counts.
    pub fn shard_stats(&self) -> impl Iterator<Item = &ShardStats> {
        self.0.shards.iter().map(|shard| &*shard.stats)
    }

    /// What became of connections that asked to be clients.
    pub fn handshakes(&self) -> &HandshakeStats {
        &self.0.handshakes
    }

    /// Calls that were refused because something was full.
    pub fn busy(&self) -> &BusyStats {
        &self.0.busy
    }

    /// Calls that wait for each shard now.
    pub fn waiting_calls(&self) -> impl Iterator<Item = u64> {
        self.0.shards.iter().map(|shard| shard.inbox.calls())
    }

    /// Begins to refuse news and to close all clients, evenly over the window: the first at
    /// once, the last at its end. What is queued for a client goes out before its close frame.
    pub fn drain(&self, close: &Close, window: Duration) {
        self.refuse_news();
        let pace = Pace::new(window, self.shard_stats().map(|stats| stats.clients.get()));
        for shard in &self.0.shards {
            shard.inbox.push(Command::Drain(close.clone(), pace.clone()));
        }
    }

    /// Begins to refuse news.
    pub fn refuse_news(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Ends the shard threads; sockets that are left are dropped as they are.
    pub fn stop(&self) {
        self.refuse_news();
        for shard in &self.0.shards {
            shard.inbox.push(Command::Stop);
        }
    }

    /// Compresses a message that is too large to be compressed by a shard, for each window size in
    /// use, away from the threads that serve calls.
    async fn deflated(&self, mut payload: Payload) -> Payload {
        let compression = &self.0.live.snapshot().compression;
        let len = payload.bytes.len() as u64;
        let ahead = len > compression.inline_max.0 && len >= compression.min_size.0;
        if !compression.enabled || !ahead {
            return payload;
        }
        let in_use = |bits: &u8| {
            let mut gauges = self.shard_stats().filter_map(|stats| stats.window(*bits));
            gauges.any(|gauge| gauge.get() > 0)
        };
        let windows: Vec<u8> = (9..=15).filter(in_use).collect();
        if windows.is_empty() {
            return payload;
        }
        let (level, bytes) = (compression.level, payload.bytes.clone());
        let deflating = tokio::task::spawn_blocking(move || {
            let deflated = |bits| Some((bits, wire::compress_once(bits, level, &bytes)?.into()));
            windows.into_iter().filter_map(deflated).collect()
        });
        // Without it, which a panic down there could bring about, the message goes out plain.
        payload.deflated = deflating.await.unwrap_or_default();
        payload
    }

    async fn list(&self, target: &Target) -> Result<Vec<ClientId>, HubError> {
        let answers = self.ask(self.routes(target), Command::List)?;
        let mut all = Vec::new();
        for answer in answers {
            all.append(&mut answer.await?);
        }
        Ok(all)
    }

    /// Puts one command into the inbox of each shard on the routes, or none into any.
    fn ask<C, T>(
        &self,
        routes: impl IntoIterator<Item = (usize, C)>,
        mut command: impl FnMut(C, oneshot::Sender<T>) -> Command,
    ) -> Result<Answers<impl Future<Output = Result<T, HubError>>>, HubError> {
        let bounds = self.bounds();
        let mut places = SmallVec::<[_; 4]>::new();
        for (shard, concerned) in routes {
            let (reply, answer) = oneshot::channel();
            let command = command(concerned, reply);
            let place = self.0.shards[shard].inbox.reserve(command.cost(), bounds);
            places.push((place.map_err(|full| self.refuse(shard, full))?, command, answer));
        }
        let answers = places.into_iter().map(|(place, command, answer)| {
            place.commit(command);
            async { answer.await.map_err(|_| HubError::Stopped) }
        });
        Ok(answers.collect())
    }

    /// How much may wait for a shard.
    fn bounds(&self) -> Bounds {
        let limits = &self.0.live.snapshot().limits;
        let bytes = config::machine::share(limits.queued_budget(), self.0.shards.len());
        Bounds { calls: limits.inbox, bytes }
    }

    /// Counts a call for which there was no place.
    fn refuse(&self, shard: usize, full: shard::Full) -> HubError {
        let (counter, what) = match full {
            shard::Full::Calls => (&self.0.busy.inbox, "limits.inbox"),
            shard::Full::Bytes => (&self.0.busy.queued_bytes, "limits.queued_bytes"),
            shard::Full::Closed => return HubError::Stopped,
        };
        counter.increment();
        HubError::Busy { shard, what }
    }
}

type Answers<F> = SmallVec<[F; 4]>;

/// A name to look something up by: the limit was checked when the thing got its name, and may have
/// become smaller since.
fn any_name(text: &str) -> Option<Name> {
    Name::new(text, usize::MAX).ok()
}

/// The answer of a question that went to one shard.
async fn only<T>(
    answers: Answers<impl Future<Output = Result<T, HubError>>>,
) -> Result<T, HubError> {
    match answers.into_iter().next() {
        Some(answer) => answer.await,
        None => Err(HubError::Stopped),
    }
}
