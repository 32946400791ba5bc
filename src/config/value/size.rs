//! Bytes and shares of memory: `65536`, `"64 KiB"`, `"25%"`.

use std::{fmt, str::FromStr};

use serde::de::Unexpected;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{BadValue, number_and_unit};

/// A number of bytes: `65536`, `"64 KiB"`, `"1MiB"`, `"2GiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE: &str = "a size such as \"64 KiB\" (B, KiB, MiB, GiB or TiB)";

/// Largest first, so that the first that divides gives the shortest exact text.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    /// So many times 1,024 bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// So many times 1,048,576 bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes; what memory could not hold is cut to what it could.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        parse_size(text).ok_or_else(|| BadValue { expected: SIZE, got: text.to_owned() })
    }
}

fn parse_size(text: &str) -> Option<Size> {
    let (count, unit) = number_and_unit(text)?;
    let bytes = if unit.is_empty() {
        1
    } else {
        let is_unit = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit);
        UNITS.iter().find(is_unit)?.1
    };
    let total = count.checked_mul(u128::from(bytes))?;
    u64::try_from(total).ok().map(Size)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (unit, bytes) in UNITS {
            if self.0 >= bytes && self.0.is_multiple_of(bytes) {
                return write!(f, "{} {unit}", self.0 / bytes);
            }
        }
        f.write_str("0 B")
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Amount { expected: SIZE, text: parse_size, number: Size })
    }
}

/// An amount of memory: a [`Size`], or a share of the machine's such as `"25%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Per cent of the memory the process may use (the cgroup's limit, or the machine's).
    Percent(u8),
    /// Bytes.
    Bytes(Size),
}

const MEMORY: &str = "a share of memory from \"1%\" to \"90%\", or a size such as \"512 MiB\"";

impl Memory {
    /// The number of bytes, where `total` is the memory the process may use.
    pub fn resolve(self, total: u64) -> u64 {
        match self {
            // Divided first: `total` times 90 might not fit, and a remainder of bytes is no loss.
            Self::Percent(share) => total / 100 * u64::from(share),
            Self::Bytes(size) => size.0,
        }
    }
}

impl FromStr for Memory {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        parse_memory(text).ok_or_else(|| BadValue { expected: MEMORY, got: text.to_owned() })
    }
}

fn parse_memory(text: &str) -> Option<Memory> {
    let Some(share) = text.trim().strip_suffix('%') else {
        return parse_size(text).map(Memory::Bytes);
    };
    let (share, rest) = number_and_unit(share)?;
    let allowed = rest.is_empty() && (1..=90).contains(&share);
    allowed.then_some(Memory::Percent(u8::try_from(share).ok()?))
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Percent(share) => write!(f, "{share}%"),
            Self::Bytes(size) => size.fmt(f),
        }
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Amount {
            expected: MEMORY,
            text: parse_memory,
            number: |bytes| Memory::Bytes(Size(bytes)),
        })
    }
}

/// Reads an amount from text or from a bare number of bytes.
struct Amount<T> {
    expected: &'static str,
    text: fn(&str) -> Option<T>,
    number: fn(u64) -> T,
}

impl<T> de::Visitor<'_> for Amount<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<T, E> {
        Ok((self.number)(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<T, E> {
        match u64::try_from(bytes) {
            Ok(bytes) => Ok((self.number)(bytes)),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(bytes), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_written_in_the_largest_unit_that_is_exact() {
        for (bytes, text) in [
            (0, "0 B"),
            (1000, "1000 B"),
            (1024, "1 KiB"),
            (65536, "64 KiB"),
            (1 << 20, "1 MiB"),
            (3 << 30, "3 GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn sizes_are_read_with_and_without_a_space_and_a_unit() {
        for text in ["65536", "64 KiB", "64KiB", " 64 kib ", "65536 B"] {
            assert_eq!(text.parse(), Ok(Size::kib(64)), "{text}");
        }
        for wrong in ["", "KiB", "64 KB", "-1", "1.5 MiB", "64 KiB x", "99999999 TiB"] {
            let fault = wrong.parse::<Size>().unwrap_err().to_string();
            assert!(fault.starts_with("expected a size such as \"64 KiB\""));
            assert!(fault.ends_with(&format!("got {wrong:?}")), "{fault}");
        }
        assert!(serde_json::from_str::<Size>("-5").is_err());
        assert_eq!(serde_json::from_str::<Size>("5").unwrap(), Size(5));
    }

    #[test]
    fn memory_is_a_share_or_a_size() {
        assert_eq!("25%".parse(), Ok(Memory::Percent(25)));
        assert_eq!("25 %".parse(), Ok(Memory::Percent(25)));
        assert_eq!("512 MiB".parse(), Ok(Memory::Bytes(Size::mib(512))));
        assert_eq!(Memory::Percent(25).resolve(1000), 250);
        assert_eq!(Memory::Percent(90).resolve(u64::MAX), u64::MAX / 100 * 90);
        assert_eq!(Memory::Bytes(Size(7)).resolve(1000), 7);
        for wrong in ["0%", "91%", "%", "300%", "2 5%", "-1%"] {
            assert!(wrong.parse::<Memory>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_size_survives_its_own_text(bytes: u64) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }

        #[test]
        fn memory_survives_its_own_text(bytes: u64, share in 1u8..=90) {
            for memory in [Memory::Bytes(Size(bytes)), Memory::Percent(share)] {
                prop_assert_eq!(memory.to_string().parse(), Ok(memory));
            }
        }

        #[test]
        fn garbage_is_refused_and_never_panics(text in ".*") {
            let _ = text.parse::<Size>();
            let _ = text.parse::<Memory>();
        }

        #[test]
        fn odd_units_never_panic(count in "[0-9]{0,45}", unit in " ?[a-zA-Z%]{0,4}") {
            let _ = format!("{count}{unit}").parse::<Memory>();
        }
    }
}
