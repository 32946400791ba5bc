//! Draining: readiness red, newcomers refused, clients closed over the window, the rest cut off.
//!
//! ```text
//!  Delay (drain.delay) ─► LetIn (only if the process ends) ─► Close (drain.window, drain.timeout)
//! ```
//!
//! The last drain waits within `drain.timeout` for subscribers to acknowledge what they are told of
//! it, too: who is prompt learns of every client that it closes.
//!
//! A drain can take hours, and the supervisor has other things to hear of meanwhile. So it is a value
//! that is waited for beside everything else, and that a stop may turn into the last one.

use std::{pin::Pin, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    close::{Cause, Close, code},
    config,
    events::Events,
    hub::Hub,
    lifecycle::{DrainBounds, Drained},
};

/// How often it is looked for events that are left.
const LOOK: Duration = Duration::from_millis(5);

/// Time that handshakes under way have before a stop refuses them.
const LET_IN: Duration = Duration::from_millis(500);

/// A drain under way. Dropping it leaves the clients to be closed by it as they are.
pub(super) struct Drain {
    hub: Hub,
    events: Events,
    settings: config::Drain,
    step: Step,
    /// Clients that had been closed by a drain before.
    before: u64,
    /// Whether the process ends with it.
    last: bool,
    waiting: Vec<oneshot::Sender<Drained>>,
}

/// How far it is.
enum Step {
    /// Load balancers have the time to see that readiness went red; clients are still served.
    Delay { until: Instant },
    /// Who was accepted already is let in.
    LetIn { closing: Pin<Box<dyn Future<Output = ()> + Send>>, until: Instant },
    /// Clients are being closed.
    Close { until: Instant },
}

/// What a drain has come to.
#[derive(Debug)]
pub(super) enum Event {
    /// The delay is over: the caller stops accepting or not, and says [`Drain::let_in`] or
    /// [`Drain::close`].
    DelayOver,
    /// The last socket is gone, or the time is over. Sockets that are left are the caller's to cut
    /// off.
    Over(Drained),
}

impl Drain {
    /// Begins a drain that closes clients as `settings` say, after `delay`.
    pub(super) fn begin(
        hub: Hub,
        events: Events,
        settings: config::Drain,
        delay: Duration,
    ) -> Self {
        let before = closed(&hub);
        let step = Step::Delay { until: Instant::now() + delay };
        Self { hub, events, settings, step, before, last: false, waiting: Vec::new() }
    }

    /// Waits for what comes next. Can be dropped and called again.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            match &mut self.step {
                Step::Delay { until } => {
                    sleep_until(*until).await;
                    return Event::DelayOver;
                }
                Step::LetIn { closing, until } => {
                    let _ = timeout_at(*until, closing).await;
                    self.close();
                }
                Step::Close { until } => {
                    let gone = async {
                        self.hub.until_empty().await;
                        if self.last {
                            told(&self.hub, &self.events).await;
                        }
                    };
                    // Whether it took too long shows in the number of sockets that are left.
                    let _ = timeout_at(*until, gone).await;
                    let closed = closed(&self.hub) - self.before;
                    return Event::Over(Drained { closed, cut_off: self.hub.count_sockets() });
                }
            }
        }
    }

    /// Closes the clients once the listeners have let in whom they had accepted, or soon.
    pub(super) fn let_in(&mut self, closing: impl Future<Output = ()> + Send + 'static) {
        self.step = Step::LetIn { closing: Box::pin(closing), until: Instant::now() + LET_IN };
    }

    /// Closes the clients. Newcomers are refused with 503 from now on.
    pub(super) fn close(&mut self) {
        let settings = &self.settings;
        let reason = match settings.close_code {
            code::RESTART => "the gateway restarts",
            _ => "the gateway is stopping",
        };
        let close = Close::new(Cause::Stop, settings.close_code, reason);
        self.hub.drain(&close, settings.window);
        self.step = Step::Close { until: Instant::now() + settings.window + settings.timeout };
    }

    /// Whether clients are being closed by now.
    pub(super) fn closes(&self) -> bool {
        matches!(self.step, Step::Close { .. })
    }

    /// Whether the process ends with it.
    pub(super) fn is_last(&self) -> bool {
        self.last
    }

    /// The process ends with it.
    pub(super) fn make_last(&mut self) {
        self.last = true;
    }

    /// Tells this one how it ended.
    pub(super) fn tell(&mut self, reply: oneshot::Sender<Drained>) {
        // Who asked and went away again would be remembered for as long as the drain takes.
        self.waiting.retain(|reply| !reply.is_closed());
        self.waiting.push(reply);
    }

    /// The time that it can still take.
    pub(super) fn at_most(&self) -> Duration {
        let (until, more) = match &self.step {
            Step::Delay { until } => (until, LET_IN + self.settings.window + self.settings.timeout),
            Step::LetIn { until, .. } => (until, self.settings.window + self.settings.timeout),
            Step::Close { until } => (until, Duration::ZERO),
        };
        until.saturating_duration_since(Instant::now()) + more
    }

    /// What it began with, and when it is over at the latest.
    pub(super) fn bounds(&self) -> DrainBounds {
        DrainBounds { closed_before: self.before, until: Instant::now() + self.at_most() }
    }

    /// A line for the log about how far it is.
    pub(super) fn say_how_far(&self) {
        let closed = closed(&self.hub) - self.before;
        let (left, seconds) = (self.hub.count_clients(), self.at_most().as_secs());
        tracing::info!(closed, left, at_most_seconds = seconds, "draining");
    }

    /// It is not waited for any longer: everybody who is left is cut off.
    pub(super) fn cut_off(self) {
        let left = self.hub.count_clients();
        let closed = closed(&self.hub) - self.before + left;
        let cut_off = self.hub.count_sockets();
        self.end(Drained { closed, cut_off });
    }

    /// It has ended like this.
    pub(super) fn end(self, drained: Drained) {
        tracing::info!(closed = drained.closed, cut_off = drained.cut_off, "drained");
        for reply in self.waiting {
            // Who asked may be gone; the drain is done all the same.
            let _ = reply.send(drained);
        }
    }
}

/// Waits until subscribers have acknowledged how the clients have gone.
async fn told(hub: &Hub, events: &Events) {
    // What a shard has told by the end of its turn is in the groups when it answers in another. One
    // that is busy or has ended tells no more, either.
    let _ = hub.clients().await;
    while !events.is_settled() {
        sleep(LOOK).await;
    }
}

/// Clients that were ever closed because the gateway stops.
fn closed(hub: &Hub) -> u64 {
    hub.shard_stats().map(|stats| stats.closed[Cause::Stop.index()].get()).sum()
}
