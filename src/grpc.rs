//! The surface towards business systems: gRPC.
//!
//! ```text
//!  listeners ─► accept loops ─► tonic ─► limit (grpc.max_message) ─► classic ─► hub
//!                                  ├───► reflection (v1, v1alpha)
//!                                  └───► health, which follows the life of the process
//! ```

mod classic;
mod incoming;
mod limit;
mod meter;
pub mod proto;
mod services;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    service::Routes,
    transport::{self, Error},
};
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, HealthService},
};

use crate::{
    config::Live,
    hub::Hub,
    lifecycle,
    metrics::Calls,
    net::{Entrance, Stop, stopped},
    status::Phase,
};

/// What the calls work with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    hub: Hub,
    live: Live,
    lifecycle: lifecycle::Handle,
    calls: Arc<Calls>,
}

impl Context {
    /// Calls act on `hub` by the rules of `live`; health says what `lifecycle` says.
    pub fn new(hub: Hub, live: Live, lifecycle: lifecycle::Handle) -> Self {
        Self { hub, live, lifecycle, calls: Arc::new(meter::calls()) }
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
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport gave up.
    #[error("gRPC: {0}")]
    Transport(#[from] Error),
}

/// A connection that is silent for so long is asked whether it lives ...
const KEEPALIVE: Duration = Duration::from_secs(20);
/// ... and has so long to answer.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Time that calls under way have when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// The gRPC server: connections come in by any number of entrances. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    give: mpsc::Sender<io::Result<TcpStream>>,
}

impl Server {
    /// Makes the server and the future that serves it until `stop`; calls under way may finish
    /// within two seconds.
    pub fn new(
        context: Context,
        stop: Stop,
    ) -> (Self, impl Future<Output = Result<(), ServeError>>) {
        let (give, take) = mpsc::channel(incoming::WAITING);
        (Self { give }, serve(ReceiverStream::new(take), context, stop))
    }

    /// Accepts at `entrance` until `stop`; connections accepted by then live on.
    pub async fn accept(self, entrance: Entrance, stop: Stop) {
        incoming::feed(entrance, self.give, stop).await;
    }
}

async fn serve(
    connections: ReceiverStream<io::Result<TcpStream>>,
    context: Context,
    mut stop: Stop,
) -> Result<(), ServeError> {
    let config = context.live.snapshot();
    let health = HealthReporter::new();
    let mut phase = context.lifecycle.watch_phase();
    let now = *phase.borrow_and_update();
    tell(&health, now).await;
    let routes = meter::metered(routes(&context, &health)?, Arc::clone(&context.calls));
    let server = transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .max_concurrent_streams(config.grpc.max_streams);
    let mut asked = stop.clone();
    let serving = server.serve_with_incoming_shutdown(routes, connections, async move {
        stopped(&mut asked).await;
    });
    let overdue = async {
        stopped(&mut stop).await;
        sleep(GRACE).await;
    };
    tokio::select! {
        outcome = serving => outcome?,
        () = follow(health, phase) => {}
        // A stream that never ends must not hold the process.
        () = overdue => tracing::debug!("gRPC calls were cut off at the end of the grace"),
    }
    Ok(())
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

/// Says each change of phase to the health service; never ends while there is a process.
async fn follow(health: HealthReporter, mut phase: watch::Receiver<Phase>) {
    while phase.changed().await.is_ok() {
        let now = *phase.borrow_and_update();
        tell(&health, now).await;
    }
    // Nobody can change the phase any more; the last word stays.
    std::future::pending::<()>().await;
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
