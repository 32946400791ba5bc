//! Sees to what nobody else would: reloads, subscribers that don't acknowledge, groups that nobody
//! wants any more.

use std::sync::{Arc, Weak};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::Shared;
use crate::config::Swaps;

/// Goes on for as long as there are events. `stirred` says that there is something to see to.
pub(super) async fn keep(events: Weak<Shared>, stirred: Arc<Notify>, mut swaps: Swaps) {
    loop {
        let Some(next) = events.upgrade().map(|events| events.tend(Instant::now())) else { return };
        let due = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = stirred.notified() => {}
            () = swaps.next() => {}
        }
    }
}
