//! Random walks: clients come, speak and go; subscribers join, stall, crash and acknowledge in
//! parts; room runs out. A plain list of what has happened says what each may be told.

mod peer;
mod room;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use self::peer::Peer;
use super::{
    super::{Bounds, Group, Key, PARTITIONS, SubscribeOptions, mix, partition_of},
    event,
};
use crate::{
    config::WhenFull,
    events::{Delivered, Event, What},
    ids::ClientId,
};

/// Where an event is, as far as those outside can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    InFlight(Key),
    Acknowledged,
    /// A later one of its client was told: it can't be any more.
    Passed,
}

struct Record {
    event: Arc<Event>,
    fate: Fate,
    told: bool,
}

struct Walk {
    seed: u64,
    state: u64,
    group: Group,
    bounds: Bounds,
    /// The most messages that were ever allowed.
    widest: usize,
    now: Instant,
    log: BTreeMap<u64, Record>,
    /// The changes of each client, and whether it is there then.
    changes: BTreeMap<ClientId, Vec<(u64, bool)>>,
    /// The events of each client that were not acknowledged or passed over.
    pending: BTreeMap<ClientId, BTreeSet<u64>>,
    clients: Vec<ClientId>,
    /// Clients that were there before the group and that it was not told of yet.
    unnamed: Vec<ClientId>,
    next_slot: u32,
    peers: Vec<Peer>,
    /// Ranges that were told to be missed, and acknowledged: first, last, messages, changes.
    missed: Vec<(u64, u64, u64, u64)>,
    snapshots: usize,
    /// Partitions of which there was a snapshot.
    cleared: BTreeSet<u16>,
}

impl Walk {
    fn new(seed: u64, when_full: WhenFull) -> Self {
        let tight = !seed.is_multiple_of(3);
        let size = |tight_size| if tight { tight_size } else { 1 << 20 };
        let bounds = Bounds {
            messages: size(8 + usize::from(mix(seed).to_be_bytes()[0]) % 60),
            changes: size(4 + usize::from(mix(seed).to_be_bytes()[1]) % 40),
            bytes: size(30_000),
            when_full,
            window: 64,
            ack_timeout: None,
        };
        let mut walk = Self {
            seed,
            state: mix(seed ^ 0x5eed),
            group: Group::new(bounds),
            bounds,
            widest: bounds.messages,
            now: Instant::now(),
            log: BTreeMap::new(),
            changes: BTreeMap::new(),
            pending: BTreeMap::new(),
            clients: Vec::new(),
            unnamed: Vec::new(),
            next_slot: 0,
            peers: Vec::new(),
            missed: Vec::new(),
            snapshots: 0,
            cleared: BTreeSet::new(),
        };
        if seed % 2 == 1 {
            walk.group = Group::late(bounds, 1);
            walk.unnamed = (0..walk.draw(1500)).map(|_| walk.new_client()).collect();
        }
        walk
    }

    fn draw(&mut self, below: usize) -> usize {
        self.state = mix(self.state);
        usize::try_from(self.state % below as u64).unwrap()
    }

    fn new_client(&mut self) -> ClientId {
        self.next_slot += 1;
        ClientId::new(0, self.next_slot, 1, mix(u64::from(self.next_slot) ^ self.seed))
    }

