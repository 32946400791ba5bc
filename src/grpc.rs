//! The surface towards business systems: gRPC.
//!
//! ```text
//!  accept ─► allowed? ─► place (grpc.max_connections) ─► TLS ─► connection (HTTP/2)
//!                                                                  │ each call
//!   hub ◄─ classic, v1 ◄─ limit (grpc.max_message) ◄─ routes ◄─ a call? welcome? memory? deadline?
//!                      reflection (v1, v1alpha) ◄──┤
//!          health, which follows the process's life ◄──┘
//! ```

mod backlog;
mod call;
mod classic;
mod connection;
mod content;
mod cut;
mod deadline;
mod identity;
mod limit;
mod memory;
mod meter;
mod peer;
mod refusals;
mod request_body;
mod response_body;
mod services;
mod ticket;
mod trust;
mod v1;

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpStream, sync::watch};
use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tonic_reflection::server;

use self::{limit::Limited, memory::Memory};
pub use crate::proto;
pub use refusals::{Refusals, Refused};

use crate::{
    config::{Live, machine::files},
    events::Events,
    hub::Hub,
    lifecycle,
    metrics::{Callers, Calls},
    net::{Acceptor, Entrance, Listener as _, PeerLimits, PeerPermit, PeerTable, Stop, stopped},
    status::Phase,
};

/// What the calls work with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    hub: Hub,
    events: Events,
    live: Live,
    lifecycle: lifecycle::Handle,
    calls: Arc<Calls>,
}

impl Context {
    /// Calls act on `hub` and hear `events` by the rules of `live`; health says what `lifecycle`
    /// says.
    pub fn new(hub: Hub, events: Events, live: Live, lifecycle: lifecycle::Handle) -> Self {
        Self { hub, events, live, lifecycle, calls: Arc::new(meter::calls()) }
    }

    /// What is counted of calls.
    pub fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }
}

/// Why gRPC could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors that reflection serves can't be read: a fault of the build.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] server::Error),
}

/// Serves gRPC on any number of listeners, which come and go. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

/// What all connections share.
struct Shared {
    live: Live,
    lifecycle: lifecycle::Handle,
    routes: Routes,
    calls: Arc<Calls>,
    health: HealthReporter,
    peers: PeerTable,
    refusals: Refusals,
    memory: Arc<Memory>,
    stop: Stop,
    /// Each connection holds a receiver, so that the last one's end can be waited for.
    connections: watch::Sender<()>,
}

impl Server {
    /// A server without a listener, which ends what it accepted when `stop` is told.
    pub async fn new(context: Context, stop: Stop) -> Result<Self, ServeError> {
        let health = HealthReporter::new();
        tell(&health, serving(context.lifecycle.phase())).await;
        let routes = routes(&context, &health)?;
        let Context { hub: _, events: _, live, lifecycle, calls } = context;
        Ok(Self(Arc::new(Shared {
            live,
            lifecycle,
            routes,
            calls,
            health,
            peers: PeerTable::default(),
            refusals: Refusals::default(),
            memory: Arc::default(),
            stop,
            connections: watch::Sender::new(()),
        })))
    }

    /// Accepts connections at one entrance until `stop`. They live on when it has ended.
    pub async fn accept(&self, entrance: Entrance, mut stop: Stop) {
        let mut acceptor = Acceptor::new(entrance, "grpc");
        loop {
            let (stream, address) = tokio::select! {
                () = stopped(&mut stop) => break,
                accepted = acceptor.next() => accepted,
            };
            if !self.is_allowed(address) {
                continue;
            }
            // Until there is a place nothing else is accepted: the kernel's backlog is the queue.
            let permit = tokio::select! {
                permit = self.place(address) => permit,
                () = stopped(&mut stop) => break,
            };
            self.serve(stream, address, permit);
        }
        // Who waits already is let in, unless it would have to wait longer than the listener does.
        while let Some((stream, address)) = acceptor.listener().waiting() {
            if self.is_allowed(address)
                && let Some(permit) = self.0.peers.try_admit(Some(address.ip()), self.limits())
            {
                self.serve(stream, address, permit);
            }
        }
    }

    /// Tells the health service of each change of phase until the stop, and returns when all
    /// connections have ended, which is soon after.
    pub async fn run(&self) {
        let mut stop = self.0.stop.clone();
        let mut told = None;
        tokio::select! {
            () = self.follow(&mut told) => {}
            () = stopped(&mut stop) => {}
        }
        // The last change may have come together with the stop.
        self.tell(self.0.lifecycle.phase(), &mut told).await;
        self.0.connections.closed().await;
    }

