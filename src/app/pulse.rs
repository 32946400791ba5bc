//! Feels the pulse of the shards, and feeds the service manager's watchdog while all of them live.
//!
//! A shard that is stuck holds its clients, and nobody hears of it: its sockets stay open, the other
//! shards and gRPC go on. So the watchdog is fed only if every shard has answered; if one does not
//! for `WatchdogSec=`, systemd starts the gateway anew. The same goes for the supervisor: while it is
//! stuck, nothing is reloaded, and nobody can stop the process but by force.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{supervise::CHECK, systemd};
use crate::{
    hub::Hub,
    net::{Stop, stopped},
};

/// How often each shard is asked; with a watchdog at least three times in its period.
const EVERY: Duration = Duration::from_secs(1);

/// The supervisor shows itself every [`CHECK`], but for the time that a reload takes.
const LATELY: Duration = CHECK.saturating_mul(3);

/// Asks until `stop`, which comes last: a drain takes its time, and the shards have to live.
/// `tick` holds when the supervisor was last at work.
pub(super) async fn keep(hub: Hub, tick: watch::Receiver<Instant>, mut stop: Stop) {
    let watchdog = systemd::watchdog();
    let every = watchdog.map_or(EVERY, |period| EVERY.min(period / 3));
    let mut next = interval(every);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent: Vec<usize> = Vec::new();
    let mut at_work = true;
    loop {
        tokio::select! {
            _ = next.tick() => {}
            () = stopped(&mut stop) => return,
        }
        let pulse = hub.pulse(every).await;
        let ticks = tick.borrow().elapsed() < LATELY;
        if pulse.is_whole() && ticks && watchdog.is_some() {
            systemd::alive();
        }
        if ticks != at_work {
            if ticks {
                tracing::warn!("the supervisor is at work again");
            } else {
                tracing::error!("the supervisor is stuck; reloads and stops are not heard");
            }
            at_work = ticks;
        }
        let now: Vec<usize> = pulse.silent().collect();
        if now != silent {
            if now.is_empty() {
                tracing::warn!("all shards answer again");
            } else {
                let shards: Vec<_> = now.iter().map(ToString::to_string).collect();
                let shards = shards.join(", ");
                tracing::error!(shards, "shards do not answer; their clients get nothing");
            }
            silent = now;
        }
    }
}
