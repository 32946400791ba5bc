//! Configuration: what can be set, where it is read from, and the one in force.
//!
//! ```text
//! defaults < file < GWS_ environment < --set ──► load ──► Config ──► Live ──► one snapshot per
//!                                                 │ Faults, all at once        handshake, call, tick
//! ```
//!
//! A [`Config`] is a plain value; only [`load()`] checks it. [`Material`] is what the files it names
//! hold: certificates, keys, tokens. Both are [`InForce`] together. Nothing here acts on a setting.

pub mod base;
pub mod check;
pub mod diff;
mod fault;
pub mod keys;
pub mod load;
pub mod machine;
pub mod material;
pub mod print;
mod sections;
pub mod value;
mod watch;

use std::{ops::Deref, sync::Arc};

use arc_swap::{ArcSwap, Cache};
use tokio::sync::watch::{Receiver, Sender};

pub use base::leave_directory;
pub use diff::{Carried, Change, carry_over, diff};
pub use fault::{Fault, Faults, MOST_TOLD, Origin};
pub use keys::Class;
pub use load::{Loaded, Overridden, Source, control_socket, load, load_again, load_to_run};
pub use material::Material;
pub use print::to_toml;
pub use sections::{
    Admin, Api, Auth, BackEnd, Compression, Config, Control, Drain, Events, Fail, Grpc, Hook,
    Level, Limits, Log, LogFormat, Messages, ProxyHeader, Reload, SlowClient, Tls, WebSocket,
    Welcome, WhenFull, WhenUidIsFull,
};
pub use watch::Watch;

/// Settings, and what the files they name held when they were put in force.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// The settings.
    pub config: Config,
    /// The contents of the files they name.
    pub material: Material,
}

impl Deref for InForce {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

impl From<Config> for InForce {
    /// Settings alone, as tests have them: no file is read.
    fn from(config: Config) -> Self {
        Self { config, material: Material::default() }
    }
}

/// The configuration in force. Cloning shares it.
///
/// Whoever does one unit of work takes one snapshot for it, so that no handshake, call or tick sees
/// the old value of one key beside the new value of another.
#[derive(Clone, Debug)]
pub struct Live {
    current: Arc<ArcSwap<InForce>>,
    swapped: Sender<()>,
}

/// Tells of swaps.
#[derive(Clone, Debug)]
pub struct Swaps(Receiver<()>);

impl Swaps {
    /// Waits for a swap that came after these swaps were asked for, or after the last that was
    /// told. Can be dropped without missing one.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who could swap.
            std::future::pending::<()>().await;
        }
    }
}

impl Live {
    /// Puts a configuration in force.
    pub fn new(first: impl Into<InForce>) -> Self {
        let current = Arc::new(ArcSwap::from_pointee(first.into()));
        Self { current, swapped: Sender::new(()) }
    }

    /// The configuration as it is now.
    pub fn snapshot(&self) -> Arc<InForce> {
        self.current.load_full()
    }

    /// A reader for one thread that looks often: it costs one atomic load while nothing changes.
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.current)))
    }

    /// Puts another configuration in force, as a whole.
    pub fn swap(&self, next: impl Into<InForce>) {
        self.current.store(Arc::new(next.into()));
        self.swapped.send_replace(());
    }

    /// Tells of swaps from now on. A snapshot that is taken afterwards misses none of them.
    pub fn swaps(&self) -> Swaps {
        Swaps(self.swapped.subscribe())
    }
}

/// A thread's own view of [`Live`].
#[derive(Debug)]
pub struct Reader(Cache<Arc<ArcSwap<InForce>>, Arc<InForce>>);

impl Reader {
    /// The configuration as it is now.
    pub fn current(&mut self) -> &Arc<InForce> {
        self.0.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_seen_by_readers_and_leaves_snapshots_alone() {
        let live = Live::new(Config::default());
        let mut reader = live.reader();
        let before = live.snapshot();
        assert!(Arc::ptr_eq(reader.current(), &before));

        let mut changed = Config::default();
        changed.limits.names = 7;
        live.clone().swap(changed);

        assert_eq!(reader.current().limits.names, 7);
        assert_eq!(live.snapshot().limits.names, 7);
        assert_eq!(before.limits.names, 256);
    }

    #[tokio::test]
    async fn who_waits_for_a_swap_is_told_once() {
        let live = Live::new(Config::default());
        live.swap(Config::default());
        let mut swaps = live.swaps();
        let none = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(none, swaps.next()).await.is_err());
        live.clone().swap(Config::default());
        swaps.next().await;
        assert!(tokio::time::timeout(none, swaps.next()).await.is_err());
    }
}
