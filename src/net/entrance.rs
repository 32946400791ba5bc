//! A TCP listener, and whether it is ours or systemd's.
//!
//! A listener of ours that closes takes with it whoever waits to be accepted, so it is emptied
//! first. One that systemd keeps outlives us: who waits there is for the next process.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::accept::{Listener, passed};

/// A listener that connections come in by.
#[derive(Debug)]
pub struct Entrance {
    listener: TcpListener,
    inherited: bool,
}

impl Entrance {
    /// A listener that closes with us.
    pub fn own(listener: TcpListener) -> Self {
        Self { listener, inherited: false }
    }

    /// A listener that somebody else keeps open.
    pub fn inherited(listener: TcpListener) -> Self {
        Self { listener, inherited: true }
    }

    /// Whether somebody else keeps it open.
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Lets another socket listen on the same port, or forbids it (`SO_REUSEPORT`, socket(7)): for
    /// the moment in which an address is replaced by one that overlaps with it.
    pub fn share(&self, shared: bool) -> io::Result<()> {
        SockRef::from(&self.listener).set_reuse_port(shared)
    }

    /// A second handle of the same socket, to [`share`](Self::share) it while it is being served.
    pub fn handle(&self) -> io::Result<socket2::Socket> {
        SockRef::from(&self.listener).try_clone()
    }
}

impl AsFd for Entrance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Listener for Entrance {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.listener.accept().await.map(|(stream, peer)| (stream, canonical(peer)))
    }

    fn address(peer: &SocketAddr) -> Option<IpAddr> {
        Some(peer.ip())
    }

    /// Asks the kernel itself: the runtime may not have heard yet of who came last.
    fn waiting(&self) -> Option<(TcpStream, SocketAddr)> {
        if self.inherited {
            return None;
        }
        loop {
            let accepted = SockRef::from(&self.listener).accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
                Ok((TcpStream::from_std(stream.into())?, canonical(peer)))
            });
            match accepted {
                Ok(connection) => return Some(connection),
                Err(error) if passed(&error) => {}
                Err(_) => return None,
            }
        }
    }
}

/// The peer without the mapping of IPv4 into IPv6 that a listener for both brings about.
fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        four @ IpAddr::V4(_) => SocketAddr::new(four, peer.port()),
        // As it is: an address of one link has a scope.
        IpAddr::V6(_) => peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Acceptor, ListenAddress, bind, bind_beside};

    #[tokio::test]
    async fn who_waits_is_found_at_once_and_left_to_the_keeper_of_an_inherited_listener() {
        let listener = bind(([127, 0, 0, 1], 0).into(), "websocket.listen").unwrap();
        let address = listener.local_addr().unwrap();
        let (first, second) = (
            std::net::TcpStream::connect(address).unwrap(),
            std::net::TcpStream::connect(address).unwrap(),
        );
        let acceptor = Acceptor::new(Entrance::own(listener), "test");
        for client in [&first, &second] {
            let (_, peer) = acceptor.listener().waiting().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
        assert!(acceptor.listener().waiting().is_none());

        let listener = bind(([127, 0, 0, 1], 0).into(), "websocket.listen").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(Entrance::inherited(listener).waiting().is_none());
    }

    #[tokio::test]
    async fn a_peer_of_ipv4_is_one_whatever_it_comes_in_by() {
        let at = ListenAddress::among(([0; 8], 0).into(), std::iter::empty());
        assert!(at.takes_ipv4);
        let Ok(listener) = bind_beside(at, "websocket.listen", &[]) else {
            return; // no IPv6 here
        };
        let port = listener.local_addr().unwrap().port();
        let entrance = Entrance::own(listener);
        for host in ["127.0.0.1", "::1"] {
            let connect = || std::net::TcpStream::connect((host, port)).unwrap();
            let (first, second) = (connect(), connect());
            assert_eq!(entrance.accept().await.unwrap().1, first.local_addr().unwrap());
            assert_eq!(entrance.waiting().unwrap().1, second.local_addr().unwrap());
        }
    }
}
