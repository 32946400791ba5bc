//! The invariants as properties: whatever happens in whatever order, every answer, every count and
//! every list equals a model of plain maps, every client hears what it should in the order in which
//! it was said, and in the end nothing is left.
//!
//! ```text
//!  random ──► walk: one step after the other ──┬──► real calls, real sockets ──┐
//!    seed     crowd: several callers at once   └──► world: plain maps ─────────┴──► equal?
//!             halves: changes of many parts, watched all the time
//! ```
//!
//! Each run draws new seeds and prints them. `MODEL_SEED=n` repeats one of them; `MODEL_SEEDS` and
//! `MODEL_STEPS` change how many seeds there are and how many steps each of them takes.

mod crowd;
mod halves;
mod queue;
mod walk;
mod world;

use std::{collections::VecDeque, future::Future, sync::Mutex, thread, time::Instant};

use gateway_websocket::{
    close::Cause,
    metrics::{self, ShardStats},
    shard::Clock,
};

use self::world::Tally;
use crate::{
    gateway::Gateway,
    random::{number, seeds},
};

/// Seeds of one run.
const SEEDS: u64 = 20;

/// Steps that each seed takes.
const STEPS: u64 = 10_000;

/// Seeds that run at once, each with a gateway of its own.
const AT_ONCE: usize = 2;

/// Questions asked for something that has to become true; only ends a test that would hang.
const PATIENCE: u32 = 100_000;

/// Steps that are printed when one of them fails.
const REMEMBERED: usize = 20;

/// `limits.groups_per_client`, small enough to be met.
const GROUPS_PER_CLIENT: usize = 6;

/// `api.idempotency_keys`, small enough that keys are forgotten, and more than callers at once have
/// under way.
const KEYS: usize = 8;

#[test]
fn every_answer_and_every_message_equals_the_model() {
    let steps = number("MODEL_STEPS").unwrap_or(STEPS);
    for_each_seed(SEEDS, |seed| walk::walk(seed, steps));
}

#[test]
fn callers_at_once_lose_nothing_and_each_is_heard_in_its_order() {
    let steps = number("MODEL_STEPS").unwrap_or(STEPS) / 20;
    for_each_seed(SEEDS / 5, |seed| crowd::crowd(seed, steps));
}

#[test]
fn nobody_ever_sees_half_of_an_apply() {
    let steps = number("MODEL_STEPS").unwrap_or(STEPS) / 2;
    // Of several, each shard has one; one alone can be missed.
    for_each_seed(SEEDS / 5, |seed| halves::watch(seed, steps, if seed % 2 == 0 { 6 } else { 1 }));
}

/// Runs the test once per seed, each run within a runtime of its own.
fn for_each_seed<F: Future<Output = ()>>(count: u64, test: impl Fn(u64) -> F + Sync) {
    let seeds = Mutex::new(seeds("MODEL", count));
    let run = || {
        loop {
            let Some(seed) = seeds.lock().unwrap().next() else { return };
            let since = Instant::now();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(test(seed));
            println!("MODEL_SEED={seed}: as the model says, after {:.1?}", since.elapsed());
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(run);
        }
    });
}

/// A gateway whose limits are those of the model, with some settings more.
async fn start(clock: Clock, more: &[String]) -> Gateway {
    let sets = [
        format!("limits.groups_per_client={GROUPS_PER_CLIENT}"),
        format!("limits.attributes={}", world::ATTRIBUTES),
        format!("limits.attribute_bytes={}B", world::ATTRIBUTE_BYTES),
        format!("api.idempotency_keys={KEYS}"),
    ];
    let sets: Vec<_> = sets.iter().chain(more).map(String::as_str).collect();
    let gateway = Gateway::at(clock, &sets).await;
    assert_eq!(gateway.hub().shard_stats().count(), 3);
    gateway
}

/// The client goes by itself, which the gateway notices in its own time.
async fn until_offline(gateway: &Gateway, client: &str) {
    for _ in 0..PATIENCE {
        if !gateway.client_is_online(client).await.isonline {
            return;
        }
    }
    panic!("{client} went, and is still online");
}

