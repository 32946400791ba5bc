//! What the values mean: ranges, and keys that have to fit each other.
//!
//! [`broken`] is what a start and a reload refuse, [`warnings`] what they only mention.

mod auth;

use std::collections::HashSet;
use std::time::Duration;

use super::machine::{self, Places};
use super::value::{Auto, Memory, Pattern, Size, span};
use super::{Config, Drain, Grpc, ProxyHeader, machine::MAX_SHARDS};

/// A value that is of the right kind, but not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// `section.key`.
    pub key: &'static str,
    /// What is allowed; fits after "expected".
    pub allowed: String,
}

/// How the numbers of a range are written.
#[derive(Clone, Copy)]
enum Unit {
    Count,
    Bytes,
    /// In milliseconds.
    Time,
}

/// The numbers that a key may have.
struct Range {
    key: &'static str,
    unit: Unit,
    /// Whether zero, for "off", is allowed beside the range.
    off: bool,
    min: u64,
    max: u64,
    /// None where the value is `auto` or a share.
    value: fn(&Config) -> Option<u64>,
}

impl Range {
    fn holds(&self, config: &Config) -> bool {
        let Some(value) = (self.value)(config) else {
            return true;
        };
        (self.off && value == 0) || (self.min..=self.max).contains(&value)
    }

    fn allowed(&self) -> String {
        let write = |number| match self.unit {
            Unit::Count => u64::to_string(&number),
            Unit::Bytes => format!("\"{}\"", Size(number)),
            Unit::Time => format!("\"{}\"", span::format(Duration::from_millis(number))),
        };
        let what = match self.unit {
            Unit::Count => "a whole number",
            Unit::Bytes => "a size",
            Unit::Time => "a duration",
        };
        let off = match (self.off, self.unit) {
            (false, _) => "",
            (true, Unit::Count) => "0 (off) or ",
            (true, Unit::Bytes) => "0 (off), or ",
            (true, Unit::Time) => "\"0s\" (off), or ",
        };
        format!("{off}{what} from {} to {}", write(self.min), write(self.max))
    }
}

const DAY: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MILLION: u64 = 1_000_000;

/// One line per key whose value is a number, an amount or a time.
macro_rules! ranges {
    ($($key:literal $unit:ident $($off:ident)? $min:literal..=$max:expr, $value:expr;)*) => {
        &[$(Range {
            key: $key,
            unit: Unit::$unit,
            off: ranges!(@off $($off)?),
            min: $min,
            max: $max,
            value: $value,
        }),*]
    };
    (@off off) => { true };
    (@off) => { false };
}

