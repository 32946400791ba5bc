//! What the running gateway says of itself: the answer of `status`, as data.
//!
//! Server and command line share these types, so that neither can say what the other can't read,
//! and how numbers are put for people.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A picture of the whole process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When the picture was taken: seconds since 1970-01-01 UTC.
    #[serde(default)]
    pub taken_at: u64,
    /// Where in its life the process is.
    pub phase: Phase,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// Addresses it listens on.
    pub listeners: Listeners,
    /// CPU time used so far, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Shard threads.
    pub shards: usize,
    /// Clients connected now.
    pub clients: u64,
    /// Distinct uids with a client now.
    pub users: u64,
    /// Groups that exist now.
    pub groups: u64,
    /// What passed through.
    pub messages: Messages,
    /// Clients ever connected.
    pub opened: u64,
    /// Clients ever closed, by cause; causes that never happened are left out.
    pub closed: BTreeMap<String, u64>,
    /// Connections that never became a client, by cause; zeros are left out.
    pub refused: BTreeMap<String, u64>,
    /// The certificates in force.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// The drain under way, if there is one.
    #[serde(default)]
    pub drain: Option<DrainStatus>,
    /// Seconds since the supervisor, which carries out stop, drain and reload, was last at work.
    #[serde(default)]
    pub supervisor_idle_seconds: u64,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Clients that it has closed.
    pub closed: u64,
    /// Clients that it has still to close.
    pub left: u64,
    /// Connections that have not ended yet, those of closed clients among them.
    pub connections: u64,
    /// Seconds until it is over at the latest.
    pub seconds_left: u64,
}

impl DrainStatus {
    /// `812 of 3,000 clients closed, at most 9 s left`
    pub fn text(&self) -> String {
        let all = counted(self.closed + self.left, "client");
        let Self { closed, seconds_left, .. } = self;
        format!("{} of {all} closed, at most {seconds_left} s left", grouped(*closed))
    }
}

/// One server certificate in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The setting that names it.
    pub key: String,
    /// Whom it names.
    pub subject: String,
    /// The day on which it expires, as 2026-12-31.
    pub until: String,
    /// When it expires: seconds since 1970-01-01 UTC.
    pub not_after: u64,
    /// Whole days until then; negative when it has expired.
    pub days_left: i64,
}

/// Where in its life the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not yet listening everywhere.
    Starting,
    /// In service.
    Ready,
    /// Told to drain: no new clients, the connected ones are being closed or are gone.
    Draining,
    /// On its way out.
    Stopping,
}

/// Addresses the process listens on, as bound (port 0 is resolved).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// WebSocket.
    pub websocket: Vec<std::net::SocketAddr>,
    /// WebSocket over TLS.
    #[serde(default)]
    pub tls: Vec<std::net::SocketAddr>,
    /// gRPC.
    pub grpc: Vec<std::net::SocketAddr>,
    /// Health and metrics.
    pub admin: Vec<std::net::SocketAddr>,
    /// The control socket; none if no directory could be used.
    pub control: Option<PathBuf>,
}

/// Messages and bytes since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// Messages received from clients.
    pub received: u64,
    /// Messages accepted for a client.
    pub queued: u64,
    /// Messages written to a client's socket.
    pub sent: u64,
    /// Messages accepted and then dropped, by cause; zeros are left out.
    pub dropped: BTreeMap<String, u64>,
    /// Bytes read from client sockets.
    pub bytes_received: u64,
    /// Bytes written to client sockets.
    pub bytes_sent: u64,
    /// Memory that waiting messages take now, in bytes.
    pub queued_bytes: u64,
    /// Memory that incomplete inbound messages take now, in bytes.
    pub partial_bytes: u64,
    /// Clients that aren't read now until there is room for what they said.
    #[serde(default)]
    pub waiting_clients: u64,
}

/// Which configuration is in force and what became of the last attempt to change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file, if one was read.
    pub file: Option<PathBuf>,
    /// What the command line sets, `key=value`.
    #[serde(default)]
    pub sets: Vec<String>,
    /// When it was loaded: seconds since 1970-01-01 UTC.
    pub loaded_at: u64,
    /// When it was tried last to load another, in vain or not.
    #[serde(default)]
    pub tried_at: u64,
    /// Counts accepted loads; 1 is the one at start.
    pub generation: u64,
    /// Keys whose new value waits for a restart.
    pub pending: Vec<String>,
    /// Faults of the last reload; empty if it was accepted. Of more than a hundred the rest is one
    /// line that counts them.
    pub faults: Vec<String>,
    /// Why changes of the files go unnoticed; none if they are noticed, or not to be.
    #[serde(default)]
    pub unwatched: Option<String>,
}

/// `1,234,567`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 client`, `2 clients`
pub fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}
