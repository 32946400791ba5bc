//! Writes a configuration as TOML, every key in the order of the shipped file.
//!
//! Secrets are paths of files that hold them, so there is nothing here to hide.

use std::fmt::Write as _;

use serde_json::Value;

use super::Config;
use super::keys::{KEYS, flatten};

/// The whole configuration as TOML; read back, it is the same.
pub fn to_toml(config: &Config) -> String {
    let values = flatten(config);
    let mut text = String::new();
    let mut current = "";
    for (key, _) in KEYS {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        if section != current {
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n[{section}]");
            current = section;
        }
        let value = values.get(*key).map(literal).unwrap_or_default();
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

/// A value as TOML. JSON's escapes are TOML's too, but DEL may not stand unescaped.
pub(crate) fn literal(value: &Value) -> String {
    match value {
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(literal).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string().replace('\u{7f}', "\\u007f"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::value::{Auto, Memory, Size, Words};
    use super::*;
    use crate::config::load::read_toml;

    /// Reads back what was printed, without the checks of values that only `load` makes.
    fn reread(text: &str) -> Config {
        let tree = read_toml(text).unwrap();
        figment::value::Value::from(tree).deserialize().unwrap()
    }

    #[test]
    fn the_defaults_survive_being_printed() {
        let text = to_toml(&Config::default());
        assert!(text.contains("\n[websocket]\nlisten = \"0.0.0.0:20818\"\n"), "{text}");
        assert_eq!(reread(&text), Config::default());
    }

    proptest! {
        #[test]
        fn any_values_survive_being_printed(
            shards: Option<u32>,
            bytes: u64,
            share in 1u8..=90,
            millis: u64,
            words: Vec<String>,
            path: String,
        ) {
            let shards = shards.map_or(Auto::Auto, |count| Auto::Set(count as usize));
            let mut config = Config { shards, ..Config::default() };
            config.limits.max_message = Size(bytes);
            config.limits.queued_bytes = Memory::Percent(share);
            config.limits.partial_bytes = Memory::Bytes(Size(bytes));
            config.limits.handshake = std::time::Duration::from_millis(millis);
            config.websocket.subprotocols = Words(words);
            config.log.file = path.into();
            prop_assert_eq!(reread(&to_toml(&config)), config);
        }
    }
}
