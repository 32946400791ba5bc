//! The page of metrics: what all the counters say now.
//!
//! Nothing is kept for it: each scrape reads the counters, which their owners write anyway. No shard
//! is asked and none is made to wait. `packaging/grafana/README.md` describes each metric.

mod events;

use std::{fmt, sync::Arc};

use prometheus_client::{encoding::text, registry::Registry};

use super::{
    Context,
    sheet::{BYTES, Part, SECONDS, Sheet},
};
use crate::{
    close::Cause,
    config::{Live, machine},
    hub::Hub,
    lifecycle,
    metrics::{
        Callers, Calls, CloseCode, Drop, HookStats, Process, Reloads, ShardStats, Single,
        log_lines_dropped,
    },
    status::Phase,
};

/// What every name begins with but those of the process, which all programs have in common.
const PREFIX: &str = "gateway_websocket";

/// The parts of the page, ready to be written.
pub(super) fn registry(context: Context) -> Registry {
    let Context { hub, live, lifecycle, calls, callers, hook, reloads, events, peers, control } =
        context;
    let mut registry = Registry::default();
    let started = Process::clock();
    registry.register_collector(Box::new(Part(move |sheet: &mut Sheet<'_>| {
        process(sheet, Process::now(), started)
    })));
    let ours = registry.sub_registry_with_prefix(PREFIX);
    ours.register_collector(Box::new(Part(move |sheet: &mut Sheet<'_>| {
        clients(sheet, &hub)?;
        messages(sheet, &hub)?;
        handshakes(sheet, &hub)?;
        shards(sheet, &hub)?;
        limits(sheet, &hub, &live)?;
        certificates(sheet, &live)
    })));
    ours.register_collector(Box::new(Part(move |sheet: &mut Sheet<'_>| {
        grpc(sheet, &calls)?;
        connections(sheet, &callers())?;
        asked(sheet, &hook)
    })));
    ours.register_collector(Box::new(Part(move |sheet: &mut Sheet<'_>| {
        life(sheet, &lifecycle, &reloads)
    })));
    ours.register_collector(Box::new(Part(move |sheet: &mut Sheet<'_>| {
        events::write(sheet, &events)
    })));
    ours.register_collector(Box::new(Part(move |sheet: &mut Sheet<'_>| {
        let help = "Idle connections closed to make room for new ones, by surface.";
        let mut rows = sheet.counters("http_evicted", None, help)?;
        rows.row(&[("surface", "admin")], peers.evictions())?;
        rows.row(&[("surface", "control")], control.evictions())
    })));
    registry
}

/// Writes the page in the OpenMetrics format.
pub(super) fn write(registry: &Arc<Registry>) -> Result<String, fmt::Error> {
    let mut page = String::with_capacity(64 * 1024);
    text::encode(&mut page, registry)?;
    Ok(page)
}

fn sum(hub: &Hub, counter: impl Fn(&ShardStats) -> &Single) -> u64 {
    hub.shard_stats().map(|shard| counter(shard).get()).sum()
}

fn clients(sheet: &mut Sheet<'_>, hub: &Hub) -> fmt::Result {
    let open = hub.count_clients();
    let mut rows =
        sheet.gauges("connections", None, "Sockets of WebSocket clients held now, by state.")?;
    rows.row(&[("state", "handshake")], hub.handshakes().under_way.get())?;
    rows.row(&[("state", "open")], open)?;
    // The two are read one after the other, and a client may come or go in between.
    rows.row(&[("state", "closing")], hub.count_sockets().saturating_sub(open))?;
    let opened = sum(hub, |shard| &shard.opened);
    sheet.counter("clients_opened", None, "Clients ever connected.", opened)?;
    let mut rows = sheet.counters(
        "clients_closed",
        None,
        "Clients ever closed, by what ended them and by the code of the gateway's close frame.",
    )?;
    for cause in Cause::ALL {
        for code in CloseCode::ALL {
            let closed = sum(hub, |shard| &shard.close_codes[cause.index()][code.index()]);
            // A cause is always there, with its usual code; other codes once they happened.
            if closed > 0 || code == CloseCode::usual(cause) {
                rows.row(&[("cause", cause.name()), ("code", code.name())], closed)?;
            }
        }
    }
    let mut rows = sheet.gauges(
        "compressing_clients",
        None,
        "Clients connected now that agreed to compression, by the bits of their window.",
    )?;
    for (at, bits) in ["9", "10", "11", "12", "13", "14", "15"].into_iter().enumerate() {
        rows.row(&[("window_bits", bits)], sum(hub, |shard| &shard.windows[at]))?;
    }
    sheet.gauge(
        "waiting_clients",
        None,
        "Clients connected now that aren't read until there is room for what they said.",
        sum(hub, |shard| &shard.waiting_clients),
    )?;
    sheet.gauge("users", None, "Distinct uids that have a client now.", hub.count_users())?;
    sheet.gauge("groups", None, "Groups that have a member now.", hub.count_groups())?;
    let panics = sum(hub, |shard| &shard.panics);
    sheet.counter("panics", None, "Panics, each kept to one session.", panics)
}

