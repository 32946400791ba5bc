//! One call: who may make it, how long it may take, and what ends it before its time.
//!
//! ```text
//!  request ─► is it a call? ─► is the caller welcome? memory? ─► routes ─► answer ─► its messages ─► trailers
//!                  │ no              │ no                         └───────┬──────────────┘
//!                  ▼                 ▼                                    │ deadline, token gone, address gone, stop
//!                 415             a status ◄──────────────────────────────┘
//! ```
//!
//! A stream that is ended gets its status as trailers, so that the caller reads why.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tonic::{
    Status,
    body::Body,
    codegen::{
        BoxFuture, Service,
        http::{
            self, Uri,
            header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE},
        },
    },
};

use super::{
    connection::{Line, call_window},
    content,
    cut::{self, Cut},
    deadline,
    memory::Holder,
    meter,
    peer::{Grant, Unwelcome},
    response_body,
    ticket::{self, Ticket},
};
use crate::net::{Stop, stopped};

type Answer = http::Response<Body>;

/// Calls that need no token (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>):
/// probes are made by what has no secrets.
const EXEMPT: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
/// What such a call needs of its metadata.
const NEEDED: [HeaderName; 4] = [
    CONTENT_TYPE,
    TE,
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
];
/// Calls that may be under way on a connection before it has carried one with a valid token, where
/// that is needed. They are among [`EXEMPT`].
const BEFORE_A_TOKEN: usize = 16;
/// How the paths of calls begin that change nothing, and whose answers may be long.
const READING: [&str; 5] = [
    "/gateway.v1.Directory/",
    "/gateway.v1.Events/",
    "/gateway.v1.Membership/Get",
    "/grpc.reflection.",
    "/proto.Get",
];
/// Calls with a stream of requests, which they may leave where they are.
const STREAMS: [&str; 4] = [
    "/gateway.v1.Events/Subscribe",
    "/gateway.v1.Messages/SendStream",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// RFC 6750 §2.1; the word may be written in any case (RFC 9110 §11.1).
const BEARER: &[u8] = b"bearer ";

impl Service<http::Request<Incoming>> for Line {
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<Answer, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let (server, peer) = (Arc::clone(&self.server), Arc::clone(&self.peer));
        let ticket = Ticket::new(server, peer, Arc::clone(&self.backlog));
        let answer = answer(self.clone(), request, Arc::clone(&ticket));
        Box::pin(async { Ok(response_body::accompany(ticket, answer.await)) })
    }
}

async fn answer(line: Line, mut request: http::Request<Incoming>, ticket: Arc<Ticket>) -> Answer {
    let server = &line.server;
    if let Err(why) = content::check(&request) {
        server.refusals.content.note(line.peer.address, "a gRPC call was refused", why);
        return why.answer();
    }
    let swaps = server.live.swaps();
    let path = request.uri().path();
    let exempt = EXEMPT.into_iter().find(|exempt| *exempt == path);
    let reads = READING.iter().any(|begin| path.starts_with(begin));
    let unread =
        if STREAMS.contains(&path) { call_window(&server.live.snapshot().grpc) } else { 0 };
    let (admitted, holder) = {
        let token = bearer(request.headers());
        let config = server.live.snapshot();
        let admitted = line.peer.admit(exempt.is_some(), token, &config);
        match admitted {
            // What needs no token may bring one all the same, to keep the connection.
            Ok((Grant::Exempt, _)) => {
                let found = token.and_then(|token| config.material.callers.find(token));
                line.trust.note(Grant::Exempt, found.map(|(id, _)| id));
            }
            Ok((grant, _)) => line.trust.note(grant, None),
            Err(_) => {}
        }
        let proven = line.trust.is_proven(&line.peer, &config);
        (admitted, if proven { Holder::Caller } else { Holder::Stranger })
    };
    if holder == Holder::Caller {
        // It may have been too much for a stranger.
        line.backlog.wake();
    }
    let (grant, caller) = match admitted {
        Ok(admitted) => admitted,
        Err(why) => {
            // It is refused for what it is, and at once.
            let _refused = ticket.begin(holder, reads, 0);
            if why == Unwelcome::Token {
                let peer = line.peer.address;
                server.refusals.tokens.note(peer, "a gRPC call was refused", "no valid token");
            }
            return why.status().into_http();
        }
    };
    content::settle_compression(request.headers_mut());
    let uri = request.uri().clone();
    let time = deadline::of(request.headers());
    if let Some(exempt) = exempt {
        bare(&mut request, exempt);
    }
    let more = ticket::metadata(request.headers()) + usize::try_from(unread).unwrap_or(usize::MAX);
    if let Err(full) = ticket.begin(holder, reads, more) {
        return full.into_http();
    }
    if holder == Holder::Stranger && ticket.calls() > BEFORE_A_TOKEN {
        let why = format!(
            "{BEFORE_A_TOKEN} calls may be under way on a connection before one of its calls has \
             brought a valid token"
        );
        server.refusals.calls.note(line.peer.address, "a gRPC call was refused", &why);
        return Status::resource_exhausted(why).into_http();
    }
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(ticket);
    let mut routes = line.routes.clone();
    let stop = server.stop.clone();
    let mut ending: Ending = Box::pin(async move {
        let unwelcome = line.peer.unwelcome(grant, &line.server.live, swaps);
        tokio::select! {
            why = unwelcome => why.status(),
            status = late(time) => status,
        }
    });
    // The routes are always ready.
    let answered = routes.call(request.map(Body::new));
    tokio::select! {
        biased;
        answered = answered => {
            let Ok(response) = answered;
            let is_stream = meter::is_stream(uri.path());
            let response = content::complete(response, uri.path());
            response.map(|body| {
                if !is_stream {
                    return Body::new(Messages::new(body, ending, stop));
                }
                let never = Box::pin(std::future::pending());
                Body::new(Cut::new(Messages::new(body, never, stop), ending))
            })
        }
        status = &mut ending => status.into_http(),
    }
}

