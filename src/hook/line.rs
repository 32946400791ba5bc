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
//!
//! How many calls the back end takes at once (`SETTINGS_MAX_CONCURRENT_STREAMS`) is known from here, so
//! that no more clients get a turn than that.

use std::{
    error::Error as _,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http2::{Builder, Connection, SendRequest},
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

use super::call::{Outgoing, Trouble, causes};
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
    sender: SendRequest<Outgoing>,
    made: Instant,
    /// Attempts in a row that failed before it.
    failures: u32,
    /// Answers that it has brought.
    answers: Arc<AtomicU64>,
    /// Whether a call has told of its end already.
    has_broken: Arc<AtomicBool>,
    /// The reason for its end, once it is at it; `NO_ERROR` where none was told.
    ended: watch::Receiver<Option<h2::Reason>>,
}

/// A connection that was just made: to ask on, and to hear of its end.
type Made = (SendRequest<Outgoing>, watch::Receiver<Option<h2::Reason>>);

/// A time in which the back end is left alone, and why.
#[derive(Clone, Debug)]
struct Rest {
    until: Instant,
    failures: u32,
    why: Why,
}

/// Why there is no connection, as a text.
#[derive(Clone, Debug)]
pub(super) struct Why {
    pub(super) text: Arc<str>,
    /// Whether it is this machine that has no socket for it.
    pub(super) is_ours: bool,
}

/// What came of an attempt; none while it is under way.
type Outcome = Option<Result<Wire, Rest>>;

/// The line to the back end.
#[derive(Debug)]
pub(super) struct Line {
    /// The lock is held to look and to begin, never while something is waited for.
    state: Mutex<Option<State>>,
    /// Calls that the back end takes at once, as it said last; any number if it never said.
    streams: watch::Sender<usize>,
}

impl Default for Line {
    fn default() -> Self {
        Self { state: Mutex::default(), streams: watch::Sender::new(usize::MAX) }
    }
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
    /// How many calls the back end takes at once.
    pub(super) fn streams(&self) -> watch::Receiver<usize> {
        self.streams.subscribe()
    }

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
                    let rest = Rest::after(
                        wire.failures,
                        wire.made,
                        "it ends the connection".to_owned().into(),
                    );
                    state.attempt = watch::channel(Some(Err(rest))).1;
                    return state.attempt.clone();
                }
                Some(Err(rest)) if Instant::now() < rest.until => return state.attempt.clone(),
                Some(Err(rest)) => failures = rest.failures,
            }
        }
        let (told, attempt) = watch::channel(None);
        let (to, streams) = (goal.clone(), self.streams.clone());
        tokio::spawn(async move {
            let made = match timeout(within, connect(&to, streams)).await {
                Ok(made) => made.map_err(Why::from),
                Err(_) => Err(format!("it can't be connected to within {within:?}").into()),
            };
            let made = made.map(|made| Wire::new(made, failures)).map_err(|why| {
                tracing::debug!(
                    back_end = to.back_end.authority,
                    why = &*why.text,
                    "no connection"
                );
                Rest::after(failures, Instant::now(), why)
            });
            told.send_replace(Some(made));
        });
        *state = Some(State { goal: goal.clone(), attempt: attempt.clone(), in_doubt: false });
        attempt
    }
}

impl Rest {
    /// The rest after one more failure, which was at `failed`.
    fn after(failures: u32, failed: Instant, why: Why) -> Self {
        let rest = REST.saturating_mul(1 << failures.min(16)).min(LONGEST_REST);
        Self { until: failed + rest, failures: failures.saturating_add(1), why }
    }
}

impl Wire {
    fn new((sender, ended): Made, failures: u32) -> Self {
        Self {
            sender,
            made: Instant::now(),
            failures,
            answers: Arc::default(),
            has_broken: Arc::default(),
            ended,
        }
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
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Trouble> {
        match self.sender.send_request(request).await {
            Ok(response) => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                Ok(response)
            }
            Err(error) if error.is_canceled() || is_refused(&error) => Err(Trouble::Unsent),
            Err(error) => Err(self.broken(&error).await),
        }
    }

    /// What the end of a call without an answer means.
    async fn broken(&mut self, error: &hyper::Error) -> Trouble {
        let why = format!("the call broke: {}", causes(error));
        let reason = match http2(error) {
            Some(error) if error.is_reset() => return Trouble::Error(why),
            Some(error) => error.reason(),
            // The connection is at its end, and knows the reason.
            None => self.ended.wait_for(Option::is_some).await.ok().and_then(|end| *end),
        };
        // Clients that hang up, whose calls are reset, may be too many for it: that is our doing.
        if reason == Some(h2::Reason::ENHANCE_YOUR_CALM) {
            return Trouble::TooMuch(why);
        }
        // The end of a connection is one failure, however many calls were under way on it.
        if self.has_broken.swap(true, Ordering::Relaxed) {
            return Trouble::Broken(why);
        }
        Trouble::Error(why)
    }
}

