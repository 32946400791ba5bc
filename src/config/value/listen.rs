//! Lists that are comfortable to write: addresses to listen on, and words.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::de::Unexpected;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::BadValue;

/// One address to listen on, or several: `"0.0.0.0:20818"`, `["127.0.0.1:1", "[::1]:1"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen(pub Vec<SocketAddr>);

const LISTEN: &str =
    "an address with its port such as \"0.0.0.0:20818\" or \"[::]:20818\", or a list of them";

impl Listen {
    /// For defaults: the addresses in `text`, or none if it is not what [`Listen::from_str`] reads.
    pub fn of(text: &str) -> Self {
        text.parse().unwrap_or_default()
    }
}

impl FromStr for Listen {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let addresses = pieces(text).map(|piece| {
            piece.parse().map_err(|_| BadValue { expected: LISTEN, got: piece.to_owned() })
        });
        addresses.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            more => serializer.collect_seq(more.iter().map(ToString::to_string)),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListenVisitor)
    }
}

struct ListenVisitor;

impl<'de> de::Visitor<'de> for ListenVisitor {
    type Value = Listen;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(LISTEN)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Listen, A::Error> {
        let mut addresses = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    return Err(de::Error::invalid_value(Unexpected::Str(&text), &self));
                }
            }
        }
        Ok(Listen(addresses))
    }
}

/// A list of words: `["a", "b"]`, or `"a, b"` where a list is hard to write (the environment).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl FromStr for Words {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(pieces(text).map(str::to_owned).collect()))
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordsVisitor)
    }
}

struct WordsVisitor;

impl<'de> de::Visitor<'de> for WordsVisitor {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of words such as [\"a\", \"b\"], or \"a, b\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Words, E> {
        Ok(Words(pieces(text).map(str::to_owned).collect()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element()? {
            words.push(word);
        }
        Ok(Words(words))
    }
}

/// What stands between the commas; nothing between two commas is nothing.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read<T: de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn one_address_is_text_and_several_are_a_list() {
        let one = Listen::of("0.0.0.0:20818");
        assert_eq!(serde_json::to_string(&one).unwrap(), r#""0.0.0.0:20818""#);
        let two = Listen::of("127.0.0.1:1, [::1]:2");
        assert_eq!(two.0.len(), 2);
        assert_eq!(serde_json::to_string(&two).unwrap(), r#"["127.0.0.1:1","[::1]:2"]"#);
        assert_eq!(read(r#"["127.0.0.1:1","[::1]:2"]"#), Ok(two));
        assert_eq!(read("[]"), Ok(Listen::default()));
        assert_eq!(read(r#""""#), Ok(Listen::default()));
    }

    #[test]
    fn an_address_without_a_port_is_refused_with_an_example() {
        for wrong in [r#""0.0.0.0""#, r#""localhost:1""#, r#"["1.2.3.4:1", "x"]"#, "5"] {
            let fault = read::<Listen>(wrong).unwrap_err();
            assert!(fault.contains("such as \"0.0.0.0:20818\""), "{fault}");
        }
    }

    #[test]
    fn words_are_a_list_or_stand_between_commas() {
        let words = Words(vec!["a".into(), "b".into()]);
        assert_eq!(read(r#"["a", "b"]"#), Ok(words.clone()));
        assert_eq!(read(r#"" a ,, b ""#), Ok(words.clone()));
        assert_eq!(serde_json::to_string(&words).unwrap(), r#"["a","b"]"#);
        assert!(read::<Words>("5").unwrap_err().contains("a list of words"));
    }

    proptest! {
        #[test]
        fn addresses_survive_their_own_text(addresses: Vec<SocketAddr>) {
            // The flow label and the scope of an IPv6 address have no place in a setting.
            let plain = addresses.iter().map(|a| SocketAddr::new(a.ip(), a.port()));
            let listen = Listen(plain.collect());
            let text = serde_json::to_string(&listen).unwrap();
            prop_assert_eq!(read(&text), Ok(listen.clone()));
            prop_assert_eq!(listen.to_string().parse(), Ok(listen));
        }

        #[test]
        fn words_survive_their_own_text(words: Vec<String>) {
            let words = Words(words);
            prop_assert_eq!(read(&serde_json::to_string(&words).unwrap()), Ok(words));
        }

        #[test]
        fn garbage_is_refused_and_never_panics(text in ".*") {
            let _ = text.parse::<Listen>();
            let _ = text.parse::<Words>();
        }
    }
}
