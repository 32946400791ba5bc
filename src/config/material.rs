//! What lies in the files that settings name: certificates, keys, tokens.
//!
//! It is read together with the settings and put in force together with them, so that nobody meets
//! a new path beside what the old one held. A file that can't be used is a fault of the key that
//! names it, and then the old material stays in force as a whole.
//!
//! Secrets live here and nowhere else; nothing here is ever printed but names, dates and counts.

use std::path::Path;

use super::{Config, Fault, Origin};
use crate::access::Tokens;

/// The contents of all files that the settings name.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// What callers of `grpc.listen` have to know, if `grpc.token_files` names any file.
    pub callers: Tokens,
    /// What is allowed and probably not meant; one line each.
    pub warnings: Vec<String>,
}

impl Material {
    /// Reads all files that `config` names; faults go to `faults`.
    pub(super) fn read(config: &Config, faults: &mut Vec<Fault>) -> Self {
        let mut material = Self::default();
        let files = config.grpc.token_files.0.iter().map(Path::new);
        match Tokens::read(files, &mut material.warnings) {
            Ok(tokens) => material.callers = tokens,
            Err(error) => {
                let key = "grpc.token_files";
                faults.push(Fault::of(Origin::Default, key, error.to_string()));
            }
        }
        material
    }
}