    fn step(&mut self) {
        match self.draw(64) {
            0..10 => {
                let client = self.new_client();
                self.clients.push(client);
                self.append(event::opened(client));
            }
            10..28 if !self.clients.is_empty() => {
                // Now and then one that says more than others.
                let at = self.draw(self.clients.len()) * usize::from(self.draw(3) > 0);
                let size = self.draw(8) * 100;
                if !self.group.pauses() {
                    self.append(event::message(self.clients[at], size));
                }
            }
            28..36 if !self.clients.is_empty() => {
                let at = self.draw(self.clients.len());
                let client = self.clients.swap_remove(at);
                self.append(event::closed(client));
            }
            36 if self.peers.len() < 6 => {
                let window = 1 + self.draw(40);
                let snapshots = self.draw(2) == 0;
                self.join(SubscribeOptions { window: Some(window), snapshots });
            }
            37 if self.draw(2) == 0 && !self.peers.is_empty() => {
                let at = self.draw(self.peers.len());
                self.leave(at);
            }
            38..50 if !self.peers.is_empty() => {
                let at = self.draw(self.peers.len());
                let most = 1 + self.draw(12);
                self.take(at, most);
            }
            50..60 if !self.peers.is_empty() => {
                let at = self.draw(self.peers.len());
                self.acknowledge(at);
            }
            60 if self.draw(20) == 0 => {
                self.bounds.messages = 8 + self.draw(60);
                self.widest = self.widest.max(self.bounds.messages);
                self.bounds.changes = 4 + self.draw(40);
                self.group.set_bounds_at_once(self.bounds);
            }
            61..64 => self.name_some(),
            _ => {}
        }
        self.check();
    }

    /// Goes on with the roll call.
    fn name_some(&mut self) {
        if self.group.shards_pending == 0 {
            return;
        }
        let some = self.unnamed.len().min(200);
        let named: Vec<ClientId> = self.unnamed.drain(self.unnamed.len() - some..).collect();
        self.group.name(&named);
        for client in named {
            self.changes.entry(client).or_default().push((0, true));
            self.clients.push(client);
        }
        if self.unnamed.is_empty() {
            self.group.named();
        }
    }

    fn append(&mut self, event: Event) {
        let before = self.group.stats();
        let event = Arc::new(event);
        let weight = event.weight() as u64;
        let waiting = self.waiting();
        self.group.append(&event);
        let cursor = self.group.last;
        match event.what {
            What::Opened(_) => self.changes.entry(event.client).or_default().push((cursor, true)),
            What::Closed(_) => self.changes.entry(event.client).or_default().push((cursor, false)),
            What::Message { .. } => {}
        }
        self.pending.entry(event.client).or_default().insert(cursor);
        let after = self.group.stats();
        let bytes = self.bounds.bytes as u64;
        if after.missed_changes > before.missed_changes {
            assert!(!event.is_message(), "a message drops no change");
            let full = before.held_changes >= self.bounds.changes as u64;
            assert!(full || before.held_bytes + weight > bytes, "a change is dropped for nothing");
        } else if after.missed_messages > before.missed_messages {
            assert_eq!(self.bounds.when_full, WhenFull::DropOldest);
            let full = before.held_messages >= self.bounds.messages as u64;
            assert!(full || before.held_bytes + weight > bytes, "a message is dropped for nothing");
            self.judge_victims(waiting, &event);
        }
        self.log.insert(cursor, Record { event, fate: Fate::Kept, told: false });
    }

    fn join(&mut self, options: SubscribeOptions) -> Key {
        let owners = self.owners();
        let key = self.group.join(options);
        self.peers.push(Peer::new(key, options));
        self.note_moves(&owners);
        key
    }

    fn owners(&self) -> Vec<Option<Key>> {
        self.group.partitions.iter().map(|partition| partition.owner).collect()
    }

    /// Partitions have other owners now.
    fn note_moves(&mut self, before: &[Option<Key>]) {
        for ((before, now), number) in before.iter().zip(self.owners()).zip(1..) {
            self.peers.iter_mut().for_each(|peer| peer.note_move(number, *before, now));
        }
    }

    fn leave(&mut self, at: usize) {
        let peer = self.peers.swap_remove(at);
        let owners = self.owners();
        self.group.leave_at_once(peer.key);
        self.note_moves(&owners);
        for delivery in peer.flight {
            if let Some(record) = self.log.get_mut(&delivery.cursor) {
                record.fate = Fate::Kept;
            }
        }
    }

