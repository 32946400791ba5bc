//! One handshake: from an accepted TCP connection to a bare socket at the hub.
//!
//! hyper reads the request and writes the answer, hyper-tungstenite makes the accept key; then both
//! are taken off the socket again and dropped, so that nothing of them lives as long as the client.
//! With TLS the connection's keys go to the hub together with the socket.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_tungstenite::{HyperWebsocket, tungstenite::protocol::WebSocketConfig};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::{
    Context, admission,
    asked::{self, No},
    caller::Caller,
    held::{Held, Hold, Parts},
    transport::Connection,
    upgrade::{self, Negotiated, Refusal},
};
use crate::{
    change::Change,
    config::{Config, InForce},
    net::{PeerPermit, http::LEAST_HEAD},
    shard::{About, ConnectionPermit, NewConnection},
    wire,
};

/// What became of the request.
enum Outcome {
    /// None came.
    Nothing,
    /// It was answered with an error. If it asked for an upgrade, the connection comes this way, as
    /// hyper neither keeps nor shuts it then.
    Refused(Option<OnUpgrade>),
    /// It was answered with 101.
    Accepted(Box<Accepted>),
}

/// A request that is about to become a client.
struct Accepted {
    websocket: HyperWebsocket,
    permit: ConnectionPermit,
    window: Option<u8>,
    about: Option<Arc<About>>,
    peer: SocketAddr,
    change: Option<Box<Change>>,
}

/// Why an accepted request did not become a client after all.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the connection broke while it was upgraded: {0}")]
    Upgrade(#[from] hyper_tungstenite::tungstenite::Error),
    #[error("the upgraded connection is not the accepted one")]
    Foreign,
    #[error("the socket can't leave the runtime: {0}")]
    Socket(#[from] std::io::Error),
}

/// Leads one connection through its handshake. The caller sets the deadline.
pub(super) async fn run(
    stream: Connection,
    caller: Caller,
    (context, permit): (&Context, &PeerPermit),
    config: &InForce,
) {
    let peer = caller.peer();
    let stats = context.hub.handshakes();
    let outcome = Mutex::new(Outcome::Nothing);
    let hold = Hold::default();
    let service = service_fn(async |request| {
        if upgrade::has_body(&request) {
            hold.expect_body();
        }
        let (response, then) = respond(request, &caller, (context, permit), config).await;
        if let Outcome::Accepted(_) = then {
            hold.begin();
        }
        *outcome.lock().unwrap_or_else(PoisonError::into_inner) = then;
        Ok::<_, Infallible>(response)
    });
    let stream = Held::new(stream, hold.clone(), config.limits.close_wait);
    let served = http(config).serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    match (outcome.into_inner().unwrap_or_else(PoisonError::into_inner), served) {
        (Outcome::Accepted(accepted), Ok(())) => {
            let peer = accepted.peer;
            if let Err(error) = hand_over(*accepted, context).await {
                stats.broken.increment();
                tracing::debug!(%peer, %error, "the client was lost");
            }
        }
        (Outcome::Refused(asked), _) => say_goodbye(asked).await,
        (_, served) => {
            stats.broken.increment();
            let error = served.err().map(|error| error.to_string());
            tracing::debug!(%peer, error, "the connection ended without an upgrade");
        }
    }
}

/// The HTTP server of one handshake, with what `config` lets a request be. It keeps no time: the
/// handshake as a whole has a deadline.
pub(super) fn http(config: &Config) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.max_buf_size(config.limits.head.bytes().max(LEAST_HEAD))
        .max_headers(config.limits.headers);
    http
}

/// Begins the upgrade of a request that was judged to be right; the answer says so.
pub(super) fn begin(
    request: &mut Request<Incoming>,
    negotiated: Negotiated,
) -> Result<(Response<Full<Bytes>>, HyperWebsocket), Refusal> {
    // So the throw-away codec allocates no buffer.
    let codec = WebSocketConfig::default().read_buffer_size(0);
    let (mut response, websocket) =
        hyper_tungstenite::upgrade(request, Some(codec)).map_err(|_| Refusal::Key)?;
    // As RFC 6455 writes it: there are devices that compare the value by case, too.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    negotiated.write(response.headers_mut());
    Ok((response, websocket))
}

