//! What clients do, for those who subscribe.
//!
//! ```text
//!  shards ─► ears ─► group ─► Subscription::take ─► in flight ─► acknowledge
//!                    group ─► …        │                └► lost, overdue: back to the front
//!                                      └ of one group each client has one subscriber at a time
//! ```
//!
//! It knows nothing of gRPC: `grpc/` carries deliveries to subscribers and brings back what they
//! acknowledge.

mod consumer_group;
mod ear;
mod event;
mod group;
mod keeper;
mod links;
mod seat;
mod subscription;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, time::Instant};

pub use event::{Delivered, Delivery, Event, Newly, Partitions, What};
pub use group::{Stats, SubscribeOptions, partition_of};
pub use seat::Ended;
pub use subscription::{SubscribeError, Subscription, WrongAck};

use crate::{
    config::{self, Config, Live},
    ids::Name,
    sink::{Ear, EventSink, Wake},
};
use consumer_group::ConsumerGroup;
use ear::{List, ShardEar};
use group::Bounds;
use links::Links;

/// What clients do, for those who subscribe. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    live: Live,
    epoch: u64,
    links: Arc<Links>,
    /// The groups, for the ears.
    groups: Arc<ArcSwap<List>>,
    /// Taken by who makes or ends a group, subscribes or begins to listen.
    book: Mutex<Book>,
    keeper: Arc<Notify>,
}

/// What is changed together with the list of groups.
struct Book {
    /// The configuration that it follows.
    config: config::Events,
    /// The groups that it names. Others are there for as long as somebody wants them.
    named: HashSet<Name>,
    stopped: bool,
}

impl Events {
    /// Nothing has happened yet. The groups of `events.groups` are there; reloads are followed. To
    /// be called within a tokio runtime.
    pub fn new(live: &Live) -> Self {
        let swaps = live.swaps();
        let config = live.snapshot();
        let (links, keeper) = (Arc::new(Links::default()), Arc::new(Notify::new()));
        let named = names(&config);
        let bounds = Bounds::from(&config.events);
        let groups: List = named
            .iter()
            .map(|name| Arc::new(ConsumerGroup::new(name.clone(), bounds, Arc::clone(&links))))
            .collect();
        let book = Book { config: config.events.clone(), named, stopped: false };
        let shared = Arc::new(Shared {
            live: live.clone(),
            epoch: epoch(),
            links,
            groups: Arc::new(ArcSwap::from_pointee(groups)),
            book: Mutex::new(book),
            keeper: Arc::clone(&keeper),
        });
        tokio::spawn(keeper::keep(Arc::downgrade(&shared), keeper, swaps));
        Self(shared)
    }

    /// Chosen at random when the gateway starts.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Joins a consumer group. No window is wider than `events.max_unacknowledged`.
    pub fn subscribe(
        &self,
        group: &Name,
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        let shared = &self.0;
        let config = shared.live.snapshot();
        let mut book = shared.book();
        shared.follow(&mut book, &config);
        if book.stopped {
            return Err(SubscribeError::Stopped);
        }
        let known = shared.find(group);
        let found = match known {
            Some(found) => found,
            None if !config.events.allow_new_groups => {
                return Err(SubscribeError::UnknownGroup { group: group.clone() });
            }
            None if shared.groups.load().len() >= config.events.max_groups => {
                let limit = config.events.max_groups;
                return Err(SubscribeError::TooManyGroups { limit });
            }
            None => shared.make(group, &config.events),
        };
        let most = config.events.max_unacknowledged;
        let window = options.window.map_or(most, |window| window.clamp(1, most));
        let limit = config.events.max_subscribers;
        let options = SubscribeOptions { window: Some(window), ..options };
        let (key, seat) =
            found.join(options, limit).ok_or(SubscribeError::TooManySubscribers { limit })?;
        drop(book);
        shared.keeper.notify_one();
        let keeper = Arc::clone(&shared.keeper);
        Ok(Subscription { group: found, key, seat, window, epoch: shared.epoch, keeper })
    }

    /// Whether those who subscribe have acknowledged all that there is for them. What waits for
    /// nobody is not counted.
    pub fn is_settled(&self) -> bool {
        self.0.groups.load().iter().all(|group| {
            let stats = group.stats();
            stats.subscribers == 0 || stats.held_messages + stats.held_changes == 0
        })
    }

