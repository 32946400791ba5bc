//! A connection whose last answer can be held back.
//!
//! The answer that accepts a WebSocket and the first message to the client leave one after the
//! other, from two threads. Sent one by one they cost two system calls and two packets; held back
//! here and handed on with the socket, the answer goes out together with the first message.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::transport::Connection;

/// The stream, as hyper sees it.
pub(super) struct Held {
    stream: Connection,
    hold: Hold,
    unsent: Vec<u8>,
}

/// Says that from now on what is written is to be held back. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Hold(Arc<AtomicBool>);

impl Hold {
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Held {
    pub(super) fn new(stream: Connection, hold: Hold) -> Self {
        Self { stream, hold, unsent: Vec::new() }
    }

    /// The stream and what is still to be written to it.
    pub(super) fn into_parts(self) -> (Connection, Vec<u8>) {
        (self.stream, self.unsent)
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.hold.has_begun() {
            // A response head of our own making: some hundred bytes.
            self.unsent.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.hold.has_begun() {
            let before = self.unsent.len();
            for slice in slices {
                self.unsent.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(self.unsent.len() - before));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
