//! Whether the shards live: each is asked now and then, and how long it took to hear is its lag.
//!
//! A pulse waits its turn behind everything that stands in the shard's inbox, so its lag is what a
//! call meets there. A shard that has not answered is not asked again, so nothing piles up in the
//! inbox of one that is stuck.

use std::time::Duration;

use tokio::{
    sync::{Mutex, oneshot},
    time::{Instant, timeout_at},
};

use super::Hub;
use crate::{
    metrics::{Histogram, Single},
    shard::Command,
};

/// What became of the pulses of all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// By shard.
    pub beats: Vec<Beat>,
}

/// What became of one shard's pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It was answered; this is the time it took to hear.
    Answered(Duration),
    /// It was not answered in time: the shard is stuck, or very busy.
    Silent,
    /// The shard has ended, as at a stop: it holds no clients who could miss it.
    Ended,
}

impl Pulse {
    /// Whether every shard answered.
    pub fn is_whole(&self) -> bool {
        self.beats.iter().all(|beat| matches!(beat, Beat::Answered(_)))
    }

    /// The shards that run and did not answer.
    pub fn silent(&self) -> impl Iterator<Item = usize> {
        let silent = |(_, beat): &(usize, &Beat)| **beat == Beat::Silent;
        self.beats.iter().enumerate().filter(silent).map(|(shard, _)| shard)
    }
}

/// How late one shard is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// As last measured, or the time for which it has not answered if that is longer.
    pub last: Duration,
    /// The longest so far.
    pub longest: Duration,
}

/// The pulses of all shards.
pub(super) struct Pulses {
    started: Instant,
    /// What was asked and not answered, by shard. Held while a pulse is waited for: there is one at
    /// a time, and no shard ever takes this lock.
    asked: Mutex<Vec<Option<Asked>>>,
    seen: Vec<Seen>,
    lags: Histogram,
}

type Asked = oneshot::Receiver<Duration>;

/// What anyone may read of a shard's pulse; written by who holds [`Pulses::asked`].
#[derive(Default)]
struct Seen {
    last: Single,
    longest: Single,
    /// Nanoseconds between the start and the question that was not answered yet; zero if all were.
    waiting_since: Single,
}

impl Pulses {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            started: Instant::now(),
            asked: Mutex::new((0..shards).map(|_| None).collect()),
            seen: (0..shards).map(|_| Seen::default()).collect(),
            lags: Histogram::default(),
        }
    }

    fn record(&self, shard: usize, lag: Duration) {
        self.lags.observe(lag);
        let seen = &self.seen[shard];
        seen.last.set(nanoseconds(lag));
        seen.longest.set(seen.longest.get().max(nanoseconds(lag)));
        seen.waiting_since.set(0);
    }
}

impl Hub {
    /// Asks every shard for a sign of life and waits for it at most `patience`.
    ///
    /// It is no call: no limit refuses it, and at most one waits for each shard, whatever becomes of
    /// this future.
    pub async fn pulse(&self, patience: Duration) -> Pulse {
        let deadline = Instant::now() + patience;
        let pulses = &self.0.pulses;
        let mut asked = pulses.asked.lock().await;
        for (shard, asked) in asked.iter_mut().enumerate() {
            // An answer that came late is an answer; the shard is asked anew.
            if let Some(late) = asked.as_mut().and_then(|asked| asked.try_recv().ok()) {
                pulses.record(shard, late);
                *asked = None;
            }
            asked.get_or_insert_with(|| self.ask_for_life(shard));
        }
        let mut beats = Vec::with_capacity(asked.len());
        for (shard, asked) in asked.iter_mut().enumerate() {
            let Some(answer) = asked else { continue };
            beats.push(match timeout_at(deadline, answer).await {
                Ok(Ok(lag)) => {
                    pulses.record(shard, lag);
                    *asked = None;
                    Beat::Answered(lag)
                }
                // Whatever ends a shard drops the questions that it has.
                Ok(Err(_)) => {
                    *asked = None;
                    Beat::Ended
                }
                Err(_) => Beat::Silent,
            });
        }
        Pulse { beats }
    }

    fn ask_for_life(&self, shard: usize) -> Asked {
        let (reply, answer) = oneshot::channel();
        let at = Instant::now();
        let waiting = nanoseconds(at - self.0.pulses.started).max(1);
        self.0.pulses.seen[shard].waiting_since.set(waiting);
        self.0.shards[shard].inbox.push(Command::Pulse(at.into_std(), reply));
        answer
    }

    /// How late each shard is.
    pub fn lags(&self) -> impl Iterator<Item = Lag> {
        let now = nanoseconds(self.0.pulses.started.elapsed());
        self.0.pulses.seen.iter().map(move |seen| {
            let waiting = match seen.waiting_since.get() {
                0 => 0,
                since => now.saturating_sub(since),
            };
            Lag {
                last: Duration::from_nanos(seen.last.get().max(waiting)),
                longest: Duration::from_nanos(seen.longest.get().max(waiting)),
            }
        })
    }

    /// All lags that were measured.
    pub fn lag_histogram(&self) -> &Histogram {
        &self.0.pulses.lags
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
