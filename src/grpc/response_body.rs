//! The body of an answer, of which each frame is charged until HTTP/2 has written it.
//!
//! If there is no room for a frame, it is not held: the call ends, and says why. Only if the call has
//! changed something it is held all the same, as `RESOURCE_EXHAUSTED` says that nothing was done.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderMap, Response},
};

use super::{
    memory::Charge,
    ticket::{GRPC_STATUS, SMALL, Ticket},
};

/// What a frame takes beside its bytes, while it waits.
const FRAME: usize = 256;

/// The answer, with which `ticket` goes to its end.
pub(super) fn accompany(ticket: Arc<Ticket>, mut answer: Response<Body>) -> Response<Body> {
    if answer.headers().contains_key(GRPC_STATUS) || answer.body().is_end_stream() {
        ticket.end_with(answer.headers_mut());
        return answer;
    }
    answer.map(|body| Body::new(ResponseBody { body, ticket: Some(ticket), free: SMALL }))
}

/// The body.
struct ResponseBody {
    body: Body,
    /// None when the last frame was handed out.
    ticket: Option<Arc<Ticket>>,
    /// Bytes that need no charge of their own.
    free: usize,
}

impl ResponseBody {
    fn charged(&mut self, bytes: Bytes) -> Result<Bytes, Status> {
        let free = self.free.min(bytes.len());
        self.free -= free;
        match &self.ticket {
            Some(ticket) if free < bytes.len() => {
                let charge = ticket.hold_answer(bytes.len() - free + FRAME)?;
                Ok(Bytes::from_owner(Waiting { bytes, _charge: charge }))
            }
            _ => Ok(bytes),
        }
    }

    fn end(&mut self, mut trailers: HeaderMap) -> Frame<Bytes> {
        if let Some(ticket) = self.ticket.take() {
            ticket.end_with(&mut trailers);
        }
        Frame::trailers(trailers)
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ticket.is_none() {
            return Poll::Ready(None);
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)?) else {
            return Poll::Ready(None);
        };
        let frame = match frame.into_data() {
            Ok(bytes) => self.charged(bytes).map(Frame::data),
            Err(frame) => Ok(match frame.into_trailers() {
                Ok(trailers) => self.end(trailers),
                Err(other) => other,
            }),
        };
        Poll::Ready(Some(frame.or_else(|status| {
            // What the answer holds goes with it.
            self.body = Body::empty();
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            Ok(self.end(trailers))
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.ticket.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes that wait until they are written.
struct Waiting {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Waiting {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