// The head can't be smaller than 8 KiB: hyper's smallest buffer is that large.
const RANGES: &[Range] = ranges! {
    "shards" Count 1..=MAX_SHARDS as u64, |c| count(c.shards);
    "websocket.heartbeat_timeout" Time off 1..=DAY, |c| time(c.websocket.heartbeat_timeout);
    "websocket.ping_interval" Time off 1..=DAY, |c| time(c.websocket.ping_interval);
    "websocket.send_buffer" Bytes off 4096..=GIB, |c| Some(c.websocket.send_buffer.0);
    "auth.jwks_refresh" Time 1000..=DAY, |c| time(c.auth.jwks_refresh);
    "auth.jwks_retry" Time 1..=DAY, |c| time(c.auth.jwks_retry);
    "auth.jwks_timeout" Time 1..=HOUR, |c| time(c.auth.jwks_timeout);
    "auth.jwks_max_bytes" Bytes 1024..=16 * MIB, |c| Some(c.auth.jwks_max_bytes.0);
    "auth.leeway" Time off 1..=HOUR, |c| time(c.auth.leeway);
    "auth.max_token" Bytes 64..=MIB, |c| Some(c.auth.max_token.0);
    "auth.max_clients_per_uid" Count off 1..=MILLION, |c| number(c.auth.max_clients_per_uid);
    "compression.level" Count 1..=9, |c| Some(c.compression.level.into());
    "compression.min_size" Bytes 0..=GIB, |c| Some(c.compression.min_size.0);
    "compression.inline_max" Bytes 1024..=GIB, |c| Some(c.compression.inline_max.0);
    "limits.max_clients" Count 1..=4_294_967_295, |c| count(c.limits.max_clients);
    "limits.max_message" Bytes 1..=GIB, |c| Some(c.limits.max_message.0);
    "limits.max_fragments" Count 1..=MILLION, |c| Some(c.limits.max_fragments.into());
    "limits.message_deadline" Time off 1..=DAY, |c| time(c.limits.message_deadline);
    "limits.head" Bytes 8192..=2 * MIB, |c| Some(c.limits.head.0);
    "limits.headers" Count 1..=1000, |c| number(c.limits.headers);
    "limits.handshake" Time 1..=HOUR, |c| time(c.limits.handshake);
    "limits.max_handshakes" Count 1..=MILLION, |c| number(c.limits.max_handshakes);
    "limits.queue_bytes" Bytes 1024..=GIB, |c| Some(c.limits.queue_bytes.0);
    "limits.queue_messages" Count 1..=MILLION, |c| number(c.limits.queue_messages);
    "limits.inbox" Count 1..=MILLION, |c| number(c.limits.inbox);
    "limits.queued_bytes" Bytes 1_048_576..=KIB * GIB, |c| amount(c.limits.queued_bytes);
    "limits.partial_bytes" Bytes 1_048_576..=KIB * GIB, |c| amount(c.limits.partial_bytes);
    "limits.names" Count 1..=65535, |c| number(c.limits.names);
    "limits.kept_bytes" Bytes 0..=MIB, |c| Some(c.limits.kept_bytes.0);
    "limits.groups_per_client" Count 1..=65535, |c| number(c.limits.groups_per_client);
    "limits.attributes" Count 1..=65535, |c| number(c.limits.attributes);
    "limits.attribute_bytes" Bytes 1..=MIB, |c| Some(c.limits.attribute_bytes.0);
    "limits.address_clients" Count off 1..=4_294_967_295, |c| number(c.limits.address_clients);
    "limits.address_connections" Count off 1..=4_294_967_295, |c| Some(c.limits.address_connections.into());
    "limits.address_share" Count 1..=100, |c| Some(c.limits.address_share.into());
    "limits.addresses" Count 1..=16_777_216, |c| number(c.limits.addresses);
    "limits.client_messages" Count off 1..=4_294_967_295, |c| Some(c.limits.client_messages.into());
    "limits.client_bytes" Bytes off 1..=KIB * GIB, |c| Some(c.limits.client_bytes.0);
    "limits.slow_client_grace" Time 0..=HOUR, |c| time(c.limits.slow_client_grace);
    "limits.close_wait" Time 1..=HOUR, |c| time(c.limits.close_wait);
    "grpc.max_message" Bytes 1024..=GIB, |c| Some(c.grpc.max_message.0);
    "grpc.max_memory" Bytes 1_048_576..=KIB * GIB, |c| amount(c.grpc.max_memory);
    "grpc.max_connections" Count 1..=MILLION, |c| number(c.grpc.max_connections);
    "grpc.max_streams" Count 1..=MILLION, |c| Some(c.grpc.max_streams.into());
    "grpc.keepalive_interval" Time off 1..=DAY, |c| time(c.grpc.keepalive_interval);
    "grpc.keepalive_timeout" Time 1..=HOUR, |c| time(c.grpc.keepalive_timeout);
    "api.max_targets" Count 1..=MILLION, |c| number(c.api.max_targets);
    "api.max_streams" Count 1..=MILLION, |c| number(c.api.max_streams);
    "api.max_sends" Count 1..=MILLION, |c| number(c.api.max_sends);
    "api.idempotency_keys" Count 1..=16_777_216, |c| number(c.api.idempotency_keys);
    "api.idempotency_window" Time 1..=DAY, |c| time(c.api.idempotency_window);
    "api.max_page" Count 1..=10_000, |c| number(c.api.max_page);
    "hook.timeout" Time 1..=HOUR, |c| time(c.hook.timeout);
    "hook.max_concurrent" Count 1..=MILLION, |c| number(c.hook.max_concurrent);
    "hook.max_waiting" Count off 1..=MILLION, |c| number(c.hook.max_waiting);
    "hook.max_answer" Bytes 1024..=16_777_216, |c| Some(c.hook.max_answer.0);
    "hook.breaker_failures" Count off 1..=MILLION, |c| Some(c.hook.breaker_failures.into());
    "hook.breaker_pause" Time 1..=DAY, |c| time(c.hook.breaker_pause);
    "events.new_group_expiry" Time 1..=DAY, |c| time(c.events.new_group_expiry);
    "events.max_groups" Count 1..=1024, |c| number(c.events.max_groups);
    "events.max_subscribers" Count 1..=1024, |c| number(c.events.max_subscribers);
    "events.buffer_messages" Count 1..=16_777_216, |c| number(c.events.buffer_messages);
    "events.buffer_changes" Count 1..=16_777_216, |c| number(c.events.buffer_changes);
    "events.buffer_bytes" Bytes 65_536..=KIB * GIB, |c| Some(c.events.buffer_bytes.0);
    "events.max_unacknowledged" Count 1..=65_536, |c| number(c.events.max_unacknowledged);
    "events.ack_timeout" Time off 1..=DAY, |c| time(c.events.ack_timeout);
    "events.answer_wait" Time off 1..=HOUR, |c| time(c.events.answer_wait);
    "drain.delay" Time off 1..=HOUR, |c| time(c.drain.delay);
    "drain.window" Time off 1..=HOUR, |c| time(c.drain.window);
    "drain.timeout" Time off 1..=HOUR, |c| time(c.drain.timeout);
    "log.queue_bytes" Bytes 4096..=GIB, |c| Some(c.log.queue_bytes.0);
};

