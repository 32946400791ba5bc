//! The listeners: a set, told apart by surface and address, that a reload may change.
//!
//! ```text
//!  start:   bind all ───────────────────────────────► serve each
//!  reload:  bind what is new ─► (all is well) swap ─► serve it ─► close what is gone
//!                └ a fault: drop it again, nothing has happened
//! ```
//!
//! A listener that closes accepts whoever waits already, and what it accepted lives on. Sockets that
//! systemd handed over stand in place of a surface's setting and are never changed.

use std::{io, net::SocketAddr};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    admin,
    config::{Config, check::is_open, value::Listen},
    grpc,
    net::{self, BindError, Entrance, ListenAddress},
    status::Listeners,
    ws::{self, Transport},
};

/// What a listener leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// WebSocket clients.
    WebSocket,
    /// WebSocket clients over TLS.
    Tls,
    /// Business systems.
    Grpc,
    /// Probes.
    Admin,
}

impl Surface {
    /// Every surface, in the order in which they are bound.
    pub const ALL: [Self; 4] = [Self::WebSocket, Self::Tls, Self::Grpc, Self::Admin];

    /// The name of its section, which is also the name of its sockets in `LISTEN_FDNAMES`.
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Tls => "tls",
            Self::Grpc => "grpc",
            Self::Admin => "admin",
        }
    }

    /// The setting that says where it listens.
    pub fn key(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket.listen",
            Self::Tls => "tls.listen",
            Self::Grpc => "grpc.listen",
            Self::Admin => "admin.listen",
        }
    }

    fn listen(self, config: &Config) -> &Listen {
        match self {
            Self::WebSocket => &config.websocket.listen,
            Self::Tls => &config.tls.listen,
            Self::Grpc => &config.grpc.listen,
            Self::Admin => &config.admin.listen,
        }
    }
}

/// What the surfaces work with.
pub(super) struct Contexts {
    pub(super) websocket: ws::Context,
    pub(super) grpc: grpc::Server,
    pub(super) admin: admin::Admin,
}

/// A listener that is bound and not yet served, with all that serving it takes: nothing can fail
/// any more.
#[derive(Debug)]
pub(super) struct Bound {
    surface: Surface,
    /// The address as it was asked for, with port 0 perhaps; none if it was inherited.
    wish: Option<ListenAddress>,
    address: SocketAddr,
    /// A second handle of the socket, for whoever listens beside it later.
    socket: socket2::Socket,
    entrance: Entrance,
}

/// A listener that is being served.
struct Open {
    surface: Surface,
    wish: Option<ListenAddress>,
    address: SocketAddr,
    socket: socket2::Socket,
    stop: watch::Sender<bool>,
}

/// The listeners that are being served.
pub(super) struct Set {
    contexts: Contexts,
    open: Vec<Open>,
    shown: watch::Sender<Listeners>,
    /// Ends when its listener does, with an error if nobody asked for that.
    tasks: JoinSet<Result<(), String>>,
}

/// What has to happen for the set to be as a configuration says.
#[derive(Debug)]
pub(super) struct Change {
    new: Vec<Bound>,
    gone: Vec<(Surface, SocketAddr)>,
}

/// Why it can't be listened as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There are no descriptors left, for example.
    #[error("cannot serve a listener ({key}): {source}")]
    Unservable {
        /// The setting that names its address.
        key: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A socket was handed over that would let anybody call.
    #[error(
        "the socket handed over as \"grpc\" listens on {0}, beyond this machine, where it needs one of \
         grpc.allow, grpc.token_files and grpc.client_ca (grpc.unprotected = true insists)"
    )]
    Unprotected(SocketAddr),
    /// A socket was handed over for wss, and there is no certificate.
    #[error("the socket handed over as \"tls\" needs tls.certificate and tls.key")]
    NoCertificate,
}

/// Whether `config` allows to serve an inherited socket. Of the others it has been checked where
/// they listen.
fn may_serve(surface: Surface, address: SocketAddr, config: &Config) -> Result<(), ListenError> {
    let grpc = &config.grpc;
    match surface {
        Surface::Grpc
            if !address.ip().to_canonical().is_loopback() && is_open(grpc) && !grpc.unprotected =>
        {
            Err(ListenError::Unprotected(address))
        }
        Surface::Tls if config.tls.certificate.as_os_str().is_empty() => {
            Err(ListenError::NoCertificate)
        }
        _ => Ok(()),
    }
}

