//! The control socket's file: taken if nobody living owns it, private, and gone with its owner.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use socket2::{Domain, SockAddr, Type};
use tokio::{
    net::{UnixListener, UnixStream},
    time::sleep,
};

use super::place::{Place, places};

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// None of the documented directories can be used. The gateway runs without, after a warning.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// Another gateway answers there.
    #[error("already running: pid {pid} owns {}", path.display())]
    AlreadyRunning {
        /// The other process; 0 if it is out of sight (another container's).
        pid: u32,
        /// Its control socket.
        path: PathBuf,
    },
    /// The path the operator chose can't be used.
    #[error("cannot use {} (control.socket): {source}", path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// None of the documented directories can be used.
#[derive(Debug, thiserror::Error)]
#[error("no control socket, as no directory for it can be used: {}", list(tried))]
pub struct NoPlace {
    /// The paths tried, and what the system said of each.
    pub tried: Vec<(PathBuf, io::Error)>,
}

/// A control socket that is listening.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's file; dropping it removes the file, unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Only the owner may give commands.
const MODE: u32 = 0o600;
/// Commands that may wait to be accepted.
const BACKLOG: i32 = 64;
/// How often, and how long in between, to ask for the directory's lock. Its holder needs it for
/// some microseconds, on a busy machine for a moment; who holds it longer means harm and is ignored.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

impl Socket {
    /// Listens on the explicit path, or in the first documented place that can be used.
    ///
    /// Must be called within a tokio runtime.
    pub async fn bind(explicit: Option<&Path>) -> Result<Self, PlaceError> {
        Self::bind_with(explicit, |name| std::env::var_os(name)).await
    }

    /// Like [`bind`](Self::bind), with another environment.
    pub async fn bind_with(
        explicit: Option<&Path>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, PlaceError> {
        let mut tried = Vec::new();
        for place in places(explicit, env) {
            let taken = take(&place).await;
            let path = place.path;
            match taken {
                Ok(Taken::Ours(socket)) => return Ok(socket),
                Ok(Taken::Theirs { pid }) => return Err(PlaceError::AlreadyRunning { pid, path }),
                Err(source) if explicit.is_some() => {
                    return Err(PlaceError::Unusable { path, source });
                }
                Err(source) => tried.push((path, source)),
            }
        }
        Err(NoPlace { tried }.into())
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The listener, and the file that must outlive it.
    pub(super) fn split(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A gateway that started meanwhile owns the path now; its socket stays.
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

enum Taken {
    Ours(Socket),
    Theirs { pid: u32 },
}

async fn take(place: &Place) -> io::Result<Taken> {
    let path = place.path.as_path();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if let Some(mode) = place.create {
        match DirBuilder::new().mode(mode).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    place.check()?;
    // Of two gateways that start at once, the second must find the first's socket listening and
    // not take it for a stale one.
    let _lock = lock(directory).await?;
    if let Some(pid) = clear(path).await? {
        return Ok(Taken::Theirs { pid });
    }
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // From here on the file is removed again if anything fails.
    let file = SocketFile::of(path)?;
    // Until it listens nobody can connect, so the mode is there before the first who could.
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = UnixListener::from_std(socket.into())?;
    Ok(Taken::Ours(Socket { listener, file }))
}

/// Makes way at `path`: removes a socket that nobody listens on; answers the pid of who does.
async fn clear(path: &Path) -> io::Result<Option<u32>> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no socket"));
    }
    match UnixStream::connect(path).await {
        Ok(other) => {
            let pid = other.peer_cred()?.pid().unwrap_or_default();
            Ok(Some(u32::try_from(pid).unwrap_or_default()))
        }
        // Its backlog is full, so somebody has it.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(0)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The directory's lock, for as long as the value lives; none if somebody sits on it.
async fn lock(directory: &Path) -> io::Result<Option<File>> {
    let directory = File::open(directory)?;
    for _ in 0..LOCK_TRIES {
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(Some(directory));
        }
        sleep(LOCK_PAUSE).await;
    }
    Ok(None)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

fn list(tried: &[(PathBuf, io::Error)]) -> String {
    let lines = tried.iter().map(|(path, error)| format!("{}: {error}", path.display()));
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind_at(path: &Path) -> Result<Socket, PlaceError> {
        Socket::bind_with(Some(path), |_| None).await
    }

    #[tokio::test]
    async fn a_socket_is_private_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let socket = bind_at(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_living_owner_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _socket = bind_at(&path).await.unwrap();
        let error = bind_at(&path).await.unwrap_err();
        let pid = std::process::id();
        let text = format!("already running: pid {pid} owns {}", path.display());
        assert_eq!(error.to_string(), text);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = bind_at(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind_at(&path).await, Err(PlaceError::Unusable { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn an_owner_removes_only_its_own_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let old = bind_at(&path).await.unwrap();
        fs::rename(&path, directory.path().join("aside")).unwrap();
        let _new = bind_at(&path).await.unwrap();
        drop(old);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn the_first_directory_that_can_be_used_is() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = directory.path().to_owned();
        let env = |name: &str| match name {
            "RUNTIME_DIRECTORY" => {
                std::env::join_paths([runtime.join("missing"), runtime.clone()]).ok()
            }
            _ => None,
        };
        let socket = Socket::bind_with(None, env).await.unwrap();
        assert_eq!(socket.path(), runtime.join("control.sock"));
    }
}
