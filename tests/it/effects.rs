//! Every key has its effect: a gateway runs with clients, just this key is changed by a reload, and
//! what it is for is seen on a socket or in a call. Whoever was connected before stays connected.
//!
//! A case is a test named after its key, with `_` for the dot.

mod api;
mod auth;
mod compression;
mod events;
mod grpc;
mod handshakes;
mod hook;
mod life;
mod limits;
mod queues;
mod tls;
mod v1;
mod websocket;

use std::collections::BTreeMap;

use gateway_websocket::{
    config::{Class, keys::KEYS},
    lifecycle::Reloaded,
};

use crate::{
    client::Client,
    gateway::Gateway,
    raw::{Raw, request},
};

/// The names of cases, which have to be there to be named.
macro_rules! cases {
    ($($module:ident: $($case:ident),+;)+) => {
        &[$($({
            let _is_there: fn() = $module::$case;
            stringify!($case)
        }),+),+]
    };
}

const CASES: &[&str] = cases! {
    api: api_max_targets, api_max_sends, api_max_streams, api_idempotency_keys, api_idempotency_window,
        limits_attributes, limits_attribute_bytes;
    auth: auth_algorithms, auth_key, auth_jwks, auth_jwks_ca, auth_jwks_refresh, auth_jwks_retry,
        auth_jwks_timeout, auth_jwks_max_bytes, auth_required, auth_issuers, auth_audiences,
        auth_leeway, auth_uid_claim, auth_groups_claim, auth_attributes_claim, auth_sources,
        auth_cookie, auth_query_parameter, auth_max_token, auth_max_clients_per_uid,
        auth_when_uid_is_full;
    compression: compression_enabled, compression_level, compression_min_size,
        compression_inline_max;
    events: events_groups, events_allow_new_groups, events_new_group_expiry, events_max_groups,
        events_max_subscribers, events_buffer_messages, events_buffer_changes,
        events_buffer_bytes, events_when_full, events_max_unacknowledged, events_ack_timeout,
        events_answer_wait;
    grpc: grpc_listen, grpc_allow, grpc_token_files, grpc_unprotected, grpc_max_message,
        grpc_max_memory, grpc_max_connections, grpc_max_streams, grpc_keepalive_interval, grpc_keepalive_timeout;
    handshakes: websocket_subprotocols, websocket_allowed_origins, websocket_proxies,
        websocket_proxy_header, limits_head, limits_headers, limits_handshake,
        limits_max_handshakes, limits_max_clients, limits_address_clients,
        limits_address_connections, limits_address_share, limits_addresses;
    hook: hook_address, hook_ca, hook_token_file, hook_timeout, hook_max_concurrent,
        hook_max_waiting, hook_max_answer, hook_fail, hook_breaker_failures, hook_breaker_pause;
    life: shards, control_socket, reload_watch, admin_listen, drain_delay, drain_window,
        drain_timeout, drain_close_code, log_level, log_format, log_file, log_queue_bytes;
    limits: limits_max_message, limits_max_fragments, limits_message_deadline, limits_names,
        limits_groups_per_client, limits_client_messages, limits_client_bytes,
        limits_partial_bytes, limits_close_wait;
    queues: limits_queue_bytes, limits_queue_messages, limits_slow_client,
        limits_slow_client_grace, limits_queued_bytes, limits_inbox, websocket_send_buffer;
    tls: tls_listen, tls_certificate, tls_key, grpc_certificate, grpc_key, grpc_client_ca;
    websocket: websocket_listen, websocket_messages, websocket_welcome, websocket_message_format,
        websocket_heartbeat_timeout, websocket_ping_interval;
    v1: websocket_keep_headers, limits_kept_bytes, api_max_page;
};

#[test]
fn every_key_has_a_case_in_which_its_effect_is_seen() {
    let has_case = |key: &str| CASES.contains(&key.replace('.', "_").as_str());
    let without: Vec<&str> =
        KEYS.iter().map(|(key, _)| *key).filter(|key| !has_case(key)).collect();
    assert_eq!(without, Vec::<&str>::new());
    assert_eq!(CASES.len(), KEYS.len(), "a case is for one key, once");
}

/// A running gateway with clients that have nothing to do with the case.
pub(super) struct Stage {
    pub gateway: Gateway,
    settings: BTreeMap<String, String>,
    bystanders: Vec<Client>,
}

impl Stage {
    /// A gateway with these settings, `section.key = value`, and two clients.
    pub async fn new(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let settings: BTreeMap<String, String> = settings.collect();
        let gateway = Gateway::with_file(&toml(&settings)).await;
        let mut stage = Self { gateway, settings, bystanders: Vec::new() };
        stage.bystanders = stage.gateway.connect_n::<2>().await.into();
        stage
    }

    /// Changes one key and nothing else, by a reload. The clients don't notice.
    pub async fn change(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
        let mut changed = self.gateway.reload(&toml(&self.settings)).await;
        // Where a file says something else than before, that is told too, under its own key.
        changed.retain(|change| change.key == key || !is_file(&change.key));
        let keys: Vec<&str> = changed.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, [key]);
        let (_, class) = KEYS.iter().find(|(known, _)| *known == key).unwrap();
        assert_eq!(changed[0].effect, class.effect());
        assert_ne!(*class, Class::Restart);
        self.everybody_is_served().await;
    }

    /// Changes one key in a way that is refused with these words. The clients don't notice.
    pub async fn change_is_refused(&mut self, key: &str, value: &str, words: &str) {
        let before = self.settings.insert(key.to_owned(), value.to_owned());
        match self.gateway.try_reload(&toml(&self.settings)).await {
            Reloaded::Refused { faults } => assert!(faults[0].contains(words), "{faults:?}"),
            accepted @ Reloaded::Accepted { .. } => panic!("{accepted:?}"),
        }
        match before {
            Some(before) => self.settings.insert(key.to_owned(), before),
            None => self.settings.remove(key),
        };
        self.everybody_is_served().await;
    }

    /// The clients that were there from the beginning are there.
    pub async fn everybody_is_served(&mut self) {
        for client in &mut self.bystanders {
            client.say("ping").await;
            assert_eq!(client.next_text().await, "pong");
        }
    }

    /// Lets the clients go, where a case is about everybody.
    pub fn alone(&mut self) -> Vec<Client> {
        std::mem::take(&mut self.bystanders)
    }

    /// One more client.
    pub async fn raw(&self) -> (Raw, String) {
        Raw::welcomed(self.gateway.websocket()).await
    }

    /// The status line that a request for an upgrade with these lines gets; empty if the
    /// connection is closed without one.
    pub async fn answer(&self, lines: &[&str]) -> String {
        let mut raw = Raw::open(self.gateway.websocket()).await;
        let _ = raw.try_send(request(lines)).await;
        let head = raw.try_response().await.unwrap_or_default();
        head.lines().next().unwrap_or_default().to_owned()
    }
}

fn is_file(key: &str) -> bool {
    ["certificate", "key", "_ca", "hook.ca", "token_files", "token_file"]
        .iter()
        .any(|name| key.ends_with(name))
}

fn toml(settings: &BTreeMap<String, String>) -> String {
    let lines: Vec<_> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    lines.join("\n")
}
