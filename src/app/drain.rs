//! Draining: readiness red, newcomers refused, clients closed over the window, the rest cut off.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    close::{Cause, Close, code},
    config::Config,
    hub::Hub,
    lifecycle::Drained,
};

/// How often the sockets that are left are counted.
const LOOK: Duration = Duration::from_millis(5);

/// Closes all clients as `[drain]` says, and answers when the last socket is gone or the time is
/// over. Sockets that are left then are the caller's to cut off.
///
/// `stop_accepting` is called when the delay is over, and waited for; if it does nothing, newcomers go
/// on being refused with 503.
pub(super) async fn drain(
    hub: &Hub,
    config: &Config,
    stop_accepting: impl AsyncFnOnce(),
) -> Drained {
    let settings = &config.drain;
    // Load balancers need the time to see that readiness went red; clients are still served.
    sleep(settings.delay).await;
    stop_accepting().await;
    let before = closed(hub);
    let reason = match settings.close_code {
        code::RESTART => "the gateway restarts",
        _ => "the gateway is stopping",
    };
    let close = Close::new(Cause::Stop, settings.close_code, reason);
    hub.drain(&close, settings.window);
    let deadline = Instant::now() + settings.window + settings.timeout;
    let gone = async {
        while hub.count_sockets() > 0 {
            sleep(LOOK).await;
        }
    };
    // Whether it took too long shows in the number of sockets that are left.
    let _ = timeout_at(deadline, gone).await;
    Drained { closed: closed(hub) - before, cut_off: hub.count_sockets() }
}

/// Clients that were ever closed because the gateway stops.
fn closed(hub: &Hub) -> u64 {
    hub.shard_stats().map(|stats| stats.closed[Cause::Stop.index()].get()).sum()
}
