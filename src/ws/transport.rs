//! What a WebSocket is carried over: TCP, or TLS over TCP.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::{
    config::InForce,
    net::PeerPermit,
    tls::{self, Established, Records},
};

/// What the clients of one listener speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP (`ws:`).
    Plain,
    /// TLS (`wss:`), with the certificate in force when the client connects.
    Tls,
}

/// A connection that is ready for HTTP.
pub(super) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<Ruled>>),
}

/// A socket, and where the client's records end on it: the handshake can leave off in the middle
/// of one.
pub(super) struct Ruled {
    stream: TcpStream,
    records: Records,
}

impl Transport {
    /// Brings a socket to where HTTP can begin: with TLS that takes a handshake.
    pub(super) async fn over(
        self,
        stream: TcpStream,
        config: &InForce,
        permit: &PeerPermit,
    ) -> io::Result<Connection> {
        if self == Self::Plain {
            return Ok(Connection::Plain(stream));
        }
        // A configuration that has addresses for TLS has a certificate too.
        let server = config.material.wss.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let stream = Ruled { stream, records: Records::default() };
        let stream = tls::accept(server, stream, || permit.working()).await?;
        permit.heard();
        Ok(Connection::Tls(Box::new(stream)))
    }
}

impl Connection {
    /// The bare socket, and the state of its TLS.
    pub(super) fn into_parts(self) -> io::Result<(std::net::TcpStream, Option<Box<Established>>)> {
        match self {
            Self::Plain(stream) => Ok((stream.into_std()?, None)),
            Self::Tls(stream) => {
                let (Ruled { stream, records }, connection) = stream.into_inner();
                Ok((stream.into_std()?, Some(Box::new(Established { connection, records }))))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl AsyncRead for Ruled {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, records } = self.get_mut();
        let before = buffer.filled().len();
        let outcome = Pin::new(stream).poll_read(context, buffer);
        records.pass(&buffer.filled()[before..]);
        outcome
    }
}

impl AsyncWrite for Ruled {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
