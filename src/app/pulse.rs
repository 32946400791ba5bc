//! Feels the pulse of the shards, and feeds the service manager's watchdog while all of them live.
//!
//! A shard that is stuck holds its clients, and nobody hears of it: its sockets stay open, the other
//! shards and gRPC go on. So the watchdog is fed only if every shard has answered; if one does not
//! for `WatchdogSec=`, systemd starts the gateway anew. The same goes for the supervisor: while it is
//! stuck, nothing is reloaded, and nobody can stop the process but by force.
//!
//! A shard that has ended is not stuck. Between the end of the shards and the end of the process there
//! is a moment in which a pulse may be due, and nobody is to be woken for that; a shard that ends by
//! itself is the supervisor's to see. So only silence is reported, and the watchdog starves of either.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{supervise::CHECK, systemd};
use crate::{
    hub::{Hub, Pulse},
    lifecycle::Handle,
    net::{Stop, stopped},
};

/// How often each shard is asked; with a watchdog at least three times in its period.
const EVERY: Duration = Duration::from_secs(1);

/// The supervisor shows itself every [`CHECK`], but for the time that a reload takes.
const LATELY: Duration = CHECK.saturating_mul(3);

/// Asks until `stop`, which comes last: a drain takes its time, and the shards have to live.
/// `handle` knows when the supervisor was last at work.
pub(super) async fn keep(hub: Hub, handle: Handle, mut stop: Stop) {
    let watchdog = systemd::watchdog();
    let every = watchdog.map_or(EVERY, |period| EVERY.min(period / 3));
    let mut next = interval(every);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen { silent: Vec::new(), at_work: true };
    let beat = async {
        loop {
            next.tick().await;
            let pulse = hub.pulse(every).await;
            let at_work = handle.last_at_work().elapsed() < LATELY;
            if pulse.is_whole() && at_work && watchdog.is_some() {
                systemd::alive();
            }
            seen.look(&pulse, at_work).into_iter().for_each(Line::log);
        }
    };
    tokio::select! {
        biased;
        () = stopped(&mut stop) => {}
        () = beat => {}
    }
}

/// What was last seen, so that only changes are told.
struct Seen {
    silent: Vec<usize>,
    at_work: bool,
}

/// A change that is told.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    SupervisorStuck,
    SupervisorBack,
    ShardsSilent(Vec<usize>),
    ShardsBack,
}

impl Seen {
    /// What there is to tell of this.
    fn look(&mut self, pulse: &Pulse, at_work: bool) -> Vec<Line> {
        let mut lines = Vec::new();
        if at_work != self.at_work {
            lines.push(if at_work { Line::SupervisorBack } else { Line::SupervisorStuck });
            self.at_work = at_work;
        }
        let silent: Vec<usize> = pulse.silent().collect();
        if silent != self.silent {
            if !silent.is_empty() {
                lines.push(Line::ShardsSilent(silent.clone()));
            } else if pulse.is_whole() {
                lines.push(Line::ShardsBack);
            }
            self.silent = silent;
        }
        lines
    }
}

impl Line {
    fn log(self) {
        match self {
            Self::SupervisorBack => tracing::warn!("the supervisor is at work again"),
            Self::SupervisorStuck => {
                tracing::error!("the supervisor is stuck; reloads and stops are not heard");
            }
            Self::ShardsBack => tracing::warn!("all shards answer again"),
            Self::ShardsSilent(shards) => {
                let shards: Vec<_> = shards.iter().map(ToString::to_string).collect();
                let shards = shards.join(", ");
                tracing::error!(shards, "shards do not answer; their clients get nothing");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Beat;

    #[test]
    fn changes_are_told_once_and_the_end_of_a_shard_is_not_silence() {
        let answered = Beat::Answered(Duration::ZERO);
        let mut seen = Seen { silent: Vec::new(), at_work: true };
        for (beats, at_work, expected) in [
            ([answered, answered], true, vec![]),
            ([answered, Beat::Silent], true, vec![Line::ShardsSilent(vec![1])]),
            ([answered, Beat::Silent], true, vec![]),
            ([answered, answered], true, vec![Line::ShardsBack]),
            ([answered, answered], false, vec![Line::SupervisorStuck]),
            ([answered, answered], true, vec![Line::SupervisorBack]),
            // A stop: one shard is faster than the other, whatever was before.
            ([answered, Beat::Silent], true, vec![Line::ShardsSilent(vec![1])]),
            ([answered, Beat::Ended], true, vec![]),
            ([Beat::Ended, Beat::Ended], true, vec![]),
        ] {
            let pulse = Pulse { beats: beats.to_vec() };
            assert_eq!(seen.look(&pulse, at_work), expected, "{beats:?}, {at_work}");
            let whole = beats == [answered, answered];
            assert_eq!(pulse.is_whole(), whole, "the watchdog is fed for these: {beats:?}");
        }
    }
}
