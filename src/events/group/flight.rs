//! What subscribers are given, and what is in flight to them.
//!
//! Events go out with the smallest cursor first. A partition of which something is missing, or that
//! nobody was told of yet, is *unclear*: nothing of it is told before it is cleared up by what is
//! missing and who is connected as of its head.
//!
//! ```text
//!  events of clear partitions ─► … ─► missed ─► snapshot ─► an event of these ─► events …
//!                                     └──── of some unclear partitions ────┘
//! ```
//!
//! * Who is connected is named for as many partitions at once as have [`NAMED`] clients, and for the
//!   next ones after events have paid for it: a group of many clients which is always full would
//!   otherwise tell hardly anything but names.
//! * With it goes an event of these partitions, if one waits, whatever the window says; and before the
//!   next are cleared up, one of the clear partitions. So also a group that is always full, and drops
//!   what comes next while its subscriber thinks, gets on with all of them.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::{
    super::event::{Delivered, Delivery, Partitions},
    FIRST, Group, Key, SubscribeOptions,
    entry::{Entry, PARTITIONS, PartitionId, number_of},
    partition::{Gap, Partition},
};

/// Clients that one snapshot names at most, unless they are all of one partition.
pub(super) const NAMED: usize = 1000;
/// Bytes that one of them takes on the wire, about.
const NAME_BYTES: usize = 44;
/// How many names one event pays for.
const PAID: usize = 16;

/// One that takes part.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) options: SubscribeOptions,
    /// What it was given and has not acknowledged, in that order.
    pub(super) flight: VecDeque<InFlight>,
    /// For each of its clear partitions in which something waits, the cursor of the head, or of an
    /// earlier one that is gone.
    pub(super) heads: BinaryHeap<Reverse<(u64, PartitionId)>>,
    /// Names that it was told and that events have not paid for yet.
    owes: usize,
    /// Whether it found nothing to take.
    pub(super) idle: bool,
    /// Whether what it has is being put back.
    pub(super) leaves: bool,
}

/// An item in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) cursor: u64,
    pub(super) sent: Instant,
    pub(super) item: Item,
}

/// What it holds on to.
#[derive(Debug)]
pub(super) enum Item {
    Event(PartitionId, Entry),
    Missed(Vec<(PartitionId, Gap)>),
    Snapshot(Vec<PartitionId>),
}

impl Subscriber {
    pub(super) fn new(options: SubscribeOptions) -> Self {
        let (flight, heads) = (VecDeque::new(), BinaryHeap::new());
        Self { options, flight, heads, owes: 0, idle: false, leaves: false }
    }

    /// Keeps the head of one of its partitions in mind, if there is one and it isn't yet.
    pub(super) fn look_at(&mut self, place: PartitionId, partition: &mut Partition) {
        if let Some(head) = partition.head().filter(|_| !partition.offered) {
            self.heads.push(Reverse((head.cursor, place)));
            partition.offered = true;
        }
    }

    /// How many more items it can be given.
    pub(super) fn room(&self, most: usize) -> usize {
        self.options
            .window
            .map_or(most, |window| window.min(most))
            .saturating_sub(self.flight.len())
    }
}

/// Items that are being gathered for one subscriber.
struct TakeBuffer {
    key: Key,
    now: Instant,
    most: usize,
    most_bytes: usize,
    bytes: usize,
    /// Whether it is known that none of its partitions is unclear.
    all_clear: bool,
    taken: Vec<Delivery>,
}

/// What came of giving something more.
#[derive(PartialEq, Eq)]
enum Given {
    Something,
    NoRoom,
    Nothing,
}

impl TakeBuffer {
    /// Whether an item of this size goes with the others; one always goes.
    fn has_room(&self, bytes: usize) -> bool {
        self.taken.is_empty()
            || self.taken.len() < self.most && self.bytes.saturating_add(bytes) <= self.most_bytes
    }
}

