//! The connection to the back end: one, made when somebody needs it, and made again when it ends.
//!
//! ```text
//!  nothing ─► under way ─► wire ─┬─ ended, or in doubt ─► under way …
//!                 ▲   └► resting ┘ ended without ever having brought an answer
//!                 └───────┘ each time longer, up to a second
//! ```
//!
//! Who needs it waits until it is there, however often that has to be tried; the patience is theirs.
//! Only one attempt is under way at a time, whoever waits.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

use super::call::{Trouble, causes};
use crate::{
    config::{BackEnd, InForce},
    tls,
};

/// The first rest after an attempt that failed; each further one is twice as long.
const REST: Duration = Duration::from_millis(50);
/// The longest rest: a back end that comes back is found within a second.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// A connection on which nothing is said is looked at by the kernel: a peer that has gone without a
/// word is noticed, and a firewall between doesn't forget the connection. Pings of HTTP/2 would be
/// more than gRPC servers allow, to which we speak as often as clients connect.
const QUIET: Duration = Duration::from_secs(20);
const PROBES: Duration = Duration::from_secs(5);
/// What was sent and is not acknowledged within this time will never be.
const DEAF: Duration = Duration::from_secs(20);
/// Bytes of one answer that may be on their way while nobody takes them.
const WINDOW: u32 = 64 << 10;
/// The same for all answers of the connection.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of the headers, and of the trailers, of an answer.
const HEADERS: u32 = 16 << 10;

/// Where the back end is, and how one knows that it is.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    pub(super) back_end: BackEnd,
    tls: Option<tls::Client>,
}

/// A connection that is there. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    made: Instant,
    /// Attempts in a row that failed before it.
    failures: u32,
    /// Answers that it has brought.
    answers: Arc<AtomicU64>,
}

/// A time in which the back end is left alone, and why.
#[derive(Clone, Debug)]
struct Rest {
    until: Instant,
    failures: u32,
    why: Arc<str>,
}

/// What came of an attempt; none while it is under way.
type Outcome = Option<Result<Wire, Rest>>;

/// The line to the back end.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The lock is held to look and to begin, never while something is waited for.
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    goal: Goal,
    attempt: watch::Receiver<Outcome>,
    /// Whether the connection is not to be used any more.
    in_doubt: bool,
}

impl Goal {
    /// The goal that a configuration sets; none if nobody is to be asked.
    pub(super) fn of(config: &InForce) -> Option<Self> {
        let back_end = config.hook.back_end()?;
        let tls = back_end.tls.then(|| config.material.hook_tls.clone()).flatten();
        Some(Self { back_end, tls })
    }

    fn is(&self, other: &Self) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(one), Some(other)) => one.is(other),
            _ => false,
        };
        self.back_end == other.back_end && same_tls
    }
}

impl Line {
    /// A connection to the goal, as soon as there is one. Why there is none yet is told to `note`. One
    /// attempt takes no longer than `within`.
    pub(super) async fn wire(&self, goal: &Goal, within: Duration, note: &Note) -> Wire {
        loop {
            let mut attempt = self.attempt(goal, within);
            let outcome = attempt.wait_for(Option::is_some).await;
            let outcome = outcome.ok().and_then(|outcome| outcome.clone());
            match outcome {
                Some(Ok(wire)) => return wire,
                Some(Err(rest)) => {
                    note.set(&rest.why);
                    sleep_until(rest.until).await;
                }
                // The attempt came to no end of its own: its task is gone.
                None => sleep(REST).await,
            }
        }
    }