fn messages(sheet: &mut Sheet<'_>, hub: &Hub) -> fmt::Result {
    let received = sum(hub, |shard| &shard.messages_in);
    sheet.counter("messages_received", None, "Messages received from clients whole.", received)?;
    sheet.counter(
        "messages_queued",
        None,
        "Messages accepted for a client: written to its socket or put into its queue.",
        sum(hub, |shard| &shard.messages_queued),
    )?;
    let sent = sum(hub, |shard| &shard.messages_out);
    sheet.counter("messages_sent", None, "Messages written to a client's socket whole.", sent)?;
    let mut rows = sheet.counters(
        "messages_dropped",
        None,
        "Messages for a client that never reached its socket, by cause.",
    )?;
    for (at, cause) in Drop::ALL.into_iter().enumerate() {
        rows.row(&[("cause", cause.name())], sum(hub, |shard| &shard.dropped[at]))?;
    }
    let received = sum(hub, |shard| &shard.bytes_in);
    sheet.counter("received", BYTES, "Bytes read from clients' sockets.", received)?;
    let sent = sum(hub, |shard| &shard.bytes_out);
    sheet.counter("sent", BYTES, "Bytes written to clients' sockets.", sent)?;
    let partial = sum(hub, |shard| &shard.partial_bytes);
    sheet.gauge("partial", BYTES, "Memory of incomplete messages from clients.", partial)
}

fn handshakes(sheet: &mut Sheet<'_>, hub: &Hub) -> fmt::Result {
    let stats = hub.handshakes();
    let accepted = stats.accepted.get();
    sheet.counter("handshakes", None, "Connections accepted for WebSocket clients.", accepted)?;
    let mut rows = sheet.counters(
        "handshakes_failed",
        None,
        "Connections and requests that did not make a client, by cause.",
    )?;
    for (cause, failed) in stats.failures() {
        rows.row(&[("cause", cause)], failed.get())?;
    }
    let accepted = stats.tokens.accepted.get();
    sheet.counter("tokens_accepted", None, "Tokens of clients that were believed.", accepted)?;
    let keys = &stats.keys;
    let help = "Questions for the key set at the URL of auth.jwks, by outcome.";
    let mut rows = sheet.counters("jwks_fetches", None, help)?;
    for (outcome, fetches) in keys.outcomes() {
        rows.row(&[("outcome", outcome)], fetches.get())?;
    }
    sheet.gauge(
        "jwks_keys",
        None,
        "Keys that were fetched from that URL last.",
        keys.keys.get(),
    )?;
    sheet.gauge(
        "jwks_last_fetch_timestamp",
        SECONDS,
        "When keys were fetched last; 0 if they never were.",
        keys.last.get(),
    )
}

fn shards(sheet: &mut Sheet<'_>, hub: &Hub) -> fmt::Result {
    let indices: Vec<String> = (0..hub.shard_stats().count()).map(|at| at.to_string()).collect();
    let named = || indices.iter().map(String::as_str);
    let mut rows = sheet.gauges("shard_clients", None, "Clients connected now, by shard.")?;
    for (name, shard) in named().zip(hub.shard_stats()) {
        rows.row(&[("shard", name)], shard.clients.get())?;
    }
    let mut rows =
        sheet.gauges("shard_queue", BYTES, "Memory that queued messages take now, by shard.")?;
    for (name, shard) in named().zip(hub.shard_stats()) {
        rows.row(&[("shard", name)], shard.queued_bytes.get())?;
    }
    let mut rows = sheet.gauges(
        "shard_waiting_calls",
        None,
        "Calls that wait now for a shard to carry them out, by shard.",
    )?;
    for (name, waiting) in named().zip(hub.waiting_calls()) {
        rows.row(&[("shard", name)], waiting)?;
    }
    let mut rows = sheet.counters(
        "calls_refused",
        None,
        "Calls refused as a whole because a shard was full, by the limit that was reached.",
    )?;
    for (limit, refused) in hub.busy().limits() {
        rows.row(&[("limit", limit)], refused.get())?;
    }
    let mut rows = sheet.gauges(
        "shard_lag",
        SECONDS,
        "Time a shard took to hear of a question, last measured or still going on, by shard.",
    )?;
    for (name, lag) in named().zip(hub.lags()) {
        rows.row(&[("shard", name)], lag.last.as_secs_f64())?;
    }
    let mut rows = sheet.gauges(
        "shard_lag_longest",
        SECONDS,
        "The longest time a shard took to hear of a question since the start, by shard.",
    )?;
    for (name, lag) in named().zip(hub.lags()) {
        rows.row(&[("shard", name)], lag.longest.as_secs_f64())?;
    }
    let help = "Times that shards took to hear of a question, all shards together.";
    sheet.histograms("shard_lag_distribution", help)?.row(&[], hub.lag_histogram())
}