    /// What was turned away so far.
    pub fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// How it stands with the connections, for metrics.
    pub fn callers(&self) -> Callers {
        Callers {
            connections: self.connections() as u64,
            refused: self.refusals().counts(),
            memory: self.0.memory.held(),
        }
    }

    /// Connections there are now.
    pub fn connections(&self) -> usize {
        self.0.connections.receiver_count()
    }

    /// Whether somebody may connect from there. Nothing was read from the connection by then.
    fn is_allowed(&self, address: SocketAddr) -> bool {
        let checked = peer::check_address(address, &self.0.live.snapshot());
        if let Err(why) = checked {
            self.0.refusals.addresses.note(address, "a gRPC connection was refused", why);
        }
        checked.is_ok()
    }

    fn serve(&self, stream: TcpStream, address: SocketAddr, permit: PeerPermit) {
        let counted = self.0.connections.subscribe();
        let server = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _counted = counted;
            let refused = &Arc::clone(&server).refusals.evicted;
            tokio::select! {
                () = connection::serve(server, stream, address, permit.clone()) => {}
                () = permit.evicted() => {
                    let why = "no accepted call, and another needs the place";
                    refused.note(address, "a gRPC connection was closed", why);
                }
            }
        });
    }

    /// A place under `grpc.max_connections`, also when the limit is raised meanwhile.
    async fn place(&self, address: SocketAddr) -> PeerPermit {
        let mut swaps = self.0.live.swaps();
        loop {
            tokio::select! {
                permit = self.0.peers.admit(Some(address.ip()), self.limits()) => return permit,
                () = swaps.next() => {}
            }
        }
    }

    fn limits(&self) -> PeerLimits {
        let config = self.0.live.snapshot();
        PeerLimits::new(config.places(files()).grpc, config.limits.share())
    }

    /// Tells the health service what the phase means, unless that was told before: who watches is
    /// to hear of changes.
    async fn tell(&self, phase: Phase, told: &mut Option<ServingStatus>) {
        let status = serving(phase);
        if *told != Some(status) {
            tell(&self.0.health, status).await;
            *told = Some(status);
        }
    }

    async fn follow(&self, told: &mut Option<ServingStatus>) {
        let mut phase = self.0.lifecycle.watch_phase();
        loop {
            let now = *phase.borrow_and_update();
            self.tell(now, told).await;
            if phase.changed().await.is_err() {
                // Nobody can change the phase any more; the last word stays.
                return std::future::pending().await;
            }
        }
    }
}

/// What all services take and can answer with; [`content`] says when.
const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

fn routes(context: &Context, health: &HealthReporter) -> Result<Routes, server::Error> {
    let health = HealthService::from_health_reporter(health.clone());
    // What is asked there is a name. Health asks for no token, so there are strangers among its callers.
    let routes = Routes::default()
        .add_service(Limited::small(
            reflection("v1").build_v1()?.accept_compressed(GZIP).send_compressed(GZIP),
            context.live.clone(),
            server::v1::ServerReflectionServer::max_decoding_message_size,
        ))
        .add_service(Limited::small(
            reflection("v1alpha").build_v1alpha()?.accept_compressed(GZIP).send_compressed(GZIP),
            context.live.clone(),
            server::v1alpha::ServerReflectionServer::max_decoding_message_size,
        ))
        .add_service(Limited::small(
            HealthServer::new(health).accept_compressed(GZIP).send_compressed(GZIP),
            context.live.clone(),
            HealthServer::max_decoding_message_size,
        ));
    let routes = services::add(routes, context.hub.clone(), &context.live);
    let (hub, events) = (context.hub.clone(), context.events.clone());
    Ok(v1::add(routes, hub, events, &context.live).prepare())
}

/// Lists what is served. What business systems serve to the gateway is described, but not listed.
fn reflection(version: &str) -> server::Builder<'static> {
    // Each version of the reflection service adds the description of itself.
    let builder = server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::CLASSIC)
        .register_encoded_file_descriptor_set(proto::v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let itself = format!("grpc.reflection.{version}.ServerReflection");
    let common = ["grpc.health.v1.Health", &itself];
    let names = services::NAMES.iter().chain(v1::NAMES).chain(&common);
    names.fold(builder, |builder, name| builder.with_service_name(*name))
}

fn serving(phase: Phase) -> ServingStatus {
    match phase {
        Phase::Ready => ServingStatus::Serving,
        Phase::Starting | Phase::Draining | Phase::Stopping => ServingStatus::NotServing,
    }
}

async fn tell(health: &HealthReporter, status: ServingStatus) {
    for service in std::iter::once(&"").chain(services::NAMES).chain(v1::NAMES) {
        health.set_service_status(service, status).await;
    }
}
