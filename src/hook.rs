//! The connect hook: the back end is asked whether a client may connect, and as whom.
//!
//! ```text
//!  question ─► breaker ─► turn (hook.max_concurrent) ─► line ─► call ─► answer read ─► Verdict
//!                 │          │ hook.max_waiting          │       │         │
//!                 └──────────┴──────── Failure ──────────┴───────┴─────────┘
//!                                       └ the caller does as hook.fail says
//! ```
//!
//! All that is waited for is within `hook.timeout`. So a back end that hangs costs each client that
//! time at most, and the gateway a bounded number of calls, however many clients come.
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

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::time::{Instant, timeout_at};

pub use answer::{Nonsense, Verdict};
pub use question::Question;

use crate::{
    config::{InForce, Live},
    metrics::{HookStats, Shared},
    net::{Gate, Place},
};
use answer::Terms;
use breaker::{Breaker, End, Pass, Rule};
use call::{Call, Trouble};
use line::{Goal, Line, Note};
use log::Log;

/// Asks the back end. Cloning shares everything.
#[derive(Clone)]
pub struct Hook(Arc<Shares>);

struct Shares {
    live: Live,
    stats: Arc<HookStats>,
    turns: Gate,
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
    /// It was never this client's turn.
    #[error("no call under hook.max_concurrent became free within hook.timeout")]
    NoTurn,
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
            turns: Gate::default(),
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
        let deadline = Instant::now() + config.hook.timeout;
        if self.breaker().is_shut(Instant::now(), self.rule()) {
            return Err(Failure::Breaker);
        }
        let _turn = self.turn(deadline).await?;
        // Others may have failed while this one waited.
        let trial = Trial::begin(self).ok_or(Failure::Breaker)?;
        let verdict = self.call(question, goal, config, deadline).await;
        let is_well = verdict.as_ref().err().is_none_or(Failure::shows_life);
        trial.end(if is_well { End::Answered } else { End::Failed });
        verdict
    }

    /// Waits for a turn, if there is room to wait.
    async fn turn(&self, deadline: Instant) -> Result<Option<Place>, Failure> {
        let hook = |live: &Live| live.snapshot().hook.clone();
        if let Some(turn) = self.turns.try_enter(hook(&self.live).max_concurrent) {
            return Ok(Some(turn));
        }
        let _waiting = self.stats.waiting.enter();
        let mut swaps = self.live.swaps();
        loop {
            let hook = hook(&self.live);
            // Several who come at once may all find it full; never do more wait than may.
            if self.stats.waiting.get() > hook.max_waiting as u64 {
                return Err(Failure::Full);
            }
            tokio::select! {
                turn = timeout_at(deadline, self.turns.enter(hook.max_concurrent)) => {
                    return turn.map_err(|_| Failure::NoTurn);
                }
                () = swaps.next() => {}
            }
        }
    }

    /// Makes the call and reads the answer.
    async fn call(
        &self,
        question: Question<'_>,
        goal: &Goal,
        config: &InForce,
        deadline: Instant,
    ) -> Result<Verdict, Failure> {
        let _under_way = self.stats.under_way.enter();
        let _took = Took { stats: &self.stats, began: Instant::now() };
        let token = config.material.hook_token.as_ref();
        let call = Call::new(&goal.back_end.authority, token, &question.request());
        let most = config.hook.max_answer.bytes();
        for _ in 0..AGAIN {
            let note = Note::default();
            let wire = timeout_at(deadline, self.line.wire(goal, config.hook.timeout, &note));
            let mut wire = wire.await.map_err(|_| Failure::Unreachable(note.told()))?;
            let answers = wire.answers();
            let time = deadline.saturating_duration_since(Instant::now());
            match timeout_at(deadline, call.clone().make(&mut wire, time, most)).await {
                Err(_) => {
                    self.line.doubt(&wire, answers);
                    return Err(Failure::Timeout);
                }
                Ok(Err(Trouble::Unsent)) => {}
                Ok(Err(Trouble::Error(why))) => return Err(Failure::Error(why)),
                Ok(Err(Trouble::Declined(why))) => return Err(Failure::Declined(why)),
                Ok(Err(Trouble::Nonsense(why))) => return Err(why.into()),
                Ok(Ok(answer)) => {
                    let (token, offers) = (question.change, question.offers);
                    let terms = Terms { config, token, offers, now: SystemTime::now() };
                    return Ok(terms.read(answer)?);
                }
            }
        }
        Err(Failure::Unreachable("it ends each connection".to_owned()))
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
    /// Whether the back end is well: then it is no matter of the breaker's.
    fn shows_life(&self) -> bool {
        matches!(self, Self::Declined(_) | Self::Nonsense(_))
    }

    /// The name of the cause, as it is counted.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Full | Self::NoTurn => "busy",
            Self::Breaker => "breaker",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Error(_) => "error",
            Self::Declined(_) => "declined",
            Self::Nonsense(_) => "nonsense",
        }
    }

    fn counter<'s>(&self, stats: &'s HookStats) -> &'s Shared {
        match self {
            Self::Full | Self::NoTurn => &stats.busy,
            Self::Breaker => &stats.breaker,
            Self::Unreachable(_) => &stats.unreachable,
            Self::Timeout => &stats.timeouts,
            Self::Error(_) => &stats.errors,
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
            Failure::Breaker,
            Failure::Unreachable(String::new()),
            Failure::Timeout,
            Failure::Error(String::new()),
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
        assert_eq!(stats.failures().iter().map(|(_, n)| n.get()).sum::<u64>(), 8);
    }
}
