//! The surface towards browsers, apps and devices: from a TCP connection to a client of the hub.
//!
//! A connection is accepted, held to the limits of a handshake, upgraded, and handed to the hub as
//! a bare socket. What becomes of it then is the shard's; this module forgets it.
//!
//! ```text
//!  accept ─► caller ─► place ─► PROXY header ─► TLS ─► request ─► hub.adopt
//!             │         │       └─ limits.handshake ────┴─ upgrade::answer says yes or why not,
//!             │         │                                  admission who it is
//!             │         └─ limits.max_handshakes, limits.address_share
//!             └─ limits of its address (of a proxy's client as soon as it is known)
//! ```

mod about;
mod addresses;
mod admission;
mod asked;
mod caller;
mod elements;
mod forwarded;
mod handshake;
mod held;
mod options;
mod origin;
mod rehearsal;
mod spelling;
mod target;
mod token;
mod transport;
mod uids;
mod upgrade;

pub use rehearsal::rehearse;
pub use transport::Transport;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::{
    config::{InForce, Live, machine::files, value::span},
    hook::Hook,
    hub::Hub,
    identity::Identity,
    lifecycle,
    net::{
        Acceptor, Entrance, Listener as _, PeerLimits, PeerPermit, PeerTable, Stop, ToldOfEach,
        stopped,
    },
};
use about::Abouts;
use addresses::Addresses;
use caller::{Caller, Unwanted};
use uids::Uids;

/// What the handshakes work with; shared by all WebSocket listeners. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    hub: Hub,
    live: Live,
    lifecycle: lifecycle::Handle,
    identity: Identity,
    hook: Hook,
    peers: PeerTable,
    addresses: Arc<Addresses>,
    abouts: Arc<Abouts>,
    uids: Arc<Uids>,
    /// The listed proxies that were refused, for the log.
    refused_proxies: Arc<ToldOfEach<IpAddr>>,
}

/// A proxy that is refused is told of this often.
const TELL_OF_A_PROXY: Duration = Duration::from_mins(1);

impl Context {
    /// Handshakes make clients of `hub`, by the rules of `live`, while `lifecycle` says ready; who
    /// they are, `identity` says, and whether they may come, `hook`.
    pub fn new(
        hub: Hub,
        live: Live,
        lifecycle: lifecycle::Handle,
        identity: Identity,
        hook: Hook,
    ) -> Self {
        Self {
            hub,
            live,
            lifecycle,
            identity,
            hook,
            peers: PeerTable::default(),
            addresses: Arc::default(),
            abouts: Arc::default(),
            uids: Arc::default(),
            refused_proxies: Arc::new(ToldOfEach::new(TELL_OF_A_PROXY)),
        }
    }

    /// Tells the log that one of `websocket.proxies` is refused: its clients can't come in, and
    /// whoever set it up has to know why.
    fn tell_of_proxy(&self, proxy: SocketAddr, reason: &dyn fmt::Display) {
        if let Some(not_told) = self.refused_proxies.note(proxy.ip(), Instant::now()) {
            tracing::warn!(peer = %proxy, %reason, not_told, "a proxy is refused");
        }
    }
}

/// As many connections as can wait in the kernel's backlog: so many are still accepted when the
/// listener stops, and so many may have been there before the listener's options.
const REST: usize = 4096;

/// Accepts WebSocket clients until `stop`, those that wait by then included; returns when their
/// handshakes are over, each of which `limits.handshake` bounds.
pub async fn serve(entrance: Entrance, transport: Transport, context: Context, mut stop: Stop) {
    let mut acceptor = Acceptor::new(entrance, "websocket");
    let mut inherited = context.live.snapshot();
    options::set(acceptor.listener(), &inherited);
    let mut handshakes = JoinSet::new();
    let (mut rest, mut without_options) = (REST, REST);
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = stopped(&mut stop) => match acceptor.listener().waiting() {
                Some(connection) if rest > 0 => {
                    rest -= 1;
                    connection
                }
                _ => break,
            },
            connection = acceptor.next() => connection,
        };
        let config = context.live.snapshot();
        if !Arc::ptr_eq(&inherited, &config) {
            options::set(acceptor.listener(), &config);
            inherited = Arc::clone(&config);
            without_options = REST;
        }
        if without_options > 0 {
            without_options -= 1;
            options::set(&stream, &config);
        }
        // Who was accepted is let in even if it is time to stop meanwhile.
        admit((stream, transport), peer, config, &context, &mut handshakes).await;
        while handshakes.try_join_next().is_some() {}
    }
    drop(acceptor);
    while handshakes.join_next().await.is_some() {}
}

