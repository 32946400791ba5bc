//! A stream that somebody listens in on: whether bytes come, and whether they are taken.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Hears what happens to a stream.
pub trait Ear {
    /// How many bytes may be read now, at least one; pending until some may be.
    fn may_read(&mut self, _context: &mut Context<'_>) -> Poll<usize> {
        Poll::Ready(usize::MAX)
    }

    /// So many bytes were read, which may be none.
    fn read(&mut self, _bytes: usize) {}

    /// Something that is written has to wait; an answer is what to fail with.
    fn waits(&mut self, _context: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// All that was written was taken.
    fn flushed(&mut self) {}
}

/// The stream.
#[derive(Debug)]
pub struct Tapped<S, E> {
    io: S,
    ear: E,
}

impl<S, E: Ear> Tapped<S, E> {
    /// Tells `ear` what happens to `io`.
    pub fn new(io: S, ear: E) -> Self {
        Self { io, ear }
    }

    fn heard<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => self.ear.waits(context).map(Err),
            Poll::Ready(written) => Poll::Ready(written),
        }
    }
}

impl<S: AsyncRead + Unpin, E: Ear + Unpin> AsyncRead for Tapped<S, E> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = ready!(self.ear.may_read(context));
        let before = buffer.filled().len();
        let outcome = if most < buffer.remaining() {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
            let outcome = Pin::new(&mut self.io).poll_read(context, &mut part);
            let read = part.filled().len();
            buffer.advance(read);
            outcome
        } else {
            Pin::new(&mut self.io).poll_read(context, buffer)
        };
        self.ear.read(buffer.filled().len() - before);
        outcome
    }
}

impl<S: AsyncWrite + Unpin, E: Ear + Unpin> AsyncWrite for Tapped<S, E> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.heard(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            self.ear.flushed();
        }
        self.heard(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(context);
        self.heard(shut, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.heard(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
