//! From file, environment and flags to a checked [`Config`], or to the list of everything wrong.
//!
//! ```text
//! defaults ─┐
//! file ─────┤ layers: known keys only ──► figment merges ──► each leaf alone ──► ranges ──► Config
//! GWS_… ────┤          │ unknown keys           │ wrong kind            │ not allowed
//! --set ────┘          └────────────────────────┴───────────────────────┴──► Faults
//! ```
//!
//! Nothing stops at the first fault: who mistyped three keys reads of three.

mod layer;
mod legacy;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use figment::value::{Dict, Value};

pub(super) use layer::read_toml;

use super::fault::{Fault, Faults, MOST_TOLD, Origin};
use super::keys::KEYS;
use super::{Config, InForce, Material, base, check, diff};
use crate::file::{self, Unread};
use layer::{Layer, insert};

/// Read if no other file is named and this one exists.
pub const DEFAULT_FILE: &str = "/etc/gateway-websocket/gateway.toml";

/// A larger file is a mistake: the shipped one, with all its prose, takes a fraction of this.
const MAX_FILE: u64 = 1 << 20;

/// Where the command line says that the configuration comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `--config`: has to exist. None reads [`DEFAULT_FILE`] if there is one.
    pub file: Option<PathBuf>,
    /// Each `--set section.key=value`, in order.
    pub sets: Vec<String>,
}

impl Source {
    /// All files on which a configuration from here depends, the default one even if it isn't there
    /// yet.
    pub fn files(&self, config: &Config) -> Vec<PathBuf> {
        let mut files = Material::files(config);
        files.push(self.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE)));
        files
    }
}

/// A configuration that may be put in force.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is set.
    pub config: Config,
    /// What the files hold that are named there; nothing unless it was loaded to run with it.
    pub material: Material,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// When the reading began.
    pub read_at: SystemTime,
    /// Where each key that is not left to its default was set last.
    pub origins: BTreeMap<String, Origin>,
    /// Keys that the file sets in vain, because environment or flag sets them too.
    pub overridden: Vec<Overridden>,
    /// What is allowed and probably not meant; one line each.
    pub warnings: Vec<String>,
}

/// A key that the file sets in vain.
#[derive(Clone, Debug, PartialEq)]
pub struct Overridden {
    /// `section.key`.
    pub key: String,
    /// What the file says, as one would write it.
    pub in_file: String,
    /// What wins over it.
    pub by: Origin,
}

impl Loaded {
    /// A configuration made by hand, as tests do: no file, nothing overridden.
    pub fn of(config: Config) -> Self {
        Self {
            config,
            material: Material::default(),
            file: None,
            read_at: SystemTime::now(),
            origins: BTreeMap::new(),
            overridden: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// What to put in force.
    pub fn in_force(&self) -> InForce {
        InForce { config: self.config.clone(), material: self.material.clone() }
    }
}

/// Reads and checks the configuration; `env` is the environment, usually `std::env::vars_os()`.
/// The files it names are left alone: who only asks a running gateway need not be able to read them.
pub fn load<K, V>(source: &Source, env: impl IntoIterator<Item = (K, V)>) -> Result<Loaded, Faults>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    load_with(source, env, Path::new(DEFAULT_FILE), None, |_, _, _| Material::default())
}

/// Reads and checks the configuration and the files that it names.
pub fn load_to_run<K, V>(
    source: &Source,
    env: impl IntoIterator<Item = (K, V)>,
) -> Result<Loaded, Faults>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    load_with(source, env, Path::new(DEFAULT_FILE), None, Material::read)
}

/// Reads and checks the same once more, for a process that runs with what it read of the file
/// `before`. That file must not be gone or empty now: both are steps of writing one, and neither
/// is how somebody says that everything shall have its default.
pub fn load_again<K, V>(
    source: &Source,
    env: impl IntoIterator<Item = (K, V)>,
    before: Option<&Path>,
) -> Result<Loaded, Faults>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    load_with(source, env, Path::new(DEFAULT_FILE), Some(Again { before }), Material::read)
}