#[expect(clippy::unnecessary_wraps, reason = "the table has one type")]
fn number(value: usize) -> Option<u64> {
    Some(value as u64)
}

fn count(value: Auto<usize>) -> Option<u64> {
    value.set().map(|count| *count as u64)
}

fn amount(value: Memory) -> Option<u64> {
    match value {
        Memory::Percent(_) => None,
        Memory::Bytes(size) => Some(size.0),
    }
}

/// In milliseconds, rounded up, so that a shorter time is never taken for zero.
#[expect(clippy::unnecessary_wraps, reason = "the table has one type")]
fn time(value: Duration) -> Option<u64> {
    let millis = value.as_nanos().div_ceil(1_000_000);
    Some(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// What the values of `key` may be, if it has a range.
pub(super) fn range_of(key: &str) -> Option<String> {
    if key == "drain.close_code" {
        return Some(CLOSE_CODES.to_owned());
    }
    let range = RANGES.iter().find(|range| range.key == key)?;
    let auto = ["shards", "limits.max_clients"].contains(&key);
    let auto = if auto { "\"auto\" or " } else { "" };
    Some(format!("{auto}{}", range.allowed()))
}

const CLOSE_CODES: &str = "1000, 1001, 1012, 1013 or a code from 3000 to 4999";
const ORIGIN: &str = "origins such as \"https://example.com\" or \"https://*.example.com\" (every \
    host below), without a path";
const GUARDED: &str = "127.0.0.1 or [::1], or one of grpc.allow, grpc.token_files and \
    grpc.client_ca (grpc.unprotected = true insists)";
const BACK_END: &str = "\"\" (off), or the back end's address such as \"http://10.0.0.7:9000\" or \
    \"https://admission.example\", without user, path or query";
const TOKEN_CHARACTERS: &str = "letters, digits and !#$%&'*+-.^_`|~";
const HEADERS: &str = "header names: letters, digits and !#$%&'*+-.^_`|~";
const TOKEN: &str = "sub-protocol names: letters, digits and !#$%&'*+-.^_`|~";

/// Everything in `config` that a start or a reload has to refuse.
pub fn broken(config: &Config) -> Vec<Broken> {
    let outside = RANGES.iter().filter(|range| !range.holds(config));
    let mut faults: Vec<Broken> = outside
        .filter_map(|range| Some(Broken { key: range.key, allowed: range_of(range.key)? }))
        .collect();
    let mut refuse = |key, allowed: &str| {
        faults.push(Broken { key, allowed: allowed.to_owned() });
    };

    refuse_hook(config, &mut refuse);
    if config.websocket.listen.0.is_empty() {
        refuse("websocket.listen", "at least one address with its port");
    }
    if config.grpc.listen.0.is_empty() {
        refuse("grpc.listen", "at least one address with its port");
    }
    let mut taken = HashSet::new();
    for (key, listen) in [
        ("websocket.listen", &config.websocket.listen),
        ("tls.listen", &config.tls.listen),
        ("grpc.listen", &config.grpc.listen),
        ("admin.listen", &config.admin.listen),
    ] {
        // Port 0 is a new port each time.
        let mut fixed = listen.0.iter().filter(|address| address.port() != 0);
        if let Some(twice) = fixed.find(|address| !taken.insert(**address)) {
            refuse(key, &format!("distinct addresses ({twice} is used twice)"));
        }
    }
    if !config.tls.listen.0.is_empty() && config.tls.certificate.as_os_str().is_empty() {
        refuse("tls.certificate", "the path of a PEM file, as tls.listen is set");
    }
    let pairs = [
        ("tls.certificate", "tls.key", &config.tls.certificate, &config.tls.key),
        ("grpc.certificate", "grpc.key", &config.grpc.certificate, &config.grpc.key),
    ];
    for (certificate_key, key_key, certificate, key) in pairs {
        match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, false) => refuse(certificate_key, &format!("a path, as {key_key} is set")),
            (false, true) => refuse(key_key, &format!("a path, as {certificate_key} is set")),
            _ => {}
        }
    }
    if !config.grpc.client_ca.as_os_str().is_empty()
        && config.grpc.certificate.as_os_str().is_empty()
    {
        refuse("grpc.client_ca", "\"\", as without grpc.certificate there is no TLS");
    }
    auth::broken(config, &mut refuse);
    if is_unprotected(&config.grpc) && !config.grpc.unprotected {
        refuse("grpc.listen", GUARDED);
    }
    match (config.websocket.proxy_header, config.websocket.proxies.is_empty()) {
        (ProxyHeader::None, false) => {
            refuse(
                "websocket.proxy_header",
                "\"proxy\" or \"x-forwarded-for\", as websocket.proxies is set",
            );
        }
        (ProxyHeader::Proxy | ProxyHeader::XForwardedFor, true) => {
            refuse("websocket.proxies", "the proxies' addresses, as websocket.proxy_header is set");
        }
        _ => {}
    }
    if !config.websocket.subprotocols.0.iter().all(|word| is_token(word)) {
        refuse("websocket.subprotocols", TOKEN);
    }
    if !config.websocket.keep_headers.0.iter().all(|word| is_token(word)) {
        refuse("websocket.keep_headers", HEADERS);
    }
    if !config.websocket.allowed_origins.0.iter().all(|word| Pattern::read(word).is_some()) {
        refuse("websocket.allowed_origins", ORIGIN);
    }
    let groups = &config.events.groups.0;
    let names = config.limits.names;
    let distinct: HashSet<_> = groups.iter().collect();
    if !groups.iter().all(|group| (1..=names).contains(&group.len())) {
        refuse("events.groups", &format!("names of 1 to {names} bytes (limits.names)"));
    } else if distinct.len() < groups.len() {
        refuse("events.groups", "distinct names");
    } else if groups.len() > config.events.max_groups {
        let most = config.events.max_groups;
        refuse("events.groups", &format!("at most {most} names (events.max_groups)"));
    }
    if !matches!(config.drain.close_code, 1000 | 1001 | 1012 | 1013 | 3000..=4999) {
        refuse("drain.close_code", CLOSE_CODES);
    }
    if config.control.socket.set().is_some_and(|path| path.as_os_str().is_empty()) {
        refuse("control.socket", "\"auto\" or a path");
    }
    faults
}

