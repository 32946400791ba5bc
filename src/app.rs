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
mod listeners;
mod pulse;
mod reload;
mod stop_time;
mod supervise;
mod systemd;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};

pub use listeners::{ListenError, Surface};
pub use systemd::InheritError;

use crate::{
    admin,
    config::{Config, Live, Loaded, Source, Watch},
    control,
    events::Events,
    grpc,
    hook::Hook,
    hub::Hub,
    identity::{self, Identity, KeySource},
    lifecycle::{self, Asks},
    net::{PeerTable, stopped},
    shard::{Clock, Threads},
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
    /// Who listens to the clients in place of the gateway's own [`Events`].
    pub sink: Option<Arc<dyn EventSink>>,
    /// Sockets that listen already, in place of what the configuration says of their surfaces.
    pub inherited: Vec<(Surface, TcpListener)>,
    /// What the shards go by.
    pub clock: Clock,
}

/// Why the gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is not to be had, or may not be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Another gateway owns the control socket, or it can't be made where it was asked for.
    #[error(transparent)]
    Control(#[from] control::PlaceError),
    /// The service manager handed over something else than listeners.
    #[error(transparent)]
    Inherit(#[from] InheritError),
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
    /// At the stop, threads of shards did not end.
    #[error("{0} did not end when told to; the clients that were left there are cut off")]
    Stuck(String),
}

/// A gateway that is ready.
pub struct Gateway {
    hub: Hub,
    events: Events,
    threads: Threads,
    handle: lifecycle::Handle,
    asks: Asks,
    live: Live,
    reload: reload::Reloader,
    listeners: listeners::Set,
    /// Watches the files of the configuration, or none if `reload.watch` says so.
    watch: Watch,
    /// The drain under way, if there is one.
    drain: Option<drain::Drain>,
    /// What is behind the listeners: the gRPC server; the control socket; the shards' pulse.
    surfaces: JoinSet<Result<(), String>>,
    /// Ends gRPC, once the clients are gone: until then they can still be sent to.
    stop_grpc: watch::Sender<bool>,
    /// Stopped last: whoever asked for the stop is answered over it.
    stop_control: watch::Sender<bool>,
}

impl Gateway {
    /// The sockets that the service manager listens on for this process. To be called once, within
    /// a tokio runtime.
    pub fn inherited() -> Result<Vec<(Surface, TcpListener)>, InheritError> {
        systemd::inherited()
    }

    /// Binds all addresses, starts all threads and tasks, and reports ready.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let config = &options.loaded.config;
        let started = Instant::now();
        // The control socket first: if another gateway owns it, its name says more than a taken
        // port does.
        let control = control_socket(config).await?;
        let bound = listeners::bind(config, options.inherited)?;
        let live = Live::new(options.loaded.in_force());
        let events = Events::new(&live);
        let sink = options.sink.unwrap_or_else(|| Arc::new(events.clone()));
        let (hub, threads) = Hub::start(&live, sink, options.clock)?;
        let (handle, asks) = lifecycle::channel();
        let reload = reload::Reloader::new(&options.loaded, options.source, options.telemetry);
        asks.config.send_replace(reload.status());

        let (stop_grpc, grpc_stopping) = watch::channel(false);
        let (stop_control, control_stopping) = watch::channel(false);
        let mut surfaces = JoinSet::new();
        let context = grpc::Context::new(hub.clone(), events.clone(), live.clone(), handle.clone());
        let calls = Arc::clone(context.calls());
        let grpc = grpc::Server::new(context, grpc_stopping).await?;
        let server = grpc.clone();
        surfaces.spawn(async move {
            server.run().await;
            Ok(())
        });
        let counted = grpc.clone();
        let hook = Hook::new(live.clone());
        let controllers = PeerTable::default();
        let told = admin::Context {
            hub: hub.clone(),
            live: live.clone(),
            lifecycle: handle.clone(),
            calls,
            callers: Box::new(move || counted.callers()),
            hook: Arc::clone(hook.stats()),
            reloads: Arc::clone(reload.counters()),
            events: events.clone(),
            peers: PeerTable::default(),
            control: controllers.clone(),
        };
        let (source, keeper) = KeySource::new();
        let keeping = identity::keep(keeper, live.clone(), hub.clone());
        let mut stopping = control_stopping.clone();
        surfaces.spawn(async move {
            tokio::select! {
                () = keeping => {}
                () = stopped(&mut stopping) => {}
            }
            Ok(())
        });
        let identity = Identity::new(source);
        let contexts = listeners::Contexts {
            websocket: ws::Context::new(hub.clone(), live.clone(), handle.clone(), identity, hook),
            grpc,
            admin: admin::Admin::new(told),
        };
        let path = control.as_ref().map(|socket| socket.path().to_owned());
        let listeners = listeners::Set::serve(contexts, bound, path);
        let pulse = pulse::keep(hub.clone(), handle.clone(), control_stopping.clone());
        surfaces.spawn(async {
            pulse.await;
            Ok(())
        });
        let watch = Watch::new(&reload.files(config), options.loaded.read_at);
        asks.phase.send_replace(Phase::Ready);
        say_ready(config, &listeners.shown().borrow());
        systemd::ready();
        // Last, so that whoever it answers finds the gateway in service.
        if let Some(socket) = control {
            let shown = listeners.shown();
            let (hub, handle) = (hub.clone(), handle.clone());
            let context =
                control::Context::new(hub, handle, live.clone(), shown, started, controllers);
            let serving = control::serve(socket, context, control_stopping);
            surfaces.spawn(async {
                serving.await;
                Ok(())
            });
        }
        Ok(Self {
            hub,
            events,
            threads,
            handle,
            asks,
            live,
            reload,
            listeners,
            watch,
            drain: None,
            surfaces,
            stop_grpc,
            stop_control,
        })
    }

    /// Where it listens.
    pub fn listeners(&self) -> Listeners {
        self.listeners.shown().borrow().clone()
    }

    /// Reaches the clients.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// What its clients do.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Asks for a change of its life, from within the process.
    pub fn handle(&self) -> &lifecycle::Handle {
        &self.handle
    }
}

async fn control_socket(config: &Config) -> Result<Option<control::Socket>, StartError> {
    match control::Socket::bind(config.control.socket.set().map(PathBuf::as_path)).await {
        Ok(socket) => Ok(Some(socket)),
        Err(control::PlaceError::NoPlace(no_place)) => {
            tracing::warn!(
                "no control socket: {no_place}; the commands status, stop, reload and drain \
                 will not find this process. Set control.socket to a writable path"
            );
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn say_ready(config: &Config, listeners: &Listeners) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        websocket = %list(&listeners.websocket),
        tls = %list(&listeners.tls),
        grpc = %list(&listeners.grpc),
        admin = %list(&listeners.admin),
        control = listeners.control.as_ref().map(|path| tracing::field::display(path.display())),
        shards = config.resolved_shards(),
        max_clients = config.places(crate::config::machine::files()).clients,
        "ready"
    );
}

/// Addresses as one writes them.
fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
