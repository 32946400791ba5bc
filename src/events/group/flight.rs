//! What subscribers are given, and what is in flight to them.
//!
//! Before the queues of its partitions go on, a subscriber is told what is missing of them, then who
//! is connected as of their heads; then come events, the smallest cursor first. Where only messages
//! are missing, a snapshot says nothing new: the next may wait until events have paid for it, so that
//! a group of many clients which is always full doesn't come to tell snapshots only.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::{
    super::event::{Delivered, Delivery},
    Group, Key,
    partition::{Entry, Gap, Place},
};
use crate::ids::ClientId;

/// Clients that one item names at most.
pub(super) const NAMED: usize = 1000;
/// Bytes that one of them takes, as text.
const NAME_BYTES: usize = 36;
/// How many names one event pays for.
const PAID: usize = 16;

/// One that takes part.
#[derive(Debug)]
pub(super) struct Subscriber {
    window: usize,
    /// What it was given and has not acknowledged, in that order.
    pub(super) flight: VecDeque<Flown>,
    /// For each of its partitions in which something waits for it, the cursor of the head, or of an
    /// earlier one that is gone.
    pub(super) heads: BinaryHeap<Reverse<(u64, Place)>>,
    /// The snapshot that it is in the middle of.
    pub(super) naming: Option<Naming>,
    /// Names in the last snapshot that it was told, and events that it was told since.
    named: usize,
    since: usize,
    /// Whether it found nothing to take.
    pub(super) idle: bool,
}

/// An item in flight.
#[derive(Debug)]
pub(super) struct Flown {
    pub(super) cursor: u64,
    pub(super) sent: Instant,
    pub(super) item: Item,
}

/// What it holds on to.
#[derive(Debug)]
pub(super) enum Item {
    Event(Place, Entry),
    Missed(Vec<(Place, Gap)>),
    /// Names of a snapshot. Only the last item of one holds its partitions.
    Named(Vec<Place>),
}

/// A snapshot that is being told. Nothing is taken from its partitions until it is complete, so that
/// their clients can be listed bit by bit.
#[derive(Debug)]
pub(super) struct Naming {
    /// Its partitions.
    pub(super) held: Vec<Place>,
    /// Those of them that are yet to be listed.
    next: Vec<Place>,
    /// What is left of the one that is being listed.
    left: Vec<ClientId>,
    /// Names that were told.
    told: usize,
}

impl Subscriber {
    pub(super) fn new(window: usize) -> Self {
        Self {
            window,
            flight: VecDeque::new(),
            heads: BinaryHeap::new(),
            naming: None,
            named: 0,
            since: 0,
            idle: false,
        }
    }

    /// Whether it can be told another snapshot that it doesn't need.
    fn has_paid(&self) -> bool {
        self.since >= self.named / PAID
    }

    /// Events in flight, the last first.
    pub(super) fn latest(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.flight.iter_mut().rev().filter_map(|flown| match &mut flown.item {
            Item::Event(_, entry) => Some(entry),
            Item::Missed(_) | Item::Named(_) => None,
        })
    }

    /// How many more items it can be given.
    pub(super) fn room(&self, most: usize) -> usize {
        self.window.min(most).saturating_sub(self.flight.len())
    }
}

/// Items that are being gathered for one subscriber.
struct Hand {
    key: Key,
    now: Instant,
    most: usize,
    most_bytes: usize,
    bytes: usize,
    /// Whether there is nothing to tell before events.
    untroubled: bool,
    /// Whether there is a snapshot to tell some time.
    wanted: bool,
    taken: Vec<Delivery>,
}

impl Hand {
    /// Whether an item of this size goes with the others; one always goes.
    fn has_room(&self, bytes: usize) -> bool {
        self.taken.is_empty()
            || self.taken.len() < self.most && self.bytes.saturating_add(bytes) <= self.most_bytes
    }
}

impl Group {
    /// Gives `key` what there is for it: at most `most` items, no more than its window allows, and
    /// more than one only if they have at most `most_bytes` together.
    pub(in crate::events) fn take(
        &mut self,
        key: Key,
        now: Instant,
        most: usize,
        most_bytes: usize,
    ) -> Vec<Delivery> {
        // It is put back below: what is done meanwhile concerns nobody else.
        let Some(mut subscriber) = self.subscribers.remove(&key) else { return Vec::new() };
        let most = most.max(1).min(subscriber.room(self.bounds.window));
        let untroubled = self.troubled.is_clear();
        let (bytes, wanted, taken) = (0, false, Vec::new());
        let mut hand = Hand { key, now, most, most_bytes, bytes, untroubled, wanted, taken };
        if self.unnamed == 0 && most > 0 {
            while self.give(&mut subscriber, &mut hand) {}
        }
        subscriber.idle = hand.taken.is_empty();
        self.stats.delivered += hand.taken.len() as u64;
        let again = hand.taken.iter().filter(|delivery| delivery.redelivered);
        self.stats.redelivered += again.count() as u64;
        self.subscribers.insert(key, subscriber);
        hand.taken
    }