    /// Ends all subscriptions, and lets nobody subscribe any more.
    pub fn stop(&self) {
        let mut book = self.0.book();
        book.stopped = true;
        for group in self.0.groups.swap(Arc::default()).iter() {
            group.end(Ended::Stopped);
        }
    }

    /// How it stands with each group, by name.
    pub fn stats(&self) -> Vec<(Name, Stats)> {
        let (book, groups) = (self.0.book(), self.0.groups.load());
        let of = |group: &Arc<ConsumerGroup>| {
            let configured = book.named.contains(group.name());
            (group.name().clone(), Stats { configured, ..group.stats() })
        };
        let mut stats: Vec<_> = groups.iter().map(of).collect();
        stats.sort_by(|(a, _), (b, _)| a.cmp(b));
        stats
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &Name) -> Option<Arc<ConsumerGroup>> {
        self.groups.load().iter().find(|group| group.name() == name).cloned()
    }

    /// Makes a group. Shards will name the clients that are there already.
    fn make(&self, name: &Name, config: &config::Events) -> Arc<ConsumerGroup> {
        let links = Arc::clone(&self.links);
        let shards = links.count();
        let made = ConsumerGroup::late(name.clone(), Bounds::from(config), links, shards);
        let made = Arc::new(made);
        let mut groups = List::clone(&self.groups.load());
        groups.push(Arc::clone(&made));
        self.groups.store(Arc::new(groups));
        self.links.wake_all();
        made
    }

    /// Ends the groups that it is said of why.
    fn end(&self, why: impl Fn(&ConsumerGroup) -> Option<Ended>) {
        let groups = self.groups.load_full();
        let (ending, staying): (List, List) =
            groups.iter().cloned().partition(|group| why(group).is_some());
        if ending.is_empty() {
            return;
        }
        // First, so that no ear waits for a group that is not there.
        self.groups.store(Arc::new(staying));
        for group in ending {
            if let Some(why) = why(&group) {
                group.end(why);
            }
        }
    }

    /// Brings the groups to what is configured.
    fn follow(&self, book: &mut Book, config: &Config) {
        if book.config == config.events || book.stopped {
            return;
        }
        book.config = config.events.clone();
        let named = names(config);
        let removed: HashSet<Name> = book.named.difference(&named).cloned().collect();
        self.end(|group| removed.contains(group.name()).then_some(Ended::Gone));
        let bounds = Bounds::from(&config.events);
        for group in self.groups.load().iter() {
            group.set_bounds(bounds);
        }
        for name in &named {
            if self.find(name).is_none() {
                self.make(name, &config.events);
            }
        }
        book.named = named;
    }

    /// Sees to what is due. When to look again, if nothing happens before.
    fn tend(&self, now: Instant) -> Option<Instant> {
        let config = self.live.snapshot();
        let mut book = self.book();
        self.follow(&mut book, &config);
        let mut next = None::<Instant>;
        let mut look_at = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for group in self.groups.load().iter() {
            group.tend(now).into_iter().for_each(&mut look_at);
        }
        let expiry = |group: &ConsumerGroup| {
            let vacant = group.vacant().filter(|_| !book.named.contains(group.name()))?;
            Some(vacant + book.config.new_group_expiry)
        };
        self.end(|group| expiry(group).is_some_and(|expiry| expiry <= now).then_some(Ended::Gone));
        self.groups.load().iter().filter_map(|group| expiry(group)).for_each(look_at);
        next
    }
}

impl EventSink for Events {
    fn ear(&self, _: u16, wake: Wake) -> Box<dyn Ear> {
        // So that each group either waits for this ear's clients, or is known to it.
        let _book = self.0.book();
        let (links, groups) = (Arc::clone(&self.0.links), Arc::clone(&self.0.groups));
        Box::new(ShardEar::new(links, groups, wake))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.notify_one();
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("epoch", &self.0.epoch).finish_non_exhaustive()
    }
}

/// The groups that are configured. Their names were checked.
fn names(config: &Config) -> HashSet<Name> {
    let limit = config.limits.names;
    config.events.groups.0.iter().filter_map(|name| Name::new(name, limit).ok()).collect()
}

/// A number that no earlier run of the gateway had.
fn epoch() -> u64 {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        return u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    }
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