fn limits(sheet: &mut Sheet<'_>, hub: &Hub, live: &Live) -> fmt::Result {
    let config = live.snapshot();
    let limits = &config.limits;
    let most = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let clients = most(hub.max_clients());
    sheet.gauge("clients_limit", None, "limits.max_clients as it is in force.", clients)?;
    let places = config.places(machine::files());
    let handshakes = most(places.handshakes);
    let help = "limits.max_handshakes as it is in force.";
    sheet.gauge("handshakes_limit", None, help, handshakes)?;
    let callers = most(places.grpc);
    let help = "grpc.max_connections as it is in force.";
    sheet.gauge("grpc_connections_limit", None, help, callers)?;
    let memory = config.grpc.memory_budget();
    sheet.gauge("grpc_memory_limit", BYTES, "grpc.max_memory, for callers.", memory)?;
    let calls = most(limits.inbox);
    sheet.gauge("shard_waiting_calls_limit", None, "limits.inbox, for each shard.", calls)?;
    let queue = limits.queued_budget();
    sheet.gauge("queue_limit", BYTES, "limits.queued_bytes, for all shards together.", queue)?;
    let partial = limits.partial_budget();
    sheet.gauge(
        "partial_limit",
        BYTES,
        "limits.partial_bytes, for all shards together.",
        partial,
    )?;
    let events = &config.events;
    let help = "events.buffer_messages and events.buffer_changes, of each group.";
    let mut rows = sheet.gauges("events_held_limit", None, help)?;
    rows.row(&[("kind", "message")], most(events.buffer_messages))?;
    rows.row(&[("kind", "change")], most(events.buffer_changes))?;
    let bytes = most(events.buffer_bytes.bytes());
    let help = "events.buffer_bytes, of each group for messages, and again for changes.";
    sheet.gauge("events_held_limit", BYTES, help, bytes)
}

fn certificates(sheet: &mut Sheet<'_>, live: &Live) -> fmt::Result {
    let in_force = live.snapshot();
    let mut rows = sheet.gauges(
        "certificate_expiry_timestamp",
        SECONDS,
        "When a server certificate in force expires, by the key that names its file.",
    )?;
    for (key, certificate) in in_force.material.certificates() {
        rows.row(&[("key", key)], certificate.not_after)?;
    }
    Ok(())
}

fn grpc(sheet: &mut Sheet<'_>, calls: &Calls) -> fmt::Result {
    // Most callers use few of them.
    let called: Vec<_> = calls.methods().iter().filter(|method| method.is_called()).collect();
    let mut rows =
        sheet.counters("grpc_calls", None, "gRPC calls that ended, by method and status code.")?;
    for method in &called {
        for (code, ended) in method.ended().filter(|(code, ended)| *code == "OK" || *ended > 0) {
            rows.row(&[("method", &method.name), ("code", code)], ended)?;
        }
    }
    let mut rows =
        sheet.gauges("grpc_calls_under_way", None, "gRPC calls under way, by method.")?;
    for method in &called {
        rows.row(&[("method", &method.name)], method.under_way.get())?;
    }
    let help = "Time from a gRPC call to the beginning of its answer, by method.";
    let mut rows = sheet.histograms("grpc_call_duration", help)?;
    for method in &called {
        rows.row(&[("method", &method.name)], &method.duration)?;
    }
    Ok(())
}

