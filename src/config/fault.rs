//! What is wrong with a configuration, in one line each.

use std::fmt;
use std::path::PathBuf;

use figment::value::Value;

use super::print::literal;

/// Where a value was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    #[default]
    Default,
    /// In a file.
    File(PathBuf),
    /// In the environment, under this name.
    Environment(String),
    /// By `--set` or a flag of its own.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Environment(_) => f.write_str("environment"),
            Self::Flag => f.write_str("--set"),
        }
    }
}

impl Origin {
    /// What an operator would look for: the file's path, the variable's name, or the flag.
    pub fn name(&self) -> String {
        match self {
            Self::Environment(name) => name.clone(),
            other => other.to_string(),
        }
    }
}

/// One thing that is wrong:
/// `config/gateway.toml: websocket.heartbeat_timeout = "abc": expected a duration …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands.
    pub source: Origin,
    /// `section.key`; empty if the fault is that of a whole file or flag.
    pub key: String,
    /// What stands there, as one would write it, cut to a readable length.
    pub value: Option<String>,
    /// What is wrong and what is allowed instead.
    pub allowed: String,
}

/// Faults that are told one by one: nobody reads more, and a file has room for a hundred thousand.
pub const MOST_TOLD: usize = 100;

/// A longer value is cut: it is shown to be recognised, not to be copied.
const SHOWN: usize = 80;

impl Fault {
    pub(in crate::config) fn of(source: Origin, key: &str, allowed: impl Into<String>) -> Self {
        Self { source, key: shorten(key), value: None, allowed: allowed.into() }
    }

    pub(super) fn with_value(self, value: Option<&Value>) -> Self {
        match value.and_then(|value| serde_json::to_value(value).ok()) {
            Some(value) => self.with_literal(&value),
            None => self,
        }
    }

    /// Shows the value of the key, as one would write it.
    pub(in crate::config) fn with_literal(mut self, value: &serde_json::Value) -> Self {
        self.value = Some(shorten(&literal(value)));
        self
    }
}

fn shorten(text: &str) -> String {
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        let name = match &self.source {
            Origin::Environment(name) => name,
            _ => &self.key,
        };
        match &self.value {
            Some(value) => write!(f, "{name} = {value}: ")?,
            None if name.is_empty() => {}
            None => write!(f, "{name}: ")?,
        }
        f.write_str(&self.allowed)
    }
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// Each, in the order of the report.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    /// One line each for the first of them, and one that counts the others.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.0.iter().take(MOST_TOLD).map(ToString::to_string).collect();
        match self.0.len() - lines.len() {
            0 => {}
            1 => lines.push("and 1 more fault".to_owned()),
            more => lines.push(format!("and {more} more faults")),
        }
        lines
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Faults {}
