//! How many clients one address may have, and how often it may connect.
//!
//! For each [`Address`], the table holds how many connections it has and how far it is ahead of its
//! rate; for no longer than that says something, and for no more addresses than `limits.addresses`.
//!
//! ```text
//!   enter ─► Stay, which travels with the connection ─► dropped with its socket
//!         └► Over: clients, rate, or no room in the table
//! ```
//!
//! While a limit is off, nothing is counted for it: connections that were opened then don't count
//! when it is switched on.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use indexmap::IndexMap;

use crate::{
    config::Limits,
    metrics::{HandshakeStats, Shared},
    net::Address,
    shard::ConnectionGuard,
};

/// Why an address may not connect now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Over {
    /// It has as many connections as it may have.
    #[error("this address has as many clients as limits.address_clients allows")]
    Clients,
    /// It connects more often than it may.
    #[error("this address connects more often than limits.address_connections allows")]
    Rate,
    /// It is not known yet, and no more can be.
    #[error("the gateway watches as many addresses as limits.addresses allows")]
    Table,
}

impl Over {
    /// What counts it.
    pub(super) fn counter(self, stats: &HandshakeStats) -> &Shared {
        match self {
            Self::Clients | Self::Rate => &stats.address,
            Self::Table => &stats.strangers,
        }
    }
}

/// What is known of the addresses that connect.
#[derive(Debug)]
pub(super) struct Addresses {
    /// Held for a few steps in memory, which many threads take without waiting for long.
    table: Mutex<Table>,
    /// Times are counted from here.
    began: Instant,
}

/// One connection of an address; dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Stay {
    addresses: Arc<Addresses>,
    address: Address,
}

#[derive(Debug, Default)]
struct Table {
    known: IndexMap<Address, Known>,
    /// Where the search for entries that say nothing goes on.
    hand: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Connections that hold a [`Stay`].
    stays: usize,
    /// When the address would have used up what it was let in for, had it come at its rate (the
    /// "theoretical arrival time" of the generic cell rate algorithm), in nanoseconds.
    due: u64,
}

impl Known {
    /// Whether it says no more than that nothing is known.
    fn is_idle(&self, now: u64) -> bool {
        self.stays == 0 && self.due <= now
    }
}

const SECOND: u64 = 1_000_000_000;
/// Entries looked at with each connection, so that those of last second don't stay.
const LOOKS: usize = 4;
/// Entries looked at for room in a full table. Each is idle a second after its last connection
/// ended; only if really many are not, somebody is refused in spite of a few that are.
const LOOKS_IF_FULL: usize = 64;
/// Entries for which a table that was large keeps its memory.
const KEPT: usize = 1024;

impl Default for Addresses {
    fn default() -> Self {
        Self { table: Mutex::default(), began: Instant::now() }
    }
}

impl Addresses {
    /// Lets a connection of `address` in by the limits, if it may come. The [`Stay`] is there if
    /// clients are limited.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &Limits,
    ) -> Result<Option<Stay>, Over> {
        if limits.address_clients == 0 && limits.address_connections == 0 {
            return Ok(None);
        }
        let address = Address::from(address);
        let counted = self.lock().enter(address, limits, self.now())?;
        Ok(counted.then(|| Stay { addresses: Arc::clone(self), address }))
    }

    /// The lock. No step that holds it can panic half-way.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl ConnectionGuard for Stay {}

impl Drop for Stay {
    fn drop(&mut self) {
        self.addresses.lock().leave(self.address, self.addresses.now());
    }
}

impl Table {
    /// Counts a connection at `now`, or says why not; true if it is to be given back.
    fn enter(&mut self, address: Address, limits: &Limits, now: u64) -> Result<bool, Over> {
        self.tidy(LOOKS, now);
        let before = self.known.get(&address).copied();
        if before.is_none() && self.known.len() >= limits.addresses {
            self.tidy(LOOKS_IF_FULL, now);
            if self.known.len() >= limits.addresses {
                return Err(Over::Table);
            }
        }
        let mut known = before.unwrap_or_default();
        let most = limits.address_clients;
        if most > 0 && known.stays >= most {
            return Err(Over::Clients);
        }
        if limits.address_connections > 0 {
            // As many as one second has room for may come at once.
            let due = known.due.max(now) + SECOND / u64::from(limits.address_connections);
            if due > now + SECOND {
                return Err(Over::Rate);
            }
            known.due = due;
        }
        known.stays += usize::from(most > 0);
        self.known.insert(address, known);
        Ok(most > 0)
    }