impl Group {
    /// Gives `key` what there is for it: at most `most` items, no more than its window allows, and
    /// more than one only if they have at most `most_bytes` together. Where an event still fits, what
    /// clears up its partition goes before it all the same: up to two items more.
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
        let all_clear = self.needs_snapshot.is_clear();
        let mut buffer =
            TakeBuffer { key, now, most, most_bytes, bytes: 0, all_clear, taken: Vec::new() };
        if self.shards_pending == 0 && most > 0 && !subscriber.leaves {
            while self.give(&mut subscriber, &mut buffer) == Given::Something {}
        }
        subscriber.idle = buffer.taken.is_empty();
        self.stats.delivered += buffer.taken.len() as u64;
        let again = buffer.taken.iter().filter(|delivery| delivery.redelivered);
        self.stats.redelivered += again.count() as u64;
        self.subscribers.insert(key, subscriber);
        buffer.taken
    }

    /// Whether `key` has all that its window allows.
    pub(in crate::events) fn is_full(&self, key: Key) -> bool {
        let subscriber = self.subscribers.get(&key);
        subscriber.is_some_and(|subscriber| {
            subscriber.room(self.bounds.window) == 0
                || self.is_crowded() && !subscriber.flight.is_empty()
        })
    }

    /// Gives something more, if there is something and room for it.
    fn give(&mut self, to: &mut Subscriber, buffer: &mut TakeBuffer) -> Given {
        if self.is_crowded() && !to.flight.is_empty() {
            return Given::NoRoom;
        }
        if buffer.all_clear || to.owes > 0 {
            let given = self.give_event(to, buffer);
            if buffer.all_clear || given != Given::Nothing {
                return given;
            }
        }
        match self.clear_up(to, buffer) {
            Given::Nothing => {
                buffer.all_clear = true;
                self.give_event(to, buffer)
            }
            given => given,
        }
    }

    /// The event with the smallest cursor.
    fn give_event(&mut self, to: &mut Subscriber, buffer: &mut TakeBuffer) -> Given {
        while let Some(Reverse((cursor, place))) = to.heads.peek().copied() {
            let partition = &mut self.partitions[usize::from(place)];
            let can_go = partition.can_go_to(buffer.key) && !partition.needs_snapshot();
            let head = partition.head().filter(|_| can_go);
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
            if !buffer.has_room(bytes) {
                return Given::NoRoom;
            }
            partition.offered = false;
            to.heads.pop();
            self.give_head(to, buffer, place);
            return Given::Something;
        }
        Given::Nothing
    }

    /// The event at the head of this partition.
    fn give_head(&mut self, to: &mut Subscriber, buffer: &mut TakeBuffer, place: PartitionId) {
        let partition = &mut self.partitions[usize::from(place)];
        let Some(entry) = partition.pop() else { return };
        partition.hold(buffer.key);
        to.look_at(place, partition);
        self.waits_no_more(place, &entry);
        if entry.event.is_message() {
            self.in_flight_bytes += entry.event.weight();
        }
        to.owes = to.owes.saturating_sub(PAID);
        buffer.bytes += entry.event.weight();
        let what = Delivered::Event(Arc::clone(&entry.event));
        let (cursor, redelivered) = (entry.cursor, entry.redelivered);
        let flown = InFlight { cursor, sent: buffer.now, item: Item::Event(place, entry) };
        to.flight.push_back(flown);
        buffer.taken.push(Delivery { cursor, redelivered, what });
    }

    /// Clears up some partitions: what is missing, who is connected, and the next event.
    fn clear_up(&mut self, to: &mut Subscriber, buffer: &mut TakeBuffer) -> Given {
        let places = self.next_unclear(buffer.key);
        let partition = |place: &PartitionId| &self.partitions[usize::from(*place)];
        let names = places.iter().map(|place| partition(place).connected.len()).sum::<usize>();
        let heads = places.iter().filter_map(|place| Some((partition(place).head()?, *place)));
        let next = heads.min_by_key(|(head, _)| head.cursor);
        let (next, bytes) = next.map_or((None, 0), |(head, at)| (Some(at), head.event.weight()));
        if places.is_empty() {
            return Given::Nothing;
        }
        if !buffer.has_room(names * NAME_BYTES + bytes) {
            return Given::NoRoom;
        }
        buffer.bytes += names * NAME_BYTES;
        self.give_missed(to, buffer, &places);
        self.give_snapshot(to, buffer, &places);
        // One event more than is to pay for them: it leaves the place to one of the clear partitions,
        // which would wait as long as something is missing of others.
        to.owes += names.max(1) + PAID;
        for place in places.into_iter().filter(|place| Some(*place) != next) {
            to.look_at(place, &mut self.partitions[usize::from(place)]);
        }
        if let Some(place) = next {
            self.give_head(to, buffer, place);
        }
        Given::Something
    }

    /// Unclear partitions that can go to `key`, no more than have so many clients: first those in
    /// which nothing waits or is missing, which only have to be named, then those in which something
    /// has waited for longest.
    fn next_unclear(&self, key: Key) -> Vec<PartitionId> {
        let unclear =
            self.needs_snapshot.ones().filter_map(|place| PartitionId::try_from(place).ok());
        let mut places: Vec<(u64, PartitionId)> = unclear
            .map(|place| (&self.partitions[usize::from(place)], place))
            .filter(|(partition, _)| partition.can_go_to(key))
            .map(|(partition, place)| (partition.since(), place))
            .collect();
        places.sort_unstable();
        let mut names = 0;
        let fits = |(index, (_, place)): &(usize, (u64, PartitionId))| {
            names += self.partitions[usize::from(*place)].connected.len();
            *index == 0 || names <= NAMED
        };
        places.into_iter().enumerate().take_while(fits).map(|(_, (_, place))| place).collect()
    }

    /// What is missing of these partitions, if something is.
    fn give_missed(
        &mut self,
        to: &mut Subscriber,
        buffer: &mut TakeBuffer,
        places: &[PartitionId],
    ) {
        let mut gaps = Vec::new();
        for place in places {
            let partition = &mut self.partitions[usize::from(*place)];
            if let Some(gap) = partition.gap.take() {
                partition.hold(buffer.key);
                gaps.push((*place, gap));
            }
        }
        let Some(all) = gaps.iter().map(|(_, gap)| *gap).reduce(Gap::and) else { return };
        let Gap { first, last, messages, changes, told, .. } = all;
        let partitions = scope(gaps.iter().map(|(place, _)| *place));
        let what = Delivered::Missed { partitions, first, last, messages, changes };
        self.hand_over(to, buffer, (what, told), Item::Missed(gaps));
    }

    /// Who is connected, of these partitions.
    fn give_snapshot(
        &mut self,
        to: &mut Subscriber,
        buffer: &mut TakeBuffer,
        places: &[PartitionId],
    ) {
        let mut clients = Vec::new();
        for place in places {
            let partition = &mut self.partitions[usize::from(*place)];
            partition.hold(buffer.key);
            partition.needs_snapshot = false;
            self.needs_snapshot.remove(usize::from(*place));
            clients.extend(&partition.connected);
        }
        let partitions = scope(places.iter().copied());
        let what = Delivered::Snapshot { partitions, clients };
        self.hand_over(to, buffer, (what, false), Item::Snapshot(places.to_vec()));
    }

    /// An item that has no cursor yet.
    fn hand_over(
        &mut self,
        to: &mut Subscriber,
        buffer: &mut TakeBuffer,
        (what, redelivered): (Delivered, bool),
        item: Item,
    ) {
        let cursor = if std::mem::take(&mut self.is_new) {
            FIRST
        } else {
            self.last += 1;
            self.last
        };
        to.flight.push_back(InFlight { cursor, sent: buffer.now, item });
        buffer.taken.push(Delivery { cursor, redelivered, what });
    }
}

/// These partitions, as subscribers know them.
fn scope(places: impl ExactSizeIterator<Item = PartitionId>) -> Partitions {
    if places.len() == PARTITIONS {
        return Partitions::All;
    }
    let mut numbers: Vec<u16> = places.map(number_of).collect();
    numbers.sort_unstable();
    Partitions::These(numbers)
}