/// Where the control socket is, by all that can be read: whatever else is wrong must not keep
/// anybody from stopping the gateway. None if it is in one of the documented places.
pub fn control_socket<K, V>(
    source: &Source,
    env: impl IntoIterator<Item = (K, V)>,
) -> Option<PathBuf>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    let mut faults = Vec::new();
    let file = file_to_read(source, Path::new(DEFAULT_FILE));
    let read = read(source, env, file.as_deref(), None, &mut faults)?;
    read.config.control.socket.set().filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// What a process that reads its configuration once more has read before.
#[derive(Clone, Copy, Debug)]
struct Again<'a> {
    before: Option<&'a Path>,
}

fn load_with<K, V>(
    source: &Source,
    env: impl IntoIterator<Item = (K, V)>,
    default_file: &Path,
    again: Option<Again>,
    material: impl FnOnce(&Config, &BTreeMap<String, Origin>, &mut Vec<Fault>) -> Material,
) -> Result<Loaded, Faults>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    let mut faults = Vec::new();
    let read_at = SystemTime::now();
    let file = file_to_read(source, default_file)
        .or_else(|| again.and_then(|again| again.before.map(Path::to_path_buf)));
    let Some(read) = read(source, env, file.as_deref(), again, &mut faults) else {
        return Err(Faults(faults));
    };
    let Read { layers, origins, figment, config } = read;
    for broken in check::broken(&config) {
        if faults.iter().any(|fault| fault.key == broken.key) {
            continue;
        }
        let value = figment.find_value(broken.key).ok();
        let origin = origins.get(broken.key).cloned().unwrap_or_default();
        let fault = Fault::of(origin, broken.key, format!("expected {}", broken.allowed));
        faults.push(fault.with_value(value.as_ref()));
    }
    let material = material(&config, &origins, &mut faults);
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    let [in_file, ..] = &layers;
    let overridden = in_file.origins.iter().filter_map(|(key, origin)| {
        let by = origins.get(key).filter(|by| *by != origin)?.clone();
        let said = Value::from(in_file.tree.clone()).find(key)?;
        let said = serde_json::to_value(said).ok();
        Some(Overridden { key: key.clone(), in_file: diff::text(said.as_ref()), by })
    });
    Ok(Loaded {
        overridden: overridden.collect(),
        warnings: [check::warnings(&config), material.warnings()].concat(),
        config,
        material,
        file,
        read_at,
        origins,
    })
}

/// What all sources say together.
struct Read {
    /// The file, the environment and the flags.
    layers: [Layer; 3],
    origins: BTreeMap<String, Origin>,
    figment: Figment,
    /// Leaves that could not be read have their defaults here, so that the ranges of the others are
    /// checked all the same.
    config: Config,
}

/// Reads all sources. What can't be read is a fault; none if nothing can be made of the rest.
fn read<K, V>(
    source: &Source,
    env: impl IntoIterator<Item = (K, V)>,
    file: Option<&Path>,
    again: Option<Again>,
    faults: &mut Vec<Fault>,
) -> Option<Read>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    let env = env.into_iter().map(|(name, value)| (name.into(), value.into()));
    let layers = [
        file.map_or_else(Layer::default, |path| file_layer(path, again, faults)),
        layer::from_env(env, faults),
        layer::from_sets(&source.sets, faults),
    ];
    let mut origins = BTreeMap::new();
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    for layer in &layers {
        for (key, origin) in &layer.origins {
            origins.insert(key.clone(), origin.clone());
        }
    }
    for layer in &layers {
        figment = figment.merge(Serialized::defaults(&layer.tree));
    }
    let (tree, wrong) = extract_leaves(&figment, &origins);
    faults.extend(wrong);
    match Value::from(tree).deserialize::<Config>() {
        Ok(mut config) => {
            base::resolve(&mut config);
            Some(Read { layers, origins, figment, config })
        }
        Err(error) => {
            faults.push(Fault::of(Origin::Default, "", error.to_string()));
            None
        }
    }
}

fn file_to_read(source: &Source, default_file: &Path) -> Option<PathBuf> {
    match &source.file {
        Some(path) => Some(path.clone()),
        // A file that exists but can't be reached is read too, so that the failure is reported.
        None => match default_file.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            _ => Some(default_file.to_path_buf()),
        },
    }
}