/// Answers a request, and says what is to follow once the answer is on its way.
async fn respond(
    request: Request<Incoming>,
    caller: &Caller,
    (context, permit): (&Context, &PeerPermit),
    config: &InForce,
) -> (Response<Full<Bytes>>, Outcome) {
    let mut peer = caller.peer();
    let asked = request.extensions().get::<OnUpgrade>().cloned();
    let accepted = accept(request, caller, &mut peer, (context, permit), config).await;
    accepted.map_or_else(
        |no| {
            count(&no, context);
            if let No::Ours(Refusal::Forwarded) = no {
                context.tell_of_proxy(peer, &no);
            }
            tracing::debug!(%peer, status = no.status().as_u16(), %no, "no upgrade");
            (no.response(), Outcome::Refused(asked))
        },
        |(response, accepted)| (response, Outcome::Accepted(Box::new(accepted))),
    )
}

/// Judges a request and begins its upgrade; `peer` is who asks, as soon as that is known.
async fn accept(
    mut request: Request<Incoming>,
    caller: &Caller,
    peer: &mut SocketAddr,
    (context, permit): (&Context, &PeerPermit),
    config: &InForce,
) -> Result<(Response<Full<Bytes>>, Accepted), No> {
    let caller = caller.clone().forwarded(request.headers(), config, context)?;
    *peer = caller.peer();
    let mut negotiated = upgrade::answer(&request, config)?;
    let token = admission::token(&request, config)?;
    // The request is complete. As long as only we are waited for, nobody takes its place.
    permit.heard();
    let verified = admission::identify(token, context, config).await?;
    permit.prove();
    let asking = asked::ask(&request, *peer, verified, &mut negotiated, context, config);
    let change = asking.await?;
    // The place first: an upgrade that is begun has a client's place to end in.
    let permit = admission::place(&caller, change.as_deref(), context, config).await?;
    let window = negotiated.deflate.map(wire::Agreed::window_bits);
    let about = context.abouts.of(&request, &negotiated, config);
    let (response, websocket) = begin(&mut request, negotiated)?;
    Ok((response, Accepted { websocket, permit, window, about, peer: *peer, change }))
}

fn count(no: &No, context: &Context) {
    let stats = context.hub.handshakes();
    let counter = match no {
        No::Theirs { .. } | No::Ours(Refusal::Unknown(_)) => &stats.hook,
        No::Ours(Refusal::Full | Refusal::Closed | Refusal::Busy) => &stats.full,
        No::Ours(Refusal::Forwarded) => &stats.proxy,
        No::Ours(Refusal::Address(over)) => over.counter(stats),
        No::Ours(Refusal::Token(fault)) => stats.tokens.of(*fault),
        No::Ours(Refusal::Uid) => &stats.uid,
        No::Ours(_) => &stats.refused,
    };
    counter.increment();
}

/// Shuts a connection on which an upgrade was refused, as hyper does others: so that the client can
/// read why.
async fn say_goodbye(asked: Option<OnUpgrade>) {
    let Some(asked) = asked else { return };
    if let Ok(upgraded) = asked.await
        && let Ok(mut parts) = upgraded.downcast::<TokioIo<Held<Connection>>>()
        && let Err(error) = parts.io.inner_mut().shutdown().await
    {
        tracing::debug!(%error, "a client that was refused is gone");
    }
}

/// Takes the bare socket out of the finished upgrade and gives it to the hub.
async fn hand_over(accepted: Accepted, context: &Context) -> Result<(), Broken> {
    let Accepted { websocket, permit, window, about, peer, change } = accepted;
    let upgraded: Upgraded = websocket.await?.into_inner().into_inner();
    let upgraded = upgraded.downcast::<TokioIo<Held<Connection>>>().map_err(|_| Broken::Foreign)?;
    let Parts { stream, unsent: greeting, unread } = upgraded.io.into_inner().into_parts();
    let (stream, tls) = stream.into_parts()?;
    // A copy, because a slice would keep hyper's whole buffer alive; nearly always of nothing.
    let mut leftover = upgraded.read_buf.to_vec();
    leftover.extend(unread);
    context.hub.adopt(NewConnection {
        stream,
        tls,
        greeting,
        leftover,
        peer,
        window,
        about,
        permit,
        change,
    });
    Ok(())
}
