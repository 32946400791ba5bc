//! The surface towards probes: is the process alive, and is it in service?
//!
//! It changes nothing and tells nothing that a stranger on the network should not know.

use std::{future::ready, time::Duration};

use hyper::{Method, Request, StatusCode, header};

use crate::{
    lifecycle,
    net::{
        Acceptor, Entrance, Stop,
        http::{self, Answer, Bounds, LEAST_HEAD},
    },
    status::Phase,
};

const BOUNDS: Bounds = Bounds {
    connections: 64,
    head: LEAST_HEAD,
    head_time: Duration::from_secs(10),
    answer_time: Some(Duration::from_secs(10)),
    grace: Duration::from_secs(1),
};

/// Answers probes at `entrance` until `stop`.
pub async fn serve(entrance: Entrance, lifecycle: lifecycle::Handle, stop: Stop) {
    let handler = move |request: Request<_>| {
        ready(answer(request.method(), request.uri().path(), lifecycle.phase()))
    };
    http::serve(Acceptor::new(entrance, "admin"), BOUNDS, handler, stop).await;
}

fn answer(method: &Method, path: &str, phase: Phase) -> Answer {
    let (status, text) = match path {
        "/livez" => (StatusCode::OK, "ok\n"),
        "/readyz" => match phase {
            Phase::Ready => (StatusCode::OK, "ok\n"),
            Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        },
        _ => (
            StatusCode::NOT_FOUND,
            "there is:\n/livez   200 while the process lives\n/readyz  200 while it is in service, else 503\n",
        ),
    };
    if status != StatusCode::NOT_FOUND && !matches!(*method, Method::GET | Method::HEAD) {
        let mut answer = http::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        let allowed = header::HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(header::ALLOW, allowed);
        return answer;
    }
    http::text(status, text)
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
            ("/", Phase::Ready, 404),
            ("/readyz/", Phase::Ready, 404),
        ];
        for (path, phase, status) in cases {
            assert_eq!(answer(&Method::GET, path, phase).status(), status, "{path} {phase:?}");
        }
        assert_eq!(answer(&Method::HEAD, "/livez", Phase::Ready).status(), 200);
        assert_eq!(answer(&Method::POST, "/livez", Phase::Ready).status(), 405);
    }
}
