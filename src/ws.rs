//! The surface towards browsers, apps and devices: from a TCP connection to a client of the hub.
//!
//! A connection is accepted, held to the limits of a handshake, upgraded, and handed to the hub as
//! a bare socket. What becomes of it then is the shard's; this module forgets it.
//!
//! ```text
//!  accept ─► caller ─► gate ─► PROXY header ─► TLS ─► request ─► hub.adopt
//!             │         │      └─ limits.handshake ────┴─ upgrade::answer says yes or why not,
//!             │         │                                 admission who it is
//!             │         └─ limits.max_handshakes
//!             └─ limits of its address (of a proxy's client as soon as it is known)
//! ```

mod about;
mod addresses;
mod admission;
mod asked;
mod caller;
mod forwarded;
mod handshake;
mod held;
mod options;
mod origin;
mod rehearsal;
mod token;
mod transport;
mod uids;
mod upgrade;

pub use rehearsal::rehearse;
pub use transport::Transport;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::{
    config::{InForce, Live, value::span},
    hook::Hook,
    hub::Hub,
    identity::Identity,
    lifecycle,
    net::{Acceptor, Entrance, Gate, Listener as _, Place, Stop, stopped},
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
    gate: Arc<Gate>,
    addresses: Arc<Addresses>,
    abouts: Arc<Abouts>,
    uids: Arc<Uids>,
}

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
            gate: Arc::default(),
            addresses: Arc::default(),
            abouts: Arc::default(),
            uids: Arc::default(),
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

/// Starts the handshake of one connection as soon as the gate lets it in. Until then nothing else
/// is accepted: the kernel's backlog is the queue. Who is over the limits of its address is let go
/// before the gate.
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
    let place = place(context).await;
    let context = context.clone();
    handshakes.spawn(async move {
        let _place = place;
        let _counted = context.hub.handshakes().under_way.enter();
        let limit = config.limits.handshake;
        let waiting = Waiting::default();
        if timeout(limit, lead(stream, caller, &context, &config, &waiting)).await.is_err() {
            context.hub.handshakes().timeouts.increment();
            let waiting = waiting.get();
            tracing::debug!(%peer, limit = span::format(limit), "waited too long for {waiting}");
        }
    });
}

/// A place under `limits.max_handshakes`, also when the limit is raised meanwhile.
async fn place(context: &Context) -> Option<Place> {
    let mut swaps = context.live.swaps();
    loop {
        let limit = context.live.snapshot().limits.max_handshakes;
        tokio::select! {
            place = context.gate.enter(limit) => return place,
            () = swaps.next() => {}
        }
    }
}

/// From the first byte to the hub: what a proxy says first, then TLS, then the request.
async fn lead(
    (mut stream, transport): (TcpStream, Transport),
    caller: Caller,
    context: &Context,
    config: &InForce,
    waiting: &Waiting,
) {
    let peer = caller.peer();
    let caller = match caller.introduced(&mut stream, config, context).await {
        Ok(caller) => caller,
        Err(unwanted) => return turn_away(peer, &unwanted, context),
    };
    waiting.set("TLS");
    match transport.over(stream, config).await {
        Ok(stream) => {
            waiting.set("a request");
            handshake::run(stream, caller, context, config).await;
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
    tracing::debug!(%peer, reason = %unwanted, "the connection is closed");
}