/// Leaves nothing of a request but what a call of this path needs: the rest would be held for as long
/// as the request takes to come.
fn bare(request: &mut http::Request<Incoming>, path: &'static str) {
    let headers = request.headers();
    let copy = |name: HeaderName| {
        let value = HeaderValue::from_bytes(headers.get(&name)?.as_bytes()).ok()?;
        Some((name, value))
    };
    let needed: HeaderMap = NEEDED.into_iter().filter_map(copy).collect();
    *request.headers_mut() = needed;
    *request.uri_mut() = Uri::from_static(path);
}

/// What comes after the word `Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)?;
    let (word, token) = value.split_at_checked(BEARER.len())?;
    word.eq_ignore_ascii_case(BEARER).then(|| token.trim_ascii())
}

async fn late(time: Option<Duration>) -> Status {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
    Status::deadline_exceeded("the deadline that the caller set has passed")
}

/// Comes true when a call is ended before its time.
type Ending = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The messages of an answer, which end when the call may not go on.
struct Messages {
    body: Body,
    end: End,
}

/// What may end the messages.
enum End {
    /// Nobody had to wait for a message yet: no answer of one message comes further.
    ToCome(Option<(Ending, Stop)>),
    /// One has to wait, for a message or for this.
    Awaited(Ending),
    /// They have ended.
    Come,
}

impl Messages {
    fn new(body: Body, ending: Ending, stop: Stop) -> Self {
        Self { body, end: End::ToCome(Some((ending, stop))) }
    }
}

impl HttpBody for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if matches!(self.end, End::Come) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if let End::ToCome(parts) = &mut self.end
            && let Some((ending, stop)) = parts.take()
        {
            self.end = End::Awaited(Box::pin(or_stop(ending, stop)));
        }
        let End::Awaited(ending) = &mut self.end else {
            return Poll::Pending;
        };
        let status = ready!(ending.as_mut().poll(context));
        self.end = End::Come;
        // What the stream holds goes with it.
        self.body = Body::empty();
        Poll::Ready(Some(cut::trailers(&status)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.end, End::Come) || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A call that was made may be answered while the gateway stops, but a stream that only waits for
/// what may come must not hold it.
async fn or_stop(ending: Ending, mut stop: Stop) -> Status {
    tokio::select! {
        status = ending => status,
        () = stopped(&mut stop) => Status::unavailable("the gateway is stopping"),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::grpc::proto;

    #[test]
    fn every_call_with_a_stream_of_requests_is_listed() {
        let described = prost_types::FileDescriptorSet::decode(proto::v1::DESCRIPTORS).unwrap();
        let mut streams = Vec::new();
        for file in &described.file {
            for service in &file.service {
                let name = format!("/{}.{}", file.package(), service.name());
                let methods = service.method.iter().filter(|it| it.client_streaming());
                streams.extend(methods.map(|it| format!("{name}/{}", it.name())));
            }
        }
        streams.sort_unstable();
        assert_eq!(streams, STREAMS[..2]);
    }

    #[test]
    fn a_token_comes_after_its_word_and_nothing_else_is_one() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(|token| String::from_utf8(token.to_vec()).unwrap())
        };
        assert_eq!(with("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(with("bEARER  abc ").as_deref(), Some("abc"));
        for other in ["Basic abc", "Bearer", "abc", "", "Bearerabc"] {
            assert_eq!(with(other), None, "{other}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
