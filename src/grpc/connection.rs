//! One connection of a business system: HTTP/2, from its first byte to its last.
//!
//! tonic's own server takes its settings once and lets nobody end a single connection, so the
//! connections are carried here, with hyper's HTTP/2, and tonic does what is within the calls.
//!
//! | what comes | what is done |
//! |---|---|
//! | another peer, when there are as many as may be | closed, if it has proved nothing |
//! | nothing, or no HTTP/2, within `limits.handshake` | closed |
//! | no call with a valid token in time, where tokens are the only guard | closed |
//! | calls of a peer without a token that takes no answers | it isn't read any more |
//! | a peer that answers no ping (`grpc.keepalive_*`) or takes no bytes | closed |
//! | a configuration by which the peer may not be there | its calls are ended, then it is closed |
//! | the stop | no more calls (GOAWAY), those under way have a grace |
//! | floods of resets, pings, settings, headers | the limits of h2, then closed |

use std::{
    fmt,
    net::SocketAddr,
    ops::RangeInclusive,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tonic::{codegen::Service as _, service::Routes};

use super::{
    Shared,
    backlog::Backlog,
    identity::Identity,
    meter,
    peer::{Grant, Peer, Unwelcome},
    trust::Trust,
};
use crate::{
    config::{Grpc, InForce},
    net::{Ear, PeerPermit, Tapped, stopped},
    tls,
};

/// What the calls of one connection share. Cheap to clone.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) server: Arc<Shared>,
    pub(super) peer: Arc<Peer>,
    pub(super) trust: Arc<Trust>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) routes: Routes,
}

impl Line {
    /// Whether the peer has shown that it has a right to be there.
    pub(super) fn is_proven(&self) -> bool {
        self.trust.is_proven(&self.peer, &self.server.live.snapshot())
    }
}

/// Time that calls under way have when the server stops.
const GRACE: Duration = Duration::from_secs(2);
/// Time that a peer that is not welcome any more has to read why.
const FAREWELL: Duration = Duration::from_millis(500);

/// Metadata of one call: a token of the largest size fits with room to spare.
const HEADERS: u32 = 16 << 10;
/// Bytes of requests that may wait on one connection: as many for each call that it may carry, so a
/// call that isn't read blocks itself and none of the others.
const RECEIVED: u32 = 256 << 20;
/// Bytes of a request that may wait in one call; the more calls a connection may carry, the fewer.
const CALL_WINDOW: RangeInclusive<u32> = 1 << 10..=1 << 20;
/// Bytes that are read at once of a peer that has proved nothing: the heads of 42 calls at most.
const BITE: usize = 512;
/// Calls of such a peer whose answers are not written, before nothing more is read of it.
const UNWRITTEN: usize = 32;
/// Answers that wait for one call's reader; more are not asked for.
const SEND_BUFFER: usize = 256 << 10;
/// Calls that were reset and are not taken note of yet (CVE-2023-44487), before the connection is
/// ended for it.
const RESETS: usize = 20;
/// Calls that had to be reset because of what the peer sent (CVE-2025-8671), before the same.
const PROVOKED: usize = 128;
/// What every HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// Why a connection ends before its peer ends it.
enum End {
    Silent,
    Idle,
    Unwelcome(Unwelcome),
    Stop,
}

/// Carries one connection to its end. The peer's address is allowed.
pub(super) async fn serve(
    server: Arc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
    permit: PeerPermit,
) {
    let config = server.live.snapshot();
    set_options(&stream, &config.grpc);
    let deadline = Instant::now() + config.limits.handshake;
    let refuse = |why: &dyn fmt::Display| {
        server.refusals.handshakes.note(address, "a TLS handshake for gRPC failed", why);
    };
    if config.grpc.certificate.as_os_str().is_empty() {
        let peer = Peer { address, identity: None };
        return carry(server, (peer, permit), stream, &config, deadline).await;
    }
    // Never in the clear where TLS is asked for.
    let Some(server_tls) = &config.material.grpc_tls else {
        return refuse(&"grpc.certificate was not read");
    };
    let handshake = tls::accept(server_tls, stream, || permit.working());
    let mut stop = server.stop.clone();
    let shaken = tokio::select! {
        shaken = timeout_at(deadline, handshake) => shaken,
        () = stopped(&mut stop) => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let peer = Peer { address, identity: Identity::of(stream.get_ref().1) };
            permit.heard();
            carry(server, (peer, permit), stream, &config, deadline).await;
        }
        Ok(Err(error)) => refuse(&error),
        Err(_) => refuse(&"it was not complete within limits.handshake"),
    }
}

