//! Connections of business systems, from several listeners, as the one stream that tonic takes.

use std::{convert::Infallible, io};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::net::Acceptor;

/// Connections accepted that tonic has not taken yet; it takes them at once.
const WAITING: usize = 1;

/// The connections, and the work of accepting them: a future that never ends and that closes the
/// listeners when it is dropped or when tonic takes no more.
pub(super) fn accept(
    listeners: Vec<TcpListener>,
) -> (ReceiverStream<io::Result<TcpStream>>, impl Future<Output = Infallible>) {
    let (give, take) = mpsc::channel(WAITING);
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(feed(Acceptor::new(listener, "grpc"), give.clone()));
    }
    let work = async move {
        while loops.join_next().await.is_some() {}
        std::future::pending().await
    };
    (ReceiverStream::new(take), work)
}

async fn feed(mut acceptor: Acceptor<TcpListener>, give: mpsc::Sender<io::Result<TcpStream>>) {
    loop {
        let stream = tokio::select! {
            (stream, _) = acceptor.next() => stream,
            () = give.closed() => return,
        };
        // Failing means that the peer has gone; the first read will say so too.
        let _ = stream.set_nodelay(true);
        if give.send(Ok(stream)).await.is_err() {
            return;
        }
    }
}