    fn leave(&mut self, address: Address, now: u64) {
        let Some((at, _, known)) = self.known.get_full_mut(&address) else { return };
        known.stays -= known.stays.min(1);
        self.forget_if_idle(at, now);
    }

    /// Looks at some entries and forgets those that are idle.
    fn tidy(&mut self, looks: usize, now: u64) {
        for _ in 0..looks.min(self.known.len()) {
            if self.hand >= self.known.len() {
                self.hand = 0;
            }
            // Where one is taken out, another comes to stand.
            if !self.forget_if_idle(self.hand, now) {
                self.hand += 1;
            }
        }
    }

    fn forget_if_idle(&mut self, at: usize, now: u64) -> bool {
        let idle = self.known.get_index(at).is_some_and(|(_, known)| known.is_idle(now));
        if idle {
            self.known.swap_remove_index(at);
            if self.known.len() >= KEPT && self.known.len() < self.known.capacity() / 8 {
                self.known.shrink_to(self.known.len() * 2);
            }
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn limits(clients: usize, connections: u32, addresses: usize) -> Limits {
        Limits {
            address_clients: clients,
            address_connections: connections,
            addresses,
            ..Limits::default()
        }
    }

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn an_address_has_as_many_clients_as_it_may() {
        let addresses = Arc::new(Addresses::default());
        let enter = |text: &str, most| addresses.enter(text.parse().unwrap(), &limits(most, 0, 9));
        let first = enter("192.0.2.7", 2).unwrap();
        let second = enter("192.0.2.7", 2).unwrap();
        assert!(first.is_some());
        assert_eq!(enter("192.0.2.7", 2).unwrap_err(), Over::Clients);
        let other = enter("192.0.2.8", 2).unwrap();
        drop(first);
        let third = enter("192.0.2.7", 2).unwrap();
        assert_eq!(enter("192.0.2.7", 1).unwrap_err(), Over::Clients, "a lower limit");
        let fourth = enter("192.0.2.7", 3).unwrap();
        drop((second, other, third, fourth));
        assert_eq!(addresses.lock().known.len(), 0, "nobody is remembered for nothing");
    }

    #[test]
    fn an_address_comes_as_often_as_it_may() {
        let mut table = Table::default();
        let mut enter = |millis: u64, rate| {
            table.enter(address("192.0.2.7"), &limits(0, rate, 9), millis * 1_000_000)
        };
        assert_eq!([enter(0, 3), enter(0, 3), enter(10, 3)], [Ok(false); 3]);
        assert_eq!(enter(10, 3), Err(Over::Rate));
        assert_eq!(enter(330, 3), Err(Over::Rate), "who is refused loses nothing by it");
        assert_eq!(enter(334, 3), Ok(false));
        assert_eq!(enter(335, 3), Err(Over::Rate));
        assert_eq!(enter(502, 3), Err(Over::Rate));
        assert_eq!(enter(502, 6), Ok(false), "a higher limit acts at once");
        assert_eq!(enter(502, 0), Ok(false), "and so does none");
        assert_eq!([enter(5000, 2), enter(5000, 2)], [Ok(false); 2]);
        assert_eq!(enter(5000, 2), Err(Over::Rate), "what was saved up is one second's");
    }

    #[test]
    fn a_full_table_refuses_strangers_until_somebody_can_be_forgotten() {
        let mut table = Table::default();
        let limits = limits(5, 1, 2);
        let (ada, bob, eve) = (address("10.0.0.1"), address("10.0.0.2"), address("10.0.0.3"));
        assert_eq!(table.enter(ada, &limits, 0), Ok(true));
        assert_eq!(table.enter(bob, &limits, 0), Ok(true));
        assert_eq!(table.enter(eve, &limits, 0), Err(Over::Table));
        assert_eq!(table.enter(ada, &limits, 2 * SECOND), Ok(true), "who is known may come");
        table.leave(bob, 2 * SECOND);
        assert_eq!(table.enter(eve, &limits, 2 * SECOND), Ok(true));
        table.leave(eve, 2 * SECOND);
        assert_eq!(table.enter(bob, &limits, 2 * SECOND), Err(Over::Table), "eve is ahead");
        assert_eq!(table.enter(bob, &limits, 3 * SECOND), Ok(true));
    }

    #[test]
    fn the_table_shrinks_when_a_flood_is_over() {
        let mut table = Table::default();
        let limits = limits(0, 1, 100_000);
        for n in 0..100_000u32 {
            table.enter(Address::Four(n.to_be_bytes()), &limits, 0).unwrap();
        }
        let big = table.known.capacity();
        for _ in 0..100_000 {
            let _ = table.enter(address("192.0.2.7"), &limits, 2 * SECOND);
        }
        assert!(table.known.len() < LOOKS, "{}", table.known.len());
        assert!(table.known.capacity() < big / 8, "{}", table.known.capacity());
    }

    /// What a model of a few addresses does.
    #[derive(Clone, Debug)]
    enum Step {
        Enter(u8),
        Leave(u8),
        Wait(u16),
        Limit(usize, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u8..12).prop_map(Step::Enter),
            3 => (0u8..12).prop_map(Step::Leave),
            2 => (0u16..700).prop_map(Step::Wait),
            1 => (0usize..4, 0u32..6).prop_map(|(clients, rate)| Step::Limit(clients, rate)),
        ]
    }

    proptest! {
        /// The model keeps every address for ever, and a bucket of tokens in place of a time.
        #[test]
        fn the_table_does_what_buckets_and_counts_would_do(
            steps in prop::collection::vec(step(), 0..200)
        ) {
            let (mut table, mut now, mut limits) = (Table::default(), 0, limits(2, 3, 64));
            // Stays, and the nanoseconds that the address is ahead by.
            let mut model = BTreeMap::<u8, (usize, u64)>::new();
            for step in steps {
                match step {
                    Step::Wait(millis) => {
                        let passed = u64::from(millis) * 1_000_000;
                        now += passed;
                        for (_, ahead) in model.values_mut() {
                            *ahead = ahead.saturating_sub(passed);
                        }
                    }
                    Step::Limit(clients, rate) => {
                        limits.address_clients = clients;
                        limits.address_connections = rate;
                    }
                    Step::Enter(who) => {
                        let (stays, ahead) = model.entry(who).or_default();
                        let (most, rate) = (limits.address_clients, limits.address_connections);
                        let share = if rate > 0 { SECOND / u64::from(rate) } else { 0 };
                        let expected = if most > 0 && *stays >= most {
                            Err(Over::Clients)
                        } else if rate > 0 && *ahead + share > SECOND {
                            Err(Over::Rate)
                        } else {
                            *stays += usize::from(most > 0);
                            *ahead += share;
                            Ok(most > 0)
                        };
                        let address = Address::Four([10, 0, 0, who]);
                        prop_assert_eq!(table.enter(address, &limits, now), expected);
                    }
                    Step::Leave(who) => {
                        let entry = model.entry(who).or_default();
                        if entry.0 > 0 {
                            entry.0 -= 1;
                            table.leave(Address::Four([10, 0, 0, who]), now);
                        }
                    }
                }
                prop_assert!(table.known.len() <= 12);
            }
            // What is left is what still says something, once each entry was looked at.
            now += 2 * SECOND;
            table.hand = 0;
            table.tidy(64, now);
            let busy = model.values().filter(|(stays, _)| *stays > 0).count();
            prop_assert_eq!(table.known.len(), busy);
        }
    }
}
