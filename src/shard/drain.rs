//! A drain: all clients of all shards are closed, evenly over a window.
//!
//! ```text
//!  hub: Pace { window, clients per shard } ──► every shard: when is my next client due?
//!
//!  window    0 ─────────────────────────────── 12 s
//!  shard 0     a           b           c
//!  shard 1           d           e             (no shard knows of the others but their numbers)
//! ```
//!
//! The window is a promise: the first client is closed at its beginning and the last one at its end,
//! whether there are three or a million. So those who come back come back evenly, too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{close::Close, ids::ClientId};

/// When each client of a drain is closed.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    window: Duration,
    /// Clients on each shard when the drain began.
    clients: Arc<[u64]>,
}

impl Pace {
    /// Closes spread over the window, on shards that have so many clients.
    pub(crate) fn new(window: Duration, clients: impl IntoIterator<Item = u64>) -> Self {
        Self { window, clients: clients.into_iter().collect() }
    }

    /// The time into the drain at which a shard that found `count` clients closes the one of the
    /// number `index`.
    fn due(&self, shard: usize, count: u64, index: u64) -> Duration {
        let (before, all) = self.rank(shard, count, index);
        match all {
            0 | 1 => Duration::ZERO,
            all => {
                let nanos = self.window.as_nanos() * u128::from(before) / u128::from(all - 1);
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        }
    }

    /// How many clients of all shards are closed before that one, and how many there are.
    ///
    /// Each shard lays its clients out at the middles of as many equal parts of a line; a client's
    /// place is how many lie before it, on any shard. So the shards take turns, each as often as it
    /// has clients, without asking each other.
    fn rank(&self, shard: usize, count: u64, index: u64) -> (u64, u64) {
        let (mut before, mut all) = (index, count);
        let place = 2 * index + 1;
        for (other, &clients) in self.clients.iter().enumerate() {
            if other == shard || clients == 0 || count == 0 {
                continue;
            }
            all += clients;
            // Client k of the other one lies before if (2k + 1) / clients < place / count; where two
            // lie at one point, the lower shard's comes first.
            let scaled = place * clients;
            let below = if other < shard { scaled / count } else { scaled.div_ceil(count) - 1 };
            before += below.div_ceil(2);
        }
        (before, all)
    }
}

/// A drain under way on one shard.
pub(super) struct Draining {
    pub(super) close: Close,
    pace: Pace,
    shard: usize,
    clients: Vec<ClientId>,
    done: usize,
    since: Instant,
}

impl Draining {
    /// A drain that begins now, of the clients of a shard.
    pub(super) fn new(
        close: Close,
        pace: Pace,
        shard: u16,
        clients: Vec<ClientId>,
        since: Instant,
    ) -> Self {
        Self { close, pace, shard: usize::from(shard), clients, done: 0, since }
    }

    /// When the next client is to be closed; none if all were.
    fn next(&self) -> Option<Instant> {
        let left = self.done < self.clients.len();
        left.then(|| {
            let (count, index) = (self.clients.len() as u64, self.done as u64);
            self.since + self.pace.due(self.shard, count, index)
        })
    }

    /// The time until the next client is to be closed; none if all were.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.next().map(|next| next.saturating_duration_since(now))
    }

    /// The clients that are to be closed by now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<ClientId> {
        let begin = self.done;
        while self.next().is_some_and(|next| next <= now) {
            self.done += 1;
        }
        let due = self.clients[begin..self.done].to_vec();
        if self.done == self.clients.len() {
            (self.clients, self.done) = (Vec::new(), 0);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All times at which anybody is closed, in order.
    fn times(pace: &Pace) -> Vec<Duration> {
        let shards = pace.clients.iter().enumerate();
        let mut times: Vec<_> = shards
            .flat_map(|(shard, &count)| (0..count).map(move |index| pace.due(shard, count, index)))
            .collect();
        times.sort_unstable();
        times
    }

    #[test]
    fn few_clients_take_the_whole_window() {
        let seconds = |clients: &[u64]| -> Vec<u64> {
            let pace = Pace::new(Duration::from_secs(12), clients.iter().copied());
            times(&pace).iter().map(Duration::as_secs).collect()
        };
        for (clients, expected) in [
            (&[][..], &[][..]),
            (&[0, 0], &[]),
            (&[1], &[0]),
            (&[0, 1], &[0]),
            (&[1, 1], &[0, 12]),
            (&[2, 1], &[0, 6, 12]),
            (&[3, 0], &[0, 6, 12]),
            (&[1, 1, 1, 0, 1], &[0, 4, 8, 12]),
        ] {
            assert_eq!(seconds(clients), expected, "{clients:?}");
        }
    }

    #[test]
    fn a_shard_that_finds_others_than_it_was_counted_with_keeps_within_the_window() {
        let pace = Pace::new(Duration::from_secs(10), [5, 7]);
        for count in [1, 4, 9] {
            let own: Vec<_> = (0..count).map(|index| pace.due(0, count, index)).collect();
            assert!(own.is_sorted() && own[own.len() - 1] <= Duration::from_secs(10), "{own:?}");
        }
    }

    proptest! {
        #[test]
        fn clients_of_all_shards_stand_in_one_row(clients in proptest::collection::vec(0_u64..40, 1..9)) {
            let pace = Pace::new(Duration::from_secs(7), clients.iter().copied());
            let all: u64 = clients.iter().sum();
            let mut ranks = Vec::new();
            for (shard, &count) in clients.iter().enumerate() {
                let own: Vec<_> = (0..count).map(|index| pace.rank(shard, count, index)).collect();
                prop_assert!(own.is_sorted());
                prop_assert!(own.iter().all(|(_, known)| *known == all));
                ranks.extend(own.into_iter().map(|(rank, _)| rank));
            }
            ranks.sort_unstable();
            prop_assert_eq!(ranks, (0..all).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_million_clients_take_the_window_and_no_longer() {
        let window = Duration::from_hours(1);
        let pace = Pace::new(window, [600_000, 400_000]);
        assert_eq!(pace.due(0, 600_000, 0), Duration::ZERO);
        assert_eq!(pace.due(0, 600_000, 599_999).max(pace.due(1, 400_000, 399_999)), window);
        let middle = pace.due(0, 600_000, 300_000);
        assert!(middle.abs_diff(window / 2) < Duration::from_millis(10), "{middle:?}");
    }
}
