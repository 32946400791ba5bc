//! Feels the pulse of the shards, and feeds the service manager's watchdog while all of them live.
//!
//! A shard that is stuck holds its clients, and nobody hears of it: its sockets stay open, the other
//! shards and gRPC go on. So the watchdog is fed only if every shard has answered; if one does not
//! for `WatchdogSec=`, systemd starts the gateway anew.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::systemd;
use crate::{
    hub::Hub,
    net::{Stop, stopped},
};

/// How often each shard is asked; with a watchdog at least three times in its period.
const EVERY: Duration = Duration::from_secs(1);

/// Asks until `stop`, which comes last: a drain takes its time, and the shards have to live.
pub(super) async fn keep(hub: Hub, mut stop: Stop) {
    let watchdog = systemd::watchdog();
    let every = watchdog.map_or(EVERY, |period| EVERY.min(period / 3));
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent: Vec<usize> = Vec::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stopped(&mut stop) => return,
        }
        let pulse = hub.pulse(every).await;
        if pulse.is_whole() && watchdog.is_some() {
            systemd::alive();
        }
        let now: Vec<usize> = pulse.silent().collect();
        if now != silent {
            if now.is_empty() {
                tracing::warn!("all shards answer again");
            } else {
                tracing::error!(shards = ?now, "shards do not answer; their clients get nothing");
            }
            silent = now;
        }
    }
}
