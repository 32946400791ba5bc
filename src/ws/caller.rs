//! Who connects: the peer of the socket, or the one for whom a listed proxy connects.
//!
//! ```text
//!  accept ─► arrive ─┬─ not a proxy ─► limits of its address ───────────────────────► Caller
//!                    └─ a proxy ─┬─ proxy: header before all else ─► limits ─────► Caller
//!                                └─ x-forwarded-for: header of the request ─► limits ► Caller
//! ```
//!
//! A listed proxy has to say for whom it connects, and nobody else is believed. The limits of an
//! address are the client's, never those of the proxy that it comes through.

use std::{net::SocketAddr, sync::Arc};

use hyper::HeaderMap;
use tokio::net::TcpStream;

use super::{
    Context,
    addresses::{Over, Stay},
    forwarded,
    upgrade::Refusal,
};
use crate::{
    config::{Config, ProxyHeader},
    net::proxy::{self, Whom},
    shard::ConnectionPermit,
};

/// One who connects, as far as is known.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Its address; as long as `owes` says so, the proxy's.
    peer: SocketAddr,
    /// What a proxy is still to send.
    owes: ProxyHeader,
    stay: Option<Arc<Stay>>,
}

/// Why a connection is closed before its request is read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwanted {
    /// Too much of its address, or too often.
    #[error(transparent)]
    Over(#[from] Over),
    /// A listed proxy that doesn't say for whom it connects.
    #[error("{0}; websocket.proxy_header requires one of websocket.proxies")]
    Proxy(#[source] proxy::Violation),
    /// It is gone.
    #[error(transparent)]
    Broken(std::io::Error),
}

impl Caller {
    /// One who was just accepted.
    pub(super) fn arrive(
        peer: SocketAddr,
        config: &Config,
        context: &Context,
    ) -> Result<Self, Unwanted> {
        let websocket = &config.websocket;
        let caller = Self { peer, owes: websocket.proxy_header, stay: None };
        if websocket.proxy_header != ProxyHeader::None && websocket.proxies.contains(peer.ip()) {
            return Ok(caller);
        }
        Ok(Self::known(peer, config, context)?)
    }

    /// Reads what a proxy sends before everything else.
    pub(super) async fn introduced(
        self,
        stream: &mut TcpStream,
        config: &Config,
        context: &Context,
    ) -> Result<Self, Unwanted> {
        if self.owes != ProxyHeader::Proxy {
            return Ok(self);
        }
        let whom = proxy::read(stream).await.map_err(|error| match error {
            proxy::ReadError::Violation(violation) => Unwanted::Proxy(violation),
            proxy::ReadError::Io(error) => Unwanted::Broken(error),
        })?;
        let peer = self.peer;
        match whom {
            Whom::Client(client) => Ok(Self::known(client, config, context)?),
            // Clients whose address the proxy doesn't know share the proxy's.
            Whom::Unknown => Ok(Self::known(peer, config, context)?),
            // The proxy itself looks whether we live: no limit may tell it that we don't.
            Whom::Proxy => Ok(Self { owes: ProxyHeader::None, ..self }),
        }
    }

    /// Reads what a proxy says in the head of the request.
    pub(super) fn forwarded(
        self,
        headers: &HeaderMap,
        config: &Config,
        context: &Context,
    ) -> Result<Self, Refusal> {
        if self.owes != ProxyHeader::XForwardedFor {
            return Ok(self);
        }
        let client = forwarded::client(headers, &config.websocket.proxies);
        let client = client.ok_or(Refusal::Forwarded)?;
        Self::known(client, config, context).map_err(Refusal::Address)
    }

    /// Who it is.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Takes the permit: it counts for its address until the permit is given back.
    pub(super) fn take(&self, permit: &mut ConnectionPermit) {
        if let Some(stay) = &self.stay {
            permit.keep(Arc::<Stay>::clone(stay));
        }
    }

    /// The one at `peer`, if the limits of that address let it in.
    fn known(peer: SocketAddr, config: &Config, context: &Context) -> Result<Self, Over> {
        let stay = context.addresses.enter(peer.ip(), &config.limits)?;
        Ok(Self { peer, owes: ProxyHeader::None, stay: stay.map(Arc::new) })
    }
}
