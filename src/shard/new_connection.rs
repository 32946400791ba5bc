//! A connection on its way to its shard.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use super::permit::ConnectionPermit;
use crate::{about::About, change::Change, tls::Established};

/// A connection that has just been upgraded to WebSocket.
#[derive(Debug)]
pub struct NewConnection {
    /// The socket, non-blocking.
    pub stream: TcpStream,
    /// The TLS of the connection, its handshake done; none if it is plain.
    pub tls: Option<Box<Established>>,
    /// The answer to the upgrade, which goes out before the first message.
    pub greeting: Vec<u8>,
    /// Bytes that were read beyond the upgrade request: the first of the client's frames.
    pub leftover: Vec<u8>,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// The compression window that was agreed, 9 to 15 bits; none if there is no compression.
    pub window: Option<u8>,
    /// What is to be remembered of its request; none if there is nothing.
    pub about: Option<Arc<About>>,
    /// Its permit under `limits.max_clients`.
    pub permit: ConnectionPermit,
    /// What it becomes in the step in which it is let in, before anybody is told of it; none if
    /// nothing is known of it.
    pub change: Option<Box<Change>>,
}
