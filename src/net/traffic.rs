//! How much went over a TCP connection, both ways, as the kernel has counted it anyway.
//!
//! So nobody has to count what is sent to each client, which a fan-out to thousands would pay for
//! with a look at each session.

#![expect(unsafe_code, reason = "no crate has a safe getsockopt(2) for TCP_INFO")]

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd},
};

/// Bytes of payload that a connection has carried; TLS is payload, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that have arrived.
    pub received: u64,
    /// Bytes that were sent and that the other side's kernel has acknowledged.
    pub acknowledged: u64,
}

/// What the kernel has counted for a connection (`TCP_INFO`, tcp(7)).
pub fn traffic(socket: &impl AsFd) -> io::Result<Traffic> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the descriptor is open as long as `socket` is borrowed; `info` is writable for `len`
    // bytes, and the kernel writes at most as many as it is told.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the structure is made of whole numbers, of which all-zero bytes are one; what an older
    // kernel does not write stays zero.
    let info = unsafe { info.assume_init() };
    Ok(Traffic { received: info.tcpi_bytes_received, acknowledged: info.tcpi_bytes_acked })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn the_kernel_counts_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut there = TcpStream::connect(listener.local_addr().expect("it")).expect("a client");
        let (mut here, _) = listener.accept().expect("its other end");
        there.write_all(&[0; 1000]).expect("room");
        here.read_exact(&mut [0; 1000]).expect("all of it");
        here.write_all(&[0; 70]).expect("room");
        there.read_exact(&mut [0; 70]).expect("all of it");
        // On the same machine what was read was acknowledged, or is in a moment.
        let wanted = Traffic { received: 1000, acknowledged: 70 };
        while traffic(&here).expect("it is a connection") != wanted {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_no_tcp_connection_has_no_traffic() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert!(traffic(&one).is_err());
    }
}