/// Every client has gone: the gateway must be as it was before the first one came.
async fn nothing_is_left(gateway: &Gateway, tally: &Tally) {
    let left = |stats: &ShardStats| {
        [
            stats.clients.get(),
            stats.sockets.get(),
            stats.queued_bytes.get(),
            stats.partial_bytes.get(),
        ]
    };
    let is_empty = |stats: &ShardStats| left(stats) == [0; 4];
    let mut rounds = 0;
    // Sockets end once both sides know; the calls in between are the messages that take the time.
    while !gateway.hub().shard_stats().all(is_empty) {
        rounds += 1;
        let what: Vec<_> = gateway.hub().shard_stats().map(left).collect();
        assert!(rounds < PATIENCE, "clients, sockets, queued and partial bytes left: {what:?}");
        assert_eq!(gateway.count_online_client().await.count, 0);
    }
    for (cause, expected) in [
        (Cause::Api, tally.api),
        (Cause::Peer, tally.peer),
        (Cause::Lost, tally.lost),
        (Cause::Slow, tally.slow),
        (Cause::Expired, tally.expired),
    ] {
        assert_eq!(gateway.closed(cause), expected, "closed for {cause:?}");
    }
    let closed: u64 = Cause::ALL.into_iter().map(|cause| gateway.closed(cause)).sum();
    assert_eq!(gateway.sum(|stats| stats.opened.get()), tally.opened);
    assert_eq!(closed, tally.opened, "who was opened was closed once");
    let used = gateway.hub().shard_stats().filter(|stats| stats.opened.get() > 0).count() as u64;
    let shards = gateway.hub().shard_stats().count() as u64;
    assert_eq!(used, shards.min(tally.opened), "an idle shard");
    let handshakes = gateway.hub().handshakes();
    assert_eq!(handshakes.accepted.get(), tally.opened);

    let queued = gateway.sum(|stats| stats.messages_queued.get());
    let dropped = |why: metrics::Drop| gateway.sum(|stats| stats.dropped[why as usize].get());
    let losses = tally.losses;
    assert_eq!(dropped(metrics::Drop::Behind), losses.behind, "were not to wait");
    assert_eq!(dropped(metrics::Drop::Newest), losses.newest, "met a full queue");
    assert_eq!(dropped(metrics::Drop::Oldest), losses.oldest, "made room");
    assert_eq!(dropped(metrics::Drop::Replaced), losses.replaced, "were replaced");
    // Of who goes, what had expired may be dropped with the rest, and what is dropped with the rest
    // may have expired meanwhile: only the sum is certain.
    let late = dropped(metrics::Drop::Expired) + dropped(metrics::Drop::Closed);
    assert!(losses.expired <= late, "{late} expired or were given up, not {losses:?}");
    let dropped = late + losses.oldest + losses.replaced;
    let out = gateway.sum(|stats| stats.messages_out.get());
    assert_eq!(queued, out + dropped, "{out} went out, {dropped} were dropped");
    if let Some(expected) = tally.queued {
        assert_eq!(queued, expected, "messages queued");
    }
    assert_eq!(gateway.sum(|stats| stats.messages_in.get()), tally.heard);
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 0);
}

/// The last steps of a run, printed if the test fails.
struct Log {
    run: String,
    step: u64,
    steps: VecDeque<String>,
}

impl Log {
    fn new(run: String) -> Self {
        Self { run, step: 0, steps: VecDeque::new() }
    }

    fn note(&mut self, step: &impl std::fmt::Debug) {
        self.step += 1;
        if self.steps.len() == REMEMBERED {
            self.steps.pop_front();
        }
        let text = format!("{step:?}");
        self.steps.push_back(text.chars().take(200).collect());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if thread::panicking() {
            let first = self.step + 1 - self.steps.len() as u64;
            println!("{} failed at step {}; its last steps:", self.run, self.step);
            for (step, text) in (first..).zip(&self.steps) {
                println!("{step:>8} {text}");
            }
        }
    }
}
