//! What changes between two configurations, and which of it can be in force without a restart.
//!
//! Pure functions: who reloads decides nothing and only carries out what they say.

use serde_json::Value;

use super::Config;
use super::keys::{Class, KEYS, flatten};

/// One key whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `section.key`.
    pub key: &'static str,
    /// The value before, as one would write it.
    pub old: String,
    /// The value after.
    pub new: String,
    /// Whom the new value reaches.
    pub class: Class,
}

/// The keys whose values differ, in the order of [`KEYS`].
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let (old, new) = (flatten(old), flatten(new));
    let changed = KEYS.iter().filter(|(key, _)| old.get(*key) != new.get(*key));
    changed
        .map(|(key, class)| Change {
            key,
            old: text(old.get(*key)),
            new: text(new.get(*key)),
            class: *class,
        })
        .collect()
}

/// What to put in force, and what has to wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    /// The new configuration, save for keys that need a restart: these keep their old values, so
    /// that a configuration in force never says what is not so.
    pub config: Config,
    /// The keys that wait for a restart.
    pub pending: Vec<String>,
}

/// Takes from `new` what can be in force now, with `old` as what the process was started with.
pub fn carry_over(old: &Config, new: &Config) -> Carried {
    let mut config = new.clone();
    config.shards = old.shards;
    config.control = old.control.clone();
    let pending = diff(&config, new);
    Carried { config, pending: pending.iter().map(|change| change.key.to_owned()).collect() }
}

