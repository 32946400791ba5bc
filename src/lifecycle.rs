//! How the surfaces ask the process for a change of life: reload, drain, stop.
//!
//! Only the asking lives here; what is done about it is `app`'s. A [`Handle`] is cheap to clone.

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::status::{ConfigStatus, Phase};

/// Asks the running process for a change of life, and watches where it is in it.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    phase: watch::Receiver<Phase>,
    config: watch::Receiver<ConfigStatus>,
    drain: watch::Receiver<Option<DrainBounds>>,
    at_work: watch::Receiver<Instant>,
}

/// What a drain under way began with, and when it is over at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainBounds {
    /// Clients that drains had closed before this one.
    pub closed_before: u64,
    /// Connections that are left then are cut off.
    pub until: Instant,
}

/// What `app` hears.
#[derive(Debug)]
pub enum Ask {
    /// Stop: drain, then end the process.
    Stop(oneshot::Sender<Drained>),
    /// Go out of service: refuse new clients, close the connected ones, stay alive.
    Drain(oneshot::Sender<Drained>),
    /// Read the configuration again and put it in force.
    Reload(oneshot::Sender<Reloaded>),
    /// Read the configuration again and say what a reload would do.
    Plan(oneshot::Sender<Reloaded>),
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Clients that were closed.
    pub closed: u64,
    /// Of these, the ones that were cut off because they did not answer the close in time.
    pub cut_off: u64,
}

/// How a reload ended, or how one would end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Reloaded {
    /// The new configuration is in force.
    Accepted {
        /// Keys that changed, and whom the new value reaches.
        changed: Vec<ChangedKey>,
        /// Counts accepted loads.
        generation: u64,
    },
    /// Nothing changed; these are the faults.
    Refused {
        /// One line each.
        faults: Vec<String>,
    },
}

/// One key that a reload changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedKey {
    /// `section.key`.
    pub key: String,
    /// The value before.
    pub old: String,
    /// The value after.
    pub new: String,
    /// Who is reached by the new value.
    pub effect: String,
}

/// The process is past the point where it could answer.
#[derive(Debug, thiserror::Error)]
#[error("the gateway is stopping")]
pub struct Gone;

/// The other end of the [`Handle`]s.
#[derive(Debug)]
pub struct Asks {
    /// What was asked, in order.
    pub asks: mpsc::Receiver<Ask>,
    /// Where the process is in its life.
    pub phase: watch::Sender<Phase>,
    /// Which configuration is in force.
    pub config: watch::Sender<ConfigStatus>,
    /// The drain under way, if there is one.
    pub drain: watch::Sender<Option<DrainBounds>>,
    /// When the supervisor was last at work.
    pub at_work: watch::Sender<Instant>,
}

/// Asks that may wait at once; more wait in the asking connection.
const WAITING: usize = 16;

/// Makes the two ends.
pub fn channel() -> (Handle, Asks) {
    let (asks, heard) = mpsc::channel(WAITING);
    let (phase, phase_seen) = watch::channel(Phase::Starting);
    let (config, config_seen) = watch::channel(ConfigStatus::default());
    let (drain, drain_seen) = watch::channel(None);
    let (at_work, work_seen) = watch::channel(Instant::now());
    let handle = Handle {
        asks,
        phase: phase_seen,
        config: config_seen,
        drain: drain_seen,
        at_work: work_seen,
    };
    (handle, Asks { asks: heard, phase, config, drain, at_work })
}

impl Handle {
    /// Where the process is in its life.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Follows the phase.
    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Which configuration is in force.
    pub fn config(&self) -> ConfigStatus {
        self.config.borrow().clone()
    }

    /// The drain under way, if there is one.
    pub fn drain_bounds(&self) -> Option<DrainBounds> {
        *self.drain.borrow()
    }

    /// When the supervisor, which does what is asked here, was last at work.
    pub fn last_at_work(&self) -> Instant {
        *self.at_work.borrow()
    }

    /// Stops the process; answers when the clients are closed and just the end is left.
    pub async fn stop(&self) -> Result<Drained, Gone> {
        self.ask(Ask::Stop).await
    }

    /// Drains the process; answers when the clients are closed.
    pub async fn drain(&self) -> Result<Drained, Gone> {
        self.ask(Ask::Drain).await
    }

    /// Reloads the configuration; answers with the outcome.
    pub async fn reload(&self) -> Result<Reloaded, Gone> {
        self.ask(Ask::Reload).await
    }

    /// Answers with the outcome that a reload would have; nothing changes.
    pub async fn plan(&self) -> Result<Reloaded, Gone> {
        self.ask(Ask::Plan).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}
