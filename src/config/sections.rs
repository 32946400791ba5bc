//! The tree of keys: every setting of the gateway, its type and its default.
//!
//! `config/gateway.toml` says the same in prose; a test keeps the two equal.

mod auth;
mod events;
mod hook;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use auth::{Auth, WhenUidIsFull};
pub use events::{Events, WhenFull};
pub use hook::{BackEnd, Fail, Hook};

use super::value::{Auto, Listen, Memory, Networks, Size, Words, span};
use crate::message::Kind;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Threads that hold the sockets; `auto` is one per core.
    pub shards: Auto<usize>,
    /// Towards browsers, apps and devices.
    pub websocket: WebSocket,
    /// Towards the same, encrypted.
    pub tls: Tls,
    /// Who they are.
    pub auth: Auth,
    /// How messages are made smaller.
    pub compression: Compression,
    /// What anybody may use up.
    pub limits: Limits,
    /// Towards business systems.
    pub grpc: Grpc,
    /// What one call of the modern API may ask for.
    pub api: Api,
    /// Who is asked whether a client may connect.
    pub hook: Hook,
    /// Who hears what clients do.
    pub events: Events,
    /// Health, for probes.
    pub admin: Admin,
    /// Towards the commands of this program.
    pub control: Control,
    /// How the configuration is read again.
    pub reload: Reload,
    /// How the gateway takes its leave.
    pub drain: Drain,
    /// What it tells its operators.
    pub log: Log,
}

/// `[websocket]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebSocket {
    /// Addresses to listen on.
    pub listen: Listen,
    /// Where a client's messages go.
    pub messages: Messages,
    /// What a client is told first.
    pub welcome: Welcome,
    /// How the classic API's messages are framed.
    pub message_format: Kind,
    /// A client from which nothing is heard for so long is closed; zero is never.
    #[serde(with = "span")]
    pub heartbeat_timeout: Duration,
    /// The gateway pings a client this often; zero is never.
    #[serde(with = "span")]
    pub ping_interval: Duration,
    /// Sub-protocols the gateway may agree to; the first of the client's offers found here is.
    pub subprotocols: Words,
    /// Origins that may connect, `https://*.example.com` for every host below; empty is all.
    pub allowed_origins: Words,
    /// Proxies that tell for whom they connect.
    pub proxies: Networks,
    /// How they tell it.
    pub proxy_header: ProxyHeader,
    /// Headers of the request that are remembered of each client.
    pub keep_headers: Words,
    /// `SO_SNDBUF` of client sockets; zero leaves it to the kernel.
    pub send_buffer: Size,
}

/// Where a client's messages, other than `ping`, go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Messages {
    /// To who listens, if anybody does.
    Auto,
    /// To who listens.
    Forward,
    /// Nowhere.
    Drop,
    /// Back to the client, after who listens has heard it: for testing lines and for benchmarks.
    Echo,
}

/// What a client is told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Welcome {
    /// Its client id, in a frame of the kind `websocket.message_format`.
    Id,
    /// Nothing.
    None,
}

/// How a listed proxy tells for whom it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// There is no proxy.
    None,
    /// The header of `HAProxy`'s PROXY protocol, of either version, before everything else.
    Proxy,
    /// The HTTP header `X-Forwarded-For`.
    XForwardedFor,
}

/// `[tls]`: WebSocket clients over TLS (wss).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Addresses to listen on; none is off.
    pub listen: Listen,
    /// PEM file of the certificate and those that lead from it to the authority's.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

