//! Reloading the configuration: load, check, compare, bind, one swap; or nothing.
//!
//! ```text
//!  prepare ─► Plan (what would change) ─► listeners bind what is new ─► log opens ─► swap
//!     └───────────── faults ◄──────────────────────┴──────────────────────┘
//! ```

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::SystemTime};

use super::listeners;
use crate::{
    config::{self, InForce, Live, Material, Source},
    lifecycle::{ChangedKey, Reloaded},
    metrics::Reloads,
    status::ConfigStatus,
    telemetry,
};

/// Carries out reloads and remembers how the last one ended.
pub(super) struct Reloader {
    source: Source,
    telemetry: Option<telemetry::Handle>,
    /// What the process was started with: keys that need a restart keep this value.
    started_with: config::Config,
    /// What the file said in vain when it was loaded last.
    in_vain: BTreeMap<String, String>,
    status: ConfigStatus,
    counters: Arc<Reloads>,
}

/// Who asks for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// A person, or a program in a person's place: every outcome is told.
    Asked,
    /// A file was seen to change. Files are touched without being changed, and a fault stays a
    /// fault until somebody mends it: neither has to be told again.
    Seen,
}

/// A configuration that could be put in force.
struct Plan {
    next: InForce,
    pending: Vec<String>,
    changed: Vec<ChangedKey>,
    in_vain: BTreeMap<String, String>,
    warnings: Vec<String>,
    file: Option<PathBuf>,
}

impl Reloader {
    pub(super) fn new(
        loaded: &config::Loaded,
        source: Source,
        telemetry: Option<telemetry::Handle>,
    ) -> Self {
        let status = ConfigStatus {
            file: loaded.file.clone(),
            loaded_at: now(),
            tried_at: now(),
            generation: 1,
            sets: source.sets.clone(),
            ..ConfigStatus::default()
        };
        let in_vain = in_vain(loaded);
        let counters = Arc::default();
        Self { source, telemetry, started_with: loaded.config.clone(), in_vain, status, counters }
    }

    /// How the reloads ended.
    pub(super) fn counters(&self) -> &Arc<Reloads> {
        &self.counters
    }

    /// The files that are worth watching while this configuration is in force.
    pub(super) fn files(&self, config: &config::Config) -> Vec<PathBuf> {
        if config.reload.watch { self.source.files(config) } else { Vec::new() }
    }

    pub(super) fn status(&self) -> ConfigStatus {
        let mut status = self.status.clone();
        // Who asks is in another directory.
        status.file = status.file.map(|file| std::path::absolute(&file).unwrap_or(file));
        status
    }

    /// Says what a reload would do, and does nothing.
    pub(super) fn plan(&self, live: &Live, listeners: &listeners::Set) -> Reloaded {
        match self.prepare(live, listeners) {
            Ok(plan) => {
                Reloaded::Accepted { changed: plan.changed, generation: self.status.generation }
            }
            Err(faults) => Reloaded::Refused { faults },
        }
    }

    /// Reads the configuration again and puts it in force. A faulty one changes nothing. What was
    /// read of files that turn out to have been `disturbed` meanwhile is forgotten.
    pub(super) fn reload(
        &mut self,
        live: &Live,
        listeners: &mut listeners::Set,
        why: Why,
        disturbed: impl FnOnce() -> bool,
    ) -> Reloaded {
        let plan = self.prepare(live, listeners);
        if disturbed() {
            let generation = self.status.generation;
            return Reloaded::Accepted { changed: Vec::new(), generation };
        }
        let before = self.status.generation;
        self.status.tried_at = now();
        let outcome = plan.and_then(|plan| self.put_in_force(plan, live, listeners, why));
        match &outcome {
            Ok(Reloaded::Accepted { changed, generation }) => {
                self.counters.accept(if *generation == before { 0 } else { changed.len() });
            }
            Ok(Reloaded::Refused { .. }) | Err(_) => self.counters.refuse(),
        }
        outcome.unwrap_or_else(|faults| {
            if why == Why::Asked {
                self.reopen_log();
            }
            if why == Why::Asked || faults != self.status.faults {
                for fault in &faults {
                    tracing::error!(fault, "reload refused; the old configuration stays in force");
                }
            }
            self.status.faults.clone_from(&faults);
            Reloaded::Refused { faults }
        })
    }