/// Binds everything that `config` asks for, but for surfaces that have inherited sockets.
pub(super) fn bind(
    config: &Config,
    inherited: Vec<(Surface, TcpListener)>,
) -> Result<Vec<Bound>, ListenError> {
    let given: Vec<Surface> = inherited.iter().map(|(surface, _)| *surface).collect();
    let mut bound = Vec::new();
    for (surface, listener) in inherited {
        let inherited = Bound::new(surface, None, Entrance::inherited(listener))?;
        may_serve(surface, inherited.address, config)?;
        bound.push(inherited);
    }
    let held: Vec<_> = bound.iter().map(|bound| bound.address).collect();
    for (surface, wish) in wishes(config, &given, &held) {
        let listener = net::bind_beside(wish, surface.key(), &[])?;
        bound.push(Bound::new(surface, Some(wish), Entrance::own(listener))?);
    }
    Ok(bound)
}

/// Where `config` says to listen, but for surfaces with inherited sockets, which listen on `held`.
fn wishes(
    config: &Config,
    inherited: &[Surface],
    held: &[SocketAddr],
) -> Vec<(Surface, ListenAddress)> {
    let surfaces = Surface::ALL.into_iter().filter(|surface| !inherited.contains(surface));
    let listed: Vec<(Surface, SocketAddr)> = surfaces
        .flat_map(|surface| surface.listen(config).0.iter().map(move |&address| (surface, address)))
        .collect();
    let all = || listed.iter().map(|(_, address)| *address).chain(held.iter().copied());
    listed
        .iter()
        .map(|&(surface, address)| (surface, ListenAddress::among(address, all())))
        .collect()
}

impl Bound {
    fn new(
        surface: Surface,
        wish: Option<ListenAddress>,
        entrance: Entrance,
    ) -> Result<Self, ListenError> {
        let unservable = |source| ListenError::Unservable { key: surface.key(), source };
        let address = entrance.address().map_err(unservable)?;
        let socket = entrance.handle().map_err(unservable)?;
        Ok(Self { surface, wish, address, socket, entrance })
    }
}

impl Set {
    /// Serves what is bound. The control socket's path is only shown.
    pub(super) fn serve(
        contexts: Contexts,
        bound: Vec<Bound>,
        control: Option<std::path::PathBuf>,
    ) -> Self {
        let (shown, _) = watch::channel(Listeners { control, ..Listeners::default() });
        let mut set = Self { contexts, open: Vec::new(), shown, tasks: JoinSet::new() };
        for bound in bound {
            set.open(bound);
        }
        set.show();
        set
    }

    /// Where it listens, now and later.
    pub(super) fn shown(&self) -> watch::Receiver<Listeners> {
        self.shown.subscribe()
    }

    /// The settings that are out of force because their sockets were inherited.
    pub(super) fn pinned(&self) -> Vec<Surface> {
        let pinned = |surface: &Surface| {
            self.open.iter().any(|open| open.surface == *surface && open.wish.is_none())
        };
        Surface::ALL.into_iter().filter(pinned).collect()
    }

    /// Binds what `config` asks for and is not there yet. Nothing has changed until the answer is
    /// [`apply`](Self::apply)d; dropping it closes what was bound.
    pub(super) fn prepare(&self, config: &Config) -> Result<Change, ListenError> {
        for open in self.open.iter().filter(|open| open.wish.is_none()) {
            may_serve(open.surface, open.address, config)?;
        }
        let pinned = self.pinned();
        let mut gone: Vec<&Open> = self.open.iter().filter(|open| open.wish.is_some()).collect();
        let mut wanted = Vec::new();
        let held = self.open.iter().filter(|open| open.wish.is_none());
        let held: Vec<_> = held.map(|open| open.address).collect();
        for (surface, wish) in wishes(config, &pinned, &held) {
            let same = |open: &&Open| open.surface == surface && open.wish == Some(wish);
            match gone.iter().position(same) {
                Some(at) => drop(gone.swap_remove(at)),
                None => wanted.push((surface, wish)),
            }
        }
        let mut new = Vec::new();
        for (surface, wish) in wanted {
            let port = wish.address.port();
            let overlapping = gone.iter().filter(|open| open.address.port() == port);
            let others: Vec<_> = overlapping.map(|open| &open.socket).collect();
            let listener = net::bind_beside(wish, surface.key(), &others)?;
            new.push(Bound::new(surface, Some(wish), Entrance::own(listener))?);
        }
        let gone = gone.iter().map(|open| (open.surface, open.address)).collect();
        Ok(Change { new, gone })
    }

