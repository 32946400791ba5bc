//! What a client may say per second, and what it has said.

use super::wheel::Tick;

/// What the client has sent and not yet worked off at the rates that are allowed: two buckets that
/// hold one second's worth. So a second's worth may come at once, and on the long run never more
/// than the rate; a client that keeps just below it is never taken for one that is over.
///
/// Both are counted in tenths, as a tick is a tenth of a second: so nothing is lost by rounding.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateLimit {
    /// Until when it was worked off.
    since: Tick,
    messages: u32,
    bytes: u64,
}

/// What a client may send per second; none is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) messages: Option<u64>,
    pub(super) bytes: Option<u64>,
}

/// Ticks of one second.
const SECOND: u64 = 10;

impl RateLimit {
    /// Counts what came in at `now`; false if it is more than there is room for.
    pub(super) fn take(&mut self, now: Tick, (messages, bytes): (u32, u64), rates: Rates) -> bool {
        let ticks = u64::from(now.wrapping_sub(self.since));
        self.since = now;
        let messages = fill(self.messages.into(), ticks, messages.into(), rates.messages);
        let bytes = fill(self.bytes, ticks, bytes, rates.bytes);
        // Beyond 32 bits there is room for 400 million messages a second, which nobody can send.
        self.messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.bytes = bytes;
        over(messages, rates.messages) == 0 && over(bytes, rates.bytes) == 0
    }

    /// Works off what is over the rates in some of `ticks`, which didn't count when they passed;
    /// false if they are too few.
    pub(super) fn work_off(&mut self, ticks: &mut Tick, rates: Rates) -> bool {
        let needed = over(self.messages.into(), rates.messages).max(over(self.bytes, rates.bytes));
        let Some(left) = u64::from(*ticks).checked_sub(needed) else { return false };
        *ticks = Tick::try_from(left).unwrap_or(Tick::MAX);
        let less = |rate: Option<u64>| rate.unwrap_or(0).saturating_mul(needed);
        let messages = u64::from(self.messages).saturating_sub(less(rates.messages));
        self.messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.bytes = self.bytes.saturating_sub(less(rates.bytes));
        true
    }
}

/// Ticks until what a bucket holds too much is worked off.
fn over(level: u64, rate: Option<u64>) -> u64 {
    let Some(rate) = rate else { return 0 };
    level.saturating_sub(rate.saturating_mul(SECOND)).div_ceil(rate.max(1))
}

/// The level of a bucket that was left alone for some ticks, with some more in it. Where there is
/// no rate there is no bucket.
fn fill(level: u64, ticks: u64, more: u64, rate: Option<u64>) -> u64 {
    let Some(rate) = rate else { return 0 };
    // What came when more was allowed is not held against the client for longer than a second.
    let level = level.min(rate.saturating_mul(SECOND));
    level.saturating_sub(rate.saturating_mul(ticks)).saturating_add(more.saturating_mul(SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(messages: u64, bytes: u64) -> Rates {
        let rate = |rate| (rate > 0).then_some(rate);
        Rates { messages: rate(messages), bytes: rate(bytes) }
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_then_the_rate() {
        let mut limit = RateLimit::default();
        let mut take = |now, messages| limit.take(now, (messages, 10), rates(3, 0));
        assert!(take(100, 2));
        assert!(take(105, 1));
        assert!(take(105, 1), "half a second has made room for one and a half");
        assert!(!take(105, 1));
        assert!(take(125, 3), "who is silent for a second has all of it again");
        assert!(!take(126, 1));
    }

    #[test]
    fn a_client_at_its_rate_is_not_over_though_it_comes_unevenly() {
        let mut limit = RateLimit::default();
        let seconds = [[0, 3, 6], [1, 5, 9], [0, 4, 9], [2, 2, 8]].into_iter().cycle();
        for (second, at) in (0..1000).zip(seconds) {
            for at in at {
                assert!(limit.take(second * 10 + at, (1, 7), rates(3, 21)), "{second} {at}");
            }
        }
        let over = (10_000..20_000).step_by(2).any(|now| !limit.take(now, (1, 0), rates(4, 0)));
        assert!(over, "five a second are more than four");
    }

    #[test]
    fn a_changed_rate_acts_at_once_and_one_that_is_off_forgets() {
        let mut limit = RateLimit::default();
        assert!(limit.take(0, (1000, 1000), rates(1000, 1000)));
        assert!(!limit.take(0, (1, 0), rates(5, 0)));
        assert!(limit.take(10, (4, 0), rates(5, 0)), "the old rate is no debt");
        assert!(limit.take(10, (u32::MAX, u64::MAX), rates(0, 0)));
        assert!(limit.take(10, (5, 99), rates(5, 99)));
        assert!(!limit.take(10, (0, 1), rates(5, 99)));
        assert!(limit.take(9, (5, 99), rates(5, 99)), "a clock that wraps is a long time");
    }

    #[test]
    fn time_that_did_not_count_works_off_what_came_in_it() {
        let mut limit = RateLimit::default();
        let only = rates(2, 0);
        // Four seconds' worth comes at once, of a client that was not listened to for three.
        let mut ticks = 30;
        for number in 0..8 {
            assert!(limit.take(100, (1, 0), only) || limit.work_off(&mut ticks, only), "{number}");
        }
        assert_eq!(ticks, 0);
        assert!(!limit.take(100, (1, 0), only) && !limit.work_off(&mut ticks, only));
        assert!(!limit.work_off(&mut 4, only), "half a second for one message");
        assert!(limit.work_off(&mut 5, only));
        assert!(limit.work_off(&mut 0, rates(0, 0)), "where there is no rate nothing is over");
    }

    #[test]
    fn the_largest_rates_and_amounts_do_not_overflow() {
        let mut limit = RateLimit::default();
        assert!(!limit.take(1, (u32::MAX, u64::MAX), rates(1, 1)));
        assert!(limit.take(Tick::MAX, (u32::MAX, u64::MAX), rates(u64::MAX, u64::MAX)));
    }
}
