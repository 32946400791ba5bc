//! A whole gateway within the test's process, on ports of its own, stopped on drop.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use gateway_websocket::{
    app::{self, Options, Surface},
    config::{self, Source},
    hub::Hub,
    lifecycle::{Handle, Reloaded},
    sink::{EventSink, NoSink},
    status::Listeners,
};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

use crate::client::Client;

pub struct Gateway {
    listeners: Listeners,
    hub: Hub,
    handle: Handle,
    channel: Channel,
    task: tokio::task::JoinHandle<()>,
}

impl Gateway {
    /// A gateway with default settings.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A gateway with some settings changed: `section.key=value`.
    pub async fn with(sets: &[&str]) -> Self {
        Self::listening_to(Arc::new(NoSink), sets).await
    }

    /// A gateway with its settings from a file, so that a reload can change them.
    pub async fn of_file(file: &Path) -> Self {
        Self::begin(Arc::new(NoSink), Some(file.to_owned()), &[], Vec::new()).await
    }

    /// The same, with a socket that somebody else listens on for it.
    pub async fn inheriting(file: &Path, inherited: Vec<(Surface, TcpListener)>) -> Self {
        Self::begin(Arc::new(NoSink), Some(file.to_owned()), &[], inherited).await
    }

    /// Reloads, and expects that it is accepted.
    pub async fn reload(&self) {
        let outcome = self.handle.reload().await.unwrap();
        assert!(matches!(outcome, Reloaded::Accepted { .. }), "{outcome:?}");
    }

    /// A gateway whose clients somebody listens to.
    pub async fn listening_to(sink: Arc<dyn EventSink>, sets: &[&str]) -> Self {
        Self::begin(sink, None, sets, Vec::new()).await
    }

    async fn begin(
        sink: Arc<dyn EventSink>,
        file: Option<PathBuf>,
        sets: &[&str],
        inherited: Vec<(Surface, TcpListener)>,
    ) -> Self {
        let own = [
            "websocket.listen=127.0.0.1:0",
            "grpc.listen=127.0.0.1:0",
            "admin.listen=127.0.0.1:0",
            "shards=3",
        ];
        let directory = tempfile::tempdir().unwrap();
        let socket = format!("control.socket={}", directory.path().join("control.sock").display());
        let sets = own.iter().chain(sets).map(ToString::to_string).chain([socket]).collect();
        let source = Source { file, sets };
        let env: [(&str, &str); 0] = [];
        let loaded = config::load_to_run(&source, env).expect("the test's settings are valid");
        let gateway = app::Gateway::start(Options {
            loaded,
            source,
            telemetry: None,
            sink,
            read_at: std::time::SystemTime::now(),
            inherited,
        })
        .await
        .expect("the gateway starts");
        let listeners = gateway.listeners().clone();
        let (hub, handle) = (gateway.hub().clone(), gateway.handle().clone());
        let signals = app::Gateway::signals().unwrap();
        let task = tokio::spawn(async move {
            let _directory = directory;
            gateway.run(signals).await.expect("the gateway ends well");
        });
        let grpc = format!("http://{}", listeners.grpc[0]);
        let channel = Endpoint::from_shared(grpc).unwrap().connect_lazy();
        Self { listeners, hub, handle, channel, task }
    }

    /// Where WebSocket clients connect.
    pub fn websocket(&self) -> SocketAddr {
        self.listeners.websocket[0]
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