    fn take(&mut self, at: usize, most: usize) {
        let key = self.peers[at].key;
        let most_bytes = 1 + self.draw(60_000);
        let in_flight = self.peers[at].flight.len();
        let taken = self.group.take(key, self.now, most, most_bytes);
        // One event may have what is missing and a snapshot before it.
        assert!(taken.len() <= most + 2 && in_flight + taken.len() <= self.peers[at].window + 2);
        self.peers[at].idle = taken.is_empty();
        let events = taken.iter().filter_map(|delivery| match &delivery.what {
            Delivered::Event(event) => Some(event.weight()),
            _ => None,
        });
        let (events, bytes) = events.fold((0, 0), |(events, sum), bytes| (events + 1, sum + bytes));
        assert!(events <= 1 || bytes <= most_bytes);
        // What a snapshot should say is looked up when all is taken: what comes after it isn't in it.
        let mut later: BTreeSet<u64> = taken.iter().map(|delivery| delivery.cursor).collect();
        for delivery in taken {
            later.remove(&delivery.cursor);
            self.told(at, &delivery, &later);
            self.peers[at].flight.push_back(delivery);
        }
    }

    fn acknowledge(&mut self, at: usize) {
        let key = self.peers[at].key;
        let last = self.group.last;
        let ahead = last + 1 + self.draw(9) as u64;
        assert_eq!(
            self.group.acknowledge_at_once(key, ahead).map_err(|future| future.last),
            Err(last)
        );
        if self.peers[at].flight.is_empty() {
            let (any, before) =
                (self.draw(usize::try_from(last).unwrap() + 1) as u64, self.group.stats());
            assert_eq!(self.group.acknowledge_at_once(key, any), Ok(()));
            assert_eq!(self.group.stats(), before, "it has nothing to acknowledge");
            return;
        }
        let upto = self.draw(self.peers[at].flight.len());
        let cursor = self.peers[at].flight[upto].cursor;
        assert_eq!(self.group.acknowledge_at_once(key, cursor), Ok(()));
        for delivery in self.peers[at].flight.drain(..=upto) {
            match delivery.what {
                Delivered::Event(event) => {
                    self.log.get_mut(&delivery.cursor).unwrap().fate = Fate::Acknowledged;
                    self.pending.get_mut(&event.client).unwrap().remove(&delivery.cursor);
                }
                Delivered::Missed { first, last, messages, changes, .. } => {
                    self.missed.push((first, last, messages, changes));
                }
                Delivered::Snapshot { .. } => {}
            }
        }
    }

    /// What holds at all times.
    fn check(&mut self) {
        for key in self.group.stirred().collect::<Vec<_>>() {
            let peer = self.peers.iter_mut().find(|peer| peer.key == key);
            if let Some(peer) = peer {
                peer.idle = false;
            }
        }
        let stats = self.group.stats();
        let kept = stats.held_messages + stats.held_changes;
        let appended = stats.opened + stats.messages + stats.closed;
        let missed = stats.missed_messages + stats.missed_changes;
        let done = self.log.len() as u64 - kept - missed;
        assert_eq!(appended, self.log.len() as u64);
        // What is in flight isn't dropped when bounds become tighter, and for who pauses nothing is.
        let (bounds, in_flight) = (self.bounds, stats.unacknowledged);
        let pauses = bounds.when_full == WhenFull::Pause;
        let messages = if pauses { self.widest as u64 } else { bounds.messages as u64 };
        assert!(stats.held_messages <= messages.max(in_flight), "{stats:?}");
        assert!(stats.held_changes <= (bounds.changes as u64).max(in_flight), "{stats:?}");
        assert!(stats.held_bytes <= 2 * bounds.bytes as u64 + 1000, "{stats:?}");
        if self.draw(16) > 0 {
            return;
        }
        let acknowledged = |record: &&Record| record.fate == Fate::Acknowledged;
        assert_eq!(self.log.values().filter(acknowledged).count() as u64, done);
        for peer in self.peers.iter().filter(|peer| peer.idle && self.group.shards_pending == 0) {
            let crowded = self.group.is_crowded() && !peer.flight.is_empty();
            let has_room = peer.flight.len() < peer.window && !crowded;
            let waits = self.group.partitions.iter().any(|partition| {
                partition.can_go_to(peer.key)
                    && (partition.needs_snapshot() || partition.head().is_some())
            });
            assert!(!(has_room && waits), "{:?} is not told that there is something", peer.key);
        }
        for (place, partition) in self.group.partitions.iter().enumerate() {
            assert_eq!(partition.needs_snapshot(), self.group.needs_snapshot.contains(place));
        }
        let heads = self.group.subscribers.values().flat_map(|subscriber| &subscriber.heads);
        let mut offered: Vec<usize> = heads.map(|head| usize::from(head.0.1)).collect();
        offered.sort_unstable();
        let expected = (0..PARTITIONS).filter(|place| self.group.partitions[*place].offered);
        assert_eq!(offered, expected.collect::<Vec<_>>(), "each is offered once");
    }

