//! An accept loop's heart: the next connection, whatever `accept` says in between.
//!
//! Running out of file descriptors or memory is a state that passes; a loop that ends because of
//! it would turn a bad minute into an outage.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::net::{UnixListener, UnixStream, unix::UCred};

/// Something that accepts connections.
pub trait Listener: Send + Sync + 'static {
    /// A connection.
    type Stream: Send + 'static;
    /// Who is at its other end.
    type Peer: Send + 'static;

    /// Waits for one connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;

    /// A connection that waits already, for a listener that is about to close; none if there is
    /// none, or if it may wait for somebody else.
    fn waiting(&self) -> Option<(Self::Stream, Self::Peer)> {
        None
    }

    /// The address of the other end, where it has one.
    fn address(_peer: &Self::Peer) -> Option<IpAddr> {
        None
    }

    /// The process at the other end, where the kernel vouches for it.
    fn process(_stream: &Self::Stream) -> Option<UCred> {
        None
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Peer = tokio::net::unix::SocketAddr;

    async fn accept(&self) -> io::Result<(UnixStream, Self::Peer)> {
        Self::accept(self).await
    }

    fn process(stream: &UnixStream) -> Option<UCred> {
        stream.peer_cred().ok()
    }
}

/// A listener whose errors are waited out.
#[derive(Debug)]
pub struct Acceptor<L> {
    listener: L,
    what: &'static str,
    failures: u64,
    said: Option<Instant>,
}

/// How long to wait for descriptors or memory to come back.
const PAUSE: Duration = Duration::from_millis(100);
/// An error that goes on is said this often.
const SAY_EVERY: Duration = Duration::from_secs(10);

impl<L: Listener> Acceptor<L> {
    /// Accepts from `listener`; `what` names it in the log (`websocket`, `grpc`).
    pub fn new(listener: L, what: &'static str) -> Self {
        Self { listener, what, failures: 0, said: None }
    }

    /// The next connection. Can be dropped between polls without losing one.
    pub async fn next(&mut self) -> (L::Stream, L::Peer) {
        loop {
            match self.listener.accept().await {
                Ok(connection) => return connection,
                Err(error) => {
                    self.failures += 1;
                    self.say(&error);
                    if !passed(&error) {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// The listener.
    pub fn listener(&self) -> &L {
        &self.listener
    }

    /// How often `accept` failed.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    fn say(&mut self, error: &io::Error) {
        if self.said.is_some_and(|said| said.elapsed() < SAY_EVERY) {
            return;
        }
        self.said = Some(Instant::now());
        let (listener, failures) = (self.what, self.failures);
        tracing::warn!(listener, failures, %error, "connections can't be accepted");
    }
}

/// Whether the error belongs to the one connection that was about to be accepted (accept(2),
/// "Error handling"), so that the next may be tried at once. All else, the lack of descriptors or
/// memory first, would only come back.
pub(super) fn passed(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::Interrupted
            | Kind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rustix::io::Errno;

    use super::*;

    /// Fails as listed, then accepts.
    struct Troubled(Mutex<Vec<Errno>>);

    impl Listener for Troubled {
        type Stream = ();
        type Peer = ();

        async fn accept(&self) -> io::Result<((), ())> {
            match self.0.lock().unwrap().pop() {
                Some(errno) => Err(errno.into()),
                None => Ok(((), ())),
            }
        }
    }

    async fn after(errors: &[Errno]) -> (u64, Duration) {
        let mut acceptor = Acceptor::new(Troubled(Mutex::new(errors.to_vec())), "test");
        let start = Instant::now();
        acceptor.next().await;
        (acceptor.failures(), start.elapsed())
    }

    #[tokio::test]
    async fn a_lack_of_descriptors_pauses_the_loop_and_does_not_end_it() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INVAL] {
            let (failures, took) = after(&[errno]).await;
            assert_eq!(failures, 1);
            assert!(took >= PAUSE, "{errno} took {took:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_broke_before_its_turn_is_passed_over() {
        let (failures, took) = after(&[Errno::CONNABORTED, Errno::CONNRESET]).await;
        assert_eq!(failures, 2);
        assert!(took < PAUSE, "{took:?}");
    }
}
