//! The connect hook: the back end is asked whether a client may connect, and as whom.
//!
//! ```text
//!  question ─► breaker ─► turn (hook.max_concurrent) ─► line ─► call ─► answer read ─► Verdict
//!                 │          │ hook.max_waiting          │       │         │
//!                 │          └─ Failure that is ours: 503, whatever hook.fail says
//!                 └───────────────── Failure of the back end ────┴─────────┘
//!                                       └ the caller does as hook.fail says
//! ```
//!
//! # Whose time it is
//!
//! The back end's time is `hook.timeout` for the connection and the answer together. It doesn't run
//! while a client waits for its turn ([`queue`]), nor while a call waits for a stream of the connection:
//! that is our congestion, for which a client waits as long again at most. So a client is decided on
//! within twice `hook.timeout`, and a back end that hangs costs the gateway a bounded number of calls,
//! however many clients come.
//!
//! What our congestion costs is the client's 503, and never the back end's reputation: it counts for
//! nothing, and lets nobody in.
//!
//! # What opens the breaker
//!
//! The breaker leaves a back end alone that is in trouble. So it counts what shows trouble, and not
//! what a sound back end says of a single client: else five requests of one stranger would shut out
//! everybody.
//!
//! | the back end | counts |
//! |---|---|
//! | can't be reached, is silent, breaks off, answers in HTTP alone | as a failure |
//! | answers `UNAVAILABLE`, `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`, `INTERNAL`, `UNKNOWN`, `DATA_LOSS`, `UNIMPLEMENTED`, `ABORTED`, `CANCELLED` | as a failure |
//! | answers `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`, `PERMISSION_DENIED`, `FAILED_PRECONDITION`, `OUT_OF_RANGE`, `UNAUTHENTICATED` | as an answer |
//! | answers nonsense, such as a uid that is too long | as an answer |
//! | ends the connection under several calls | as one failure |
//! | says `ENHANCE_YOUR_CALM` (RFC 9113 §7), perhaps for clients that hang up | not at all |
//! | got less than `hook.timeout` because of us, or nobody waits for its answer any more | not at all |
//!
//! That is how Envoy's outlier detection tells 5xx from others, but for three statuses that are none
//! there: `RESOURCE_EXHAUSTED` asks to be left alone, `ABORTED` and `CANCELLED` are said by servers that
//! are going down or can't keep up. Whatever counts as an answer here is still no verdict: `hook.fail`
//! decides on the client.

mod answer;
mod breaker;
mod call;
mod line;
mod log;
mod question;
mod queue;

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};

pub use answer::{Nonsense, Verdict};
pub use question::Question;

use crate::{
    config::{InForce, Live},
    metrics::{HookStats, Shared},
};
use answer::Terms;
use breaker::{Breaker, End, Pass, Rule};
use call::{Call, Trouble};
use line::{Goal, Line, Note, Why, Wire};
use log::Log;
use queue::{Bounds, Crowded, Entry, FairQueue, Permit};

/// Asks the back end. Cloning shares everything.
#[derive(Clone)]
pub struct Hook(Arc<Shares>);

struct Shares {
    live: Live,
    stats: Arc<HookStats>,
    queue: FairQueue,
    line: Line,
    /// The lock is held for one step of the breaker.
    breaker: Mutex<Breaker>,
    log: Log,
}

/// Why there is no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// As many wait as may.
    #[error("as many clients wait for the back end's word as hook.max_waiting allows")]
    Full,
    /// It was never this client's turn, or its turn was too short.
    #[error(
        "no call under hook.max_concurrent, or under what the back end takes at once, became free \
         within hook.timeout"
    )]
    NoTurn,
    /// This machine has no socket for a connection to the back end.
    #[error("there is no socket for a connection to the back end: {0}")]
    NoSocket(String),
    /// There were failures before, and it is too early to try again.
    #[error(
        "the back end is left alone for a while after failures in a row (hook.breaker_failures)"
    )]
    Breaker,
    /// There is no connection.
    #[error("the back end can't be reached: {0}")]
    Unreachable(String),
    /// There is one, and nothing came in time.
    #[error("the back end did not answer within hook.timeout")]
    Timeout,
    /// The back end told of an error, or broke off.
    #[error("the back end fails: {0}")]
    Error(String),
    /// The connection ended under several calls, and this is not the first of them.
    #[error("the back end fails: {0}")]
    Broken(String),
    /// The back end says that we do too much: so many clients came, or hung up.
    #[error("the back end takes no more from this gateway: {0}")]
    TooMuch(String),
    /// The back end is well, and says that it should not have been asked like this.
    #[error("the back end rejects the question: {0}")]
    Declined(String),
    /// It answered something that can't be.
    #[error("the back end's answer makes no sense: {0}")]
    Nonsense(#[from] Nonsense),
}

/// How often a call is made anew because the connection turned out to be at its end.
const AGAIN: usize = 3;

