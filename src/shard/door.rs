//! The doors of a shard: the sockets of its sessions, side by side.
//!
//! What a fan-out needs of a client is its socket, and whether and in which form it takes messages:
//! eight bytes. They stand apart from the sessions, so that a walk over a thousand clients reads a
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

use super::encode::PLAIN;
use crate::net::traffic::{Traffic, traffic};

/// The socket of one session, and what is known of it without looking at the session.
pub(super) struct Door {
    socket: TcpStream,
    /// The window size for compressed messages; [`PLAIN`] for none.
    window: u8,
    /// The client can be sent to: it is not on its way out.
    open: bool,
    /// What goes through it belongs to TLS: it may only be written by the client's tunnel.
    sealed: bool,
}

impl Door {
    pub(super) fn new(socket: TcpStream, window: Option<u8>, sealed: bool) -> Self {
        Self { socket, window: window.unwrap_or(PLAIN), open: true, sealed }
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed
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
        traffic(&self.socket)
    }

    /// Ends our side of the stream; the client's goes on.
    pub(super) fn shut_write(&self) {
        // Fails only on a connection that has ended altogether, which the poll tells too.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Makes the end of the socket a reset, so that the kernel doesn't go on sending to somebody
    /// who doesn't read.
    pub(super) fn end_with_reset(&self) {
        // If it fails, the kernel tries for longer than it should; nobody else notices.
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }
}

impl Read for &Door {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = recv(&self.socket, buffer, RecvFlags::empty())?;
        Ok(count)
    }
}

impl Write for &Door {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.socket, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // It has no way to forbid SIGPIPE; Rust programs ignore that from the start.
        Ok(rustix::io::writev(&self.socket, slices)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The doors by slot.
#[derive(Default)]
pub(super) struct Doors(Vec<Option<Door>>);

impl Doors {
    /// Hangs the door of a new session.
    pub(super) fn hang(&mut self, slot: u32, door: Door) {
        let slot = slot as usize;
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot] = Some(door);
    }

    /// The slots that are or were in use: all are below this.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Door> {
        self.0.get(slot as usize)?.as_ref()
    }

    /// The door, if its client can be sent to.
    pub(super) fn open(&self, slot: u32) -> Option<&Door> {
        self.get(slot).filter(|door| door.open)
    }

    /// The slots whose clients can be sent to.
    pub(super) fn all_open(&self) -> impl Iterator<Item = (usize, &Door)> {
        let doors = self.0.iter().enumerate();
        doors.filter_map(|(slot, door)| Some((slot, door.as_ref().filter(|door| door.open)?)))
    }

    /// The client is on its way out: no more messages for it.
    pub(super) fn close(&mut self, slot: u32) {
        if let Some(Some(door)) = self.0.get_mut(slot as usize) {
            door.open = false;
        }
    }

    /// Takes the door out; dropping it closes the socket.
    pub(super) fn take(&mut self, slot: u32) -> Option<Door> {
        self.0.get_mut(slot as usize)?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_takes_eight_bytes() {
        // With debug assertions mio keeps more beside a socket.
        assert!(size_of::<Option<Door>>() <= if cfg!(debug_assertions) { 24 } else { 8 });
    }
}
