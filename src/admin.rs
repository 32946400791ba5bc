//! The surface towards probes and dashboards: is the process alive, is it in service, how is it?
//!
//! It changes nothing and tells nothing that a stranger on the network should not know: no name and
//! no address of anybody, only numbers.

mod format;
mod page;
mod sheet;

use std::{sync::Arc, time::Duration};

use hyper::{
    Method, Request, StatusCode,
    header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY},
};
use prometheus_client::registry::Registry;

use crate::{
    config::{Live, machine::files},
    events::Events,
    hub::Hub,
    lifecycle,
    metrics::{Callers, Calls, HookStats, Reloads},
    net::{
        Acceptor, Entrance, PeerLimits, PeerTable, Stop,
        http::{self, Answer, Bounds, LEAST_HEAD},
    },
    status::Phase,
};
use format::{Format, compressed, takes_gzip};

/// What a peer may hold under these limits.
fn bounds(live: &Live) -> Bounds {
    let config = live.snapshot();
    Bounds {
        peers: PeerLimits::new(config.places(files()).admin, config.limits.share()),
        taking_time: config.limits.handshake,
        ..BOUNDS
    }
}

const BOUNDS: Bounds = Bounds {
    peers: PeerLimits { places: 64, share: 16 },
    head: LEAST_HEAD,
    head_time: Duration::from_secs(10),
    answer_time: Some(Duration::from_secs(10)),
    taking_time: Duration::from_secs(10),
    grace: Duration::from_secs(1),
};

/// What there is to ask for.
const INDEX: &str = "\
/livez    200 while the process lives
/readyz   200 while it is in service, else 503
/metrics  counters and gauges for Prometheus
";

/// What the page of metrics is made from.
pub struct Context {
    /// Clients, messages and shards.
    pub hub: Hub,
    /// The limits in force.
    pub live: Live,
    /// Where the process is in its life.
    pub lifecycle: lifecycle::Handle,
    /// gRPC calls.
    pub calls: Arc<Calls>,
    /// Says how it stands with the connections of callers.
    pub callers: Box<dyn Fn() -> Callers + Send + Sync>,
    /// Questions to the back end about who may connect.
    pub hook: Arc<HookStats>,
    /// Reloads of the configuration.
    pub reloads: Arc<Reloads>,
    /// Consumer groups.
    pub events: Events,
    /// The connections of the admin port.
    pub peers: PeerTable,
    /// The connections of the control socket.
    pub control: PeerTable,
}

/// The surface, whatever it listens on. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    lifecycle: lifecycle::Handle,
    live: Live,
    peers: PeerTable,
    metrics: Arc<Registry>,
}

impl Admin {
    /// Tells of what is in `context`.
    pub fn new(context: Context) -> Self {
        let (lifecycle, live) = (context.lifecycle.clone(), context.live.clone());
        let peers = context.peers.clone();
        Self { lifecycle, live, peers, metrics: Arc::new(page::registry(context)) }
    }

    /// Answers probes and scrapers at `entrance` until `stop`.
    pub async fn serve(self, entrance: Entrance, stop: Stop) {
        let (live, peers) = (self.live.clone(), self.peers.clone());
        let bounds = move || bounds(&live);
        let handler = move |request: Request<_>| {
            let admin = self.clone();
            let scraped = (request.uri().path() == "/metrics" && reads(request.method()))
                .then(|| (Format::wanted(request.headers()), takes_gzip(request.headers())));
            async move {
                match scraped {
                    Some((format, gzip)) => metrics(admin.metrics, format, gzip).await,
                    None => answer(request.method(), request.uri().path(), admin.lifecycle.phase()),
                }
            }
        };
        http::serve(Acceptor::new(entrance, "admin"), peers, bounds, handler, stop).await;
    }
}

/// The page of metrics. The kernel is asked for it, which may take a moment: not on a thread that
/// serves calls.
async fn metrics(metrics: Arc<Registry>, format: Format, gzip: bool) -> Answer {
    let writing = tokio::task::spawn_blocking(move || {
        let page = format.write(page::write(&metrics).ok()?);
        if gzip { compressed(&page) } else { Some(page.into_bytes()) }
    });
    let Ok(Some(page)) = writing.await else {
        return http::text(StatusCode::INTERNAL_SERVER_ERROR, "the page can't be written\n");
    };
    let mut answer = http::text(StatusCode::OK, page);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

/// Everything but the page of metrics.
fn answer(method: &Method, path: &str, phase: Phase) -> Answer {
    let (status, text) = match path {
        "/livez" => (StatusCode::OK, "ok\n"),
        "/readyz" => match phase {
            Phase::Ready => (StatusCode::OK, "ok\n"),
            Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        },
        "/" | "/metrics" => (StatusCode::OK, INDEX),
        _ => return http::text(StatusCode::NOT_FOUND, format!("there is:\n{INDEX}")),
    };
    // HAProxy asks by OPTIONS unless it is told otherwise.
    let probes = matches!(path, "/livez" | "/readyz");
    if reads(method) || probes && method == Method::OPTIONS {
        return http::text(status, text);
    }
    let mut answer = http::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    let allowed = if probes { "GET, HEAD, OPTIONS" } else { "GET, HEAD" };
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_the_phase_and_life_does_not() {
        let cases = [
            ("/livez", Phase::Starting, 200),
            ("/livez", Phase::Stopping, 200),
            ("/readyz", Phase::Starting, 503),
            ("/readyz", Phase::Ready, 200),
            ("/readyz", Phase::Draining, 503),
            ("/readyz", Phase::Stopping, 503),
            ("/", Phase::Ready, 200),
            ("/metrics/", Phase::Ready, 404),
            ("/readyz/", Phase::Ready, 404),
        ];
        for (path, phase, status) in cases {
            assert_eq!(answer(&Method::GET, path, phase).status(), status, "{path} {phase:?}");
        }
        assert_eq!(answer(&Method::HEAD, "/livez", Phase::Ready).status(), 200);
        assert_eq!(answer(&Method::POST, "/livez", Phase::Ready).status(), 405);
        assert_eq!(answer(&Method::OPTIONS, "/livez", Phase::Stopping).status(), 200);
        assert_eq!(answer(&Method::OPTIONS, "/readyz", Phase::Ready).status(), 200);
        assert_eq!(answer(&Method::OPTIONS, "/readyz", Phase::Draining).status(), 503);
        assert_eq!(answer(&Method::OPTIONS, "/metrics", Phase::Ready).status(), 405);
        assert_eq!(answer(&Method::POST, "/metrics", Phase::Ready).status(), 405);
    }
}