impl Hook {
    /// Asks by the rules of `live`.
    pub fn new(live: Live) -> Self {
        Self(Arc::new(Shares {
            live,
            stats: Arc::default(),
            queue: FairQueue::default(),
            line: Line::default(),
            breaker: Mutex::default(),
            log: Log::default(),
        }))
    }

    /// What is counted of the questions.
    pub fn stats(&self) -> &Arc<HookStats> {
        &self.0.stats
    }

    /// Asks about one client, by the configuration of its handshake; none if nobody is to be asked.
    pub async fn ask(
        &self,
        question: Question<'_>,
        config: &InForce,
    ) -> Option<Result<Verdict, Failure>> {
        let hook = &*self.0;
        let Some(goal) = Goal::of(config) else {
            hook.line.hang_up();
            return None;
        };
        let verdict = hook.ask(question, &goal, config).await;
        match &verdict {
            Ok(Verdict::Allow { .. }) => hook.stats.allowed.increment(),
            Ok(Verdict::Refuse { .. }) => hook.stats.refused.increment(),
            Err(failure) => {
                failure.counter(&hook.stats).increment();
                hook.log.failure(failure, question.peer);
            }
        }
        Some(verdict)
    }
}

impl Shares {
    async fn ask(
        &self,
        question: Question<'_>,
        goal: &Goal,
        config: &InForce,
    ) -> Result<Verdict, Failure> {
        let came = Instant::now();
        if self.breaker().is_shut(came, self.rule()) {
            return Err(Failure::Breaker);
        }
        let _permit = self.permit(&question, came + config.hook.timeout).await?;
        // Others may have failed while this one waited.
        let trial = Trial::begin(self).ok_or(Failure::Breaker)?;
        let verdict = self.call(question, goal, config, came + 2 * config.hook.timeout).await;
        trial.end(verdict.as_ref().map_or_else(Failure::end, |_| End::Answered));
        verdict
    }

    /// Waits for a turn until `patience` is over, if there is room to wait.
    async fn permit(
        &self,
        question: &Question<'_>,
        patience: Instant,
    ) -> Result<Permit<'_>, Failure> {
        let mut streams = self.line.streams();
        let mut swaps = self.live.swaps();
        let bounds = |streams: usize| {
            let hook = &self.live.snapshot().hook;
            let under_way = hook.max_concurrent.min(streams).max(1);
            Bounds { under_way, waiting: hook.max_waiting }
        };
        let asker = question.asker();
        let now = bounds(*streams.borrow_and_update());
        let mut place = match self.queue.enter(asker, now) {
            Err(Crowded) => return Err(Failure::Full),
            Ok(Entry::Permitted(permit)) => return Ok(permit),
            Ok(Entry::Waits(place)) => place,
        };
        let _waiting = self.stats.waiting.enter();
        loop {
            tokio::select! {
                permit = place.permit() => return permit.map_err(|Crowded| Failure::Full),
                () = sleep_until(patience) => return Err(Failure::NoTurn),
                () = swaps.next() => {}
                // The line lives as long as this.
                _ = streams.changed() => {}
            }
            self.queue.set(bounds(*streams.borrow_and_update()));
        }
    }

    /// Makes the call and reads the answer, until `end` at the latest.
    async fn call(
        &self,
        question: Question<'_>,
        goal: &Goal,
        config: &InForce,
        end: Instant,
    ) -> Result<Verdict, Failure> {
        let _under_way = self.stats.under_way.enter();
        let _took = Took { stats: &self.stats, began: Instant::now() };
        let token = config.material.hook_token.as_ref();
        let call = Call::new(&goal.back_end.authority, token, &question.request());
        let most = config.hook.max_answer.bytes();
        // What is left of the back end's time.
        let mut time = config.hook.timeout;
        for _ in 0..AGAIN {
            let (note, began) = (Note::default(), Instant::now());
            let wire = timeout(time, self.line.wire(goal, config.hook.timeout, &note)).await;
            let mut wire = wire.map_err(|_| Failure::without(note.told()))?;
            time = time.saturating_sub(began.elapsed());
            let (tell, has_begun) = oneshot::channel();
            let asked = wire.clone();
            let answer = call.clone().make(&mut wire, time, most, tell);
            let answer = self.answer(answer, has_begun, &asked, &mut time, end).await?;
            match answer {
                Err(Trouble::Unsent) => {}
                Err(Trouble::Error(why)) => return Err(Failure::Error(why)),
                Err(Trouble::Broken(why)) => return Err(Failure::Broken(why)),
                Err(Trouble::TooMuch(why)) => return Err(Failure::TooMuch(why)),
                Err(Trouble::Declined(why)) => return Err(Failure::Declined(why)),
                Err(Trouble::Nonsense(why)) => return Err(why.into()),
                Ok(answer) => {
                    let (token, offers) = (question.change, question.offers);
                    let terms = Terms { config, token, offers, now: SystemTime::now() };
                    return Ok(terms.read(answer)?);
                }
            }
        }
        Err(Failure::Unreachable("it ends each connection".to_owned()))
    }

    /// Waits for an answer: first until the call has a stream of the connection, which is our time, then
    /// for what is left of the back end's.
    async fn answer<T>(
        &self,
        answer: impl Future<Output = T>,
        mut has_begun: oneshot::Receiver<()>,
        wire: &Wire,
        left: &mut Duration,
        end: Instant,
    ) -> Result<T, Failure> {
        let mut answer = pin!(answer);
        let before = wire.answers();
        tokio::select! {
            biased;
            // What ends a call before it has begun ends it the same way.
            answer = &mut answer => return Ok(answer),
            _ = &mut has_begun => {}
            () = sleep_until(end) => {
                // If nobody has got an answer in all that time, there was no turn to wait for.
                self.line.doubt(wire, before);
                let is_silent = wire.answers() == before;
                return Err(if is_silent { Failure::Timeout } else { Failure::NoTurn });
            }
        }
        let began = Instant::now();
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = sleep_until(began + *left) => {
                self.line.doubt(wire, before);
                return Err(Failure::Timeout);
            }
            () = sleep_until(end) => return Err(Failure::NoTurn),
        };
        *left = left.saturating_sub(began.elapsed());
        Ok(answer)
    }

    fn rule(&self) -> Rule {
        let hook = &self.live.snapshot().hook;
        Rule { failures: hook.breaker_failures, pause: hook.breaker_pause }
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that has passed the breaker, which hears of its end in any case.
struct Trial<'a> {
    shares: &'a Shares,
    pass: Pass,
    end: End,
}