fn file_layer(path: &Path, again: Option<Again>, faults: &mut Vec<Fault>) -> Layer {
    let origin = Origin::File(path.to_path_buf());
    let text = read_file(path, again);
    if let Some(settings) = text.as_deref().ok().and_then(legacy::settings) {
        faults.push(Fault::of(origin.clone(), "", legacy::WHOLE));
        faults.extend(
            settings.into_iter().map(|it| {
                Fault::of(origin.clone(), &it.key, it.now).with_literal(&it.value.into())
            }),
        );
        return Layer::default();
    }
    match text.and_then(|text| read_toml(&text)) {
        Ok(tree) => layer::from_tree(tree, &origin, faults),
        Err(problem) => {
            faults.push(Fault::of(origin, "", problem));
            Layer::default()
        }
    }
}

fn read_file(path: &Path, again: Option<Again>) -> Result<String, String> {
    // A process that runs must not wait for whoever might write to a pipe.
    let read = if again.is_some() { file::read } else { file::read_or_wait };
    let bytes = read(path, MAX_FILE).map_err(|unread| match unread {
        Unread::Irregular if again.is_some() => "is not a regular file".to_owned(),
        Unread::Irregular => "is not a regular file, nor a pipe that anybody writes to".to_owned(),
        Unread::TooLarge => format!("is larger than {MAX_FILE} bytes"),
        Unread::System(error) => match again.and_then(|again| again.before) {
            Some(before) if before == path && error.kind() == io::ErrorKind::NotFound => {
                "is gone; what it said stays in force".to_owned()
            }
            _ => format!("can't be read: {error}"),
        },
    })?;
    if again.is_some() && bytes.trim_ascii().is_empty() {
        return Err("is empty; to give everything its default, leave a comment in it".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].split(|byte| *byte == b'\n').skip(1).count();
        format!("line {line} is not UTF-8")
    })
}

/// The tree of defaults with each merged leaf that is of the right kind, and the faults of the rest.
fn extract_leaves(figment: &Figment, origins: &BTreeMap<String, Origin>) -> (Dict, Vec<Fault>) {
    let mut tree = defaults();
    let mut faults = Vec::new();
    // In the order of the table, so that faults read like the file.
    for (key, _) in KEYS {
        let Some(origin) = origins.get(*key) else {
            continue;
        };
        let Ok(value) = figment.find_value(key) else {
            continue;
        };
        match misfit(key, &value) {
            None => insert(&mut tree, key, value),
            Some(allowed) => {
                let fault = Fault::of(origin.clone(), key, format!("expected {allowed}"));
                faults.push(fault.with_value(Some(&value)));
            }
        }
    }
    (tree, faults)
}

/// Why `value` can't be the value of `key`: what would be, to fit after "expected".
fn misfit(key: &str, value: &Value) -> Option<String> {
    Some(match try_leaf(key, value.clone()).err()? {
        // The words of the kind of value say more than a range: text can be mistyped in many ways.
        Kind::InvalidValue(_, words) | Kind::InvalidType(_, words) if words.starts_with('a') => {
            words
        }
        Kind::UnknownVariant(_, names) => one_of(names),
        _ => check::range_of(key).unwrap_or_else(|| match try_leaf(key, Value::from("?")) {
            // Any word brings out which few belong there.
            Err(Kind::UnknownVariant(_, names)) => one_of(names),
            Err(_) => "a whole number".to_owned(),
            Ok(_) => "text".to_owned(),
        }),
    })
}

fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(" or ")
}

/// Reads one leaf, alone among defaults.
fn try_leaf(key: &str, value: Value) -> Result<Config, Kind> {
    let mut tree = defaults();
    insert(&mut tree, key, value);
    Value::from(tree).deserialize().map_err(|error: figment::Error| error.kind)
}

fn defaults() -> Dict {
    let tree = Value::serialize(Config::default());
    tree.ok().and_then(Value::into_dict).unwrap_or_default()
}

#[cfg(test)]
mod tests;
