//! Binding listeners, with errors that name the address and the setting it came from.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// An address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {}", reason(source))]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// The setting that names it, `section.key`.
    pub key: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// The address as the setting writes it.
    pub address: SocketAddr,
    /// Whether clients of IPv4 come in by it as well. Of `[::]` only.
    pub takes_ipv4: bool,
}

impl ListenAddress {
    /// `address`, where `listed` are all addresses that are to be listened on: `[::]` takes IPv4 too,
    /// as most people expect, unless an address of IPv4 is listed with the same port. Then each
    /// means itself.
    pub fn among(address: SocketAddr, mut listed: impl Iterator<Item = SocketAddr>) -> Self {
        let is_wildcard = address.is_ipv6() && address.ip().is_unspecified();
        let is_beside = |other: SocketAddr| other.is_ipv4() && other.port() == address.port();
        Self { address, takes_ipv4: is_wildcard && !listed.any(is_beside) }
    }
}

impl From<SocketAddr> for ListenAddress {
    /// An address that means itself.
    fn from(address: SocketAddr) -> Self {
        Self { address, takes_ipv4: false }
    }
}

/// Listens on `address`, which the setting `key` names. Must be called within a tokio runtime.
pub fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, BindError> {
    bind_beside(address, key, &[])
}

/// Listens on `at` although others, which are about to close, listen on the same port: on
/// `0.0.0.0:80` beside `127.0.0.1:80`, for example.
pub fn bind_beside(
    at: impl Into<ListenAddress>,
    key: &'static str,
    others: &[&Socket],
) -> Result<TcpListener, BindError> {
    let at = at.into();
    if others.is_empty() {
        return listen(at).map_err(|source| BindError { address: at.address, key, source });
    }
    let share = |shared| -> io::Result<()> {
        others.iter().try_for_each(|other| other.set_reuse_port(shared))
    };
    let listener = share(true).and_then(|()| listen_with(at, true));
    // Nobody else may join in later.
    let listener = listener.and_then(|listener| {
        socket2::SockRef::from(&listener).set_reuse_port(false).map(|()| listener)
    });
    let closed = share(false);
    listener.and_then(|listener| closed.map(|()| listener)).map_err(|source| BindError {
        address: at.address,
        key,
        source,
    })
}

fn listen(at: ListenAddress) -> io::Result<TcpListener> {
    listen_with(at, false)
}

fn listen_with(at: ListenAddress, shared: bool) -> io::Result<TcpListener> {
    let address = at.address;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(!at.takes_ipv4)?;
    }
    // Connections of the last run that linger in TIME_WAIT must not hinder this one.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The system's words without the number that Rust adds.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_setting() {
        let first = bind(([127, 0, 0, 1], 0).into(), "websocket.listen").unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "grpc.listen").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {address} (grpc.listen): Address already in use")
        );
    }

    #[tokio::test]
    async fn an_address_can_take_over_from_one_it_overlaps_with() {
        let narrow = bind(([127, 0, 0, 1], 0).into(), "websocket.listen").unwrap();
        let wide = SocketAddr::from(([0, 0, 0, 0], narrow.local_addr().unwrap().port()));
        let handle = socket2::SockRef::from(&narrow).try_clone().unwrap();
        assert!(bind(wide, "websocket.listen").is_err());
        let wide_one = bind_beside(wide, "websocket.listen", &[&handle]).unwrap();
        // Only for that moment: a third finds the door shut again.
        assert!(bind(wide, "websocket.listen").is_err());
        drop((narrow, handle));
        let address = SocketAddr::from(([127, 0, 0, 1], wide.port()));
        let client = std::net::TcpStream::connect(address).unwrap();
        let (_, peer) = wide_one.accept().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    #[test]
    fn the_wildcard_of_ipv6_takes_ipv4_unless_that_is_listed() {
        for (listed, takes_ipv4) in [
            (&["[::]:1"][..], true),
            (&["[::]:1", "0.0.0.0:2", "[::1]:1"], true),
            (&["[::]:1", "0.0.0.0:1"], false),
            (&["[::]:1", "127.0.0.1:1"], false),
            (&["[::1]:1"], false),
            (&["0.0.0.0:1"], false),
        ] {
            let listed = listed.iter().map(|address| address.parse::<SocketAddr>().unwrap());
            let first = listed.clone().next().unwrap();
            assert_eq!(ListenAddress::among(first, listed).takes_ipv4, takes_ipv4, "{first}");
        }
    }

    #[tokio::test]
    async fn both_families_share_a_port() {
        let Ok(six) = bind("[::]:0".parse().unwrap(), "websocket.listen") else {
            return; // no IPv6 here
        };
        let port = six.local_addr().unwrap().port();
        assert!(bind(([0, 0, 0, 0], port).into(), "websocket.listen").is_ok());
    }
}