    /// Serves what is new and closes what is gone. Nothing of it can fail, as by now the rest of
    /// the configuration is in force.
    pub(super) fn apply(&mut self, change: Change) {
        for (surface, address) in change.gone {
            let is_it = |open: &Open| open.surface == surface && open.address == address;
            if let Some(at) = self.open.iter().position(is_it) {
                let open = self.open.swap_remove(at);
                open.stop.send_replace(true);
                tracing::info!(surface = surface.name(), %address, "no longer listening");
            }
        }
        for bound in change.new {
            tracing::info!(surface = bound.surface.name(), address = %bound.address, "listening");
            self.open(bound);
        }
        self.show();
    }

    /// Closes the listeners of some surfaces. That is done at once; the future waits until they
    /// have let go of what they had begun, and may be dropped.
    pub(super) fn close(&mut self, surfaces: &[Surface]) -> impl Future<Output = ()> + use<> {
        let closing = self.open.extract_if(.., |open| surfaces.contains(&open.surface));
        let closing: Vec<_> = closing.map(|open| open.stop).collect();
        for stop in &closing {
            stop.send_replace(true);
        }
        self.show();
        async move {
            for stop in closing {
                // The other end is the listener's task's.
                stop.closed().await;
            }
        }
    }

    /// Waits until a listener has ended although nobody asked for it.
    pub(super) async fn failed(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return error.to_string(),
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until all listeners that were closed have let go of what they had begun.
    pub(super) async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    fn open(&mut self, bound: Bound) {
        let Bound { surface, wish, address, socket, entrance } = bound;
        let (stop, stopping) = watch::channel(false);
        let told = stopping.clone();
        let (websocket, grpc, admin) = (
            self.contexts.websocket.clone(),
            self.contexts.grpc.clone(),
            self.contexts.admin.clone(),
        );
        self.tasks.spawn(async move {
            match surface {
                Surface::WebSocket => {
                    ws::serve(entrance, Transport::Plain, websocket, stopping).await;
                }
                Surface::Tls => ws::serve(entrance, Transport::Tls, websocket, stopping).await,
                Surface::Grpc => grpc.accept(entrance, stopping).await,
                Surface::Admin => admin.serve(entrance, stopping).await,
            }
            if *told.borrow() {
                return Ok(());
            }
            Err(format!("the listener {address} ({}) ended unexpectedly", surface.key()))
        });
        self.open.push(Open { surface, wish, address, socket, stop });
    }

    fn show(&self) {
        let of = |surface: Surface| {
            let open = self.open.iter().filter(move |open| open.surface == surface);
            open.map(|open| open.address).collect()
        };
        self.shown.send_modify(|shown| {
            shown.websocket = of(Surface::WebSocket);
            shown.tls = of(Surface::Tls);
            shown.grpc = of(Surface::Grpc);
            shown.admin = of(Surface::Admin);
        });
    }
}

/// Lets the setting of a surface with inherited sockets be what it was.
pub(super) fn carry_over(surface: Surface, old: &Config, new: &mut Config) {
    match surface {
        Surface::WebSocket => new.websocket.listen.clone_from(&old.websocket.listen),
        Surface::Tls => new.tls.listen.clone_from(&old.tls.listen),
        Surface::Grpc => new.grpc.listen.clone_from(&old.grpc.listen),
        Surface::Admin => new.admin.listen.clone_from(&old.admin.listen),
    }
}
