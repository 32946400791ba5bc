//! The layers over the defaults: file, environment, flags; each a tree of known keys.
//!
//! Unknown keys end here, with the name that was probably meant.

use std::collections::BTreeMap;
use std::ffi::OsString;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};

use super::super::keys::{is_key, is_section, nearest};
use super::{Fault, MOST_TOLD, Origin, misfit};

/// Before every variable of ours.
const PREFIX: &str = "GWS_";

/// The known keys of one source.
#[derive(Default)]
pub(super) struct Layer {
    /// As deep as the tree of keys.
    pub(super) tree: Dict,
    /// Where each key was set.
    pub(super) origins: BTreeMap<String, Origin>,
}

impl Layer {
    fn add(&mut self, key: &str, value: Value, origin: Origin) {
        insert(&mut self.tree, key, value);
        self.origins.insert(key.to_owned(), origin);
    }
}

/// Puts a value at `section.key`.
pub(super) fn insert(tree: &mut Dict, key: &str, value: Value) {
    let Some((section, name)) = key.split_once('.') else {
        tree.insert(key.to_owned(), value);
        return;
    };
    let table = tree.entry(section.to_owned()).or_insert_with(|| Dict::new().into());
    if let Value::Dict(_, table) = table {
        table.insert(name.to_owned(), value);
    }
}

/// Parses TOML; a fault names line and column, and shows nothing of the text.
pub(in crate::config) fn read_toml(text: &str) -> Result<Dict, String> {
    // Some editors put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Toml::from_str::<Dict>(text).map_err(|error| {
        let what = error.message().lines().collect::<Vec<_>>().join(", ");
        let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
            return what;
        };
        let line = 1 + before.matches('\n').count();
        let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
        format!("line {line}, column {column}: {what}")
    })
}

/// The known keys of a file.
pub(super) fn from_tree(tree: Dict, origin: &Origin, faults: &mut Vec<Fault>) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in tree {
        if is_key(&name) {
            layer.add(&name, value, origin.clone());
        } else if !is_section(&name) {
            push_unknown(faults, origin.clone(), &name);
        } else if let Value::Dict(_, table) = value {
            for (key, value) in table {
                let key = format!("{name}.{key}");
                if is_key(&key) {
                    layer.add(&key, value, origin.clone());
                } else {
                    push_unknown(faults, origin.clone(), &key);
                }
            }
        } else {
            let fault = Fault::of(origin.clone(), &name, format!("expected a section: [{name}]"));
            faults.push(fault.with_value(Some(&value)));
        }
    }
    layer
}

/// The variables `GWS_SHARDS`, `GWS_WEBSOCKET__LISTEN` and so on.
pub(super) fn from_env(
    env: impl Iterator<Item = (OsString, OsString)>,
    faults: &mut Vec<Fault>,
) -> Layer {
    // Sorted, so that faults come in the same order each time.
    let ours: BTreeMap<String, OsString> = env
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX) && !is_service_link(name))
        .collect();
    let mut layer = Layer::default();
    for (name, value) in ours {
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        let origin = Origin::Environment(name);
        if !is_key(&key) {
            push_unknown(faults, origin, &key);
            continue;
        }
        match value.into_string() {
            // The parser of figment's own provider for the environment.
            Ok(text) => {
                let parsed = text.parse().unwrap_or_else(|never| match never {});
                layer.add(&key, fitting(&key, parsed, text), origin);
            }
            Err(_) => faults.push(Fault::of(origin, &key, "is not UTF-8")),
        }
    }
    layer
}

/// Kubernetes sets such variables in every pod for a service that is named `gws` or `gws-…`.
fn is_service_link(name: &str) -> bool {
    !name.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.contains("_SERVICE_PORT")
            || name.ends_with("_PORT")
            || name.contains("_PORT_"))
}

/// Each `section.key=value`; of two for one key, the later.
pub(super) fn from_sets(sets: &[String], faults: &mut Vec<Fault>) -> Layer {
    let mut layer = Layer::default();
    for set in sets {
        let Some((key, text)) = set.split_once('=') else {
            let fault = Fault::of(Origin::Flag, set, "expected section.key=value");
            faults.push(fault);
            continue;
        };
        let (key, text) = (key.trim(), text.trim());
        if !is_key(key) {
            push_unknown(faults, Origin::Flag, key);
            continue;
        }
        let parsed = toml_value(text).unwrap_or_else(|| Value::from(text));
        layer.add(key, fitting(key, parsed, text.to_owned()), Origin::Flag);
    }
    layer
}

/// `text` as the one value that it is in TOML.
fn toml_value(text: &str) -> Option<Value> {
    let mut tree = read_toml(&format!("value = {text}")).ok()?;
    let value = tree.remove("value")?;
    tree.is_empty().then_some(value)
}

/// What was parsed, unless only the text itself fits the key: `GWS_LOG__FILE=123` is a file's name.
fn fitting(key: &str, parsed: Value, text: String) -> Value {
    if misfit(key, &parsed).is_none() {
        return parsed;
    }
    let plain = Value::from(text);
    if misfit(key, &plain).is_none() { plain } else { parsed }
}

fn push_unknown(faults: &mut Vec<Fault>, origin: Origin, key: &str) {
    // To look for what was meant takes time, and of so many nobody reads it.
    let meant = if faults.len() < MOST_TOLD { nearest(key) } else { None };
    let meant = meant.map(|name| match &origin {
        Origin::Environment(_) => {
            format!("{PREFIX}{}", name.to_ascii_uppercase().replace('.', "__"))
        }
        _ => name.to_owned(),
    });
    let problem = match meant {
        Some(name) => format!("unknown key, did you mean {name}?"),
        None => "unknown key".to_owned(),
    };
    faults.push(Fault::of(origin, key, problem));
}