/// Starts the handshake of one connection as soon as there is a place. Until then nothing else is
/// accepted: the kernel's backlog is the queue. Who is over the limits of its address is let go
/// before that.
async fn admit(
    stream: (TcpStream, Transport),
    peer: SocketAddr,
    config: Arc<InForce>,
    context: &Context,
    handshakes: &mut JoinSet<()>,
) {
    context.hub.handshakes().accepted.increment();
    let caller = match Caller::arrive(peer, &config, context) {
        Ok(caller) => caller,
        Err(unwanted) => return turn_away(peer, &unwanted, context),
    };
    let permit = place(peer, context).await;
    let context = context.clone();
    handshakes.spawn(async move {
        let _counted = context.hub.handshakes().under_way.enter();
        let limit = config.limits.handshake;
        let waiting = Waiting::default();
        let leading = lead(stream, caller, (&context, &permit), &config, &waiting);
        tokio::select! {
            biased;
            led = timeout(limit, leading) => if led.is_err() {
                context.hub.handshakes().timeouts.increment();
                let waiting = waiting.get();
                tracing::debug!(%peer, limit = span::format(limit), "waited too long for {waiting}");
            },
            () = permit.evicted() => {
                context.hub.handshakes().evicted.increment();
                let waiting = waiting.get();
                tracing::debug!(%peer, "has made room for another, which waited for {waiting}");
            }
        }
    });
}

/// A place under `limits.max_handshakes`, also when the limit is raised meanwhile. Proxies that are
/// listed connect for many, so they are held to no share.
async fn place(peer: SocketAddr, context: &Context) -> PeerPermit {
    let mut swaps = context.live.swaps();
    loop {
        let (address, limits) = {
            let config = context.live.snapshot();
            let listed = config.websocket.proxies.contains(peer.ip());
            let places = config.places(files()).handshakes;
            ((!listed).then(|| peer.ip()), PeerLimits::new(places, config.limits.share()))
        };
        tokio::select! {
            permit = context.peers.admit(address, limits) => return permit,
            () = swaps.next() => {}
        }
    }
}

/// From the first byte to the hub: what a proxy says first, then TLS, then the request.
async fn lead(
    (mut stream, transport): (TcpStream, Transport),
    caller: Caller,
    (context, permit): (&Context, &PeerPermit),
    config: &InForce,
    waiting: &Waiting,
) {
    let peer = caller.peer();
    let caller = match caller.introduced(&mut stream, config, context).await {
        Ok(caller) => caller,
        Err(unwanted) => return turn_away(peer, &unwanted, context),
    };
    waiting.set("TLS");
    match transport.over(stream, config, permit).await {
        Ok(stream) => {
            waiting.set("a request");
            handshake::run(stream, caller, (context, permit), config).await;
        }
        Err(error) => {
            context.hub.handshakes().tls.increment();
            tracing::debug!(peer = %caller.peer(), %error, "no TLS");
        }
    }
}

/// What a handshake is waiting for, for the log.
struct Waiting(Mutex<&'static str>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Mutex::new("a proxy's header"))
    }
}

impl Waiting {
    fn set(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn get(&self) -> &'static str {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a connection that is closed without an answer.
fn turn_away(peer: SocketAddr, unwanted: &Unwanted, context: &Context) {
    let stats = context.hub.handshakes();
    let counter = match unwanted {
        Unwanted::Over(over) => over.counter(stats),
        Unwanted::Proxy(_) => &stats.proxy,
        Unwanted::Broken(_) => &stats.broken,
    };
    counter.increment();
    if let Unwanted::Proxy(_) = unwanted {
        context.tell_of_proxy(peer, unwanted);
    }
    tracing::debug!(%peer, reason = %unwanted, "the connection is closed");
}
