//! The timer wheel: when to look at which session again.
//!
//! A session needs to be looked at a few times a minute: to be pinged, to be found silent, to be
//! cut off. The wheel knows the slot and the tick and nothing else; what is due is decided by the
//! session when its time comes. So an entry is eight bytes, hearing from a client moves no timer,
//! and an entry that has become stale costs one look.

use std::{
    num::NonZero,
    time::{Duration, Instant},
};

use super::slot::Slot;

/// Points in time, in steps of [`STEP`] since the wheel was made.
pub(super) type Tick = u32;

/// Length of a tick: the precision of heartbeats and deadlines.
pub(super) const STEP: Duration = Duration::from_millis(100);

/// Ticks of one round of the wheel: with [`STEP`] it takes 51 s, so that a ping interval fits into
/// it and only rare, long timers are asked for anew.
const ROUND: Tick = 512;

/// Buckets of the wheel.
const BUCKETS: usize = ROUND as usize;

#[derive(Debug)]
pub(super) struct Wheel {
    start: Instant,
    buckets: Vec<Vec<(Slot, Tick)>>,
    occupied: [u64; BUCKETS / 64],
    /// The tick that was handled last.
    reached: Tick,
}

impl Wheel {
    pub(super) fn new(start: Instant) -> Self {
        let buckets = std::iter::repeat_with(Vec::new).take(BUCKETS).collect();
        Self { start, buckets, occupied: [0; _], reached: 0 }
    }

    /// The tick that `now` lies in.
    pub(super) fn tick(&self, now: Instant) -> Tick {
        let ticks = now.saturating_duration_since(self.start).as_millis() / STEP.as_millis();
        // 32 bits of 100 ms are 13 years of uptime.
        Tick::try_from(ticks).unwrap_or(Tick::MAX)
    }

    /// When `tick` began.
    pub(super) fn instant(&self, tick: Tick) -> Instant {
        self.start + STEP * tick
    }

    /// Microseconds since the wheel was made; after an hour they begin anew. Never zero.
    pub(super) fn micros(&self, now: Instant) -> NonZero<u32> {
        let micros = now.saturating_duration_since(self.start).as_micros();
        #[expect(clippy::cast_possible_truncation, reason = "only differences count")]
        NonZero::new(micros as u32).unwrap_or(NonZero::<u32>::MIN)
    }

    /// The first tick that begins no earlier than `at`.
    pub(super) fn tick_from(&self, at: Instant) -> Tick {
        let ticks = at.saturating_duration_since(self.start).as_millis().div_ceil(STEP.as_millis());
        Tick::try_from(ticks).unwrap_or(Tick::MAX)
    }

    /// Asks for `slot` to be looked at when `tick` has begun, at the next turn if it is past.
    /// Answers the tick at which that will be.
    pub(super) fn schedule(&mut self, slot: Slot, tick: Tick) -> Tick {
        let tick = tick.max(self.reached + 1);
        let bucket = tick as usize % BUCKETS;
        self.buckets[bucket].push((slot, tick));
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        tick
    }

    /// Asks for `slot`, which is to be looked at when `pending` has begun (it may be past, and is if
    /// nothing was asked for yet), to be looked at no later than at `tick`. Answers the tick at which
    /// that will be.
    ///
    /// What is pending may come too early, and then asks again: so whose time is moved on and on
    /// takes one entry. Nothing is asked for further ahead than a round, which each entry is touched
    /// in anyhow: so whose time is moved back and back has one in each bucket at most.
    pub(super) fn bring_forward(&mut self, slot: Slot, pending: Tick, tick: Tick) -> Tick {
        let soonest = self.reached.saturating_add(1);
        let tick = tick.clamp(soonest, self.reached.saturating_add(ROUND));
        if (soonest..=tick).contains(&pending) {
            return pending;
        }
        self.schedule(slot, tick)
    }

    /// Entries, those that have become stale included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    /// Moves the wheel to `now` and puts what came due into `due`, as slot and tick.
    pub(super) fn advance(&mut self, now: Tick, due: &mut Vec<(Slot, Tick)>) {
        // After a long sleep one round visits every bucket; more would find nothing new.
        let steps = (now.saturating_sub(self.reached) as usize).min(BUCKETS);
        for step in 0..steps {
            let bucket = (now as usize - steps + 1 + step) % BUCKETS;
            if self.occupied[bucket / 64] & 1 << (bucket % 64) == 0 {
                continue;
            }
            let entries = &mut self.buckets[bucket];
            entries.retain(|&(slot, tick)| {
                let is_due = tick <= now;
                if is_due {
                    due.push((slot, tick));
                }
                !is_due
            });
            if entries.is_empty() {
                // What a burst of connections left behind goes back to the system.
                *entries = Vec::new();
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        }
        self.reached = self.reached.max(now);
    }

    /// Time until the next occupied bucket, or none if the wheel is empty.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let first = (self.reached as usize + 1) % BUCKETS;
        let ahead = self.distance_to_occupied(first)?;
        let tick = u64::from(self.reached) + 1 + ahead as u64;
        let at = self.instant(Tick::try_from(tick).unwrap_or(Tick::MAX));
        Some(at.saturating_duration_since(now))
    }

    fn distance_to_occupied(&self, first: usize) -> Option<usize> {
        (0..=self.occupied.len()).find_map(|step| {
            let index = (first / 64 + step) % self.occupied.len();
            let mut word = self.occupied[index];
            if step == 0 {
                word &= u64::MAX << (first % 64);
            } else if step == self.occupied.len() {
                word &= !(u64::MAX << (first % 64));
            }
            (word != 0).then(|| {
                let bucket = index * 64 + word.trailing_zeros() as usize;
                (bucket + BUCKETS - first) % BUCKETS
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_comes_due_once_at_its_tick_and_no_earlier(
            ticks in prop::collection::vec(1u32..3000, 1..60),
            steps in prop::collection::vec(1u32..700, 1..40),
        ) {
            let mut wheel = Wheel::new(Instant::now());
            let mut waiting: Vec<(Slot, Tick)> = Vec::new();
            for (slot, tick) in (0..).map(Slot::new).zip(ticks) {
                waiting.push((slot, wheel.schedule(slot, tick)));
            }
            let mut now = 0;
            for step in steps {
                let sleep = wheel.next(wheel.start + STEP * now);
                prop_assert_eq!(sleep.is_none(), waiting.is_empty());
                if let (Some(sleep), Some(first)) = (sleep, waiting.iter().map(|w| w.1).min()) {
                    prop_assert!(sleep <= STEP * first.saturating_sub(now), "sleeps too long");
                }
                now += step;
                let mut due = Vec::new();
                wheel.advance(now, &mut due);
                let (mut expected, rest): (Vec<_>, Vec<_>) =
                    waiting.into_iter().partition(|&(_, tick)| tick <= now);
                due.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(due, expected);
                waiting = rest;
            }
        }
    }

    #[test]
    fn the_past_is_scheduled_for_the_next_turn() {
        let mut wheel = Wheel::new(Instant::now());
        let mut due = Vec::new();
        wheel.advance(1000, &mut due);
        assert_eq!(wheel.schedule(Slot::new(7), 3), 1001);
        wheel.advance(1001, &mut due);
        assert_eq!(due, [(Slot::new(7), 1001)]);
    }
}