    /// Opens the log's file anew. Who rotates it away says so by SIGHUP or `reload`, and knows nothing
    /// of faults in the configuration.
    pub(super) fn reopen_log(&self) {
        let reopened = self.telemetry.as_ref().map_or(Ok(()), telemetry::Handle::reopen);
        if let Err(error) = reopened {
            tracing::error!(%error, "the log is not opened anew; it goes on in the old file");
        }
    }

    fn put_in_force(
        &mut self,
        plan: Plan,
        live: &Live,
        listeners: &mut listeners::Set,
        why: Why,
    ) -> Result<Reloaded, Vec<String>> {
        let waits = |change: &ChangedKey| self.status.pending.contains(&change.key);
        let nothing_new = plan.changed.iter().all(waits) && plan.pending == self.status.pending;
        if why == Why::Seen && nothing_new && self.status.faults.is_empty() {
            let generation = self.status.generation;
            return Ok(Reloaded::Accepted { changed: plan.changed, generation });
        }
        let fault = |fault: &dyn std::fmt::Display| vec![fault.to_string()];
        let change = listeners.prepare(&plan.next.config).map_err(|error| fault(&error))?;
        if let Some(telemetry) = &self.telemetry {
            // Opened anew each time, so that a log that was rotated away is let go of.
            telemetry.change(&plan.next.config.log).map_err(|error| fault(&error))?;
        }
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        live.swap(plan.next);
        listeners.apply(change);
        self.status.file = plan.file;
        self.status.loaded_at = now();
        self.status.generation += 1;
        self.status.faults.clear();
        self.status.pending = plan.pending;
        self.in_vain = plan.in_vain;
        let keys: Vec<_> = plan.changed.iter().map(|change| change.key.as_str()).collect();
        tracing::info!(
            generation = self.status.generation,
            changed = keys.join(", "),
            pending = self.status.pending.join(", "),
            "configuration reloaded"
        );
        Ok(Reloaded::Accepted { changed: plan.changed, generation: self.status.generation })
    }

    /// Loads, checks and compares.
    fn prepare(&self, live: &Live, listeners: &listeners::Set) -> Result<Plan, Vec<String>> {
        let before = self.status.file.as_deref();
        let loaded = config::load_again(&self.source, std::env::vars_os(), before)
            .map_err(|faults| faults.lines())?;
        let current = live.snapshot();
        let mut carried = config::carry_over(&self.started_with, &loaded.config);
        let mut changed: Vec<ChangedKey> =
            config::diff(&current, &loaded.config).into_iter().map(told).collect();
        // Where systemd holds the socket, the setting says nothing.
        for surface in listeners.pinned() {
            listeners::carry_over(surface, &current, &mut carried.config);
            let mut it = changed.iter_mut().filter(|change| change.key == surface.key());
            if let Some(change) = it.next() {
                config::Class::Restart.effect().clone_into(&mut change.effect);
                carried.pending.push(change.key.clone());
            }
        }
        let in_vain = in_vain(&loaded);
        let warnings = loaded.warnings;
        for it in loaded.overridden {
            let before = self.in_vain.get(&it.key);
            if before != Some(&it.in_file) {
                changed.push(ChangedKey {
                    old: before.cloned().unwrap_or_else(|| "not set".to_owned()),
                    new: it.in_file,
                    effect: format!("overridden by {}", it.by.name()),
                    key: it.key,
                });
            }
        }
        let next = InForce { config: carried.config, material: loaded.material };
        changed.extend(Material::changes(&current, &next).into_iter().map(told));
        Ok(Plan { next, pending: carried.pending, changed, in_vain, warnings, file: loaded.file })
    }
}

fn told(change: config::Change) -> ChangedKey {
    ChangedKey {
        key: change.key.to_owned(),
        old: change.old,
        new: change.new,
        effect: change.class.effect().to_owned(),
    }
}

fn in_vain(loaded: &config::Loaded) -> BTreeMap<String, String> {
    loaded.overridden.iter().map(|it| (it.key.clone(), it.in_file.clone())).collect()
}

/// Seconds since 1970-01-01 UTC.
fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}
