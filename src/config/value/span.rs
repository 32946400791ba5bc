//! Durations as text, `"180s"`: for `#[serde(with = "span")]`.
//!
//! A bare number is refused: whoever writes `30` may mean seconds or milliseconds.

use std::{fmt, time::Duration};

use serde::de::Unexpected;
use serde::{Deserializer, Serializer, de};

use super::{BadValue, number_and_unit};

const SPAN: &str = "a duration with its unit such as \"180s\" (ms, s, m or h)";

/// In nanoseconds, largest first, so that the first that divides gives the shortest exact text.
/// The last two are never needed by hand, but make every duration writable.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads `"180s"`, `"250ms"`, `"5m"`, `"1h"`, `"0s"`.
pub fn parse(text: &str) -> Result<Duration, BadValue> {
    parse_span(text).ok_or_else(|| BadValue { expected: SPAN, got: text.to_owned() })
}

fn parse_span(text: &str) -> Option<Duration> {
    let (count, unit) = number_and_unit(text)?;
    let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let total = count.checked_mul(*length)?;
    let seconds = u64::try_from(total / 1_000_000_000).ok()?;
    let rest = u32::try_from(total % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, rest))
}

/// Writes a duration in the largest unit that is exact.
pub fn format(span: Duration) -> String {
    let total = span.as_nanos();
    for (unit, length) in UNITS {
        if total >= length && total.is_multiple_of(length) {
            return format!("{}{unit}", total / length);
        }
    }
    "0s".to_owned()
}

/// For serde.
pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*span))
}

/// For serde.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(SpanVisitor)
}

struct SpanVisitor;

impl de::Visitor<'_> for SpanVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(SPAN)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse_span(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_written_in_the_largest_unit_that_is_exact() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (25_000, "25s"),
            (90_000, "90s"),
            (180_000, "3m"),
            (3_600_000, "1h"),
        ] {
            assert_eq!(format(Duration::from_millis(millis)), text);
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)));
        }
        assert_eq!(parse("180s"), parse("3m"));
        assert_eq!(parse(" 5 m "), parse("300s"));
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_with_a_word_about_units() {
        for wrong in ["180", "", "s", "-5s", "1.5s", "5 fortnights", "5S", "1h30m"] {
            let fault = parse(wrong).unwrap_err().to_string();
            assert!(fault.contains("with its unit such as \"180s\""), "{fault}");
        }
        let fault = deserialize(&mut serde_json::Deserializer::from_str("180")).unwrap_err();
        assert!(fault.to_string().contains("with its unit"), "{fault}");
    }

    proptest! {
        #[test]
        fn a_duration_survives_its_own_text(seconds: u64, nanos in 0u32..1_000_000_000) {
            let span = Duration::new(seconds, nanos);
            prop_assert_eq!(parse(&format(span)), Ok(span));
        }

        #[test]
        fn garbage_is_refused_and_never_panics(text in ".*", odd in "[0-9]{0,45} ?[a-z]{0,3}") {
            let _ = parse(&text);
            let _ = parse(&odd);
        }
    }
}