fn connections(sheet: &mut Sheet<'_>, callers: &Callers) -> fmt::Result {
    let now = callers.connections;
    sheet.gauge("grpc_connections", None, "gRPC connections there are now.", now)?;
    let help = "gRPC connections and calls that were turned away, by cause.";
    let mut rows = sheet.counters("grpc_refused", None, help)?;
    for &(cause, refused) in &callers.refused {
        rows.row(&[("cause", cause)], refused)?;
    }
    let help = "Memory of unfinished gRPC requests and of answers that were not taken, by holder.";
    let mut rows = sheet.gauges("grpc_memory", BYTES, help)?;
    for (holder, held) in callers.memory {
        rows.row(&[("holder", holder)], held)?;
    }
    Ok(())
}

fn asked(sheet: &mut Sheet<'_>, hook: &HookStats) -> fmt::Result {
    let help = "Clients on which the connect hook had a word, by its verdict.";
    let mut rows = sheet.counters("hook_verdicts", None, help)?;
    for (verdict, clients) in hook.verdicts() {
        rows.row(&[("verdict", verdict)], clients.get())?;
    }
    let help = "Clients on which the connect hook had no word, by cause.";
    let mut rows = sheet.counters("hook_failures", None, help)?;
    for (cause, clients) in hook.failures() {
        rows.row(&[("cause", cause)], clients.get())?;
    }
    let under_way = hook.under_way.get();
    sheet.gauge("hook_calls_under_way", None, "Calls of the connect hook under way.", under_way)?;
    let waiting = hook.waiting.get();
    sheet.gauge(
        "hook_waiting",
        None,
        "Clients that wait for their turn to be asked about.",
        waiting,
    )?;
    let help = "1 while the connect hook is not called because of failures, else 0.";
    sheet.gauge("hook_breaker_open", None, help, hook.open.get())?;
    let help = "Time that calls of the connect hook took, whatever came of them.";
    sheet.histograms("hook_call_duration", help)?.row(&[], &hook.duration)
}

fn life(sheet: &mut Sheet<'_>, lifecycle: &lifecycle::Handle, reloads: &Reloads) -> fmt::Result {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    sheet.info("build", "The program that runs.", &version)?;
    let phase = lifecycle.phase();
    let mut rows =
        sheet.gauges("phase", None, "1 for the phase of its life that the process is in.")?;
    for (name, is) in [
        ("starting", Phase::Starting),
        ("ready", Phase::Ready),
        ("draining", Phase::Draining),
        ("stopping", Phase::Stopping),
    ] {
        rows.row(&[("phase", name)], u64::from(phase == is))?;
    }
    let config = lifecycle.config();
    let count = |list: &[String]| list.len() as u64;
    sheet.gauge(
        "config_generation",
        None,
        "Configurations put in force since the start; 1 is the one it started with.",
        config.generation,
    )?;
    sheet.gauge(
        "config_loaded_timestamp",
        SECONDS,
        "When the configuration in force was loaded.",
        config.loaded_at,
    )?;
    let pending = count(&config.pending);
    sheet.gauge("config_pending_keys", None, "Keys that wait for a restart.", pending)?;
    let faults = count(&config.faults);
    sheet.gauge(
        "config_faults",
        None,
        "Faults of the last reload, at most 101; 0 if it was accepted.",
        faults,
    )?;
    let mut rows = sheet.counters("config_reloads", None, "Reloads, by outcome.")?;
    for (outcome, reloads) in reloads.outcomes() {
        rows.row(&[("outcome", outcome)], reloads.get())?;
    }
    sheet.gauge(
        "config_last_reload_timestamp",
        SECONDS,
        "When the last reload ended, whatever its outcome; 0 if there was none.",
        reloads.last.get(),
    )?;
    let help = "Lines of the log that were dropped because it took none.";
    sheet.counter("log_lines_dropped", None, help, log_lines_dropped())
}

fn process(sheet: &mut Sheet<'_>, now: Process, started: f64) -> fmt::Result {
    let cpu = now.cpu_seconds;
    sheet.counter("process_cpu", SECONDS, "CPU time of all threads, user and system.", cpu)?;
    let resident = now.resident_bytes;
    sheet.gauge("process_resident_memory", BYTES, "Resident memory.", resident)?;
    let reserved = now.virtual_bytes;
    sheet.gauge("process_virtual_memory", BYTES, "Virtual memory.", reserved)?;
    sheet.gauge("process_open_fds", None, "Open file descriptors.", now.open_files)?;
    if let Some(most) = now.most_files {
        sheet.gauge("process_max_fds", None, "File descriptors that may be open.", most)?;
    }
    sheet.gauge("process_start_time", SECONDS, "When the process came up.", started)
}
