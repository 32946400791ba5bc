//! What each client has waiting in a group, so that whoever has most gives way first.
//!
//! Room is shared among the clients whose messages wait: when it runs out, one that holds most of it
//! loses its oldest message. So what a client keeps waiting is safe as long as it is less than an even
//! share, however much others send.
//!
//! ```text
//!  client ─► account: cost, first ─► next ─► … ─► last (its messages, in the partition's queue)
//!                │
//!                └ rank: accounts of about the same cost, in the order in which they came there
//! ```
//!
//! * The *cost* of a message is its weight, or an even part of `events.buffer_bytes` where that is
//!   more: so many small messages and few large ones are measured alike.
//! * Ranks are an eighth of a power of two wide. That makes every step constant, and the victim holds at
//!   least eight ninths of what the largest does. Among equals the one that came first gives way.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use super::entry::{NONE, PartitionId};
use crate::ids::ClientId;

/// Ranks of one power of two.
const FINE: u32 = 8;
/// Ranks that there are.
const RANKS: usize = 512;

/// The accounts of a group.
#[derive(Debug)]
pub(super) struct Accounts {
    by_client: HashMap<ClientId, u32>,
    /// Accounts side by side, those that are free among them.
    all: Vec<Account>,
    free: Vec<u32>,
    ranks: Box<[List; RANKS]>,
    /// Ranks in which somebody is, a bit each.
    taken: [u64; RANKS / 64],
    /// Accounts with messages that wait, and what these cost together.
    waiting: (usize, u64),
}

/// What is kept of one client; there is none without anything.
#[derive(Debug)]
struct Account {
    client: ClientId,
    partition: PartitionId,
    /// Events that wait or are in flight.
    kept: u32,
    /// Given away for somebody to see when nothing is kept any more.
    watched: Option<Arc<()>>,
    /// Its oldest message that waits, in the queue of its partition; and the newest.
    first: u32,
    last: u32,
    /// What all that wait cost.
    cost: u64,
    before: u32,
    after: u32,
}

/// Whose message gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) partition: PartitionId,
    /// The message, in the queue of the partition.
    pub(super) message: u32,
    /// Whether its client holds more than an even share.
    pub(super) is_over_share: bool,
}

/// Accounts of one rank.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

impl Accounts {
    pub(super) fn new() -> Self {
        let ranks = Box::new([List { first: NONE, last: NONE }; RANKS]);
        let (all, free, taken) = (Vec::new(), Vec::new(), [0; RANKS / 64]);
        Self { by_client: HashMap::new(), all, free, ranks, taken, waiting: (0, 0) }
    }

    /// One more event of a client is kept, in the account that this returns.
    pub(super) fn keep(&mut self, client: ClientId, partition: PartitionId) -> u32 {
        if let Some(account) = self.by_client.get(&client) {
            self.all[*account as usize].kept += 1;
            return *account;
        }
        let new = Account {
            client,
            partition,
            kept: 1,
            watched: None,
            first: NONE,
            last: NONE,
            cost: 0,
            before: NONE,
            after: NONE,
        };
        let account = if let Some(free) = self.free.pop() {
            self.all[free as usize] = new;
            free
        } else {
            self.all.push(new);
            // There are no more of them than events, and these are fewer.
            u32::try_from(self.all.len() - 1).unwrap_or(NONE)
        };
        self.by_client.insert(client, account);
        account
    }

    /// An event is kept no longer; it doesn't wait.
    pub(super) fn forget(&mut self, account: u32) {
        let it = &mut self.all[account as usize];
        it.kept -= 1;
        if it.kept > 0 {
            return;
        }
        it.watched = None;
        self.by_client.remove(&it.client);
        self.free.push(account);
        if self.by_client.is_empty() && self.all.len() > KEPT {
            // What a crowd has needed once would be kept for ever.
            (self.all, self.free) = (Vec::new(), Vec::new());
            self.by_client.shrink_to(KEPT);
        }
    }