/// Speaks HTTP/2 over `io`, which has to be begun before `deadline`.
async fn carry<I>(
    server: Arc<Shared>,
    (peer, permit): (Peer, PeerPermit),
    io: I,
    config: &InForce,
    deadline: Instant,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let reads = Arc::new(Reads::default());
    let (peer, trust) = (Arc::new(peer), Arc::new(Trust::default()));
    let line = Line {
        server: Arc::clone(&server),
        peer: Arc::clone(&peer),
        trust: Arc::clone(&trust),
        backlog: Arc::default(),
        routes: server.routes.clone(),
    };
    let reader = Reader { line: line.clone(), reads: Arc::clone(&reads) };
    let io = TokioIo::new(Tapped::new(io, reader));
    // Counted from the outside: a call that is refused or ended early is a call.
    let service = meter::metered(line, Arc::clone(&server.calls));
    let service = service_fn(move |request| service.clone().call(request));
    let connection = http2(&config.grpc).serve_connection(io, service);
    tokio::pin!(connection);
    let end = async {
        let mut stop = server.stop.clone();
        let swaps = server.live.swaps();
        tokio::select! {
            // Both have the same deadline, and silence says more.
            biased;
            () = silence(deadline, &reads) => End::Silent,
            () = trust.lacks((&peer, &permit), &server.live, deadline) => End::Idle,
            why = peer.unwelcome(Grant::Exempt, &server.live, swaps) => End::Unwelcome(why),
            () = stopped(&mut stop) => End::Stop,
        }
    };
    let end = tokio::select! {
        ended = Turns { connection: connection.as_mut(), reads: &reads } => {
            if let Err(error) = ended {
                tracing::debug!(peer = %peer.address, %error, "a gRPC connection broke");
            }
            return;
        }
        end = end => end,
    };
    let grace = match end {
        End::Silent => {
            let why = "no HTTP/2 within limits.handshake";
            server.refusals.silent.note(peer.address, "a gRPC connection was closed", why);
            return;
        }
        End::Idle => {
            let why = "no call with a valid token within limits.handshake";
            if trust.is_probe() {
                server.refusals.idle.note_quietly();
            } else {
                server.refusals.idle.note(peer.address, "a gRPC connection was closed", why);
            }
            FAREWELL
        }
        End::Unwelcome(why) => {
            server.refusals.ended.note(peer.address, "a gRPC connection was ended", why);
            FAREWELL
        }
        End::Stop => GRACE,
    };
    connection.as_mut().graceful_shutdown();
    if timeout(grace, Turns { connection, reads: &reads }).await.is_err() {
        tracing::debug!(peer = %peer.address, "calls were cut off at the end of the grace");
    }
}

fn http2(grpc: &Grpc) -> http2::Builder<TokioExecutor> {
    let window = call_window(grpc);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(grpc.max_streams)
        .keep_alive_interval(keepalive(grpc))
        .keep_alive_timeout(grpc.keepalive_timeout)
        .initial_connection_window_size(window.saturating_mul(grpc.max_streams))
        .initial_stream_window_size(window)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(PROVOKED);
    builder
}

/// Bytes of a request that HTTP/2 takes in before the call reads them.
pub(super) fn call_window(grpc: &Grpc) -> u32 {
    (RECEIVED / grpc.max_streams.max(1)).clamp(*CALL_WINDOW.start(), *CALL_WINDOW.end())
}

fn keepalive(grpc: &Grpc) -> Option<Duration> {
    Some(grpc.keepalive_interval).filter(|interval| !interval.is_zero())
}

/// Failing means that the peer has gone; the first read will say so too.
fn set_options(stream: &TcpStream, grpc: &Grpc) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    if let Some(interval) = keepalive(grpc) {
        // A ping that stays in our own buffer is answered by nobody: a peer that is gone, or that
        // takes no bytes, is told by the kernel.
        let deaf = interval + grpc.keepalive_timeout;
        let _ = socket.set_tcp_user_timeout(Some(deaf));
    }
}

/// Waits until `deadline`, and for ever if HTTP/2 was begun by then.
async fn silence(deadline: Instant, reads: &Reads) {
    sleep_until(deadline).await;
    if reads.bytes.load(Ordering::Relaxed) >= PREFACE {
        std::future::pending::<()>().await;
    }
}

/// A connection that is carried on. In each turn hyper reads first, and then passes on all calls that
/// have come; so the calls of one turn are counted before more is read of a peer that has proved
/// nothing.
struct Turns<'a, C> {
    connection: Pin<&'a mut C>,
    reads: &'a Reads,
}

impl<C: Future> Future for Turns<'_, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        self.reads.turn.store(true, Ordering::Relaxed);
        self.connection.as_mut().poll(context)
    }
}

/// What was read of a connection. All of it is done by the connection's own task.
#[derive(Default)]
struct Reads {
    bytes: AtomicUsize,
    /// Whether nothing was read in this turn yet.
    turn: AtomicBool,
}

/// Counts the bytes that are read, and says how many may be.
struct Reader {
    line: Line,
    reads: Arc<Reads>,
}

impl Ear for Reader {
    fn may_read(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        if self.line.is_proven() {
            return Poll::Ready(usize::MAX);
        }
        if !self.reads.turn.load(Ordering::Relaxed) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.line.backlog.poll_below(UNWRITTEN, context));
        Poll::Ready(BITE)
    }

    fn read(&mut self, bytes: usize) {
        // Nobody else writes, and what the count says is of no use to other memory.
        let before = self.reads.bytes.load(Ordering::Relaxed);
        self.reads.bytes.store(before.saturating_add(bytes), Ordering::Relaxed);
        if bytes > 0 {
            self.reads.turn.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_windows_of_all_calls_fit_into_the_window_of_the_connection() {
        for (max_streams, window) in [(1, 1 << 20), (256, 1 << 20), (1024, 256 << 10)] {
            assert_eq!(call_window(&Grpc { max_streams, ..Grpc::default() }), window);
        }
        // The largest window there is (RFC 9113 §6.9.1).
        let most = Grpc { max_streams: 1_000_000, ..Grpc::default() };
        assert!(call_window(&most).checked_mul(most.max_streams).is_some_and(|all| all < 1 << 31));
    }
}
