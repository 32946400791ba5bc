//! The other end of the control socket, for the commands of this program.
//!
//! Which process it speaks to is never guessed: the kernel says whose socket it is, and a pidfd
//! taken while that process still answers stands for it and for no later one of the same number.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1::SendRequest, header::HOST};
use hyper_util::rt::TokioIo;
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{Fault, Health, place::places_to_ask, stuck::advice};
use crate::{
    lifecycle::{Drained, Reloaded},
    status::Status,
};

/// A connection to a running gateway.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    sender: SendRequest<Empty<Bytes>>,
    pid: u32,
    process: io::Result<OwnedFd>,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens in any of the places.
    #[error("gateway-websocket is not running (no control socket at {})", list(tried))]
    NotRunning {
        /// The places.
        tried: Vec<PathBuf>,
    },
    /// It runs, perhaps, but belongs to somebody else.
    #[error(
        "permission denied on {}: run the command as the user the gateway runs as, or as root",
        path.display()
    )]
    Denied {
        /// The control socket.
        path: PathBuf,
    },
    /// The socket can't be used for another reason.
    #[error("cannot connect to {}: {source}", path.display())]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection broke: the gateway ended, or what listens there is none.
    #[error("the gateway at {} broke off: {source}", path.display())]
    Broken {
        /// The control socket.
        path: PathBuf,
        /// What broke.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer came, and no sign of life.
    #[error(
        "the gateway at {} gives no answer ({} s): {}", path.display(), waited.as_secs(),
        advice(*pid, path)
    )]
    Silent {
        /// The control socket.
        path: PathBuf,
        /// The process at its other end; 0 if it is out of sight.
        pid: u32,
        /// How long was waited.
        waited: Duration,
    },
    /// The process lives, but the part of it that would carry the command out does nothing.
    #[error(
        "the gateway at {} answers, but its supervisor has done nothing for {} s: {}",
        path.display(), idle.as_secs(), advice(*pid, path)
    )]
    Stuck {
        /// The control socket.
        path: PathBuf,
        /// The process at its other end; 0 if it is out of sight.
        pid: u32,
        /// For how long.
        idle: Duration,
    },
    /// The gateway said no.
    #[error("{0}")]
    Refused(String),
    /// The process can't be watched, so its end would be a guess.
    #[error("cannot watch process {pid}: {source}")]
    Unwatched {
        /// The process.
        pid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Time for an answer that nothing has to be waited for.
const PROMPT: Duration = Duration::from_secs(5);

/// Stop, drain and reload take as long as they take: the gateway's own settings bound a drain. So
/// they are waited for as long as the process shows that it lives, which it does at least so often,
const ALIVE: Duration = Duration::from_secs(10);

/// and its supervisor that it is at work: a reload is a single step of it.
const AT_WORK: Duration = Duration::from_mins(1);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// How often it is tried to connect to a socket whose queue is full.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Most bytes of an answer; a status has a few thousand.
const LARGEST: usize = 1 << 20;

impl Client {
    /// Connects to the gateway at the explicit path, or to the first that answers in the documented
    /// places.
    pub async fn connect(explicit: Option<&Path>) -> Result<Self, ClientError> {
        Self::connect_with(explicit, |name| std::env::var_os(name)).await
    }

    /// Like [`connect`](Self::connect), with another environment.
    pub async fn connect_with(
        explicit: Option<&Path>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ClientError> {
        let mut tried = Vec::new();
        let mut trouble = None;
        for place in places_to_ask(explicit, env) {
            let connected = match place.check() {
                Ok(()) => dial(&place.path).await,
                Err(source) => Err(source),
            };
            let path = place.path;
            match connected {
                Ok(stream) => return Self::over(stream, path).await,
                Err(source) => match source.kind() {
                    io::ErrorKind::WouldBlock => {
                        return Err(ClientError::Silent { path, pid: 0, waited: PROMPT });
                    }
                    io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::ConnectionRefused => tried.push(path),
                    // The gateway may be in a later place; if not, this is what to say.
                    io::ErrorKind::PermissionDenied => {
                        trouble.get_or_insert(ClientError::Denied { path });
                    }
                    _ => {
                        trouble.get_or_insert(ClientError::Unreachable { path, source });
                    }
                },
            }
        }
        Err(trouble.unwrap_or(ClientError::NotRunning { tried }))
    }

    /// The process at the other end; 0 if it is out of sight (in another container).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The control socket it was found at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A picture of the process.
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.status_within(PROMPT).await
    }

    /// The same, of a process that may not be ready yet: it answers once it is.
    pub async fn status_within(&mut self, patience: Duration) -> Result<Status, ClientError> {
        self.promptly(Method::GET, "/v1/status", patience).await
    }

    /// Whether the gateway is in service.
    pub async fn health(&mut self) -> Result<bool, ClientError> {
        let health: Health = self.promptly(Method::GET, "/v1/health", PROMPT).await?;
        Ok(health.ready)
    }

    /// Stops the gateway; returns when its clients are gone, and has `seen` what it looks like
    /// meanwhile. See [`wait_for_exit`](Self::wait_for_exit).
    pub async fn stop(&mut self, seen: impl FnMut(&Status)) -> Result<Drained, ClientError> {
        self.patiently(Method::POST, "/v1/stop", seen).await
    }

    /// Takes the gateway out of service; returns when its clients are gone, and has `seen` what it
    /// looks like meanwhile.
    pub async fn drain(&mut self, seen: impl FnMut(&Status)) -> Result<Drained, ClientError> {
        self.patiently(Method::POST, "/v1/drain", seen).await
    }

    /// Has the gateway read its configuration again.
    pub async fn reload(&mut self) -> Result<Reloaded, ClientError> {
        self.patiently(Method::POST, "/v1/reload", |_| ()).await
    }

    /// Asks what a reload would change.
    pub async fn plan(&mut self) -> Result<Reloaded, ClientError> {
        self.patiently(Method::GET, "/v1/plan", |_| ()).await
    }

    /// Waits until the process has ended; `false` if it has not within `limit`.
    pub async fn wait_for_exit(self, limit: Duration) -> Result<bool, ClientError> {
        let pid = self.pid;
        let unwatched = |source| ClientError::Unwatched { pid, source };
        let process = match self.process {
            Ok(process) => process,
            // It had ended before it could be watched.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                return Ok(true);
            }
            Err(error) => return Err(unwatched(error)),
        };
        let waiting = tokio::task::spawn_blocking(move || ended(&process, limit));
        match waiting.await {
            Ok(ended) => ended.map_err(unwatched),
            Err(error) => Err(unwatched(error.into())),
        }
    }

    async fn over(stream: UnixStream, path: PathBuf) -> Result<Self, ClientError> {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or_default();
        let process = Pid::from_raw(pid)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| broken(&path, source))?;
        // Ends with the sender, and tells the sender's call of an error.
        tokio::spawn(connection);
        Ok(Self { path, sender, pid: u32::try_from(pid).unwrap_or_default(), process })
    }

    async fn promptly<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &'static str,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let (socket, pid) = (self.path.clone(), self.pid);
        let answer = timeout(patience, self.call(method, path)).await;
        answer.unwrap_or(Err(ClientError::Silent { path: socket, pid, waited: patience }))
    }

    /// Waits for an answer as long as the process shows that it lives.
    async fn patiently<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &'static str,
        seen: impl FnMut(&Status),
    ) -> Result<T, ClientError> {
        let (socket, pid) = (self.path.clone(), self.pid);
        tokio::select! {
            biased;
            answer = self.call(method, path) => answer,
            trouble = watch(socket, pid, seen) => Err(trouble),
        }
    }

    async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &'static str,
    ) -> Result<T, ClientError> {
        let at = &self.path;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = hyper::Uri::from_static(path);
        // HTTP/1.1 demands one; a Unix socket has none.
        request.headers_mut().insert(HOST, hyper::header::HeaderValue::from_static("localhost"));
        let response =
            self.sender.send_request(request).await.map_err(|source| broken(at, source))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|source| broken(at, source))?.to_bytes();
        // Health answers 503 with a body of its own, for those who look at the status alone.
        if status == StatusCode::OK || path == "/v1/health" {
            return serde_json::from_slice(&body).map_err(|source| broken(at, source));
        }
        let said = serde_json::from_slice(&body).map(|fault: Fault| fault.error);
        Err(ClientError::Refused(said.unwrap_or_else(|_| format!("the gateway answered {status}"))))
    }
}

