//! One call: who may make it, how long it may take, and what ends it before its time.
//!
//! ```text
//!  request ─► is it a call? ─► is the caller welcome? ─► routes ─► answer ─► its messages ─► trailers
//!                  │ no              │ no                 └───────┬──────────────┘
//!                  ▼                 ▼                            │ deadline, token gone, address gone, stop
//!                 415             a status ◄──────────────────────┘
//! ```
//!
//! A stream that is ended gets its status as trailers, so that the caller reads why.

use std::{
    convert::Infallible,
    pin::Pin,
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
            self,
            header::{AUTHORIZATION, HeaderMap, HeaderValue},
        },
    },
};

use super::{
    connection::Line,
    content,
    cut::{self, Cut},
    deadline, meter,
    peer::{Grant, Unwelcome},
};
use crate::net::{Stop, stopped};

type Answer = http::Response<Body>;

/// Calls that need no token (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>):
/// probes are made by what has no secrets.
const EXEMPT: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
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
        let answer = answer(self.clone(), request);
        Box::pin(async { Ok(answer.await) })
    }
}

async fn answer(line: Line, mut request: http::Request<Incoming>) -> Answer {
    let server = &line.server;
    if let Err(why) = content::check(&request) {
        server.refusals.content.note(line.peer.address, "a gRPC call was refused", why);
        return why.answer();
    }
    let swaps = server.live.swaps();
    let exempt = EXEMPT.contains(&request.uri().path());
    let admitted = {
        let token = bearer(request.headers());
        let config = server.live.snapshot();
        let admitted = line.peer.admit(exempt, token, &config);
        match admitted {
            // What needs no token may bring one all the same, to keep the connection.
            Ok((Grant::Exempt, _)) => {
                let found = token.and_then(|token| config.material.callers.find(token));
                line.trust.note(Grant::Exempt, found.map(|(id, _)| id));
            }
            Ok((grant, _)) => line.trust.note(grant, None),
            Err(_) => {}
        }
        admitted
    };
    let (grant, caller) = match admitted {
        Ok(admitted) => admitted,
        Err(why) => {
            if why == Unwelcome::Token {
                let peer = line.peer.address;
                server.refusals.tokens.note(peer, "a gRPC call was refused", "no valid token");
            }
            return why.status().into_http();
        }
    };
    request.extensions_mut().insert(caller);
    content::settle_compression(request.headers_mut());
    let uri = request.uri().clone();
    let time = deadline::of(request.headers());
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
    use super::*;

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
