//! The surface towards business systems: gRPC.
//!
//! ```text
//!  accept ─► allowed? ─► place (grpc.max_connections) ─► TLS ─► connection (HTTP/2)
//!                                                                  │ each call
//!   hub ◄─ classic ◄─ limit (grpc.max_message) ◄─ routes ◄─ welcome? deadline?
//!                      reflection (v1, v1alpha) ◄──┤
//!          health, which follows the process's life ◄──┘
//! ```

mod call;
mod classic;
mod connection;
mod deadline;
mod limit;
mod peer;
pub mod proto;
mod refusals;
mod services;

use std::sync::Arc;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tonic::service::Routes;
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, HealthService},
};

pub use refusals::{Refusals, Refused};

use crate::{
    config::Live,
    hub::Hub,
    lifecycle,
    net::{Acceptor, Gate, Place, Stop, stopped},
    status::Phase,
};
use peer::{Peer, Unwelcome};

/// What the calls work with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    hub: Hub,
    live: Live,
    lifecycle: lifecycle::Handle,
}

impl Context {
    /// Calls act on `hub` by the rules of `live`; health says what `lifecycle` says.
    pub fn new(hub: Hub, live: Live, lifecycle: lifecycle::Handle) -> Self {
        Self { hub, live, lifecycle }
    }
}

/// Why gRPC could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors that reflection serves can't be read: a fault of the build.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves gRPC on any number of listeners, which come and go. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

/// What all connections share.
struct Shared {
    live: Live,
    lifecycle: lifecycle::Handle,
    routes: Routes,
    health: HealthReporter,
    gate: Gate,
    refusals: Refusals,
    stop: Stop,
    /// Each connection holds a receiver, so that the last one's end can be waited for.
    connections: watch::Sender<()>,
}

/// What one connection holds while it lasts.
struct Held {
    _place: Option<Place>,
    _connection: watch::Receiver<()>,
}

impl Server {
    /// A server without a listener, which ends what it accepted when `stop` is told.
    pub async fn new(context: Context, stop: Stop) -> Result<Self, ServeError> {
        let health = HealthReporter::new();
        tell(&health, context.lifecycle.phase()).await;
        let routes = routes(&context, &health)?;
        let Context { hub: _, live, lifecycle } = context;
        Ok(Self(Arc::new(Shared {
            live,
            lifecycle,
            routes,
            health,
            gate: Gate::default(),
            refusals: Refusals::default(),
            stop,
            connections: watch::Sender::new(()),
        })))
    }

    /// Accepts connections of one listener until `stop`. They live on when it has ended.
    pub async fn accept(&self, listener: TcpListener, mut stop: Stop) {
        let mut acceptor = Acceptor::new(listener, "grpc");
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                (stream, address) = acceptor.next() => {
                    let peer = Peer { address };
                    tokio::select! {
                        () = stopped(&mut stop) => return,
                        () = self.admit(stream, peer) => {}
                    }
                }
            }
        }
    }

    /// Tells the health service of each change of phase until the stop, and returns when all
    /// connections have ended, which is soon after.
    pub async fn run(&self) {
        let mut stop = self.0.stop.clone();
        tokio::select! {
            () = self.follow() => {}
            () = stopped(&mut stop) => {}
        }
        // The last change may have come together with the stop.
        tell(&self.0.health, self.0.lifecycle.phase()).await;
        self.0.connections.closed().await;
    }

    /// What was turned away so far.
    pub fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// Connections there are now.
    pub fn connections(&self) -> usize {
        self.0.connections.receiver_count()
    }

    /// Turns a connection away or begins to serve it, as soon as there is a place. Until then
    /// nothing else is accepted: the kernel's backlog is the queue.
    async fn admit(&self, stream: TcpStream, peer: Peer) {
        if let Err(Unwelcome::Address) = peer.check(&self.0.live.snapshot()) {
            let why = Unwelcome::Address;
            self.0.refusals.addresses.note(peer.address, "a gRPC connection was refused", why);
            return;
        }
        let _place = self.place().await;
        let held = Held { _place, _connection: self.0.connections.subscribe() };
        let server = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _held = held;
            connection::serve(server, peer, stream).await;
        });
    }

    /// A place under `grpc.max_connections`, also when the limit is raised meanwhile.
    async fn place(&self) -> Option<Place> {
        let mut swaps = self.0.live.swaps();
        loop {
            let limit = self.0.live.snapshot().grpc.max_connections;
            tokio::select! {
                place = self.0.gate.enter(limit) => return place,
                () = swaps.next() => {}
            }
        }
    }

    async fn follow(&self) {
        let mut phase = self.0.lifecycle.watch_phase();
        loop {
            let now = *phase.borrow_and_update();
            tell(&self.0.health, now).await;
            if phase.changed().await.is_err() {
                // Nobody can change the phase any more; the last word stays.
                return std::future::pending().await;
            }
        }
    }
}

fn routes(
    context: &Context,
    health: &HealthReporter,
) -> Result<Routes, tonic_reflection::server::Error> {
    let health = HealthService::from_health_reporter(health.clone());
    let routes = Routes::default()
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(tonic_health::pb::health_server::HealthServer::new(health));
    Ok(services::add(routes, context.hub.clone(), &context.live).prepare())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    // Each version of the reflection service adds the description of itself.
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::CLASSIC)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn tell(health: &HealthReporter, phase: Phase) {
    let status = match phase {
        Phase::Ready => ServingStatus::Serving,
        Phase::Starting | Phase::Draining | Phase::Stopping => ServingStatus::NotServing,
    };
    for service in std::iter::once(&"").chain(services::NAMES) {
        health.set_service_status(service, status).await;
    }
}
