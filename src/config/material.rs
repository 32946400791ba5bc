//! What lies in the files that settings name: certificates, keys, tokens.
//!
//! It is read together with the settings and put in force together with them, so that nobody meets
//! a new path beside what the old one held. A file that can't be used is a fault of the key that
//! names it, and then the old material stays in force as a whole.
//!
//! Secrets live here and nowhere else; nothing here is ever printed but names, dates and counts.

use super::{Config, Fault};

/// The contents of all files that the settings name.
#[derive(Clone, Debug, Default)]
pub struct Material {}

impl Material {
    /// Reads all files that `config` names; faults go to `faults`.
    pub(super) fn read(_config: &Config, _faults: &mut Vec<Fault>) -> Self {
        Self {}
    }
}
