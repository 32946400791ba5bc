//! The whole gateway: puts the parts together, brings them up in order, and takes them down.
//!
//! ```text
//!  bind all listeners ─► start shards ─► start surfaces ─► ready ─► … ─► drain ─► stop
//! ```
//!
//! Everything is bound before anything is served, so a taken port fails the start as a whole and
//! nothing ever listens half-built. What happens afterwards (signals, reloads, drains) is
//! [`supervise`]'s.

mod drain;
mod reload;
mod supervise;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    admin,
    config::{Config, Live},
    config::{Loaded, Source},
    control, grpc,
    hub::Hub,
    lifecycle::{self, Asks},
    net::{self, BindError},
    shard::Threads,
    sink::EventSink,
    status::{Listeners, Phase},
    telemetry, ws,
};

/// What a gateway is started with.
pub struct Options {
    /// The configuration, loaded and checked.
    pub loaded: Loaded,
    /// Where it came from, for reloads.
    pub source: Source,
    /// The handle of the log, to change its level; none leaves the log alone.
    pub telemetry: Option<telemetry::Handle>,
    /// Who listens to the clients.
    pub sink: Arc<dyn EventSink>,
}

/// Why the gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Another gateway owns the control socket, or it can't be made where it was asked for.
    #[error(transparent)]
    Control(#[from] control::PlaceError),
    /// gRPC can't be served.
    #[error(transparent)]
    Grpc(#[from] grpc::ServeError),
    /// The system refuses threads, signals or polls.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Why a running gateway came to an unwanted end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A shard's thread ended although nobody told it to.
    #[error("a shard thread ended unexpectedly; see the lines above")]
    Shard,
    /// A surface ended although nobody told it to.
    #[error("{0}")]
    Surface(String),
}

/// A gateway that is ready.
pub struct Gateway {
    hub: Hub,
    threads: Threads,
    handle: lifecycle::Handle,
    asks: Asks,
    listeners: Listeners,
    live: Live,
    reload: reload::Reloader,
    surfaces: JoinSet<Result<(), String>>,
    /// Ends the accepting of clients.
    stop_websocket: watch::Sender<bool>,
    /// Ends gRPC, once the clients are gone: until then they can still be sent to.
    stop_grpc: watch::Sender<bool>,
    /// Stopped last: whoever asked for the stop is answered over it.
    stop_control: watch::Sender<bool>,
}

/// The sockets of a gateway, bound and not yet served.
struct Bound {
    websocket: Vec<TcpListener>,
    grpc: Vec<TcpListener>,
    admin: Vec<TcpListener>,
    control: Option<control::Socket>,
}

impl Gateway {
    /// Binds all addresses, starts all threads and tasks, and reports ready.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let config = &options.loaded.config;
        let started = Instant::now();
        let bound = Bound::new(config).await?;
        let listeners = bound.listeners()?;
        let live = Live::new(options.loaded.in_force());
        let (hub, threads) = Hub::start(&live, options.sink)?;
        let (handle, asks) = lifecycle::channel();
        let reload = reload::Reloader::new(&options.loaded, options.source, options.telemetry);
        asks.config.send_replace(reload.status());

        let (stop_websocket, websocket_stopping) = watch::channel(false);
        let (stop_grpc, grpc_stopping) = watch::channel(false);
        let (stop_control, control_stopping) = watch::channel(false);
        let mut surfaces = JoinSet::new();
        let context = ws::Context::new(hub.clone(), live.clone(), handle.clone());
        for listener in bound.websocket {
            let serving = ws::serve(listener, context.clone(), websocket_stopping.clone());
            surfaces.spawn(async {
                serving.await;
                Ok(())
            });
        }
        let context = grpc::Context::new(hub.clone(), live.clone(), handle.clone());
        let server = grpc::Server::new(context, grpc_stopping.clone()).await?;
        for listener in bound.grpc {
            let (server, stop) = (server.clone(), grpc_stopping.clone());
            surfaces.spawn(async move {
                server.accept(listener, stop).await;
                Ok(())
            });
        }
        surfaces.spawn(async move {
            server.run().await;
            Ok(())
        });
        for listener in bound.admin {
            let serving = admin::serve(listener, handle.clone(), control_stopping.clone());
            surfaces.spawn(async {
                serving.await;
                Ok(())
            });
        }
        if let Some(socket) = bound.control {
            let context =
                control::Context::new(hub.clone(), handle.clone(), listeners.clone(), started);
            let serving = control::serve(socket, context, control_stopping);
            surfaces.spawn(async {
                serving.await;
                Ok(())
            });
        }
        asks.phase.send_replace(Phase::Ready);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            websocket = %list(&listeners.websocket),
            grpc = %list(&listeners.grpc),
            admin = %list(&listeners.admin),
            control = listeners.control.as_ref().map(|path| tracing::field::display(path.display())),
            shards = config.resolved_shards(),
            max_clients = config.limits.max_clients(crate::config::machine::files()),
            "ready"
        );
        Ok(Self {
            hub,
            threads,
            handle,
            asks,
            listeners,
            live,
            reload,
            surfaces,
            stop_websocket,
            stop_grpc,
            stop_control,
        })
    }

    /// Where it listens.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Reaches the clients.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Asks for a change of its life, from within the process.
    pub fn handle(&self) -> &lifecycle::Handle {
        &self.handle
    }
}

/// Addresses as one writes them.
fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Bound {
    async fn new(config: &Config) -> Result<Self, StartError> {
        // The control socket first: if another gateway owns it, its name says more than a taken
        // port does.
        let control = match control::Socket::bind(config.control.socket.set().map(PathBuf::as_path))
            .await
        {
            Ok(socket) => Some(socket),
            Err(control::PlaceError::NoPlace(no_place)) => {
                tracing::warn!(
                    "no control socket: {no_place}; the commands status, stop, reload and drain \
                     will not find this process. Set control.socket to a writable path"
                );
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            websocket: net::bind_all(&config.websocket.listen.0, "websocket.listen")?,
            grpc: net::bind_all(&config.grpc.listen.0, "grpc.listen")?,
            admin: net::bind_all(&config.admin.listen.0, "admin.listen")?,
            control,
        })
    }

    fn listeners(&self) -> io::Result<Listeners> {
        let addresses = |listeners: &[TcpListener]| {
            listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()
        };
        Ok(Listeners {
            websocket: addresses(&self.websocket)?,
            grpc: addresses(&self.grpc)?,
            admin: addresses(&self.admin)?,
            control: self.control.as_ref().map(|socket| socket.path().to_owned()),
        })
    }
}
