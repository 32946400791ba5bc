//! Who is connected to a surface, and who has to go when it is full.
//!
//! A peer is *unproved* until it has done what the surface is for. Of the unproved ones, those whose
//! next bytes are waited for can be evicted: by a newcomer for whom there is no place, or by one whose
//! address has its share of the unproved places already. Those of an address that has more than its
//! share go before others; then those that have said nothing, and those waited for longest. Whoever
//! waits for *us* (a signature, the back end's word, an answer) keeps its place, and whoever
//! has proved something does too; only if there are no others does a newcomer wait.
//!
//! ```text
//!  admit ─► awaited ◄──────► working          leaving ─► gone
//!              │  └──────► proved                ▲
//!              └── full, or over its share ──────┘
//! ```
//!
//! A place is free again when the evicted peer is gone, its socket closed: the table never counts
//! fewer than there are.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::Address;
use crate::metrics::Shared as Counter;

/// Who has said nothing is not evicted sooner than this: what it has sent already may not have been
/// looked at yet.
pub const LEAST_WAIT: Duration = Duration::from_millis(100);

/// The same for who has come a step further, from perhaps far away; and how much longer an address
/// that has its share keeps what it has as long as there is room for others.
pub const LONG_WAIT: Duration = Duration::from_secs(1);

/// How many may be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Peers at once.
    pub places: usize,
    /// Unproved peers of one address.
    pub share: usize,
}

impl PeerLimits {
    /// So many places, of which unproved peers of one address may have so many percent.
    pub fn new(places: usize, percent: usize) -> Self {
        let places = places.max(1);
        Self { places, share: (places.saturating_mul(percent) / 100).max(1) }
    }
}

/// The peers of one surface. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct PeerTable(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Held for a few steps in memory.
    table: Mutex<Table>,
    /// A place came free, or somebody may be evicted who might not before.
    changed: Notify,
    evictions: Counter,
}

/// A peer's place. It is given back with the last clone.
#[derive(Clone, Debug)]
pub struct PeerPermit(Arc<Place>);

#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    id: u64,
    leave: Arc<Notify>,
}

/// As long as it is there, the peer waits for us.
#[derive(Debug)]
pub struct Working(PeerPermit);