/// What is allowed and probably not meant; one line each.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let socket = &config.websocket;
    let both = !socket.heartbeat_timeout.is_zero() && !socket.ping_interval.is_zero();
    if both && socket.heartbeat_timeout <= socket.ping_interval {
        warnings.push(format!(
            "websocket.heartbeat_timeout ({}) is not longer than websocket.ping_interval ({}): \
             idle clients are disconnected before they are pinged",
            span::format(socket.heartbeat_timeout),
            span::format(socket.ping_interval),
        ));
    }
    warnings.extend(auth::warnings(config));
    if is_unprotected(&config.grpc) {
        warnings.push(format!(
            "grpc.listen ({}) is reachable from other machines, and whoever reaches it may send \
             to and close every client (grpc.unprotected)",
            config.grpc.listen,
        ));
    }
    if is_remote(&config.grpc)
        && !config.grpc.token_files.0.is_empty()
        && config.grpc.certificate.as_os_str().is_empty()
    {
        warnings.push(
            "the tokens of grpc.token_files travel unencrypted: set grpc.certificate and \
             grpc.key, or let a proxy do TLS"
                .to_owned(),
        );
    }
    warn_of_hook(config, &mut warnings);
    warnings.extend(warn_of_files(config, machine::most_files()));
    if config.limits.partial_budget() < config.limits.max_message.0 {
        warnings.push(format!(
            "limits.partial_bytes ({}) is less than one message of limits.max_message ({})",
            config.limits.partial_bytes, config.limits.max_message,
        ));
    }
    if config.grpc.memory_budget() < config.grpc.max_message.0 {
        warnings.push(format!(
            "grpc.max_memory ({}) is less than one request of grpc.max_message ({})",
            config.grpc.max_memory, config.grpc.max_message,
        ));
    }
    warnings
}

