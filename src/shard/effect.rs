//! What a step wants to have done to connections when it is over.
//!
//! A component changes what it owns and nothing else. That a connection has to end, or is to be read
//! on, it says by an [`Effect`]; the event loop applies effects after the step. So no component calls
//! another one in the middle of its own work, and what a step tells (`opened`, a message, a receipt)
//! comes before what follows from it.

use super::slot::Slot;
use crate::close::{Cause, Close, code};

#[derive(Debug)]
pub(super) enum Effect {
    /// Close the client; nothing happens if it is closing already.
    Close(Slot, Box<Close>),
    /// Close it when what it said has been answered.
    CloseWhenAnswered(Slot, Box<Close>),
    /// Nothing that it still says is of use: throw it away.
    StopReading(Slot),
    /// The connection broke: let go of it.
    Lost(Slot),
    /// Both sides have said goodbye: let go of the socket.
    Remove(Slot),
    /// The end of the close handshake did not come in time, or is not waited for.
    CutOff(Slot),
    /// A step of this connection panicked.
    Fault(Slot),
    /// Read it on in the next turn.
    ReadAgain(Slot),
    /// Look at its timers anew.
    Schedule(Slot),
}

impl Effect {
    /// The connection that it is about.
    pub(super) fn slot(&self) -> Slot {
        match self {
            Self::Close(slot, _)
            | Self::CloseWhenAnswered(slot, _)
            | Self::StopReading(slot)
            | Self::Lost(slot)
            | Self::Remove(slot)
            | Self::CutOff(slot)
            | Self::Fault(slot)
            | Self::ReadAgain(slot)
            | Self::Schedule(slot) => *slot,
        }
    }
}

/// The effects of a step, in order.
#[derive(Debug, Default)]
pub(super) struct Effects(Vec<Effect>);

impl Effects {
    pub(super) fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    pub(super) fn close(&mut self, slot: Slot, cause: Cause, code: u16, reason: impl Into<String>) {
        self.push(Effect::Close(slot, Box::new(Close::new(cause, code, reason.into()))));
    }

    /// The client holds most of a memory budget that is used up.
    pub(super) fn over_budget(&mut self, slot: Slot, limit: &str) {
        self.close(slot, Cause::Budget, code::OVERLOADED, format!("{limit} is used up"));
    }

    /// The effects so far; the list keeps its memory.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = std::vec::IntoIter<Effect>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
