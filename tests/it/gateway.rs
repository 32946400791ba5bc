//! A whole gateway within the test's process, on ports of its own, stopped on drop.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use gateway_websocket::{
    app::{self, Options, Surface},
    config::{self, Source},
    events::Events,
    hub::Hub,
    lifecycle::{ChangedKey, Handle, Reloaded},
    shard::Clock,
    sink::EventSink,
    status::Listeners,
};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

use crate::client::Client;

pub struct Gateway {
    listeners: Listeners,
    hub: Hub,
    events: Events,
    handle: Handle,
    channel: Channel,
    task: tokio::task::JoinHandle<()>,
    directory: tempfile::TempDir,
}

/// What a test's gateway has unless the test says something else.
const OWN: &[(&str, &str)] = &[
    ("websocket.listen", "127.0.0.1:0"),
    ("grpc.listen", "127.0.0.1:0"),
    ("admin.listen", "127.0.0.1:0"),
    ("shards", "3"),
    // It reloads only when told to, so that a test knows when.
    ("reload.watch", "false"),
];

impl Gateway {
    /// A gateway with default settings.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A gateway with some settings changed: `section.key=value`.
    pub async fn with(sets: &[&str]) -> Self {
        Self::set(None, Clock::default(), sets).await
    }

    /// A gateway whose clients somebody listens to.
    pub async fn listening_to(sink: Arc<dyn EventSink>, sets: &[&str]) -> Self {
        Self::listening_at(sink, Clock::default(), sets).await
    }

    /// A gateway whose shards go by a clock that the test moves.
    pub async fn at(clock: Clock, sets: &[&str]) -> Self {
        Self::set(None, clock, sets).await
    }

    /// Both.
    pub async fn listening_at(sink: Arc<dyn EventSink>, clock: Clock, sets: &[&str]) -> Self {
        Self::set(Some(sink), clock, sets).await
    }

    async fn set(sink: Option<Arc<dyn EventSink>>, clock: Clock, sets: &[&str]) -> Self {
        let own = OWN.iter().map(|(key, value)| format!("{key}={value}"));
        let sets = own.chain(sets.iter().map(ToString::to_string)).collect();
        let directory = tempfile::tempdir().unwrap();
        let source = Source { file: None, sets };
        Self::from(sink, source, directory, Vec::new(), clock).await
    }

    /// A gateway that was started with a file, which [`reload`](Self::reload) rewrites. It has
    /// keys only, no `[sections]`.
    pub async fn with_file(toml: &str) -> Self {
        Self::filed(None, toml).await
    }

    /// The same, whose clients somebody listens to.
    pub async fn listening_with_file(sink: Arc<dyn EventSink>, toml: &str) -> Self {
        Self::filed(Some(sink), toml).await
    }

    async fn filed(sink: Option<Arc<dyn EventSink>>, toml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.toml");
        std::fs::write(&file, with_own(toml)).unwrap();
        let source = Source { file: Some(file), sets: Vec::new() };
        Self::from(sink, source, directory, Vec::new(), Clock::default()).await
    }

    /// A gateway with a configuration file that the test itself looks after.
    pub async fn from_file(file: &Path) -> Self {
        Self::inheriting(file, Vec::new()).await
    }

    /// The same, with sockets that somebody else listens on for it.
    pub async fn inheriting(file: &Path, inherited: Vec<(Surface, TcpListener)>) -> Self {
        let own = OWN.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let source = Source { file: Some(file.to_owned()), sets: own };
        let directory = tempfile::tempdir().unwrap();
        Self::from(None, source, directory, inherited, Clock::default()).await
    }

    async fn from(
        sink: Option<Arc<dyn EventSink>>,
        mut source: Source,
        directory: tempfile::TempDir,
        inherited: Vec<(Surface, TcpListener)>,
        clock: Clock,
    ) -> Self {
        let socket = directory.path().join("control.sock");
        source.sets.push(format!("control.socket={}", socket.display()));
        let env: [(&str, &str); 0] = [];
        let loaded = config::load_to_run(&source, env).expect("the test's settings are valid");
        let gateway = app::Gateway::start(Options {
            loaded,
            source,
            telemetry: None,
            sink,
            inherited,
            clock,
        })
        .await
        .expect("the gateway starts");
        let listeners = gateway.listeners().clone();
        let (hub, handle) = (gateway.hub().clone(), gateway.handle().clone());
        let events = gateway.events().clone();
        let signals = app::Gateway::signals().unwrap();
        let task = tokio::spawn(async move {
            gateway.run(signals).await.expect("the gateway ends well");
        });
        let grpc = format!("http://{}", listeners.grpc[0]);
        let channel = Endpoint::from_shared(grpc).unwrap().connect_lazy();
        Self { listeners, hub, events, handle, channel, task, directory }
    }

    /// Rewrites the file and reloads; answers the keys that changed.
    pub async fn reload(&self, toml: &str) -> Vec<ChangedKey> {
        match self.try_reload(toml).await {
            Reloaded::Accepted { changed, .. } => changed,
            Reloaded::Refused { faults } => panic!("the reload was refused: {faults:?}"),
        }
    }

    /// Rewrites the file and reloads; answers the outcome.
    pub async fn try_reload(&self, toml: &str) -> Reloaded {
        std::fs::write(self.file("gateway.toml"), with_own(toml)).unwrap();
        self.handle.reload().await.expect("the gateway runs")
    }

    /// A file in the gateway's own directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where WebSocket clients connect.
    pub fn websocket(&self) -> SocketAddr {
        self.listeners.websocket[0]
    }

    /// Where WebSocket clients connect with TLS.
    pub fn tls(&self) -> SocketAddr {
        self.listeners.tls[0]
    }

    /// Where gRPC clients connect.
    pub fn grpc(&self) -> SocketAddr {
        self.listeners.grpc[0]
    }

    /// Where probes connect.
    pub fn admin(&self) -> SocketAddr {
        self.listeners.admin[0]
    }

    /// A gRPC connection that all calls of the test share.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// What its clients do, without a call.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The hub, for counters that no call shows.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Asks for a change of life.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Connects a client and reads its welcome.
    pub async fn connect(&self) -> Client {
        Client::connect(self.websocket()).await
    }

    /// Connects several clients.
    pub async fn connect_n<const N: usize>(&self) -> [Client; N] {
        let mut clients = Vec::new();
        for _ in 0..N {
            clients.push(self.connect().await);
        }
        clients.try_into().unwrap_or_else(|_| unreachable!())
    }

    /// The sum of one counter over all shards.
    pub fn sum(&self, of: impl Fn(&gateway_websocket::metrics::ShardStats) -> u64) -> u64 {
        self.hub.shard_stats().map(of).sum()
    }

    /// Clients closed for the cause so far.
    pub fn closed(&self, cause: gateway_websocket::close::Cause) -> u64 {
        self.sum(|stats| stats.closed[cause.index()].get())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.hub.stop();
        self.task.abort();
    }
}

/// The test's keys, and its gateway's own ones where it says nothing.
fn with_own(toml: &str) -> String {
    let says = |key: &str| toml.lines().any(|line| line.trim_start().starts_with(key));
    let own = OWN.iter().filter(|(key, _)| !says(key));
    let own = own.map(|(key, value)| {
        let quote = if value.contains(':') { "\"" } else { "" };
        format!("{key} = {quote}{value}{quote}")
    });
    own.chain([toml.to_owned()]).collect::<Vec<_>>().join("\n")
}