    /// Watches what is kept of a client, if anything is.
    pub(super) fn watch(&mut self, client: ClientId) -> Option<Weak<()>> {
        let account = *self.by_client.get(&client)?;
        Some(Arc::downgrade(self.all[account as usize].watched.get_or_insert_default()))
    }

    /// A message waits behind the others of its client. Which one was the last before.
    pub(super) fn push_back(&mut self, account: u32, message: u32, cost: u64) -> Option<u32> {
        self.add(account, cost);
        let it = &mut self.all[account as usize];
        let last = std::mem::replace(&mut it.last, message);
        if last == NONE {
            it.first = message;
            return None;
        }
        Some(last)
    }

    /// A message waits again, before the others of its client. Which one was the first before, or
    /// [`NONE`].
    pub(super) fn push_front(&mut self, account: u32, message: u32, cost: u64) -> u32 {
        self.add(account, cost);
        let it = &mut self.all[account as usize];
        let first = std::mem::replace(&mut it.first, message);
        if first == NONE {
            it.last = message;
        }
        first
    }

    /// The first message of a client doesn't wait any more; `next` is what comes after it.
    pub(super) fn pop_front(&mut self, account: u32, next: u32, cost: u64) {
        self.waiting.1 -= cost;
        let before = self.all[account as usize].cost;
        if next == NONE || rank(before) != rank(before - cost) {
            self.leave(account);
        }
        let it = &mut self.all[account as usize];
        (it.cost, it.first) = (before - cost, next);
        if next == NONE {
            it.last = NONE;
            self.waiting.0 -= 1;
        } else if rank(before) != rank(before - cost) {
            self.enter(account);
        }
    }

    /// The oldest message of one that holds most.
    pub(super) fn victim(&self) -> Option<Victim> {
        let mut words = self.taken.iter().enumerate().rev();
        let (word, bits) = words.find(|(_, bits)| **bits != 0)?;
        let rank = word * 64 + bits.ilog2() as usize;
        let largest = &self.all[self.ranks[rank].first as usize];
        let (clients, cost) = self.waiting;
        let is_over_share = u128::from(largest.cost) * clients as u128 > u128::from(cost);
        Some(Victim { partition: largest.partition, message: largest.first, is_over_share })
    }

    /// Adds to what an account holds, and changes its rank with it.
    fn add(&mut self, account: u32, cost: u64) {
        self.waiting.1 += cost;
        let it = &mut self.all[account as usize];
        let (before, was_waiting) = (it.cost, it.first != NONE);
        if was_waiting && rank(before) == rank(before + cost) {
            it.cost += cost;
            return;
        }
        if was_waiting {
            self.leave(account);
        } else {
            self.waiting.0 += 1;
        }
        self.all[account as usize].cost += cost;
        self.enter(account);
    }

    /// Puts an account at the end of its rank.
    fn enter(&mut self, account: u32) {
        let rank = rank(self.all[account as usize].cost);
        let last = std::mem::replace(&mut self.ranks[rank].last, account);
        match self.all.get_mut(last as usize) {
            Some(last) => last.after = account,
            None => self.ranks[rank].first = account,
        }
        let it = &mut self.all[account as usize];
        (it.before, it.after) = (last, NONE);
        self.taken[rank / 64] |= 1 << (rank % 64);
    }

    /// Takes an account out of its rank.
    fn leave(&mut self, account: u32) {
        let Account { cost, before, after, .. } = self.all[account as usize];
        let rank = rank(cost);
        match self.all.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.ranks[rank].first = after,
        }
        match self.all.get_mut(after as usize) {
            Some(after) => after.before = before,
            None => self.ranks[rank].last = before,
        }
        if self.ranks[rank].first == NONE {
            self.taken[rank / 64] &= !(1 << (rank % 64));
        }
    }
}

/// Accounts for which room is kept when there are none.
const KEPT: usize = 1024;