    /// Gives one more item, if there is one and room for it.
    fn give(&mut self, to: &mut Subscriber, hand: &mut Hand) -> bool {
        if to.naming.is_none() && !hand.untroubled {
            if !hand.has_room(0) {
                return false;
            }
            if self.give_missed(to, hand) {
                return true;
            }
            hand.untroubled = true;
            let mut own = self.partitions.iter().filter(|it| it.can_go_to(hand.key));
            hand.wanted = own.clone().any(|partition| partition.wants_snapshot);
            if own.any(|partition| partition.needs_snapshot) || hand.wanted && to.has_paid() {
                return self.begin_naming(to, hand);
            }
        }
        if to.naming.is_some() {
            return self.give_names(to, hand);
        }
        // When there are no events, a snapshot costs nothing.
        self.give_event(to, hand)
            || hand.wanted && to.heads.is_empty() && self.begin_naming(to, hand)
    }

    /// What is missing of its partitions, all in one.
    fn give_missed(&mut self, to: &mut Subscriber, hand: &mut Hand) -> bool {
        let mut gaps = Vec::new();
        for (place, partition) in (Place::MIN..=Place::MAX).zip(&mut self.partitions) {
            if partition.can_go_to(hand.key)
                && let Some(gap) = partition.gap.take()
            {
                partition.hold(hand.key);
                gaps.push((place, gap));
            }
        }
        let Some(all) = gaps.iter().map(|(_, gap)| *gap).reduce(Gap::and) else { return false };
        let Gap { first, last, messages, changes, told, .. } = all;
        let what = Delivered::Missed { first, last, messages, changes };
        self.hand_over(to, hand, (what, told), Item::Missed(gaps));
        true
    }

    /// Begins a snapshot. It is of all partitions that the subscriber has, so that who is not named
    /// is not connected.
    fn begin_naming(&mut self, to: &mut Subscriber, hand: &mut Hand) -> bool {
        if !hand.has_room(NAMED * NAME_BYTES) {
            return false;
        }
        let mut held = Vec::new();
        for place in Place::MIN..=Place::MAX {
            let partition = &mut self.partitions[usize::from(place)];
            if partition.can_go_to(hand.key) {
                partition.hold(hand.key);
                (partition.needs_snapshot, partition.wants_snapshot) = (false, false);
                self.troubled.remove(usize::from(place));
                held.push(place);
            }
        }
        hand.wanted = false;
        to.naming = Some(Naming { next: held.clone(), held, left: Vec::new(), told: 0 });
        self.give_names(to, hand)
    }

    /// The next clients of a snapshot.
    fn give_names(&mut self, to: &mut Subscriber, hand: &mut Hand) -> bool {
        if !hand.has_room(NAMED * NAME_BYTES) {
            return false;
        }
        let Some(naming) = &mut to.naming else { return false };
        let mut clients = Vec::new();
        while clients.len() < NAMED {
            if naming.left.is_empty() {
                let Some(place) = naming.next.pop() else { break };
                naming.left.extend(&self.partitions[usize::from(place)].base);
            }
            let some = naming.left.len().min(NAMED - clients.len());
            clients.extend(naming.left.drain(naming.left.len() - some..));
        }
        let nobody = |place: &Place| self.partitions[usize::from(*place)].base.is_empty();
        let more = !naming.left.is_empty() || !naming.next.iter().all(nobody);
        naming.told += clients.len();
        let held = if more { None } else { to.naming.take() };
        let held = held.map(|naming| {
            (to.named, to.since) = (naming.told, 0);
            naming.held
        });
        hand.bytes += clients.len() * NAME_BYTES;
        let what = Delivered::Snapshot { clients, more };
        self.hand_over(to, hand, (what, false), Item::Named(held.unwrap_or_default()));
        true
    }

    /// The event with the smallest cursor.
    fn give_event(&mut self, to: &mut Subscriber, hand: &mut Hand) -> bool {
        while let Some(Reverse((cursor, place))) = to.heads.peek().copied() {
            let partition = &mut self.partitions[usize::from(place)];
            let head = partition.head().filter(|_| partition.can_go_to(hand.key));
            let Some((at, bytes)) = head.map(|entry| (entry.cursor, entry.event.weight())) else {
                partition.offered = false;
                to.heads.pop();
                continue;
            };
            if at != cursor {
                to.heads.pop();
                to.heads.push(Reverse((at, place)));
                continue;
            }
            if !hand.has_room(bytes) {
                return false;
            }
            to.heads.pop();
            let Some(entry) = partition.pop() else { return false };
            partition.hold(hand.key);
            match partition.head() {
                Some(next) => to.heads.push(Reverse((next.cursor, place))),
                None => partition.offered = false,
            }
            hand.bytes += bytes;
            to.since += 1;
            let what = Delivered::Event(Arc::clone(&entry.event));
            let (cursor, redelivered) = (entry.cursor, entry.redelivered);
            let flown = Flown { cursor, sent: hand.now, item: Item::Event(place, entry) };
            to.flight.push_back(flown);
            hand.taken.push(Delivery { cursor, redelivered, what });
            return true;
        }
        false
    }

    /// An item that has no cursor yet.
    fn hand_over(
        &mut self,
        to: &mut Subscriber,
        hand: &mut Hand,
        (what, redelivered): (Delivered, bool),
        item: Item,
    ) {
        self.last += 1;
        let cursor = self.last;
        to.flight.push_back(Flown { cursor, sent: hand.now, item });
        hand.taken.push(Delivery { cursor, redelivered, what });
    }
}
