//! A connection as hyper sees it during a handshake: what a client asks is made fit for it, and what
//! it answers is made fit for clients.
//!
//! ```text
//!  client ─► Target ─► hyper ─► one answer, collected ─► spell ─┬─ 101: held for the shard
//!                                                               └─ else: written; then the sending
//!                                                                  side is shut, the rest drained
//! ```
//!
//! The answer that accepts a WebSocket and the first message to the client leave one after the
//! other, from two threads. Sent one by one they cost two system calls and two packets; held back
//! here and handed on with the socket, the answer goes out together with the first message.
//!
//! A connection that is closed with bytes of the client unread is reset (RFC 9112 §9.6), and the
//! reset may reach the client before it has read why it was refused. So those bytes are read first:
//! a bounded number of them, for a bounded time, and only if there are any or more must come.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{spelling::spell, target::Target};

/// The stream, as hyper sees it.
pub(super) struct Held<S> {
    stream: S,
    hold: Hold,
    target: Target,
    /// Came from the client, was changed, and found no room in hyper's buffer.
    changed: Vec<u8>,
    /// The last bytes that came from the client.
    tail: [u8; 4],
    /// The answer, as far as it is not written.
    unsent: Vec<u8>,
    is_spelled: bool,
    draining: Option<Draining>,
    /// How long a client that was refused may go on sending.
    patience: Duration,
}

/// What is let go of a client that was refused.
struct Draining {
    left: usize,
    until: Pin<Box<Sleep>>,
}

/// Most bytes that are read, to no purpose, of a client that was refused: more than what is under way
/// when it stops as soon as it hears of that.
const MOST_DRAINED: usize = 256 * 1024;

/// Says what the stream can't know of the request and its answer. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Hold(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    begun: AtomicBool,
    has_body: AtomicBool,
}

impl Hold {
    /// From now on what is written is to be held back.
    pub(super) fn begin(&self) {
        self.0.begun.store(true, Ordering::Relaxed);
    }

    /// A body comes behind the head of the request.
    pub(super) fn expect_body(&self) {
        self.0.has_body.store(true, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Relaxed)
    }

    fn expects_body(&self) -> bool {
        self.0.has_body.load(Ordering::Relaxed)
    }
}

/// A connection that hyper has done with.
pub(super) struct Parts<S> {
    pub(super) stream: S,
    /// What is still to be written to it.
    pub(super) unsent: Vec<u8>,
    /// What was read of it and not given to hyper.
    pub(super) unread: Vec<u8>,
}

impl<S> Held<S> {
    pub(super) fn new(stream: S, hold: Hold, patience: Duration) -> Self {
        Self {
            stream,
            hold,
            target: Target::default(),
            changed: Vec::new(),
            tail: [0; 4],
            unsent: Vec::new(),
            is_spelled: false,
            draining: None,
            patience,
        }
    }

    pub(super) fn into_parts(mut self) -> Parts<S> {
        self.spell();
        Parts { stream: self.stream, unsent: self.unsent, unread: self.changed }
    }

    /// hyper writes a head in one piece, and one answer per connection.
    fn spell(&mut self) {
        if !std::mem::replace(&mut self.is_spelled, true) {
            spell(&mut self.unsent);
        }
    }

    fn remember_tail(&mut self, came: &[u8]) {
        let new = came.len().min(4);
        self.tail.copy_within(new.., 0);
        self.tail[4 - new..].copy_from_slice(&came[came.len() - new..]);
    }

    /// Whether the client may be in the middle of something: its head has not ended, or more comes
    /// behind it.
    fn expects_more(&self) -> bool {
        self.tail != *b"\r\n\r\n" || self.hold.expects_body()
    }
}

impl<S: AsyncRead + Unpin> Held<S> {
    /// Reads what the client still sends, until its end or that of our patience.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut expects_more = self.expects_more();
        let draining = self.draining.get_or_insert_with(|| Draining {
            left: MOST_DRAINED,
            until: Box::pin(tokio::time::sleep(self.patience)),
        });
        loop {
            let mut bytes = [0; 4096];
            let mut buffer = ReadBuf::new(&mut bytes);
            let outcome = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
            let came = buffer.filled();
            match outcome {
                Poll::Ready(Ok(())) if !came.is_empty() => {
                    // Who sends to a side that is shut may have more.
                    expects_more = true;
                    draining.left = draining.left.saturating_sub(came.len());
                    if draining.left == 0 {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if !expects_more {
            return Poll::Ready(());
        }
        draining.until.as_mut().poll(context)
    }
}

impl<S: AsyncWrite + Unpin> Held<S> {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.spell();
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.changed.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            this.remember_tail(&buffer.filled()[before..]);
            let Some(changed) = this.target.pass(&buffer.filled()[before..]) else {
                return Poll::Ready(Ok(()));
            };
            this.changed = changed;
            buffer.set_filled(before);
        }
        // At most three bytes for each that was read at once.
        let fits = this.changed.len().min(buffer.remaining());
        buffer.put_slice(&this.changed[..fits]);
        this.changed.drain(..fits);
        Poll::Ready(Ok(()))
    }
}

/// An answer is some hundred bytes of our own making, or what `hook.max_answer` lets a back end say:
/// it is collected whole. So it is not offered in slices, and sent when hyper flushes it.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unsent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Before there is an answer there is nothing to spell.
        if !this.hold.has_begun() && !this.unsent.is_empty() {
            ready!(this.poll_send(context))?;
        }
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.draining.is_none() {
            if !this.unsent.is_empty() {
                ready!(this.poll_send(context))?;
            }
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        this.poll_drain(context).map(Ok)
    }
}