/// The rank of a cost: as the number itself below [`FINE`], then by the leading four bits.
fn rank(cost: u64) -> usize {
    if cost < u64::from(FINE) {
        return usize::try_from(cost).unwrap_or_default();
    }
    let power = cost.ilog2();
    let leading = (cost >> (power - 3)) & u64::from(FINE - 1);
    (((power - 2) * FINE) as usize) + usize::try_from(leading).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Messages: number and cost.
    type Messages = Vec<(u32, u64)>;

    #[test]
    fn ranks_are_an_eighth_of_a_power_of_two_wide_and_in_order() {
        let mut last = 0;
        for cost in (0..4096).chain((12..64).flat_map(|power| [(1 << power) - 1, 1 << power])) {
            let rank = rank(cost);
            assert!(rank >= last && rank < RANKS, "{cost}: {rank} after {last}");
            last = rank;
        }
        assert!(rank(u64::MAX) < RANKS);
        for cost in 9..10_000 {
            assert!(rank(cost) < rank(cost + cost.div_ceil(8)), "{cost}");
        }
    }

    proptest! {
        /// Against a plain map: the victim holds nearly as much as the largest does.
        #[test]
        fn the_victim_is_one_that_holds_most(
            steps in prop::collection::vec((0u32..12, 0u8..4, 1u64..5000), 1..400),
        ) {
            let client = |slot: u32| ClientId::new(0, slot, 1, u64::from(slot));
            let mut accounts = Accounts::new();
            // The messages of each client that wait: number and cost; and how many are in flight.
            let mut model: BTreeMap<u32, (Messages, Messages)> = BTreeMap::new();
            for (number, (slot, step, cost)) in (0..).zip(steps) {
                let (waiting, flying) = model.entry(slot).or_default();
                let account = accounts.by_client.get(&client(slot)).copied();
                prop_assert_eq!(account.is_some(), waiting.len() + flying.len() > 0);
                match (step, account) {
                    (0 | 1, _) => {
                        let account = accounts.keep(client(slot), 7);
                        let last = accounts.push_back(account, number, cost);
                        prop_assert_eq!(last, waiting.last().map(|(last, _)| *last));
                        waiting.push((number, cost));
                    }
                    (2, Some(account)) if !waiting.is_empty() => {
                        let (first, cost) = waiting.remove(0);
                        prop_assert_eq!(accounts.all[account as usize].first, first);
                        let next = waiting.first().map_or(NONE, |(next, _)| *next);
                        accounts.pop_front(account, next, cost);
                        flying.push((first, cost));
                    }
                    (_, Some(account)) if number % 2 == 0 && !flying.is_empty() => {
                        let watched = accounts.watch(client(slot)).unwrap();
                        flying.remove(0);
                        accounts.forget(account);
                        let kept = waiting.len() + flying.len() > 0;
                        prop_assert_eq!(watched.strong_count() > 0, kept);
                    }
                    (_, Some(account)) => if let Some((message, cost)) = flying.pop() {
                        let first = accounts.push_front(account, message, cost);
                        prop_assert_eq!(first, waiting.first().map_or(NONE, |(first, _)| *first));
                        waiting.insert(0, (message, cost));
                    },
                    (_, None) => {}
                }
                let costs = model.values().filter(|(waiting, _)| !waiting.is_empty());
                let costs = costs.map(|(waiting, _)| waiting.iter().map(|(_, cost)| cost).sum());
                let costs: Vec<u64> = costs.collect();
                prop_assert_eq!(accounts.waiting, (costs.len(), costs.iter().sum::<u64>()));
                let victim = accounts.victim();
                prop_assert_eq!(victim.is_some(), !costs.is_empty());
                if let Some(victim) = victim {
                    let is_first = |(waiting, _): &&(Messages, Messages)| {
                        waiting.first().is_some_and(|(first, _)| *first == victim.message)
                    };
                    let (waiting, _) = model.values().find(is_first).unwrap();
                    let held = waiting.iter().map(|(_, cost)| cost).sum::<u64>();
                    let (most, all) = (costs.iter().max().unwrap(), costs.iter().sum::<u64>());
                    prop_assert!(held * 9 >= most * 8, "{held} of {most}");
                    prop_assert_eq!(victim.is_over_share, held * costs.len() as u64 > all);
                }
            }
        }
    }
}
