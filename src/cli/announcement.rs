//! What a detached gateway reports to the `start` that waits for it.

use serde::{Deserialize, Serialize};

use crate::status::Listeners;

/// What a detached gateway says when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announcement {
    pub(super) pid: u32,
    pub(super) listeners: Listeners,
}

/// The line that a detached gateway says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// It is ready.
    Ready(Announcement),
    /// It ends, as another one was faster.
    AlreadyRunning {
        /// The other one.
        pid: u32,
    },
}
