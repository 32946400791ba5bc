//! The list of all keys, and whom a new value of each reaches.
//!
//! A test keeps it equal to the tree in `sections.rs`; the shipped file, the printed configuration
//! and the table of changes follow its order.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Config;

/// Whom a new value reaches when the configuration is reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everybody, at once.
    Live,
    /// Connections opened from now on.
    NewConnections,
    /// Nobody until the process is started again.
    Restart,
}

impl Class {
    /// For people: the effect of a change.
    pub fn effect(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NewConnections => "new connections",
            Self::Restart => "needs restart",
        }
    }
}

/// Every key, with its class, section by section.
pub const KEYS: &[(&str, Class)] = {
    use Class::{Live, NewConnections, Restart};
    &[
        ("shards", Restart),
        ("websocket.listen", Live),
        ("websocket.messages", Live),
        ("websocket.welcome", NewConnections),
        ("websocket.message_format", Live),
        ("websocket.heartbeat_timeout", Live),
        ("websocket.ping_interval", Live),
        ("websocket.subprotocols", NewConnections),
        ("websocket.allowed_origins", NewConnections),
        ("websocket.proxies", NewConnections),
        ("websocket.proxy_header", NewConnections),
        ("websocket.keep_headers", NewConnections),
        ("websocket.send_buffer", NewConnections),
        ("tls.listen", Live),
        ("tls.certificate", NewConnections),
        ("tls.key", NewConnections),
        ("auth.algorithms", NewConnections),
        ("auth.key", NewConnections),
        ("auth.jwks", NewConnections),
        ("auth.jwks_ca", Live),
        ("auth.jwks_refresh", Live),
        ("auth.jwks_retry", Live),
        ("auth.jwks_timeout", Live),
        ("auth.jwks_max_bytes", Live),
        ("auth.required", NewConnections),
        ("auth.issuers", NewConnections),
        ("auth.audiences", NewConnections),
        ("auth.leeway", NewConnections),
        ("auth.uid_claim", NewConnections),
        ("auth.groups_claim", NewConnections),
        ("auth.attributes_claim", NewConnections),
        ("auth.sources", NewConnections),
        ("auth.cookie", NewConnections),
        ("auth.query_parameter", NewConnections),
        ("auth.max_token", NewConnections),
        ("auth.max_clients_per_uid", NewConnections),
        ("auth.when_uid_is_full", NewConnections),
        ("compression.enabled", Live),
        ("compression.level", Live),
        ("compression.min_size", Live),
        ("compression.inline_max", Live),
        ("limits.max_clients", Live),
        ("limits.max_message", Live),
        ("limits.max_fragments", Live),
        ("limits.message_deadline", Live),
        ("limits.head", NewConnections),
        ("limits.headers", NewConnections),
        ("limits.handshake", NewConnections),
        ("limits.max_handshakes", Live),
        ("limits.queue_bytes", Live),
        ("limits.queue_messages", Live),
        ("limits.inbox", Live),
        ("limits.queued_bytes", Live),
        ("limits.partial_bytes", Live),
        ("limits.names", Live),
        ("limits.kept_bytes", NewConnections),
        ("limits.groups_per_client", Live),
        ("limits.attributes", Live),
        ("limits.attribute_bytes", Live),
        ("limits.address_clients", Live),
        ("limits.address_connections", Live),
        ("limits.address_share", Live),
        ("limits.addresses", Live),
        ("limits.client_messages", Live),
        ("limits.client_bytes", Live),
        ("limits.slow_client", Live),
        ("limits.slow_client_grace", Live),
        ("limits.close_wait", Live),
        ("grpc.listen", Live),
        ("grpc.allow", Live),
        ("grpc.token_files", Live),
        ("grpc.certificate", NewConnections),
        ("grpc.key", NewConnections),
        ("grpc.client_ca", NewConnections),
        ("grpc.unprotected", Live),
        ("grpc.max_message", Live),
        ("grpc.max_memory", Live),
        ("grpc.max_connections", Live),
        ("grpc.max_streams", NewConnections),
        ("grpc.keepalive_interval", NewConnections),
        ("grpc.keepalive_timeout", NewConnections),
        ("api.max_targets", Live),
        ("api.max_sends", Live),
        ("api.max_streams", Live),
        ("api.max_page", Live),
        ("api.idempotency_keys", Live),
        ("api.idempotency_window", Live),
        ("hook.address", NewConnections),
        ("hook.ca", NewConnections),
        ("hook.token_file", NewConnections),
        ("hook.timeout", NewConnections),
        ("hook.max_concurrent", Live),
        ("hook.max_waiting", Live),
        ("hook.max_answer", NewConnections),
        ("hook.fail", NewConnections),
        ("hook.breaker_failures", Live),
        ("hook.breaker_pause", Live),
        ("events.groups", Live),
        ("events.allow_new_groups", Live),
        ("events.new_group_expiry", Live),
        ("events.max_groups", Live),
        ("events.max_subscribers", Live),
        ("events.buffer_messages", Live),
        ("events.buffer_changes", Live),
        ("events.buffer_bytes", Live),
        ("events.when_full", Live),
        ("events.max_unacknowledged", Live),
        ("events.ack_timeout", Live),
        ("events.answer_wait", Live),
        ("admin.listen", Live),
        ("control.socket", Restart),
        ("reload.watch", Live),
        ("drain.delay", Live),
        ("drain.window", Live),
        ("drain.timeout", Live),
        ("drain.close_code", Live),
        ("log.level", Live),
        ("log.format", Live),
        ("log.file", Live),
        ("log.queue_bytes", Live),
    ]
};

