//! When a back end is left alone: a state machine that is told the time.
//!
//! ```text
//!           failures in a row                 the pause is over: one passes
//!  closed ────────────────────► open ────────────────────────────────────► probing
//!    ▲                           ▲ └ nobody passes        nobody else passes │ │
//!    │                           └──────────── it failed, or was given up ───┘ │
//!    └──────────────────────────────────────── it was answered ───────────────┘
//! ```
//!
//! Calls that began before the breaker opened are at their end of no consequence: what counts then is
//! the probe.

use std::time::Duration;

use tokio::time::Instant;

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Failures in a row; zero is never.
    pub(super) failures: u32,
    pub(super) pause: Duration,
}

/// Lets calls pass, or not.
#[derive(Debug)]
pub(super) enum Breaker {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing,
}

/// The right to make one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Usual,
    /// The call by whose outcome all others are judged.
    Probe,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    Failed,
    /// Nobody waited for the answer any more.
    GivenUp,
}

/// What a call's end did to the breaker, if it did something that should be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Opened,
    Closed,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// Whether no call would pass now.
    pub(super) fn is_shut(&self, now: Instant, rule: Rule) -> bool {
        match self {
            _ if rule.failures == 0 => false,
            Self::Closed { .. } => false,
            Self::Open { until } => now < *until,
            Self::Probing => true,
        }
    }

    /// Whether calls pass as usual.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Lets a call pass, if it may.
    pub(super) fn pass(&mut self, now: Instant, rule: Rule) -> Option<Pass> {
        if self.is_shut(now, rule) {
            return None;
        }
        if rule.failures == 0 {
            *self = Self::default();
        }
        if self.is_closed() {
            return Some(Pass::Usual);
        }
        *self = Self::Probing;
        Some(Pass::Probe)
    }

    /// Takes note of how a call ended that had passed.
    pub(super) fn end(&mut self, pass: Pass, end: End, now: Instant, rule: Rule) -> Option<Turn> {
        match (&mut *self, pass, end) {
            (Self::Closed { failures }, _, End::Answered) => *failures = 0,
            (Self::Closed { failures }, _, End::Failed) => {
                *failures = failures.saturating_add(1);
                if rule.failures > 0 && *failures >= rule.failures {
                    *self = Self::Open { until: now + rule.pause };
                    return Some(Turn::Opened);
                }
            }
            (Self::Probing, Pass::Probe, End::Answered) => {
                *self = Self::default();
                return Some(Turn::Closed);
            }
            (Self::Probing, Pass::Probe, End::Failed) => {
                *self = Self::Open { until: now + rule.pause };
            }
            // The next who comes finds out.
            (Self::Probing, Pass::Probe, End::GivenUp) => *self = Self::Open { until: now },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { failures: 3, pause: Duration::from_secs(10) };

    fn ends(breaker: &mut Breaker, now: Instant, ends: &[End]) -> Option<Turn> {
        let mut turn = None;
        for end in ends {
            let pass = breaker.pass(now, RULE).expect("it passes");
            turn = breaker.end(pass, *end, now, RULE);
        }
        turn
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        assert_eq!(ends(&mut breaker, now, &[End::Failed; 3]), Some(Turn::Opened));
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        let mixed =
            [End::Failed, End::Failed, End::Answered, End::Failed, End::GivenUp, End::Failed];
        assert_eq!(ends(&mut breaker, now, &mixed), None);
        assert!(breaker.is_closed());
        assert_eq!(ends(&mut breaker, now, &[End::Failed]), Some(Turn::Opened));
        assert!(breaker.is_shut(now, RULE) && breaker.pass(now, RULE).is_none());
    }

    #[test]
    fn after_the_pause_one_passes_and_decides() {
        let now = Instant::now();
        for (end, later_shut) in [(End::Answered, false), (End::Failed, true)] {
            let mut breaker = opened(now);
            let before = now + RULE.pause - Duration::from_nanos(1);
            assert!(breaker.is_shut(before, RULE));
            let after = now + RULE.pause;
            assert!(!breaker.is_shut(after, RULE));
            assert_eq!(breaker.pass(after, RULE), Some(Pass::Probe));
            assert!(breaker.is_shut(after, RULE), "one at a time");
            assert_eq!(breaker.pass(after, RULE), None);
            let turn = breaker.end(Pass::Probe, end, after, RULE);
            assert_eq!(turn, (end == End::Answered).then_some(Turn::Closed));
            assert_eq!(breaker.is_shut(after, RULE), later_shut);
            assert!(!breaker.is_shut(after + RULE.pause, RULE));
        }
    }

    #[test]
    fn a_probe_that_is_given_up_makes_room_for_the_next() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let after = now + RULE.pause;
        assert_eq!(breaker.pass(after, RULE), Some(Pass::Probe));
        assert_eq!(breaker.end(Pass::Probe, End::GivenUp, after, RULE), None);
        assert_eq!(breaker.pass(after, RULE), Some(Pass::Probe));
    }

    #[test]
    fn what_began_before_it_opened_changes_nothing() {
        let now = Instant::now();
        let mut breaker = opened(now);
        for end in [End::Answered, End::Failed, End::GivenUp] {
            assert_eq!(breaker.end(Pass::Usual, end, now + RULE.pause, RULE), None);
            assert!(breaker.is_shut(now, RULE));
            assert!(!breaker.is_shut(now + RULE.pause, RULE), "the pause is not longer for it");
        }
        assert_eq!(breaker.pass(now + RULE.pause, RULE), Some(Pass::Probe));
        for end in [End::Answered, End::Failed, End::GivenUp] {
            assert_eq!(breaker.end(Pass::Usual, end, now, RULE), None);
            assert!(breaker.is_shut(now + RULE.pause, RULE), "the probe is under way");
        }
    }

    #[test]
    fn it_can_be_switched_off_and_follows_a_new_rule() {
        let now = Instant::now();
        let never = Rule { failures: 0, ..RULE };
        let mut breaker = opened(now);
        assert_eq!(breaker.pass(now, never), Some(Pass::Usual));
        for _ in 0..9 {
            assert_eq!(breaker.end(Pass::Usual, End::Failed, now, never), None);
        }
        assert_eq!(breaker.pass(now, RULE), Some(Pass::Usual));
        assert_eq!(breaker.end(Pass::Usual, End::Failed, now, RULE), Some(Turn::Opened));
    }
}
