//! The kinds of value that a setting can have, each with a text form that people can write.
//!
//! A form that is read back from its own text is the same value: `--print-config` and the table of
//! changes rely on it. Each kind says what it expects in words that fit after "expected".

mod listen;
mod network;
mod origin;
mod size;
pub mod span;

use std::{fmt, marker::PhantomData, path::PathBuf};

use serde::de::{IntoDeserializer, Unexpected, value::Error as Plain};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use listen::{Listen, Words};
pub use network::Networks;
pub use origin::{Origin, Pattern};
pub use size::{Memory, Size};

/// Text that is not a value of the kind at hand; says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct BadValue {
    /// What would have been a value.
    pub expected: &'static str,
    /// What stood there instead.
    pub got: String,
}

/// A value, or `auto`: what suits the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto<T> {
    /// What suits the machine.
    #[default]
    Auto,
    /// What the operator says.
    Set(T),
}

impl<T> Auto<T> {
    /// What the operator says, if anything.
    pub fn set(&self) -> Option<&T> {
        match self {
            Self::Auto => None,
            Self::Set(value) => Some(value),
        }
    }
}

/// The word for [`Auto::Auto`].
const AUTO: &str = "auto";

/// A type that can stand in an [`Auto`], with the words for what is expected there.
pub trait OrAuto {
    /// Fits after "expected".
    const EXPECTED: &'static str;
}

impl OrAuto for usize {
    const EXPECTED: &'static str = "\"auto\" or a whole number";
}

impl OrAuto for PathBuf {
    const EXPECTED: &'static str = "\"auto\" or a path";
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::Set(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de> + OrAuto> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AutoVisitor(PhantomData))
    }
}

struct AutoVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + OrAuto> de::Visitor<'de> for AutoVisitor<T> {
    type Value = Auto<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == AUTO {
            return Ok(Auto::Auto);
        }
        T::deserialize(IntoDeserializer::<Plain>::into_deserializer(text))
            .map(Auto::Set)
            .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        T::deserialize(IntoDeserializer::<Plain>::into_deserializer(number))
            .map(Auto::Set)
            .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        T::deserialize(IntoDeserializer::<Plain>::into_deserializer(number))
            .map(Auto::Set)
            .map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }
}

/// Splits `"64 KiB"` into its number and its unit; none if it does not begin with a whole number.
fn number_and_unit(text: &str) -> Option<(u128, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn auto_is_a_word_and_anything_else_is_the_value() {
        assert_eq!(read(r#""auto""#), Ok(Auto::<usize>::Auto));
        assert_eq!(read("7"), Ok(Auto::Set(7_usize)));
        let path = PathBuf::from("/run/x.sock");
        assert_eq!(read(r#""/run/x.sock""#), Ok(Auto::Set(path)));
        for wrong in [r#""many""#, "-1", "true", "[1]"] {
            let fault = read::<Auto<usize>>(wrong).unwrap_err();
            assert!(fault.contains(r#"expected "auto" or a whole number"#), "{fault}");
        }
        assert!(read::<Auto<PathBuf>>("7").unwrap_err().contains("or a path"));
    }

    #[test]
    fn auto_is_written_as_it_is_read() {
        assert_eq!(serde_json::to_string(&Auto::<usize>::Auto).unwrap(), r#""auto""#);
        assert_eq!(serde_json::to_string(&Auto::Set(3_usize)).unwrap(), "3");
    }
}
