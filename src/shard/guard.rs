//! The one place where a panic in a step of a connection is caught.
//!
//! A panic is a fault of the gateway; it must cost one client, closed with 1011, and nobody else. What
//! a step holds (memory, places) is given back by being dropped, so nothing is put right by hand: the
//! only thing left to do is an [`Effect::Fault`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    effect::{Effect, Effects},
    slot::Slot,
};

/// Does one step of the connection in `slot`. None if it panicked: then its effect is a fault.
pub(super) fn guarded<T>(
    slot: Slot,
    effects: &mut Effects,
    step: impl FnOnce(&mut Effects) -> T,
) -> Option<T> {
    let outcome = caught(|| step(effects));
    if outcome.is_none() {
        effects.push(Effect::Fault(slot));
    }
    outcome
}

/// Does something that belongs to no connection; none if it panicked.
pub(super) fn caught<T>(step: impl FnOnce() -> T) -> Option<T> {
    // What a panic leaves half done is closed (a connection), dropped (a job) or rebuilt (a buffer).
    catch_unwind(AssertUnwindSafe(step)).ok()
}