/// Looks at the gateway again and again, over connections of its own; ends when it is stuck.
async fn watch(socket: PathBuf, pid: u32, mut seen: impl FnMut(&Status)) -> ClientError {
    let mut lived = Instant::now();
    let mut client: Option<Client> = None;
    loop {
        sleep(LOOK).await;
        let status = async {
            let mut asked = match client.take() {
                Some(client) => client,
                None => Box::pin(Client::connect(Some(&socket))).await?,
            };
            let status = asked.status().await?;
            client = Some(asked);
            Ok::<_, ClientError>(status)
        };
        // Once the clients are gone nobody listens any more; then the answer is on its way.
        if let Ok(status) = status.await {
            lived = Instant::now();
            let idle = Duration::from_secs(status.supervisor_idle_seconds);
            if idle >= AT_WORK {
                return ClientError::Stuck { path: socket, pid, idle };
            }
            seen(&status);
        } else if lived.elapsed() >= ALIVE {
            return ClientError::Silent { path: socket, pid, waited: lived.elapsed() };
        }
    }
}

/// Connects; `WouldBlock` if the queue of the socket stays full.
async fn dial(path: &Path) -> io::Result<UnixStream> {
    let deadline = Instant::now() + PROMPT;
    loop {
        match UnixStream::connect(path).await {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                sleep(TRY_AGAIN).await;
            }
            connected => return connected,
        }
    }
}

/// Waits for the end of `process`: a pidfd is readable from then on (`pidfd_open(2)`).
fn ended(process: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1);
    let mut source = SourceFd(&process.as_raw_fd());
    poll.registry().register(&mut source, Token(0), Interest::READABLE)?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll.poll(&mut events, Some(left)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(()) if !events.is_empty() => return Ok(true),
            Ok(()) if left.is_zero() => return Ok(false),
            Ok(()) => {}
        }
    }
}

fn broken(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Broken { path: path.to_owned(), source: source.into() }
}

fn list(tried: &[PathBuf]) -> String {
    let paths = tried.iter().map(|path| path.display().to_string());
    paths.collect::<Vec<_>>().join(", ")
}
