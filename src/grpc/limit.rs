//! How large a request may be and how long it may take: `grpc.max_message` and
//! `limits.message_deadline`, as they are when the call comes in.
//!
//! The memory of a request is held until its answer begins, at least: what was decoded is at work.
//!
//! tonic says that a message is too large, but not that an operator can change it; and it says it
//! as `OUT_OF_RANGE`. Here it becomes `RESOURCE_EXHAUSTED` with the setting's name.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    request_body::{Held, RequestBody},
    ticket::Ticket,
};
use crate::config::Live;

/// Bytes of a request that asks for something by its name.
const SMALL_REQUEST: usize = 1 << 10;

/// A service whose requests are bounded by `grpc.max_message`.
#[derive(Clone)]
pub(super) struct Limited<S> {
    service: S,
    live: Live,
    /// The bound where `grpc.max_message` is larger.
    most: usize,
    /// Gives the service a bound; tonic has no trait for it.
    bound: fn(S, usize) -> S,
}

impl<S> Limited<S> {
    pub(super) fn new(service: S, live: Live, bound: fn(S, usize) -> S) -> Self {
        Self { service, live, most: usize::MAX, bound }
    }

    /// A service whose requests have 1 KiB at most.
    pub(super) fn small(service: S, live: Live, bound: fn(S, usize) -> S) -> Self {
        Self { service, live, most: SMALL_REQUEST, bound }
    }
}

impl<S: NamedService> NamedService for Limited<S> {
    const NAME: &'static str = S::NAME;
}

type Request = http::Request<Body>;
type Response = http::Response<Body>;

impl<S> Service<Request> for Limited<S>
where
    S: Service<
            Request,
            Response = Response,
            Error = Infallible,
            Future = BoxFuture<Response, Infallible>,
        > + Clone,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Answer {
        let config = self.live.snapshot();
        let most = config.grpc.max_message.bytes();
        let (limit, is_set) = (most.min(self.most), most <= self.most);
        let time = config.limits.message_deadline;
        let held = request.extensions_mut().remove::<Arc<Ticket>>().map(Held::new);
        if let Some(held) = &held {
            let held = Arc::clone(held);
            request = request.map(|body| Body::new(RequestBody::new(body, limit, held)));
        }
        // A clone shares the handler; it exists to carry the bound of this call.
        let call = (self.bound)(self.service.clone(), limit).call(request);
        let late = (!time.is_zero()).then(|| (Box::pin(sleep(time)), time));
        Answer { call, limit, is_set, late, _held: held }
    }
}

/// An answer under way.
pub(super) struct Answer {
    call: BoxFuture<Response, Infallible>,
    limit: usize,
    /// Whether the limit is `grpc.max_message`.
    is_set: bool,
    /// A shard answers at once, so what takes long is a request that comes byte by byte.
    late: Option<(Pin<Box<Sleep>>, Duration)>,
    _held: Option<Arc<Held>>,
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (limit, is_set) = (self.limit, self.is_set);
        let named = |response: Response| {
            if is_too_large(&response) { refuse(limit, is_set) } else { response }
        };
        if let Poll::Ready(answered) = self.call.as_mut().poll(context) {
            return Poll::Ready(answered.map(named));
        }
        if let Some((late, time)) = &mut self.late {
            ready!(late.as_mut().poll(context));
            return Poll::Ready(Ok(give_up(*time)));
        }
        Poll::Pending
    }
}

fn is_too_large(response: &Response) -> bool {
    Status::from_header_map(response.headers()).is_some_and(|status| says_too_large(&status))
}

/// `OUT_OF_RANGE` is tonic's word for a size over the bound; no handler of ours says it. Of a message
/// that becomes too large as it is decompressed it is told in another way.
pub(super) fn says_too_large(status: &Status) -> bool {
    match status.code() {
        Code::OutOfRange => true,
        Code::ResourceExhausted => status.message().starts_with("Error decompressing: size limit"),
        _ => false,
    }
}

fn refuse(limit: usize, is_set: bool) -> Response {
    if is_set {
        return too_large(limit).into_http();
    }
    let text = format!("request larger than {limit} bytes: it names a service");
    Status::resource_exhausted(text).into_http()
}

/// The status of a request that is larger than allowed.
pub(super) fn too_large(limit: usize) -> Status {
    let text = format!("request larger than grpc.max_message ({limit} bytes)");
    let details = ErrorDetails::with_quota_failure_violation("grpc.max_message", &text);
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

fn give_up(time: Duration) -> Response {
    let text = format!("request not complete within limits.message_deadline ({time:?})");
    Status::deadline_exceeded(text).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_size_over_the_bound_is_reworded() {
        assert!(is_too_large(&Status::out_of_range("too large").into_http()));
        assert!(!is_too_large(&Status::unavailable("stopping").into_http()));
        assert!(!is_too_large(&Response::new(Body::empty())));

        let status = Status::from_header_map(refuse(4096, true).headers()).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("grpc.max_message (4096 bytes)"));
        let inflated = "Error decompressing: size limit, of 9 bytes, exceeded while decompressing";
        assert!(is_too_large(&Status::resource_exhausted(inflated).into_http()));
        assert!(!is_too_large(&Status::resource_exhausted("limits.inbox").into_http()));
    }
}