/// Whether `name` is a section, such as `websocket`.
pub fn is_section(name: &str) -> bool {
    sections().any(|section| section == name)
}

/// Whether `key` is a key, such as `websocket.listen`.
pub fn is_key(key: &str) -> bool {
    KEYS.iter().any(|(known, _)| *known == key)
}

/// Whom a new value of `key` reaches; one that is no key waits for a restart.
pub fn class_of(key: &str) -> Class {
    KEYS.iter().find(|(known, _)| *known == key).map_or(Class::Restart, |(_, class)| *class)
}

/// The value of every key, by its full name.
pub fn flatten(config: &Config) -> BTreeMap<String, Value> {
    let tree = serde_json::to_value(config).expect("settings are text, numbers and lists of text");
    let mut leaves = BTreeMap::new();
    flatten_into(&mut leaves, "", tree);
    leaves
}

fn flatten_into(leaves: &mut BTreeMap<String, Value>, prefix: &str, tree: Value) {
    let Value::Object(table) = tree else {
        leaves.insert(prefix.to_owned(), tree);
        return;
    };
    for (name, value) in table {
        let dot = if prefix.is_empty() { "" } else { "." };
        flatten_into(leaves, &format!("{prefix}{dot}{name}"), value);
    }
}

/// What is longer is no mistyped key.
const LONGEST: usize = 64;

/// The known name that `wrong` was most likely meant to be: a key, or a section.
pub fn nearest(wrong: &str) -> Option<&'static str> {
    if wrong.len() > LONGEST {
        return None;
    }
    let names = KEYS.iter().map(|(key, _)| *key).chain(sections());
    let last = wrong.rsplit('.').next().unwrap_or(wrong);
    names
        .map(|name| (strsim::levenshtein(wrong, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 6)
        .map(|(_, name)| name)
        // The right key in the wrong section, or in none.
        .or_else(|| {
            KEYS.iter().map(|(key, _)| *key).find(|key| key.rsplit('.').next() == Some(last))
        })
}

fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(|(key, _)| Some(key.split_once('.')?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_and_the_tree_name_the_same_keys() {
        let tree: Vec<String> = flatten(&Config::default()).into_keys().collect();
        let mut list: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        list.sort_unstable();
        assert!(list.len() > 40);
        assert_eq!(tree, list);
    }

    #[test]
    fn a_typing_error_finds_the_key_that_was_meant() {
        for (wrong, right) in [
            ("websocket.lisen", Some("websocket.listen")),
            ("websocket.heartbeattimeout", Some("websocket.heartbeat_timeout")),
            ("websockets", Some("websocket")),
            ("shard", Some("shards")),
            ("max_clients", Some("limits.max_clients")),
            ("websocket.max_clients", Some("limits.max_clients")),
            ("lgo.level", Some("log.level")),
            ("cluster.name", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong), right, "{wrong}");
        }
    }
}
