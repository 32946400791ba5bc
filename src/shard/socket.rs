//! The sockets of a shard's connections, side by side.
//!
//! What a fan-out needs of a client is its socket, and whether and in which form it takes messages:
//! eight bytes. They stand apart from the connections, so that a walk over a thousand clients reads a
//! hundred cache lines, which stay in the cache, and not a thousand, which the kernel's own work
//! throws out between one message and the next.
//!
//! Reading and writing use the plain system calls. The standard library goes through libc, where
//! each is a cancellation point and thereby some fifty nanoseconds dearer.

use std::{
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    time::Duration,
};

use mio::net::TcpStream;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{encode::PLAIN, slot::Slot};
use crate::net::traffic::{Traffic, traffic};

/// The socket of one connection, and what is known of it without looking at the connection.
pub(super) struct Socket {
    stream: TcpStream,
    /// The window size for compressed messages; [`PLAIN`] for none.
    window: u8,
    /// The client can be sent to: it is not on its way out.
    open: bool,
    /// What goes through it belongs to TLS: it may only be written by the client's TLS stream.
    is_tls: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, window: Option<u8>, is_tls: bool) -> Self {
        Self { stream, window: window.unwrap_or(PLAIN), open: true, is_tls }
    }

    /// Whether its client can be sent to.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn is_tls(&self) -> bool {
        self.is_tls
    }

    pub(super) fn window(&self) -> u8 {
        self.window
    }

    /// The window size that was agreed, if messages can be compressed.
    pub(super) fn agreed_window(&self) -> Option<u8> {
        Some(self.window).filter(|&window| window != PLAIN)
    }

    /// What went through it so far.
    pub(super) fn traffic(&self) -> io::Result<Traffic> {
        traffic(&self.stream)
    }

    /// Ends our side of the stream; the client's goes on.
    pub(super) fn shut_write(&self) {
        // Fails only on a connection that has ended altogether, which the poll tells too.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Makes the end of the socket a reset, so that the kernel doesn't go on sending to somebody
    /// who doesn't read.
    pub(super) fn end_with_reset(&self) {
        // If it fails, the kernel tries for longer than it should; nobody else notices.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = recv(&self.stream, buffer, RecvFlags::empty())?;
        Ok(count)
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.stream, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // It has no way to forbid SIGPIPE; Rust programs ignore that from the start.
        Ok(rustix::io::writev(&self.stream, slices)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The sockets by slot.
#[derive(Default)]
pub(super) struct SocketTable(Vec<Option<Socket>>);

impl SocketTable {
    /// Puts in the socket of a new connection.
    pub(super) fn insert(&mut self, slot: Slot, socket: Socket) {
        let slot = slot.index();
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot] = Some(socket);
    }

    /// The slots that are or were in use: all are below this.
    pub(super) fn end(&self) -> Slot {
        Slot::at(self.0.len())
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Socket> {
        self.0.get(slot.index())?.as_ref()
    }

    /// The socket, if its client can be sent to.
    pub(super) fn open(&self, slot: Slot) -> Option<&Socket> {
        self.get(slot).filter(|socket| socket.open)
    }

    /// The slots whose clients can be sent to.
    pub(super) fn all_open(&self) -> impl Iterator<Item = (Slot, &Socket)> {
        let sockets = self.0.iter().enumerate();
        sockets.filter_map(|(index, socket)| {
            Some((Slot::at(index), socket.as_ref().filter(|socket| socket.open)?))
        })
    }

    /// The client is on its way out: no more messages for it.
    pub(super) fn close(&mut self, slot: Slot) {
        if let Some(Some(socket)) = self.0.get_mut(slot.index()) {
            socket.open = false;
        }
    }

    /// Takes the socket out; dropping it closes it.
    pub(super) fn take(&mut self, slot: Slot) -> Option<Socket> {
        self.0.get_mut(slot.index())?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_takes_eight_bytes() {
        // With debug assertions mio keeps more beside a socket.
        assert!(size_of::<Option<Socket>>() <= if cfg!(debug_assertions) { 24 } else { 8 });
    }
}
