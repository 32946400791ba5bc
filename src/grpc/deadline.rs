//! Until when a caller waits: the header `grpc-timeout`.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: at most eight digits, and one
//! letter for the unit.

use std::time::Duration;

use tonic::codegen::http::HeaderMap;

const HEADER: &str = "grpc-timeout";
const DIGITS: usize = 8;

/// The time that the caller gives the call; none if it says nothing, or nothing readable.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(HEADER)?.to_str().ok()?)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_hours(number),
        "M" => Duration::from_mins(number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_unit_is_known() {
        for (text, time) in [
            ("2H", Duration::from_hours(2)),
            ("2M", Duration::from_mins(2)),
            ("2S", Duration::from_secs(2)),
            ("2m", Duration::from_millis(2)),
            ("2u", Duration::from_micros(2)),
            ("2n", Duration::from_nanos(2)),
            ("00000000n", Duration::ZERO),
        ] {
            assert_eq!(parse(text), Some(time), "{text}");
        }
        assert_eq!(parse("99999999H"), Some(Duration::from_hours(99_999_999)));
    }

    #[test]
    fn what_is_no_time_is_no_deadline() {
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789n", "1 S", "1\u{b5}"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
