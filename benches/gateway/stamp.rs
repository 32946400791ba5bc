//! The messages of the benchmark: text of a given length that begins with its number and, where
//! time matters, with the moment at which it was meant to be sent.
//!
//! ```text
//!   0000000000000042 00000001234567890123 xxxxxxxx…
//!   number           nanoseconds, 0: untimed
//! ```

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on the clock that all processes share.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// A message of `size` bytes, at least the 38 of the stamp.
pub(crate) fn message(number: u64, intended: u64, size: usize) -> String {
    let stamp = format!("{number:016} {intended:020} ");
    format!("{stamp:x<size$}")
}

/// Number and intended time of a message; none if it is untimed or none of ours.
pub(crate) fn read(payload: &[u8]) -> Option<(u64, u64)> {
    let intended = decimal(payload.get(17..37)?)?;
    if intended == 0 {
        return None;
    }
    Some((decimal(&payload[..16])?, intended))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = u64::from(digit.wrapping_sub(b'0'));
        (digit < 10).then_some(number * 10 + digit)
    })
}
