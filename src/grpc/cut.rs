//! A stream of answers that ends when its call may not go on, also while nobody takes them.
//!
//! ```text
//!  service ─► Messages ─► Cut ─► HTTP/2, which asks for a message when the peer's window has room
//!                          ▲
//!                          └── a task that waits for the deadline, or for the caller to be unwelcome
//! ```
//!
//! HTTP/2 does not ask a body whose peer has shut its window, so the body itself would never learn
//! of its end, and what it holds (a place in a consumer group, a place under `api.max_streams`) would
//! be held for ever. The task takes it away; the peer is told when it reads.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::JoinHandle;
use tonic::{Status, codegen::http::HeaderMap};

/// The answers of one stream.
pub(super) struct Cut<B> {
    /// The lock is held while one message is asked for, and while they are taken away.
    state: Arc<Mutex<State<B>>>,
    ends: JoinHandle<()>,
}

enum State<B> {
    /// It goes on; the waker is that of who waits for a message.
    Open(B, Option<Waker>),
    /// It has to end, and the peer was not told yet.
    Ended(Status),
    /// The peer was told.
    Over,
}

impl<B: Send + 'static> Cut<B> {
    /// The messages of `body`, until `ending`.
    pub(super) fn new(body: B, ending: impl Future<Output = Status> + Send + 'static) -> Self {
        let state = Arc::new(Mutex::new(State::Open(body, None)));
        let shared = Arc::clone(&state);
        let ends = tokio::spawn(async move {
            let status = ending.await;
            let before = std::mem::replace(&mut *lock(&shared), State::Ended(status));
            // What the stream holds goes here, outside of the lock.
            if let State::Open(_, Some(waiting)) = before {
                waiting.wake();
            }
        });
        Self { state, ends }
    }
}

fn lock<B>(state: &Mutex<State<B>>) -> MutexGuard<'_, State<B>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> Drop for Cut<B> {
    fn drop(&mut self) {
        self.ends.abort();
    }
}

impl<B> HttpBody for Cut<B>
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = lock(&self.state);
        if let State::Open(body, waiting) = &mut *state {
            let frame = Pin::new(body).poll_frame(context);
            if frame.is_pending() {
                *waiting = Some(context.waker().clone());
            }
            return frame;
        }
        match std::mem::replace(&mut *state, State::Over) {
            State::Ended(status) => Poll::Ready(Some(trailers(&status))),
            State::Open(..) | State::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*lock(&self.state) {
            State::Open(body, _) => body.is_end_stream(),
            State::Ended(_) => false,
            State::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*lock(&self.state) {
            State::Open(body, _) => body.size_hint(),
            State::Ended(_) | State::Over => SizeHint::default(),
        }
    }
}

/// The end of an answer that has begun.
pub(super) fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::sync::{mpsc, oneshot};
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::Code;

    use super::*;

    type Said = Result<Frame<Bytes>, Status>;

    fn stream() -> (mpsc::Sender<Said>, Cut<StreamBody<ReceiverStream<Said>>>, oneshot::Sender<()>)
    {
        let (say, said) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let ending = async {
            let _ = ended.await;
            Status::unavailable("over")
        };
        (say, Cut::new(StreamBody::new(ReceiverStream::new(said)), ending), end)
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_lets_go_of_what_it_holds() {
        let (say, mut cut, end) = stream();
        end.send(()).unwrap();
        say.closed().await;
        let last = cut.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(Status::from_header_map(&last).unwrap().code(), Code::Unavailable);
        assert!(cut.frame().await.is_none() && cut.is_end_stream());
    }

    #[tokio::test]
    async fn who_waits_for_a_message_is_told_of_the_end() {
        let (say, mut cut, end) = stream();
        say.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
        assert_eq!(cut.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        let waits = tokio::spawn(async move { cut.frame().await.unwrap().unwrap().is_trailers() });
        tokio::task::yield_now().await;
        end.send(()).unwrap();
        assert!(waits.await.unwrap());
        assert!(say.is_closed());
    }

    #[tokio::test]
    async fn a_stream_that_is_dropped_takes_its_task_along() {
        let (_say, cut, end) = stream();
        drop(cut);
        let mut end = end;
        end.closed().await;
    }
}
