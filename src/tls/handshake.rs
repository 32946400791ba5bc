//! TLS handshakes on threads of their own.
//!
//! A signature takes some hundred microseconds to some milliseconds of one core, and strangers may
//! ask for as many as they like. So the threads that serve calls and probes only read the
//! `ClientHello`; what has to be computed for it, and all that follows in the handshake, is done on
//! threads that are one fewer than the cores, and that give way to all others. Their queue is as
//! long as there are connections that may be opening at once.

use std::{io, pin::Pin, sync::OnceLock, task};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::{Builder, Runtime},
    task::JoinHandle,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::Server;

/// How far the threads stand back behind others (nice(2)); 19 is the most.
const NICE: i32 = 10;

/// Does a handshake over `stream`. `begin` is called once its `ClientHello` is there; what it answers
/// is dropped when the client is waited for again. Dropping the future drops the stream.
pub async fn accept<S, G>(
    server: &Server,
    stream: S,
    begin: impl FnOnce() -> G,
) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    G: Send + 'static,
{
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let (config, working) = (server.config(), begin());
    let shaking = async move {
        // This is where it signs.
        let shaking = hello.into_stream(config);
        drop(working);
        shaking.await
    };
    Ended(threads()?.spawn(shaking)).await
}

/// The threads, which are made with the first handshake and stay.
fn threads() -> io::Result<&'static Runtime> {
    static THREADS: OnceLock<Runtime> = OnceLock::new();
    if let Some(threads) = THREADS.get() {
        return Ok(threads);
    }
    let made = Builder::new_multi_thread()
        .worker_threads(signers())
        .thread_name("tls")
        .on_thread_start(|| {
            // On Linux this is about the calling thread alone. If it fails, the threads are no worse
            // than others.
            let _ = rustix::process::nice(NICE);
        })
        .build()?;
    // If another was quicker, this one ends; it has done nothing yet.
    if let Err(late) = THREADS.set(made) {
        late.shutdown_background();
    }
    THREADS.get().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Signatures that may be computed at once.
fn signers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() - 1).max(1)
}

/// A handshake on another thread; it ends when nobody waits for it any more.
struct Ended<T>(JoinHandle<io::Result<T>>);

impl<T> Future for Ended<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<Self::Output> {
        let ended = Pin::new(&mut self.0).poll(context);
        ended.map(|joined| joined.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
