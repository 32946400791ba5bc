//! Reloading the configuration: load, check, compare, one swap, or nothing.

use std::time::SystemTime;

use crate::{
    config::{self, Config, Live, Loaded, Source},
    lifecycle::{ChangedKey, Reloaded},
    status::ConfigStatus,
    telemetry,
};

/// Carries out reloads and remembers how the last one ended.
pub(super) struct Reloader {
    source: Source,
    telemetry: Option<telemetry::Handle>,
    /// What the process was started with: keys that need a restart keep this value.
    started_with: Config,
    status: ConfigStatus,
}

impl Reloader {
    pub(super) fn new(
        loaded: &Loaded,
        source: Source,
        telemetry: Option<telemetry::Handle>,
    ) -> Self {
        let status = ConfigStatus {
            file: loaded.file.clone(),
            loaded_at: now(),
            generation: 1,
            ..ConfigStatus::default()
        };
        Self { source, telemetry, started_with: loaded.config.clone(), status }
    }

    pub(super) fn status(&self) -> ConfigStatus {
        self.status.clone()
    }

    /// Reads the configuration again. A faulty one changes nothing.
    pub(super) fn reload(&mut self, live: &Live) -> Reloaded {
        let loaded = match config::load_to_run(&self.source, std::env::vars_os()) {
            Ok(loaded) => loaded,
            Err(faults) => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                tracing::error!(?faults, "reload refused; the old configuration stays in force");
                self.status.faults.clone_from(&faults);
                return Reloaded::Refused { faults };
            }
        };
        let carried = config::carry_over(&self.started_with, &loaded.config);
        let changed: Vec<_> = config::diff(&live.snapshot(), &loaded.config)
            .into_iter()
            .map(|change| ChangedKey {
                key: change.key.to_owned(),
                old: change.old,
                new: change.new,
                effect: change.class.effect().to_owned(),
            })
            .collect();
        if let Some(telemetry) = &self.telemetry {
            telemetry.set_level(carried.config.log.level);
        }
        live.swap(config::InForce { config: carried.config, material: loaded.material });
        self.status.file = loaded.file;
        self.status.loaded_at = now();
        self.status.generation += 1;
        self.status.faults.clear();
        self.status.pending = carried.pending;
        let keys: Vec<_> = changed.iter().map(|change| change.key.as_str()).collect();
        tracing::info!(
            generation = self.status.generation,
            changed = ?keys,
            pending = ?self.status.pending,
            "configuration reloaded"
        );
        Reloaded::Accepted { changed, generation: self.status.generation }
    }
}

/// Seconds since 1970-01-01 UTC.
fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}