    /// Gives a connection up that has brought no answer since it had brought `answers`: perhaps there
    /// is nobody at its end any more. What is under way on it goes on.
    pub(super) fn doubt(&self, wire: &Wire, answers: u64) {
        if wire.answers() != answers {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = state.as_mut() {
            let current = state.attempt.borrow();
            let is_current = matches!(&*current, Some(Ok(it)) if it.is(wire));
            drop(current);
            state.in_doubt |= is_current;
        }
    }

    /// Lets go of the connection: nobody is asked any more.
    pub(super) fn hang_up(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The attempt that is under way or has succeeded; a new one if there is none.
    fn attempt(&self, goal: &Goal, within: Duration) -> watch::Receiver<Outcome> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = 0;
        if let Some(state) = state.as_mut().filter(|state| state.goal.is(goal)) {
            let current = state.attempt.borrow().clone();
            match current {
                None if state.attempt.has_changed().is_ok() => return state.attempt.clone(),
                None => {}
                Some(Ok(wire)) if state.in_doubt => failures = wire.failures,
                Some(Ok(wire)) if wire.is_open() => return state.attempt.clone(),
                Some(Ok(wire)) if wire.answers() > 0 => {}
                // It was there and of no use, as if it had not been there.
                Some(Ok(wire)) => {
                    let rest = Rest::after(wire.failures, wire.made, "it ends the connection");
                    state.attempt = watch::channel(Some(Err(rest))).1;
                    return state.attempt.clone();
                }
                Some(Err(rest)) if Instant::now() < rest.until => return state.attempt.clone(),
                Some(Err(rest)) => failures = rest.failures,
            }
        }
        let (told, attempt) = watch::channel(None);
        let to = goal.clone();
        tokio::spawn(async move {
            let made = match timeout(within, connect(&to)).await {
                Ok(made) => made.map_err(|error| causes(&error)),
                Err(_) => Err(format!("it can't be connected to within {within:?}")),
            };
            let made = made.map(|sender| Wire::new(sender, failures)).map_err(|why| {
                tracing::debug!(back_end = to.back_end.authority, why, "no connection");
                Rest::after(failures, Instant::now(), &why)
            });
            told.send_replace(Some(made));
        });
        *state = Some(State { goal: goal.clone(), attempt: attempt.clone(), in_doubt: false });
        attempt
    }
}

impl Rest {
    /// The rest after one more failure, which was at `failed`.
    fn after(failures: u32, failed: Instant, why: &str) -> Self {
        let rest = REST.saturating_mul(1 << failures.min(16)).min(LONGEST_REST);
        Self { until: failed + rest, failures: failures.saturating_add(1), why: why.into() }
    }
}

impl Wire {
    fn new(sender: SendRequest<Full<Bytes>>, failures: u32) -> Self {
        Self { sender, made: Instant::now(), failures, answers: Arc::default() }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.answers, &other.answers)
    }

    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Answers that it has brought.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Sends a request and waits for the beginning of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Trouble> {
        match self.sender.send_request(request).await {
            Ok(response) => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                Ok(response)
            }
            Err(error) if error.is_canceled() => Err(Trouble::Unsent),
            Err(error) => Err(Trouble::Error(format!("the call broke: {}", causes(&error)))),
        }
    }
}

/// Why something is not there yet; the last reason counts.
#[derive(Debug, Default)]
pub(super) struct Note(Mutex<Option<Arc<str>>>);

impl Note {
    fn set(&self, why: &Arc<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(why));
    }

    /// The last reason, or that there is none.
    pub(super) fn told(&self) -> String {
        let note = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        note.as_deref().unwrap_or("there was no connection in time").to_owned()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum NoWire {
    #[error("it can't be connected to: {0}")]
    Tcp(io::Error),
    #[error("hook.ca was not read")]
    NoAuthorities,
    #[error("its name is none that a certificate could be for")]
    Name,
    #[error("no TLS: {0}")]
    Tls(io::Error),
    #[error("it does not speak HTTP/2 over TLS (ALPN \"h2\")")]
    NoHttp2,
    #[error("no HTTP/2")]
    Http2(#[source] hyper::Error),
}

async fn connect(goal: &Goal) -> Result<SendRequest<Full<Bytes>>, NoWire> {
    let back_end = &goal.back_end;
    let address = (back_end.host.as_str(), back_end.port);
    let stream = TcpStream::connect(address).await.map_err(NoWire::Tcp)?;
    set_options(&stream);
    if !back_end.tls {
        return speak(stream).await;
    }
    // Never in the clear where TLS is asked for.
    let tls = goal.tls.as_ref().ok_or(NoWire::NoAuthorities)?;
    let name = ServerName::try_from(back_end.host.clone()).map_err(|_| NoWire::Name)?;
    let stream =
        TlsConnector::from(tls.config()).connect(name, stream).await.map_err(NoWire::Tls)?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(NoWire::NoHttp2);
    }
    speak(stream).await
}

/// Begins HTTP/2; the connection lives as long as somebody can send on it or waits for an answer.
async fn speak<I>(io: I) -> Result<SendRequest<Full<Bytes>>, NoWire>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS)
        .handshake(TokioIo::new(io))
        .await
        .map_err(NoWire::Http2)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = causes(&error), "the connection to the back end broke");
        }
    });
    Ok(sender)
}

/// Failing means that the peer has gone; the first write will say so too.
fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(QUIET).with_interval(PROBES).with_retries(3);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(DEAF));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_up_to_the_longest() {
        let now = Instant::now();
        let rests: Vec<_> = (0..7)
            .map(|failures| (Rest::after(failures, now, "x").until - now).as_millis())
            .collect();
        assert_eq!(rests, [50, 100, 200, 400, 800, 1000, 1000]);
        let last = Rest::after(u32::MAX, now, "x");
        assert_eq!((last.until - now, last.failures), (LONGEST_REST, u32::MAX));
    }
}