/// `[compression]`: permessage-deflate (RFC 7692), without context takeover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    /// Whether it is agreed to when a client offers it, and used.
    pub enabled: bool,
    /// zlib's level: 1 is fast, 9 is small.
    pub level: u8,
    /// Messages below this size go out as they are.
    pub min_size: Size,
    /// Messages above this size are compressed by the call that sends them, not by a shard.
    pub inline_max: Size,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Clients at once; `auto` is what the file descriptor limit leaves for them.
    pub max_clients: Auto<usize>,
    /// Bytes of one inbound message.
    pub max_message: Size,
    /// Frames of one inbound message.
    pub max_fragments: u32,
    /// Time from the first byte of an inbound message to its last; zero is no limit.
    #[serde(with = "span")]
    pub message_deadline: Duration,
    /// Bytes of the request that asks for the upgrade.
    pub head: Size,
    /// Header lines of that request.
    pub headers: usize,
    /// Time from accept to the upgrade.
    #[serde(with = "span")]
    pub handshake: Duration,
    /// Handshakes under way at once.
    pub max_handshakes: usize,
    /// Bytes waiting for one client.
    pub queue_bytes: Size,
    /// Messages waiting for one client.
    pub queue_messages: usize,
    /// Calls waiting for one shard.
    pub inbox: usize,
    /// Memory of all waiting messages.
    pub queued_bytes: Memory,
    /// Memory of all inbound messages that are incomplete or that nobody can hear yet.
    pub partial_bytes: Memory,
    /// Bytes of a uid or a group's name.
    pub names: usize,
    /// Bytes of the path and of the headers that are remembered of one client.
    pub kept_bytes: Size,
    /// Groups one client may be in.
    pub groups_per_client: usize,
    /// Attributes of one client.
    pub attributes: usize,
    /// Bytes of all names and values of one client's attributes.
    pub attribute_bytes: Size,
    /// Clients at once from one address (IPv6: from one /64); zero is no limit.
    pub address_clients: usize,
    /// Connections per second from one address (IPv6: from one /64); zero is no limit.
    pub address_connections: u32,
    /// Percent of the places of a surface that one address may hold without having proved anything.
    pub address_share: u32,
    /// Addresses that are remembered for the two limits before.
    pub addresses: usize,
    /// Inbound messages and pings per second and client; zero is no limit.
    pub client_messages: u32,
    /// Inbound bytes per second and client, and what they inflate to; zero is no limit.
    pub client_bytes: Size,
    /// What happens to a client that does not keep up.
    pub slow_client: SlowClient,
    /// Time that a client may be behind by more than its queue, from when its socket took no more.
    #[serde(with = "span")]
    pub slow_client_grace: Duration,
    /// Time a closing client has to answer the close frame, and a refused one to stop sending.
    #[serde(with = "span")]
    pub close_wait: Duration,
}

/// What happens when a message finds a client's queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlowClient {
    /// The client is closed with 1013.
    Disconnect,
    /// The message is dropped for this client.
    DropNewest,
    /// The oldest waiting messages are dropped.
    DropOldest,
}

/// `[grpc]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    /// Addresses to listen on.
    pub listen: Listen,
    /// Who may connect; empty is everybody.
    pub allow: Networks,
    /// Files of tokens, one of which a call has to bring; none is no need for one.
    pub token_files: Words,
    /// PEM file of the certificate and those that lead from it to the authority's; empty is no TLS.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// PEM file of the authorities whose clients may connect; empty is everybody.
    pub client_ca: PathBuf,
    /// Whether to listen beyond the machine without any of these.
    pub unprotected: bool,
    /// Bytes of one request.
    pub max_message: Size,
    /// Memory of all requests that are not answered and of all answers that are not taken.
    pub max_memory: Memory,
    /// Connections at once.
    pub max_connections: usize,
    /// Calls at once on one connection.
    pub max_streams: u32,
    /// A connection that is silent for so long is asked whether it lives; zero is never.
    #[serde(with = "span")]
    pub keepalive_interval: Duration,
    /// Time it has to answer.
    #[serde(with = "span")]
    pub keepalive_timeout: Duration,
}

