//! A small HTTP/1.1 server for probes and commands: few connections, short requests, no bodies in.
//!
//! Everything a peer can hold has a bound: connections, the head's size and time, the answer's time
//! until it is found, and until it is taken.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::unix::UCred,
    task::JoinSet,
    time::timeout,
};

use super::{
    Acceptor, Listener, Patience, PeerLimits, PeerPermit, PeerTable, Stop, Timely, stopped,
};

/// The answers of this server: small and whole.
pub type Answer = Response<Full<Bytes>>;

/// What a peer may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once. One more takes the place of the one that is idle longest.
    pub peers: PeerLimits,
    /// Bytes of a request's head; below 8 KiB it is 8 KiB.
    pub head: usize,
    /// Time for a head to arrive, and for which an idle connection is kept.
    pub head_time: Duration,
    /// Time for an answer to be found; none leaves it to the handler.
    pub answer_time: Option<Duration>,
    /// Time for the peer to take an answer.
    pub taking_time: Duration,
    /// Time that answers under way have when the server stops.
    pub grace: Duration,
}

/// The least buffer hyper works with.
pub const LEAST_HEAD: usize = 8192;

/// Serves `handler` until `stop`, then lets answers under way finish within `bounds.grace`. Each
/// connection is asked for its `bounds`; the connections are counted in `peers`.
///
/// A request of a process that the kernel vouches for has its [`UCred`] among its extensions.
pub async fn serve<L, H, F>(
    mut acceptor: Acceptor<L>,
    peers: PeerTable,
    bounds: impl Fn() -> Bounds,
    handler: H,
    mut stop: Stop,
) where
    L: Listener,
    L::Stream: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut connect = |stream: L::Stream, permit: PeerPermit, stop: Stop| {
        let process = L::process(&stream);
        let peer = (process, permit.clone());
        let connection = connection(stream, peer, bounds(), handler.clone(), stop);
        connections.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = permit.evicted() => tracing::debug!("an idle HTTP connection makes room"),
            }
        });
        while connections.try_join_next().is_some() {}
    };
    loop {
        let (stream, peer) = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = acceptor.next() => accepted,
        };
        // Until there is a place nothing else is accepted: the kernel's backlog is the queue.
        let permit = tokio::select! {
            permit = peers.admit(L::address(&peer), bounds().peers) => permit,
            () = stopped(&mut stop) => break,
        };
        connect(stream, permit, stop.clone());
    }
    while let Some((stream, peer)) = acceptor.listener().waiting() {
        let Some(permit) = peers.try_admit(L::address(&peer), bounds().peers) else { break };
        connect(stream, permit, stop.clone());
    }
    drop(acceptor);
    // Who has not finished by then is cut off as the set is dropped.
    let _ =
        timeout(bounds().grace, async { while connections.join_next().await.is_some() {} }).await;
}

/// A short answer in plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body.into())
}

/// A short answer in JSON.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => answer(status, "application/json", body.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

async fn connection<S, H, F>(
    stream: S,
    (process, permit): (Option<UCred>, PeerPermit),
    bounds: Bounds,
    handler: H,
    mut stop: Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        if let Some(process) = process {
            request.extensions_mut().insert(process);
        }
        let answer = handler(request);
        // Who waits for an answer is not idle.
        let working = permit.working();
        async move {
            let _working = working;
            let Some(time) = bounds.answer_time else {
                return Ok::<_, Infallible>(answer.await);
            };
            Ok(timeout(time, answer).await.unwrap_or_else(|_| {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("no answer within {time:?}\n"))
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_time)
        .max_buf_size(bounds.head.max(LEAST_HEAD))
        .serve_connection(
            TokioIo::new(Timely::new(stream, Patience::of(bounds.taking_time))),
            service,
        );
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}
