//! A gateway as a process of its own, started and waited for.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use gateway_websocket::status::{Listeners, Status};
use tempfile::TempDir;

use crate::{
    Outcome,
    child::{Child, SERVER},
    side::HANG,
};

/// How a gateway is started.
pub(crate) struct Options<'a> {
    /// Settings, as on the command line.
    pub(crate) set: &'a [&'a str],
    /// Cores it may use.
    pub(crate) cores: &'a [usize],
    /// Descriptors it may open; none leaves the limit as it is.
    pub(crate) files: Option<u64>,
    /// Whether its log is a pipe that nobody reads.
    pub(crate) unread_log: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { set: &[], cores: &[SERVER], files: None, unread_log: false }
    }
}

/// A gateway in service. Dropping it ends the process.
pub(crate) struct Server {
    process: Child,
    /// Where it listens.
    pub(crate) listeners: Listeners,
    /// Holds the control socket and the log.
    directory: TempDir,
}

impl Server {
    /// Starts the gateway on free ports of 127.0.0.1 and waits until it is in service.
    pub(crate) fn start(binary: &Path, options: &Options<'_>) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("control.sock");
        let log = directory.path().join("log");
        let mut command = match options.files {
            None => Command::new(binary),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {files} && exec \"$@\""));
                shell.arg("sh").arg(binary);
                shell
            }
        };
        command.arg("--socket").arg(&socket);
        for place in ["websocket.listen", "grpc.listen", "admin.listen"] {
            command.arg(format!("--set={place}=127.0.0.1:0"));
        }
        // A benchmark's clients say more than any honest one.
        command.args(["--set=limits.client_messages=0", "--set=limits.client_bytes=0"]);
        for setting in options.set {
            command.arg(format!("--set={setting}"));
        }
        command.arg("serve");
        if options.unread_log {
            command.stderr(Stdio::piped());
        } else {
            command.stderr(File::create(&log)?);
        }
        let process = Child::start(command, options.cores)?;
        let Some(status) = ready(binary, &socket) else {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            return Err(format!("the gateway did not start: {log}").into());
        };
        Ok(Self { process, listeners: status.listeners, directory })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where its commands reach it.
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("control.sock")
    }

    /// The process, and the folder that has to stay as long as it.
    pub(crate) fn into_parts(self) -> (Child, TempDir) {
        (self.process, self.directory)
    }
}

/// Waits until the gateway is in service.
fn ready(binary: &Path, socket: &Path) -> Option<Status> {
    let began = Instant::now();
    while began.elapsed() < HANG {
        let mut command = Command::new(binary);
        command.arg("--socket").arg(socket).args(["status", "--json"]).stderr(Stdio::null());
        if let Ok(output) = command.output()
            && let Ok(status) = serde_json::from_slice(&output.stdout)
        {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(20));
    }
    None
}