/// `[api]`: what one call of `gateway.v1` may ask for, and what is remembered of calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// Clients, users and groups that one call may name, exceptions included.
    pub max_targets: usize,
    /// Messages in one call, or in one item of a stream.
    pub max_sends: usize,
    /// Streams of such calls that are open at once.
    pub max_streams: usize,
    /// Entries of one page of a list, and clients that one call describes.
    pub max_page: usize,
    /// Idempotency keys that are remembered.
    pub idempotency_keys: usize,
    /// How long a call that was answered is remembered by its key.
    #[serde(with = "span")]
    pub idempotency_window: Duration,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Addresses to listen on.
    pub listen: Listen,
}

/// `[control]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Path of the control socket; `auto` is the first usable of the documented places.
    pub socket: Auto<PathBuf>,
}

/// `[reload]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Whether it is read again when a file changes, or only when somebody says so.
    pub watch: bool,
}

/// `[drain]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Time between readiness going red and the first refusal.
    #[serde(with = "span")]
    pub delay: Duration,
    /// Time over which the closes are spread.
    #[serde(with = "span")]
    pub window: Duration,
    /// Time the last clients have to answer.
    #[serde(with = "span")]
    pub timeout: Duration,
    /// Close code that clients get.
    pub close_code: u16,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How much is said.
    pub level: Level,
    /// How it is written.
    pub format: LogFormat,
    /// Where it is written; empty is standard error.
    pub file: PathBuf,
    /// Memory of lines that wait to be written.
    pub queue_bytes: Size,
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Only what is broken.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And starts, stops and reloads.
    Info,
    /// And each connection.
    Debug,
    /// And everything.
    Trace,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            listen: Listen::of("0.0.0.0:20818"),
            messages: Messages::Auto,
            welcome: Welcome::Id,
            message_format: Kind::Text,
            heartbeat_timeout: Duration::from_mins(3),
            ping_interval: Duration::from_secs(25),
            subprotocols: Words::default(),
            allowed_origins: Words::default(),
            proxies: Networks::default(),
            proxy_header: ProxyHeader::None,
            keep_headers: Words::default(),
            send_buffer: Size::kib(256),
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self { enabled: true, level: 1, min_size: Size(128), inline_max: Size::kib(64) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: Auto::Auto,
            max_message: Size::mib(1),
            max_fragments: 1024,
            message_deadline: Duration::from_secs(30),
            head: Size::kib(16),
            headers: 100,
            handshake: Duration::from_secs(10),
            max_handshakes: 1024,
            queue_bytes: Size::mib(1),
            queue_messages: 1024,
            inbox: 4096,
            queued_bytes: Memory::Percent(25),
            partial_bytes: Memory::Percent(10),
            names: 256,
            kept_bytes: Size::kib(1),
            groups_per_client: 128,
            attributes: 32,
            attribute_bytes: Size(4096),
            address_clients: 0,
            address_connections: 0,
            address_share: 25,
            addresses: 65_536,
            client_messages: 10_000,
            client_bytes: Size::mib(64),
            slow_client: SlowClient::Disconnect,
            slow_client_grace: Duration::from_secs(1),
            close_wait: Duration::from_secs(5),
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            listen: Listen::of("127.0.0.1:20819"),
            allow: Networks::default(),
            token_files: Words::default(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            client_ca: PathBuf::new(),
            unprotected: false,
            max_message: Size::mib(4),
            max_memory: Memory::Percent(10),
            max_connections: 256,
            max_streams: 1024,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            max_targets: 10_000,
            max_sends: 1000,
            max_streams: 256,
            max_page: 1000,
            idempotency_keys: 65_536,
            idempotency_window: Duration::from_mins(5),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Listen::of("127.0.0.1:20820") }
    }
}

impl Default for Reload {
    fn default() -> Self {
        Self { watch: true }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            window: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            close_code: crate::close::code::GOING_AWAY,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::Info,
            format: LogFormat::Auto,
            file: PathBuf::new(),
            queue_bytes: Size::mib(1),
        }
    }
}
