//! What every step of a shard may look at: the settings in force, the time, the counters.

use std::{sync::Arc, time::Instant};

use super::{clock::Clock, load::Load, settings::ShardSettings, wheel::Tick};
use crate::metrics::ShardStats;

pub(super) struct Context {
    /// The number of this shard, and how many there are.
    pub(super) index: u16,
    pub(super) shards: usize,
    pub(super) clock: Clock,
    /// When this turn began.
    pub(super) now: Instant,
    pub(super) tick: Tick,
    pub(super) settings: ShardSettings,
    pub(super) stats: Arc<ShardStats>,
    /// Connections that the shard was given.
    pub(super) load: Arc<Load>,
}
