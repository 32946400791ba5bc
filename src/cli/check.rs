//! `check` and `--print-config`: the configuration, without running anything.

use super::{Exit, complain, complain_of, say};
use crate::config::{self, Source};

/// Says whether a start would accept the configuration.
pub(super) fn run(source: &Source) -> Exit {
    let loaded = match config::load_to_run(source, std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(faults) => return complain_of(&faults),
    };
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    for overridden in &loaded.overridden {
        let key = &overridden.key;
        complain(&format!("note: {key} of the file is overridden by {}", overridden.by.name()));
    }
    if let Some(long) = config::check::long_stop(&loaded.config.drain) {
        complain(&format!("note: {long}"));
    }
    match &loaded.file {
        Some(file) => say(&format!("configuration is valid (file {})", file.display())),
        None => say("configuration is valid (no file)"),
    }
    Exit::Done
}

/// Prints the configuration in effect; its output is a file that `--config` accepts.
pub(super) fn print(source: &Source) -> Exit {
    match config::load(source, std::env::vars_os()) {
        Ok(loaded) => {
            say(&config::to_toml(&loaded.config));
            Exit::Done
        }
        Err(faults) => complain_of(&faults),
    }
}
