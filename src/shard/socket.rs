//! Reading and writing a client's socket with the plain system calls.
//!
//! The standard library goes through libc, where each call is a cancellation point and thereby
//! some fifty nanoseconds dearer: one in a hundred of all that a delivery costs.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// The socket, borrowed for a call.
pub(super) struct Socket<'a>(pub(super) &'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = recv(self.0, buffer, RecvFlags::empty())?;
        Ok(count)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // It has no way to forbid SIGPIPE; Rust programs ignore that from the start.
        Ok(rustix::io::writev(self.0, slices)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
