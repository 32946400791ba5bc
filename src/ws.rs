//! The surface towards browsers, apps and devices: from a TCP connection to a client of the hub.
//!
//! A connection is accepted, held to the limits of a handshake, upgraded, and handed to the hub as
//! a bare socket. What becomes of it then is the shard's; this module forgets it.
//!
//! ```text
//!  accept ─► gate (limits.max_handshakes) ─► handshake (limits.handshake) ─► hub.adopt
//!                                             ├ TLS, if the listener is of that kind
//!                                             └ upgrade::answer says yes or why not
//! ```

mod gate;
mod handshake;
mod held;
mod options;
mod rehearsal;
mod transport;
mod upgrade;

pub use rehearsal::rehearse;
pub use transport::Transport;

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::{
    config::{InForce, Live},
    hub::Hub,
    lifecycle,
    net::{Acceptor, Entrance, Listener as _, Stop, stopped},
};
use gate::Gate;

/// What the handshakes work with; shared by all WebSocket listeners. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    hub: Hub,
    live: Live,
    lifecycle: lifecycle::Handle,
    gate: Arc<Gate>,
}

impl Context {
    /// Handshakes make clients of `hub`, by the rules of `live`, while `lifecycle` says ready.
    pub fn new(hub: Hub, live: Live, lifecycle: lifecycle::Handle) -> Self {
        Self { hub, live, lifecycle, gate: Arc::default() }
    }
}

/// Accepts WebSocket clients until `stop`, those that wait by then included; returns when their
/// handshakes are over, each of which `limits.handshake` bounds.
pub async fn serve(entrance: Entrance, transport: Transport, context: Context, mut stop: Stop) {
    let mut acceptor = Acceptor::new(entrance, "websocket");
    let mut inherited = context.live.snapshot();
    options::set(acceptor.listener(), &inherited);
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            (stream, peer) = acceptor.next() => {
                let config = context.live.snapshot();
                if !Arc::ptr_eq(&inherited, &config) {
                    options::set(acceptor.listener(), &config);
                    options::set(&stream, &config);
                    inherited = Arc::clone(&config);
                }
                tokio::select! {
                    () = stopped(&mut stop) => break,
                    () = admit((stream, transport), peer, config, &context, &mut handshakes) => {}
                }
            }
        }
        while handshakes.try_join_next().is_some() {}
    }
    while let Some((stream, peer)) = acceptor.listener().waiting() {
        let config = context.live.snapshot();
        admit((stream, transport), peer, config, &context, &mut handshakes).await;
    }
    drop(acceptor);
    while handshakes.join_next().await.is_some() {}
}

/// Starts the handshake of one connection as soon as the gate lets it in. Until then nothing else
/// is accepted: the kernel's backlog is the queue.
async fn admit(
    stream: (TcpStream, Transport),
    peer: SocketAddr,
    config: Arc<InForce>,
    context: &Context,
    handshakes: &mut JoinSet<()>,
) {
    context.hub.handshakes().accepted.increment();
    let place = context.gate.enter(config.limits.max_handshakes).await;
    let context = context.clone();
    handshakes.spawn(async move {
        let _place = place;
        let limit = config.limits.handshake;
        if timeout(limit, handshake::run(stream, peer, &context, &config)).await.is_err() {
            context.hub.handshakes().timeouts.increment();
            tracing::debug!(%peer, ?limit, "the handshake took too long");
        }
    });
}