pub(super) fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use super::super::value::{Auto, Listen, Memory, Networks, Size, Words};
    use super::super::*;
    use super::*;
    use crate::message::Kind;

    /// A configuration in which no key has its default.
    #[expect(clippy::too_many_lines, reason = "as many as there are keys")]
    fn everything_else() -> Config {
        let second = Duration::from_secs(1);
        Config {
            shards: Auto::Set(3),
            websocket: WebSocket {
                listen: Listen::of("127.0.0.1:1, 127.0.0.1:2"),
                messages: Messages::Echo,
                welcome: Welcome::None,
                message_format: Kind::Binary,
                heartbeat_timeout: second,
                ping_interval: second,
                subprotocols: Words(vec!["a".into()]),
                allowed_origins: Words(vec!["https://a".into()]),
                proxies: Networks::of("10.0.0.0/8"),
                proxy_header: ProxyHeader::Proxy,
                keep_headers: Words(vec!["a".into()]),
                send_buffer: Size::kib(8),
            },
            tls: Tls {
                listen: Listen::of("127.0.0.1:4"),
                certificate: PathBuf::from("/c"),
                key: PathBuf::from("/k"),
            },
            auth: other_auth(),
            compression: Compression {
                enabled: false,
                level: 9,
                min_size: Size(9),
                inline_max: Size::kib(9),
            },
            limits: Limits {
                max_clients: Auto::Set(9),
                max_message: Size(9),
                max_fragments: 9,
                message_deadline: second,
                head: Size::kib(8),
                headers: 9,
                handshake: second,
                max_handshakes: 9,
                queue_bytes: Size::kib(9),
                queue_messages: 9,
                inbox: 9,
                queued_bytes: Memory::Percent(9),
                partial_bytes: Memory::Bytes(Size::mib(9)),
                names: 9,
                kept_bytes: Size(9),
                groups_per_client: 9,
                attributes: 9,
                attribute_bytes: Size(9),
                address_clients: 9,
                address_connections: 9,
                address_share: 9,
                addresses: 9,
                client_messages: 9,
                client_bytes: Size(9),
                slow_client: SlowClient::DropOldest,
                slow_client_grace: second * 2,
                close_wait: second,
            },
            grpc: Grpc {
                listen: Listen::of("127.0.0.1:3"),
                allow: Networks::of("10.0.0.0/8, ::1"),
                token_files: Words(vec!["/t".into()]),
                certificate: PathBuf::from("/c"),
                key: PathBuf::from("/k"),
                client_ca: PathBuf::from("/ca"),
                unprotected: true,
                max_message: Size::kib(9),
                max_memory: Memory::Bytes(Size::mib(9)),
                max_connections: 9,
                max_streams: 9,
                keepalive_interval: second,
                keepalive_timeout: second,
            },
            api: Api {
                max_targets: 9,
                max_sends: 9,
                max_streams: 9,
                max_page: 9,
                idempotency_keys: 9,
                idempotency_window: second,
            },
            hook: Hook {
                address: "https://a".into(),
                ca: PathBuf::from("/ca"),
                token_file: PathBuf::from("/t"),
                timeout: second,
                max_concurrent: 9,
                max_waiting: 9,
                max_answer: Size::kib(9),
                fail: Fail::Open,
                breaker_failures: 9,
                breaker_pause: second,
            },
            events: Events {
                groups: Words(vec!["a".into()]),
                allow_new_groups: true,
                new_group_expiry: second,
                max_groups: 9,
                max_subscribers: 9,
                buffer_messages: 9,
                buffer_changes: 9,
                buffer_bytes: Size::mib(9),
                when_full: WhenFull::Pause,
                max_unacknowledged: 9,
                ack_timeout: second,
                answer_wait: second,
            },
            admin: Admin { listen: Listen::default() },
            control: Control { socket: Auto::Set(PathBuf::from("/tmp/x")) },
            reload: Reload { watch: false },
            drain: Drain { delay: second, window: second, timeout: second, close_code: 1012 },
            log: Log {
                level: Level::Warn,
                format: LogFormat::Json,
                file: PathBuf::from("/tmp/log"),
                queue_bytes: Size::mib(2),
            },
        }
    }

    fn other_auth() -> Auth {
        let second = Duration::from_secs(1);
        Auth {
            algorithms: Words(vec!["HS256".into()]),
            key: PathBuf::from("/k"),
            jwks: "https://a/".into(),
            jwks_ca: PathBuf::from("/ca"),
            jwks_refresh: second,
            jwks_retry: second,
            jwks_timeout: second * 2,
            jwks_max_bytes: Size::kib(9),
            required: false,
            issuers: Words(vec!["i".into()]),
            audiences: Words(vec!["a".into()]),
            leeway: second,
            uid_claim: "u".into(),
            groups_claim: "g".into(),
            attributes_claim: "a".into(),
            sources: Words(vec!["query".into()]),
            cookie: "c".into(),
            query_parameter: "q".into(),
            max_token: Size::kib(9),
            max_clients_per_uid: 9,
            when_uid_is_full: WhenUidIsFull::CloseOldest,
        }
    }

    #[test]
    fn equal_configurations_have_no_differences() {
        assert_eq!(diff(&Config::default(), &Config::default()), []);
    }

    #[test]
    fn each_key_is_seen_when_it_changes() {
        let changes = diff(&Config::default(), &everything_else());
        let seen: Vec<_> = changes.iter().map(|c| (c.key, c.class)).collect();
        assert_eq!(seen, KEYS);
    }

    #[test]
    fn a_change_shows_both_values_as_one_would_write_them() {
        let changes = diff(&Config::default(), &everything_else());
        let of = |key| {
            let change = changes.iter().find(|c| c.key == key).unwrap();
            (change.old.as_str(), change.new.as_str())
        };
        assert_eq!(of("shards"), ("auto", "3"));
        assert_eq!(of("websocket.heartbeat_timeout"), ("3m", "1s"));
        assert_eq!(of("websocket.subprotocols"), ("[]", r#"["a"]"#));
        assert_eq!(of("log.file"), ("\"\"", "/tmp/log"));
    }

    #[test]
    fn what_needs_a_restart_keeps_its_old_value_and_is_named() {
        let (old, new) = (Config::default(), everything_else());
        let carried = carry_over(&old, &new);
        for change in diff(&old, &carried.config) {
            assert_ne!(change.class, Class::Restart, "{}", change.key);
        }
        let restart: Vec<_> = KEYS
            .iter()
            .filter(|(_, class)| *class == Class::Restart)
            .map(|(key, _)| *key)
            .collect();
        assert_eq!(carried.pending, restart);
        assert!(!restart.is_empty());
        assert_eq!(carry_over(&old, &old).pending, Vec::<String>::new());
    }

    #[test]
    fn the_other_configuration_survives_being_printed() {
        let printed = to_toml(&everything_else());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.toml");
        std::fs::write(&file, printed).unwrap();
        let source = Source { file: Some(file), sets: Vec::new() };
        let loaded = load(&source, std::iter::empty::<(String, String)>()).unwrap();
        assert_eq!(loaded.config, everything_else());
    }
}
