//! Moments as they travel: what a `google.protobuf.Timestamp` can say, on the way in and out.
//!
//! Libraries refuse a timestamp out of its range, and with it the whole message. So none goes out.

use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost_types::Timestamp;

/// Seconds since 1970-01-01 UTC: from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z.
pub const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Nanoseconds within a second.
const NANOS: RangeInclusive<i32> = 0..=999_999_999;

/// The moment that it says; none if it is out of range. What would be carried over is another time.
pub fn read(at: Timestamp) -> Option<SystemTime> {
    let in_range = SECONDS.contains(&at.seconds) && NANOS.contains(&at.nanos);
    in_range.then(|| SystemTime::try_from(at).ok()).flatten()
}

/// What says the moment, or the nearest that can be said.
pub fn write(at: SystemTime) -> Timestamp {
    let last = Timestamp { seconds: *SECONDS.end(), nanos: *NANOS.end() };
    let first = Timestamp { seconds: *SECONDS.start(), nanos: *NANOS.start() };
    let is_over = |beyond: Duration| i64::try_from(beyond.as_secs()).is_err();
    let told = match at.duration_since(UNIX_EPOCH) {
        Ok(since) if is_over(since) => last,
        Err(before) if is_over(before.duration()) => first,
        _ => Timestamp::from(at),
    };
    match told.seconds {
        seconds if seconds > *SECONDS.end() => last,
        seconds if seconds < *SECONDS.start() => first,
        _ => told,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_out_of_range_is_none_on_the_way_in_and_the_nearest_on_the_way_out() {
        let (first, last) = (*SECONDS.start(), *SECONDS.end());
        for (seconds, nanos, is_one) in [
            (first, 0, true),
            (first - 1, 999_999_999, false),
            (last, 999_999_999, true),
            (last + 1, 0, false),
            (0, 1_000_000_000, false),
            (0, -1, false),
            (i64::MAX, 0, false),
            (i64::MIN, 0, false),
        ] {
            assert_eq!(read(Timestamp { seconds, nanos }).is_some(), is_one, "{seconds} {nanos}");
        }
        let after = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(write(after(253_402_300_800)), Timestamp { seconds: last, nanos: 999_999_999 });
        assert_eq!(write(after(u64::MAX >> 1)), Timestamp { seconds: last, nanos: 999_999_999 });
        let before = UNIX_EPOCH - Duration::from_secs(62_135_596_801);
        assert_eq!(write(before), Timestamp { seconds: first, nanos: 0 });
    }

    proptest! {
        #[test]
        fn what_is_in_range_comes_back_as_it_was(seconds in SECONDS, nanos in NANOS) {
            let at = Timestamp { seconds, nanos };
            prop_assert_eq!(write(read(at).unwrap()), at);
        }
    }
}
