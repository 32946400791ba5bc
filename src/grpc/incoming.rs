//! Connections of business systems, from several listeners, as the one stream that tonic takes.

use std::io;

use tokio::{net::TcpStream, sync::mpsc};

use crate::net::{Acceptor, Entrance, Listener as _, Stop, stopped};

/// Connections accepted that tonic has not taken yet; it takes them at once.
pub(super) const WAITING: usize = 1;

/// Accepts at one entrance until `stop`, those that wait by then included, or until tonic takes no
/// more.
pub(super) async fn feed(
    entrance: Entrance,
    give: mpsc::Sender<io::Result<TcpStream>>,
    mut stop: Stop,
) {
    let mut acceptor = Acceptor::new(entrance, "grpc");
    loop {
        let (stream, _) = tokio::select! {
            connection = acceptor.next() => connection,
            () = give.closed() => return,
            () = stopped(&mut stop) => match acceptor.listener().waiting() {
                Some(connection) => connection,
                None => return,
            },
        };
        // Failing means that the peer has gone; the first read will say so too.
        let _ = stream.set_nodelay(true);
        if give.send(Ok(stream)).await.is_err() {
            return;
        }
    }
}
