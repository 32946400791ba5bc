//! What is counted of the questions whether a client may connect.

use super::{Histogram, Shared, UnderWay};

/// Questions to the back end, by what came of them.
#[derive(Debug, Default)]
pub struct HookStats {
    /// Clients that may connect.
    pub allowed: Shared,
    /// Clients that may not.
    pub refused: Shared,
    /// Clients that had no turn: `hook.max_waiting` was reached, the time was over, or there was no socket.
    pub busy: Shared,
    /// Clients that nobody was asked about because of failures before.
    pub breaker: Shared,
    /// Calls for which there was no connection in time.
    pub unreachable: Shared,
    /// Calls that were not answered in time.
    pub timeouts: Shared,
    /// Calls that were answered with an error, or broke.
    pub errors: Shared,
    /// Calls that were rejected by a back end that is well.
    pub declined: Shared,
    /// Calls that were answered with nonsense.
    pub nonsense: Shared,
    /// Calls under way now.
    pub under_way: UnderWay,
    /// Clients that wait for their turn now.
    pub waiting: UnderWay,
    /// 1 while failures keep calls from being made.
    pub open: Shared,
    /// How long calls took, whatever came of them.
    pub duration: Histogram,
}

impl HookStats {
    /// What the back end said, each verdict under its name.
    pub fn verdicts(&self) -> [(&'static str, &Shared); 2] {
        [("allowed", &self.allowed), ("refused", &self.refused)]
    }

    /// Why there was no verdict, each cause under its name.
    pub fn failures(&self) -> [(&'static str, &Shared); 7] {
        [
            ("busy", &self.busy),
            ("breaker", &self.breaker),
            ("unreachable", &self.unreachable),
            ("timeout", &self.timeouts),
            ("error", &self.errors),
            ("declined", &self.declined),
            ("nonsense", &self.nonsense),
        ]
    }
}