/// What is to be known where whoever stops the process doesn't wait for as long as it may take: none
/// if the shortest of the usual patiences is enough.
pub fn long_stop(drain: &Drain) -> Option<String> {
    let longest = drain.delay + drain.window + drain.timeout + STOP_BESIDES;
    (longest > DOCKER).then(|| {
        format!(
            "a stop may take {} s (drain.delay, drain.window and drain.timeout together). systemd is \
             asked for the time, whatever TimeoutStopSec= says, if the unit is Type=notify. Docker \
             and Kubernetes can't be asked: docker stop gives 10 s (--time, stop_grace_period), a pod \
             has 30 s (terminationGracePeriodSeconds); then clients that are left are cut off",
            longest.as_secs(),
        )
    })
}

/// What `docker stop` gives a process if nothing else is said.
const DOCKER: Duration = Duration::from_secs(10);

/// What a stop takes beside its drain.
const STOP_BESIDES: Duration = Duration::from_secs(1);

/// What the file descriptor limit has no room for.
fn warn_of_files(config: &Config, files: u64) -> Option<String> {
    let wanted = config.wanted_files();
    if files >= wanted {
        return None;
    }
    let Places { clients, handshakes, grpc, .. } = config.places(files);
    Some(format!(
        "the file descriptor limit ({files}) has room for {clients} clients \
         (limits.max_clients), {handshakes} connections that are opening (limits.max_handshakes) \
         and {grpc} gRPC connections (grpc.max_connections): raise it to {wanted} or more \
         (LimitNOFILE=, ulimit -n), or lower these limits",
    ))
}

/// What does not fit together in `[hook]`.
fn refuse_hook(config: &Config, refuse: &mut impl FnMut(&'static str, &str)) {
    let hook = &config.hook;
    match hook.back_end() {
        None if hook.is_on() => refuse("hook.address", BACK_END),
        Some(back_end) if !back_end.tls && !hook.ca.as_os_str().is_empty() => {
            refuse("hook.ca", "\"\", as hook.address is http and has no TLS");
        }
        _ => {}
    }
}

/// What is probably not meant in `[hook]`.
fn warn_of_hook(config: &Config, warnings: &mut Vec<String>) {
    let hook = &config.hook;
    let Some(back_end) = hook.back_end() else { return };
    if hook.timeout * 2 >= config.limits.handshake {
        warnings.push(format!(
            "twice hook.timeout ({}), for the wait and for the answer, is not shorter than \
             limits.handshake ({}): clients are cut off before hook.fail decides",
            span::format(hook.timeout),
            span::format(config.limits.handshake),
        ));
    }
    if !back_end.tls && !back_end.is_local() {
        warnings.push(format!(
            "what clients say of themselves, and the token of hook.token_file, travel to {} \
             unencrypted: use https, or let a proxy do TLS",
            hook.address,
        ));
    }
}

/// Whether other machines can reach it.
fn is_remote(grpc: &Grpc) -> bool {
    grpc.listen.0.iter().any(|address| !address.ip().is_loopback())
}

/// Whether anybody on the network may call.
fn is_unprotected(grpc: &Grpc) -> bool {
    is_remote(grpc) && is_open(grpc)
}

/// Whether nothing but the address it listens on keeps anybody from calling.
pub fn is_open(grpc: &Grpc) -> bool {
    grpc.allow.is_empty() && grpc.token_files.0.is_empty() && grpc.client_ca.as_os_str().is_empty()
}

/// RFC 9110 §5.6.2.
fn is_token(word: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !word.is_empty() && word.bytes().all(allowed)
}

#[cfg(test)]
mod tests;
