//! Lines that the log lost: one number for the process, as there is one log.

use std::sync::atomic::{AtomicU64, Ordering};

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that were dropped since the start, because the log took none.
pub fn log_lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Counts lines that are dropped.
pub fn drop_log_lines(lines: u64) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
}
