//! What is said to the service manager, and what it hands over: `sd_notify(3)`, `sd_listen_fds(3)`.
//!
//! Without a service manager all of this is silence. What can't be said is logged once and changes
//! nothing else: the gateway serves its clients, whoever watches it.

use std::{
    io,
    os::fd::{BorrowedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::net::TcpListener;

use super::listeners::Surface;

/// All listeners are bound and served.
pub(super) fn ready() {
    let _ = say(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] ends it. The time tells systemd which reload this answers.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // In one datagram, or systemd doesn't see the two together.
        Ok(time) => {
            let _ = say(&[NotifyState::Reloading, time]);
        }
        Err(error) => tracing::warn!(%error, "the monotonic clock can't be read"),
    }
}

/// The stop begins and will take at most so long, whatever `TimeoutStopSec=` says; answers whether
/// there is a service manager that could be asked for the time.
pub(super) fn stopping(at_most: Duration) -> bool {
    // The type of sd-notify for it ends at 71 minutes; a drain may take three hours.
    let extend = format!("EXTEND_TIMEOUT_USEC={}", at_most.as_micros());
    let told = say(&[NotifyState::Stopping, NotifyState::Custom(&extend)]);
    told && std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// One line for `systemctl status`.
pub(super) fn status(line: &str) {
    let _ = say(&[NotifyState::Status(line)]);
}

/// All is well, for another while.
pub(super) fn alive() {
    let _ = say(&[NotifyState::Watchdog]);
}

/// How often [`alive`] has to be said at the least, if anybody waits for it.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Answers whether it could be said; without a service manager there is nobody to miss it.
fn say(states: &[NotifyState]) -> bool {
    static SAID: AtomicBool = AtomicBool::new(false);
    let Err(error) = sd_notify::notify(states) else { return true };
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(%error, "the service manager can't be told anything (NOTIFY_SOCKET)");
    }
    false
}

/// Sockets that were handed over and can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// Their environment variables make no sense.
    #[error("the sockets handed over can't be found: {0} (LISTEN_FDS, LISTEN_FDNAMES)")]
    Environment(io::Error),
    /// There is no such surface.
    #[error(
        "the socket handed over as {name:?} belongs nowhere: FileDescriptorName= has to be \
         websocket, tls, grpc or admin"
    )]
    Name {
        /// What stands in `LISTEN_FDNAMES`.
        name: String,
    },
    /// Several, one of which has no name.
    #[error(
        "{count} sockets were handed over, and one of them without a name: FileDescriptorName= (in \
         LISTEN_FDNAMES) has to be websocket, tls, grpc or admin for each"
    )]
    Unnamed {
        /// How many.
        count: usize,
    },
    /// It is something else than a TCP listener.
    #[error("the socket handed over as {name:?} is no TCP listener: {source}")]
    Socket {
        /// What stands in `LISTEN_FDNAMES`.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The listeners that the service manager holds for us. To be called once in a process, within a
/// tokio runtime.
pub(super) fn inherited() -> Result<Vec<(Surface, TcpListener)>, InheritError> {
    let given = sd_notify::listen_fds_with_names().map_err(InheritError::Environment)?;
    let count = given.len();
    given
        .map(|(fd, name)| {
            let surface = surface(&name, count)?;
            match listener(fd) {
                Ok(listener) => Ok((surface, listener)),
                Err(source) => Err(InheritError::Socket { name, source }),
            }
        })
        .collect()
}

/// Names that a socket has to which nobody gave one: an empty one, that of `sd_listen_fds_with_names(3)`
/// without `LISTEN_FDNAMES`, and that which systemd makes of the unit's.
const UNNAMED: [&str; 3] = ["", "unknown", "gateway-websocket.socket"];

/// What a socket of this name leads to, one of `count`. A single one without a name can only be that
/// of WebSocket clients.
fn surface(name: &str, count: usize) -> Result<Surface, InheritError> {
    let known = Surface::ALL.into_iter().find(|surface| surface.name() == name);
    match known {
        Some(surface) => Ok(surface),
        None if !UNNAMED.contains(&name) => Err(InheritError::Name { name: name.to_owned() }),
        None if count == 1 => Ok(Surface::WebSocket),
        None => Err(InheritError::Unnamed { count }),
    }
}

#[expect(unsafe_code, reason = "a descriptor that was handed over is only a number")]
fn listener(fd: RawFd) -> io::Result<TcpListener> {
    // SAFETY: by the protocol the descriptor is open and nobody else's, from 3 on and checked to
    // be meant for this process (LISTEN_PID); it is borrowed to be duplicated and stays open, which
    // keeps its number from being used for anything else.
    let given = unsafe { BorrowedFd::borrow_raw(fd) };
    let socket = socket2::Socket::from(given.try_clone_to_owned()?);
    if !socket.is_listener()? || socket.local_addr()?.as_socket().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen on TCP"));
    }
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_known_by_its_name_or_by_being_the_only_one() {
        for name in ["", "unknown", "gateway-websocket.socket"] {
            assert_eq!(surface(name, 1).unwrap(), Surface::WebSocket);
            assert!(matches!(surface(name, 2), Err(InheritError::Unnamed { count: 2 })));
        }
        for count in [1, 2] {
            assert_eq!(surface("grpc", count).unwrap(), Surface::Grpc);
            assert!(matches!(surface("grpc.socket", count), Err(InheritError::Name { .. })));
        }
    }
}
