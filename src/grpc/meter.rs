//! Counts calls: which method, how it ended, and how long until the answer began.
//!
//! gRPC says how a call ended in the header `grpc-status` of the answer's head, if there is nothing
//! else to say, and otherwise in the trailers behind the messages. So the answer's body is watched
//! until then; one that is dropped before its end was cancelled by the caller.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        BoxFuture, Service,
        http::{HeaderMap, Request, Response},
    },
};

use super::{services, v1};
use crate::metrics::Calls;

/// Where a head or trailers say how the call ended.
const GRPC_STATUS: &str = "grpc-status";

/// Methods that are of neither API; all but the first have a stream of answers.
const COMMON: [&str; 4] = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Whether the answer to what is called by this path is a stream.
pub(super) fn is_stream(path: &str) -> bool {
    let Some(name) = path.strip_prefix('/') else { return false };
    v1::STREAMS.contains(&name) || COMMON[1..].contains(&name)
}

/// Counters for every method that is served.
pub(super) fn calls() -> Calls {
    // A classic service has one method, of the same name.
    let method = |service: &str| service.rsplit('.').next().map(|name| format!("{service}/{name}"));
    let classic = services::NAMES.iter().filter_map(|service| method(service));
    let others = v1::METHODS.iter().chain(&COMMON);
    Calls::new(classic.chain(others.map(ToString::to_string)))
}

/// A service whose calls are counted.
#[derive(Clone)]
pub(super) struct Metered<S> {
    service: S,
    calls: Arc<Calls>,
}

/// Counts the calls of `service`.
pub(super) fn metered<S>(service: S, calls: Arc<Calls>) -> Metered<S> {
    Metered { service, calls }
}

impl<S, B> Service<Request<B>> for Metered<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = Call::begin(&self.calls, request.uri().path());
        let answer = self.service.call(request);
        Box::pin(async move { answer.await.map(|response| call.answered(response)) })
    }
}

/// A call under way. Dropped before its end, it was cancelled.
struct Call {
    calls: Arc<Calls>,
    method: usize,
    began: Instant,
    answered: bool,
    ended: bool,
}

impl Call {
    fn begin(calls: &Arc<Calls>, path: &str) -> Self {
        let method = calls.position(path);
        calls.method(method).under_way.begin();
        Self {
            calls: Arc::clone(calls),
            method,
            began: Instant::now(),
            answered: false,
            ended: false,
        }
    }

    /// The head of the answer is there.
    fn answered(mut self, response: Response<Body>) -> Response<Body> {
        self.take_time();
        match code(response.headers()) {
            Some(code) => {
                self.end(code);
                response
            }
            None => response.map(|body| Body::new(Watched { body, call: self })),
        }
    }

    fn take_time(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            self.calls.method(self.method).duration.observe(self.began.elapsed());
        }
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            let method = self.calls.method(self.method);
            method.end(code as usize);
            method.under_way.end();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.take_time();
        self.end(Code::Cancelled);
    }
}

/// What a head or trailers say of the end.
fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// An answer under way.
struct Watched {
    body: Body,
    call: Call,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.end(code(trailers).unwrap_or(Code::Unknown));
                }
            }
            Some(Err(status)) => self.call.end(status.code()),
            None => self.call.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tonic::service::Routes;

    use super::*;

    /// How calls of one method ended, and how many are under way and were timed.
    fn counted(calls: &Calls, name: &str) -> (Vec<(&'static str, u64)>, u64, u64) {
        let method = calls.methods().iter().find(|method| method.name == name).unwrap();
        let ended = method.ended().filter(|(_, n)| *n > 0).collect();
        let timed = method.duration.buckets().iter().map(|(_, n)| n).sum();
        (ended, method.under_way.get(), timed)
    }

    /// A body of one message and these trailers.
    fn body(trailers: Option<&'static str>) -> Body {
        let message = Ok::<_, Status>(Frame::data(Bytes::from_static(b"message")));
        let mut end = HeaderMap::new();
        if let Some(code) = trailers {
            end.insert(GRPC_STATUS, code.parse().unwrap());
        }
        let frames = [message].into_iter().chain(trailers.map(|_| Ok(Frame::trailers(end))));
        Body::new(http_body_util::StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>())))
    }

    const PATH: &str = "proto.UnGroup/UnGroup";

    fn begun(calls: &Arc<Calls>) -> Call {
        Call::begin(calls, "/proto.UnGroup/UnGroup")
    }

    #[test]
    fn every_served_method_has_counters_of_its_own() {
        let calls = calls();
        assert_eq!(calls.methods().len(), 21 + v1::METHODS.len() + COMMON.len() + 1);
        let others = ["proto.ClonseClient/ClonseClient", "gateway.v1.Messages/Send"];
        for name in COMMON.into_iter().chain(others) {
            assert_eq!(calls.method(calls.position(&format!("/{name}"))).name, name);
        }
    }

    #[tokio::test]
    async fn a_path_that_is_not_served_is_counted_as_other() {
        let calls = Arc::new(calls());
        let mut service = metered(Routes::default().prepare(), Arc::clone(&calls));
        let request = Request::builder().uri("/secret.Name/Method").body(Body::empty()).unwrap();
        let answer = service.call(request).await.unwrap();
        assert_eq!(code(answer.headers()), Some(Code::Unimplemented));
        assert_eq!(counted(&calls, "other"), (vec![("UNIMPLEMENTED", 1)], 0, 1));
    }

    #[tokio::test]
    async fn the_trailers_tell_the_end_and_what_comes_without_is_unknown() {
        for (trailers, end) in
            [(Some("0"), "OK"), (Some("8"), "RESOURCE_EXHAUSTED"), (None, "UNKNOWN")]
        {
            let calls = Arc::new(calls());
            let answer = begun(&calls).answered(Response::new(body(trailers)));
            assert_eq!(counted(&calls, PATH), (vec![], 1, 1));
            let whole = answer.into_body().collect().await.unwrap();
            assert_eq!(whole.to_bytes(), "message");
            assert_eq!(counted(&calls, PATH), (vec![(end, 1)], 0, 1), "{trailers:?}");
        }
    }

    #[test]
    fn a_call_that_nobody_waits_for_any_more_was_cancelled() {
        let calls = Arc::new(calls());
        drop(begun(&calls));
        assert_eq!(counted(&calls, PATH), (vec![("CANCELLED", 1)], 0, 1));
        drop(begun(&calls).answered(Response::new(body(Some("0")))));
        assert_eq!(counted(&calls, PATH), (vec![("CANCELLED", 2)], 0, 2));
    }

    #[test]
    fn an_end_in_the_head_is_an_end() {
        let calls = Arc::new(calls());
        let _answer = begun(&calls).answered(Status::unavailable("stopping").into_http());
        assert_eq!(counted(&calls, PATH), (vec![("UNAVAILABLE", 1)], 0, 1));
    }
}