impl PeerTable {
    /// Takes a place for a newcomer, and evicts for it whoever has to go. Waits as long as nobody
    /// can be evicted. Can be dropped without losing a place.
    ///
    /// Peers without an address are held to no share. A raised limit acts on the next who comes, so
    /// who waits while limits change has to come again (`Live::swaps` says when).
    pub async fn admit(&self, address: Option<IpAddr>, limits: PeerLimits) -> PeerPermit {
        let address = address.map(Address::from);
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = match self.enter(address, limits) {
                Ok(permit) => return permit,
                Err(until) => until,
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    /// Takes a place if one is free, and evicts nobody for it.
    pub fn try_admit(&self, address: Option<IpAddr>, limits: PeerLimits) -> Option<PeerPermit> {
        let mut table = self.0.lock();
        let free = table.peers.len() < limits.places;
        free.then(|| self.insert(&mut table, address.map(Address::from)))
    }

    /// How many were evicted so far.
    pub fn evictions(&self) -> u64 {
        self.0.evictions.get()
    }

    fn enter(
        &self,
        address: Option<Address>,
        limits: PeerLimits,
    ) -> Result<PeerPermit, Option<Instant>> {
        let mut table = self.0.lock();
        let (evicted, room) = table.make_room(address, limits, Instant::now());
        for _ in 0..evicted {
            self.0.evictions.increment();
        }
        room.map(|()| self.insert(&mut table, address))
    }

    fn insert(&self, table: &mut Table, address: Option<Address>) -> PeerPermit {
        let leave = Arc::<Notify>::default();
        let id = table.insert(address, Arc::clone(&leave), Instant::now());
        PeerPermit(Arc::new(Place { shared: Arc::clone(&self.0), id, leave }))
    }
}

impl PeerPermit {
    /// Waits until the peer has to go. For one at a time.
    pub async fn evicted(&self) {
        self.0.leave.notified().await;
    }

    /// The peer has done what the surface is for: it is not evicted any more.
    pub fn prove(&self) {
        self.change(Standing::Proved, |_| true);
    }

    /// What the peer had proved holds no longer.
    pub fn unprove(&self) {
        self.change(Standing::awaited(LONG_WAIT), |before| before == Standing::Proved);
    }

    /// The peer came a step further: others are evicted before it.
    pub fn heard(&self) {
        self.change(Standing::awaited(LONG_WAIT), Standing::is_unproved);
    }

    /// The peer waits for us until the guard is dropped. Afterwards it has come a step further.
    pub fn working(&self) -> Working {
        self.change(Standing::Working, Standing::is_unproved);
        Working(self.clone())
    }

    fn change(&self, standing: Standing, applies: impl FnOnce(Standing) -> bool) {
        let (mut table, id) = (self.0.shared.lock(), self.0.id);
        if table.peers.get(&id).is_some_and(|peer| applies(peer.standing)) {
            table.change(id, standing);
            drop(table);
            if matches!(standing, Standing::Awaited(_)) {
                self.0.shared.changed.notify_waiters();
            }
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.heard();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().remove(self.id);
        self.shared.changed.notify_waiters();
    }
}

impl Shared {
    /// The lock. No step that holds it can panic half-way.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of the peers. Each step takes time that grows with the logarithm of their number.
#[derive(Debug, Default)]
struct Table {
    peers: HashMap<u64, Peer>,
    /// Who is waited for, in the order in which they may be evicted.
    awaited: BTreeSet<(Instant, u64)>,
    /// Addresses that have unproved peers.
    addresses: HashMap<Address, Known>,
    /// The same by how many they have.
    numbers: BTreeSet<(usize, Address)>,
    /// Evicted peers that are not gone yet.
    leaving: usize,
    next: u64,
}

#[derive(Debug)]
struct Peer {
    address: Option<Address>,
    standing: Standing,
    leave: Arc<Notify>,
}

/// What a peer has a place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its next bytes are waited for; from then on it may be evicted.
    Awaited(Instant),
    /// It waits for us.
    Working,
    /// It has done what the surface is for.
    Proved,
    /// It was told to go.
    Leaving,
}

impl Standing {
    fn awaited(wait: Duration) -> Self {
        Self::Awaited(Instant::now() + wait)
    }

    fn is_unproved(self) -> bool {
        matches!(self, Self::Awaited(_) | Self::Working)
    }
}

/// The unproved peers of one address.
#[derive(Debug, Default)]
struct Known {
    unproved: usize,
    awaited: BTreeSet<(Instant, u64)>,
}

impl Table {
    /// Evicts whoever has to go for a newcomer; says how many that were, and whether there is a
    /// place for it. If not, there may be one after a change or at the time that is answered.
    fn make_room(
        &mut self,
        address: Option<Address>,
        limits: PeerLimits,
        now: Instant,
    ) -> (usize, Result<(), Option<Instant>>) {
        let mut evicted = 0;
        while let Some(known) = address.and_then(|address| self.addresses.get(&address))
            && known.unproved >= limits.share
            && let Some(&(ripens, id)) = known.awaited.first()
            && ripens + LONG_WAIT <= now
        {
            self.change(id, Standing::Leaving);
            evicted += 1;
        }
        if self.peers.len() < limits.places {
            return (evicted, Ok(()));
        }
        let needed = self.peers.len() + 1 - limits.places;
        while self.leaving < needed {
            let Some((ripens, id)) = self.victim(limits.share) else {
                return (evicted, Err(None));
            };
            if ripens > now {
                return (evicted, Err(Some(ripens)));
            }
            self.change(id, Standing::Leaving);
            evicted += 1;
        }
        (evicted, Err(None))
    }

    /// Who goes next, and from when on: the first of the address that has most, if that is more than
    /// its share, so that a flood from one address costs others nothing; else the first of all.
    fn victim(&self, share: usize) -> Option<(Instant, u64)> {
        let most = self.numbers.last().filter(|(unproved, _)| *unproved > share);
        let its = most.and_then(|(_, address)| self.addresses.get(address)?.awaited.first());
        its.or_else(|| self.awaited.first()).copied()
    }

    fn insert(&mut self, address: Option<Address>, leave: Arc<Notify>, now: Instant) -> u64 {
        self.next += 1;
        let id = self.next;
        // Entered as one that counts for nothing, and then changed like all others.
        self.peers.insert(id, Peer { address, standing: Standing::Proved, leave });
        self.change(id, Standing::Awaited(now + LEAST_WAIT));
        id
    }

    fn change(&mut self, id: u64, standing: Standing) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // Who was told to go is not called back.
        if peer.standing == Standing::Leaving {
            return;
        }
        let before = std::mem::replace(&mut peer.standing, standing);
        if standing == Standing::Leaving {
            peer.leave.notify_one();
            self.leaving += 1;
        }
        let address = peer.address;
        self.count(id, address, before, standing);
    }

    fn remove(&mut self, id: u64) {
        let Some(peer) = self.peers.remove(&id) else { return };
        if peer.standing == Standing::Leaving {
            self.leaving -= self.leaving.min(1);
        }
        self.count(id, peer.address, peer.standing, Standing::Proved);
        if self.peers.is_empty() {
            // What a flood took is given back when it is over.
            self.peers.shrink_to(0);
            self.addresses.shrink_to(0);
        }
    }

    /// Keeps the orders and the numbers after a change.
    fn count(&mut self, id: u64, address: Option<Address>, before: Standing, after: Standing) {
        if let Standing::Awaited(ripens) = before {
            self.awaited.remove(&(ripens, id));
        }
        if let Standing::Awaited(ripens) = after {
            self.awaited.insert((ripens, id));
        }
        let Some(address) = address else { return };
        let known = self.addresses.entry(address).or_default();
        if let Standing::Awaited(ripens) = before {
            known.awaited.remove(&(ripens, id));
        }
        if let Standing::Awaited(ripens) = after {
            known.awaited.insert((ripens, id));
        }
        let number = known.unproved;
        known.unproved += usize::from(after.is_unproved());
        known.unproved -= usize::from(before.is_unproved()).min(known.unproved);
        if known.unproved != number {
            self.numbers.remove(&(number, address));
            self.numbers.insert((known.unproved, address));
        }
        if known.unproved == 0 {
            self.numbers.remove(&(0, address));
            self.addresses.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests;