impl<'a> Trial<'a> {
    fn begin(shares: &'a Shares) -> Option<Self> {
        let pass = shares.breaker().pass(Instant::now(), shares.rule())?;
        Some(Self { shares, pass, end: End::GivenUp })
    }

    fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let rule = self.shares.rule();
        let mut breaker = self.shares.breaker();
        let turn = breaker.end(self.pass, self.end, Instant::now(), rule);
        self.shares.stats.open.set(u64::from(!breaker.is_closed()));
        drop(breaker);
        if let Some(turn) = turn {
            self.shares.log.turn(turn, rule);
        }
    }
}

/// Counts how long a call took, whatever came of it.
struct Took<'a> {
    stats: &'a HookStats,
    began: Instant,
}

impl Drop for Took<'_> {
    fn drop(&mut self) {
        self.stats.duration.observe(self.began.elapsed());
    }
}

impl Failure {
    /// There is no connection, for this reason.
    fn without(why: Why) -> Self {
        let Why { text, is_ours } = why;
        if is_ours { Self::NoSocket(text.to_string()) } else { Self::Unreachable(text.to_string()) }
    }

    /// Whether it is our congestion, and not the back end's failure: no matter for `hook.fail`.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Full | Self::NoTurn | Self::NoSocket(_) | Self::TooMuch(_))
    }

    /// What it says to the breaker.
    fn end(&self) -> End {
        match self {
            Self::Unreachable(_) | Self::Timeout | Self::Error(_) => End::Failed,
            Self::Declined(_) | Self::Nonsense(_) => End::Answered,
            Self::Breaker
            | Self::Broken(_)
            | Self::Full
            | Self::NoTurn
            | Self::NoSocket(_)
            | Self::TooMuch(_) => End::GivenUp,
        }
    }

    /// The name of the cause, as it is counted.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Full | Self::NoTurn | Self::NoSocket(_) | Self::TooMuch(_) => "busy",
            Self::Breaker => "breaker",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Error(_) | Self::Broken(_) => "error",
            Self::Declined(_) => "declined",
            Self::Nonsense(_) => "nonsense",
        }
    }

    fn counter<'s>(&self, stats: &'s HookStats) -> &'s Shared {
        match self {
            Self::Full | Self::NoTurn | Self::NoSocket(_) | Self::TooMuch(_) => &stats.busy,
            Self::Breaker => &stats.breaker,
            Self::Unreachable(_) => &stats.unreachable,
            Self::Timeout => &stats.timeouts,
            Self::Error(_) | Self::Broken(_) => &stats.errors,
            Self::Declined(_) => &stats.declined,
            Self::Nonsense(_) => &stats.nonsense,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_counted_under_its_cause() {
        let stats = HookStats::default();
        let failures = [
            Failure::Full,
            Failure::NoTurn,
            Failure::NoSocket(String::new()),
            Failure::Breaker,
            Failure::Unreachable(String::new()),
            Failure::Timeout,
            Failure::Error(String::new()),
            Failure::Broken(String::new()),
            Failure::TooMuch(String::new()),
            Failure::Declined(String::new()),
            Failure::Nonsense(Nonsense::NoVerdict),
        ];
        for failure in &failures {
            let count = || stats.failures().map(|(cause, n)| (cause, n.get()));
            let before = count();
            failure.counter(&stats).increment();
            let changed: Vec<_> =
                before.iter().zip(count()).filter(|(a, b)| **a != *b).map(|(a, _)| a.0).collect();
            assert_eq!(changed, [failure.cause()]);
        }
        assert_eq!(stats.failures().iter().map(|(_, n)| n.get()).sum::<u64>(), 11);
    }
}