/// Whether the back end says that it has seen nothing of a call (RFC 9113 §8.7): it is over the number
/// of streams that it allows since a moment ago.
fn is_refused(error: &hyper::Error) -> bool {
    http2(error).and_then(h2::Error::reason) == Some(h2::Reason::REFUSED_STREAM)
}

fn http2(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

/// Why something is not there yet; the last reason counts.
#[derive(Debug, Default)]
pub(super) struct Note(Mutex<Option<Why>>);

impl Note {
    fn set(&self, why: &Why) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
    }

    /// The last reason, or that there is none.
    pub(super) fn told(&self) -> Why {
        let note = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        note.unwrap_or_else(|| "there was no connection in time".to_owned().into())
    }
}

impl From<String> for Why {
    fn from(text: String) -> Self {
        Self { text: text.into(), is_ours: false }
    }
}

impl From<NoWire> for Why {
    fn from(error: NoWire) -> Self {
        let is_ours = matches!(&error, NoWire::Tcp(error) if lacks_a_socket(error));
        Self { text: causes(&error).into(), is_ours }
    }
}

/// Whether this machine has no descriptor, no memory or no port for a connection.
fn lacks_a_socket(error: &io::Error) -> bool {
    use libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM | EADDRNOTAVAIL))
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

async fn connect(goal: &Goal, streams: watch::Sender<usize>) -> Result<Made, NoWire> {
    let back_end = &goal.back_end;
    let address = (back_end.host.as_str(), back_end.port);
    let stream = TcpStream::connect(address).await.map_err(NoWire::Tcp)?;
    set_options(&stream);
    if !back_end.tls {
        return speak(stream, streams).await;
    }
    // Never in the clear where TLS is asked for.
    let tls = goal.tls.as_ref().ok_or(NoWire::NoAuthorities)?;
    let name = ServerName::try_from(back_end.host.clone()).map_err(|_| NoWire::Name)?;
    let stream =
        TlsConnector::from(tls.config()).connect(name, stream).await.map_err(NoWire::Tls)?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(NoWire::NoHttp2);
    }
    speak(stream, streams).await
}

/// Begins HTTP/2; the connection lives as long as somebody can send on it or waits for an answer.
async fn speak<I>(io: I, streams: watch::Sender<usize>) -> Result<Made, NoWire>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS)
        // None until the back end has said how many: what is over that it would refuse.
        .initial_max_send_streams(0)
        .handshake(TokioIo::new(io))
        .await
        .map_err(NoWire::Http2)?;
    let (tell, ended) = watch::channel(None);
    tokio::spawn(async move {
        let end = drive(connection, &streams).await;
        if let Err(error) = &end {
            tracing::debug!(error = causes(error), "the connection to the back end broke");
        }
        let reason = end.err().and_then(|error| http2(&error)?.reason());
        tell.send_replace(Some(reason.unwrap_or(h2::Reason::NO_ERROR)));
    });
    Ok((sender, ended))
}

/// Carries a connection to its end, and tells how many calls it takes whenever that changes.
async fn drive<I>(
    connection: Connection<TokioIo<I>, Outgoing, TokioExecutor>,
    streams: &watch::Sender<usize>,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = std::pin::pin!(connection);
    let mut known = 0;
    std::future::poll_fn(|context| {
        let end = connection.as_mut().poll(context);
        let now = connection.current_max_send_streams();
        // Nothing can be asked where none are taken; the calls under way show that.
        if now != known && now > 0 {
            streams.send_replace(now);
        }
        known = now;
        end
    })
    .await
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
    fn a_machine_without_sockets_is_not_the_back_ends_fault() {
        for (code, is_ours) in
            [(libc::EMFILE, true), (libc::ENOBUFS, true), (libc::ECONNREFUSED, false)]
        {
            let why = Why::from(NoWire::Tcp(io::Error::from_raw_os_error(code)));
            assert_eq!(why.is_ours, is_ours, "{}", why.text);
        }
    }

    #[test]
    fn rests_grow_up_to_the_longest() {
        let why = || Why::from("x".to_owned());
        let now = Instant::now();
        let rests: Vec<_> = (0..7)
            .map(|failures| (Rest::after(failures, now, why()).until - now).as_millis())
            .collect();
        assert_eq!(rests, [50, 100, 200, 400, 800, 1000, 1000]);
        let last = Rest::after(u32::MAX, now, why());
        assert_eq!((last.until - now, last.failures), (LONGEST_REST, u32::MAX));
    }
}
