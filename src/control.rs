//! The surface towards this program's own commands: a Unix socket that only its owner may use.
//!
//! ```text
//!  gateway-websocket status ─► client ─► HTTP/1.1 + JSON over the socket ─► server ─► report
//!                     stop, reload, drain                                      └────► lifecycle
//! ```
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`](crate::status::Status) |
//! | `GET /v1/health` | 200 or 503, [`Health`] |
//! | `POST /v1/stop`, `POST /v1/drain` | [`Drained`](crate::lifecycle::Drained), when it is done |
//! | `GET /v1/plan` | [`Reloaded`](crate::lifecycle::Reloaded), as it would be |
//! | `POST /v1/reload` | [`Reloaded`](crate::lifecycle::Reloaded) |
//!
//! Whoever may connect may stop the gateway; there is no other right than the socket's mode.

pub mod client;
pub mod place;
mod report;
pub mod socket;
mod stuck;

pub use client::{Client, ClientError};
pub use socket::{NoPlace, PlaceError, Socket};

use std::time::{Duration, Instant};

use hyper::{Method, Request, StatusCode, body::Incoming};
use serde::{Deserialize, Serialize};
use tokio::{net::unix::UCred, sync::watch};

use crate::{
    access::{AUDIT, Caller},
    config::{Live, machine::files},
    hub::Hub,
    lifecycle::{self, Gone},
    net::{
        Acceptor, PeerLimits, PeerTable, Stop,
        http::{self, Answer, Bounds, LEAST_HEAD},
    },
    status::{Listeners, Phase},
};

/// What the answers are made of. Cheap enough to clone once per request.
#[derive(Clone)]
pub struct Context {
    hub: Hub,
    lifecycle: lifecycle::Handle,
    live: Live,
    listeners: watch::Receiver<Listeners>,
    started: Instant,
    peers: PeerTable,
}

impl Context {
    /// Answers speak of `hub`, of what is in force, and of a process that listens on `listeners` since `started`;
    /// commands go to `lifecycle`, and connections are counted in `peers`.
    pub fn new(
        hub: Hub,
        lifecycle: lifecycle::Handle,
        live: Live,
        listeners: watch::Receiver<Listeners>,
        started: Instant,
        peers: PeerTable,
    ) -> Self {
        Self { hub, lifecycle, live, listeners, started, peers }
    }
}

/// Whether the gateway is in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// It is.
    pub ready: bool,
}

/// The body of an answer that is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// One sentence.
    pub error: String,
}

const BOUNDS: Bounds = Bounds {
    peers: PeerLimits { places: 32, share: 32 },
    head: LEAST_HEAD,
    head_time: Duration::from_secs(30),
    // A drain answers when it is over; the drain's own settings bound it.
    answer_time: None,
    taking_time: Duration::from_secs(10),
    grace: Duration::from_secs(2),
};

/// Answers commands on `socket` until `stop`; answers under way may finish within two seconds.
///
/// The answer to a stop is one of these: end the process when this has returned. The socket's file
/// is removed then.
pub async fn serve(socket: Socket, context: Context, stop: Stop) {
    let (listener, file) = socket.split();
    let (live, peers) = (context.live.clone(), context.peers.clone());
    let bounds = move || {
        let config = live.snapshot();
        Bounds {
            peers: PeerLimits::new(config.places(files()).control, 100),
            taking_time: config.limits.handshake,
            ..BOUNDS
        }
    };
    let handler = move |request: Request<Incoming>| {
        let context = context.clone();
        async move {
            if request.method() == Method::POST {
                audit(&request);
            }
            answer(request.method(), request.uri().path(), &context).await
        }
    };
    http::serve(Acceptor::new(listener, "control"), peers, bounds, handler, stop).await;
    drop(file);
}

/// A line for each command that changes something: who gave it.
fn audit(request: &Request<Incoming>) {
    let process = request.extensions().get::<UCred>();
    let caller = process.map(|process| Caller::Local {
        uid: process.uid(),
        pid: process.pid().and_then(|pid| u32::try_from(pid).ok()),
    });
    tracing::info!(
        target: AUDIT, caller = caller.map(display), command = request.uri().path(),
        "told over the control socket"
    );
}

async fn answer(method: &Method, path: &str, context: &Context) -> Answer {
    let lifecycle = &context.lifecycle;
    match (method, path) {
        (&Method::GET, "/v1/status") => http::json(StatusCode::OK, &report::status(context)),
        (&Method::GET, "/v1/health") => {
            let ready = lifecycle.phase() == Phase::Ready;
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            http::json(status, &Health { ready })
        }
        (&Method::POST, "/v1/stop") => outcome(lifecycle.stop().await),
        (&Method::POST, "/v1/drain") => outcome(lifecycle.drain().await),
        (&Method::GET, "/v1/plan") => outcome(lifecycle.plan().await),
        (&Method::POST, "/v1/reload") => outcome(lifecycle.reload().await),
        (_, "/v1/status" | "/v1/health" | "/v1/plan") => {
            fault(StatusCode::METHOD_NOT_ALLOWED, "only GET")
        }
        (_, "/v1/stop" | "/v1/drain" | "/v1/reload") => {
            fault(StatusCode::METHOD_NOT_ALLOWED, "only POST")
        }
        _ => fault(StatusCode::NOT_FOUND, format!("this version has no {path}")),
    }
}

fn outcome<T: Serialize>(result: Result<T, Gone>) -> Answer {
    match result {
        Ok(value) => http::json(StatusCode::OK, &value),
        Err(gone) => fault(StatusCode::SERVICE_UNAVAILABLE, gone.to_string()),
    }
}

fn fault(status: StatusCode, error: impl Into<String>) -> Answer {
    http::json(status, &Fault { error: error.into() })
}