    /// One subscriber is left and does everything; then nothing is left.
    fn finish(&mut self) {
        while self.group.shards_pending > 0 {
            self.name_some();
        }
        while !self.peers.is_empty() {
            self.leave(0);
        }
        let key = self.join(SubscribeOptions { window: Some(64), snapshots: false });
        loop {
            self.take(0, 64);
            let Some(last) = self.peers[0].flight.back().map(|delivery| delivery.cursor) else {
                break;
            };
            while !self.peers[0].flight.is_empty() {
                self.acknowledge(0);
            }
            self.group.acknowledge_at_once(key, last).unwrap();
            self.check();
        }
        let stats = self.group.stats();
        assert_eq!((stats.held_messages, stats.held_changes, stats.held_bytes), (0, 0, 0));
        let lost: Vec<_> =
            self.log.iter().filter(|(_, record)| record.fate != Fate::Acknowledged).collect();
        let messages = lost.iter().filter(|(_, record)| record.event.is_message()).count() as u64;
        let told = self.missed.iter().map(|(_, _, messages, _)| messages).sum::<u64>();
        assert_eq!((told, stats.missed_messages), (messages, messages));
        let changes = lost.len() as u64 - messages;
        let told = self.missed.iter().map(|(_, _, _, changes)| changes).sum::<u64>();
        assert_eq!((told, stats.missed_changes), (changes, changes));
        for (cursor, _) in lost {
            let told = |(first, last, ..): &(u64, u64, u64, u64)| (*first..=*last).contains(cursor);
            assert!(self.missed.iter().any(told), "{cursor} is missed and nobody was told");
        }
        for partition in &self.group.partitions {
            assert_eq!((partition.in_flight, partition.holder), (0, None));
        }
        let based: BTreeSet<ClientId> = self
            .group
            .partitions
            .iter()
            .flat_map(|partition| partition.connected.clone())
            .collect();
        assert_eq!(based, self.clients.iter().copied().collect());
    }
}

const STEPS: usize = 2000;

fn walks(seeds: std::ops::Range<u64>, when_full: WhenFull) {
    let (mut missed, mut snapshots, mut redelivered) = (0, 0, 0);
    for seed in seeds {
        let walked = std::panic::catch_unwind(|| {
            let mut walk = Walk::new(seed, when_full);
            for _ in 0..STEPS {
                walk.now += Duration::from_millis(1);
                walk.step();
            }
            walk.finish();
            (walk.missed.len(), walk.snapshots, walk.group.stats().redelivered)
        });
        let walked = walked.unwrap_or_else(|_| panic!("seed {seed}, {when_full:?}"));
        missed += walked.0;
        snapshots += walked.1;
        redelivered += walked.2;
    }
    assert!(missed > 0 && snapshots > 0 && redelivered > 0, "the walks came by nothing of note");
}

#[test]
fn the_model_knows_what_a_group_that_drops_tells() {
    walks(0..60, WhenFull::DropOldest);
}

#[test]
fn the_model_knows_what_another_group_that_drops_tells() {
    walks(60..120, WhenFull::DropOldest);
}

#[test]
fn the_model_knows_what_a_group_that_pauses_tells() {
    walks(0..60, WhenFull::Pause);
}

#[test]
fn the_model_knows_what_another_group_that_pauses_tells() {
    walks(60..120, WhenFull::Pause);
}
