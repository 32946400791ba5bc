//! `serve`: runs the gateway in this process. The one place from which `app` is called.

use std::fs::OpenOptions;
use std::io;
use std::time::Duration;

use super::announcement::{Announcement, Word};
use super::{Exit, complain, complain_of};
use crate::app::{Gateway, Options, RunError, StartError};
use crate::config::{self, Loaded, Source, machine};
use crate::control::PlaceError;
use crate::shard::Clock;
use crate::telemetry;

/// The control runtime does what waits; the clients' sockets have threads of their own.
const CONTROL_THREADS: usize = 4;

/// Time that the control runtime's threads have to come to an end.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Loads, checks and runs; returns when the gateway has ended.
pub(super) fn run(mut source: Source, detached: bool) -> Exit {
    if detached {
        if let Err(error) = config::leave_directory() {
            complain(&format!("can't leave the directory: {error}"));
            return Exit::Failed;
        }
        source.file = source.file.map(config::base::absolute);
    }
    let loaded = match config::load_to_run(&source, std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(faults) => return complain_of(&faults),
    };
    if detached {
        // Fails only for who already leads a group, and then there is no terminal to leave.
        let _ = rustix::process::setsid();
    }
    let logs_to_file = !loaded.config.log.file.as_os_str().is_empty();
    let telemetry = match telemetry::init(&loaded.config.log) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            complain(&format!("can't start: {error}"));
            return Exit::Failed;
        }
    };
    let outcome = serve(loaded, source, telemetry.clone(), detached);
    if detached
        && let Err(ServeError::Start(StartError::Control(PlaceError::AlreadyRunning {
            pid, ..
        }))) = &outcome
    {
        telemetry.flush();
        announce(&Word::AlreadyRunning { pid: *pid });
        return Exit::Failed;
    }
    if let Err(error) = &outcome {
        // Before it is ready, a detached gateway's standard error is read by a person.
        if logs_to_file || !detached {
            tracing::error!(%error, "the gateway failed");
        }
        telemetry.flush();
        if logs_to_file || detached {
            complain(&error.to_string());
        }
    }
    telemetry.flush();
    if outcome.is_ok() { Exit::Done } else { Exit::Failed }
}

/// Why the gateway did not serve, or ended badly.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(
        "no control socket, so nobody could stop it: run it in the foreground (serve), or set \
         control.socket to a path that it can make"
    )]
    OutOfReach,
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

fn serve(
    loaded: Loaded,
    source: Source,
    telemetry: telemetry::Handle,
    detached: bool,
) -> Result<(), ServeError> {
    if let Err(error) = machine::raise_files() {
        tracing::warn!(%error, "the file descriptor limit could not be raised");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if !loaded.overridden.is_empty() {
        let keys: Vec<_> = loaded.overridden.iter().map(|it| it.key.as_str()).collect();
        let keys = keys.join(", ");
        tracing::info!(keys, "keys of the file are overridden by environment or flags");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(machine::cores().clamp(1, CONTROL_THREADS))
        .thread_name("control")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        // First, so that no signal finds the process between start and readiness unprepared.
        let signals = Gateway::signals()?;
        let inherited = Gateway::inherited().map_err(StartError::from)?;
        let telemetry = Some(telemetry);
        let clock = Clock::default();
        let options = Options { loaded, source, telemetry, sink: None, inherited, clock };
        let gateway = Gateway::start(options).await?;
        if detached {
            if gateway.listeners().control.is_none() {
                return Err(ServeError::OutOfReach);
            }
            let_go(&gateway)?;
        }
        Ok(gateway.run(signals).await?)
    });
    // What still runs there is of no use to anybody, and could hold the process.
    runtime.shutdown_timeout(LAST_BREATH);
    outcome
}

/// Tells the waiting `start` that all is well, and closes the streams that lead to it.
fn let_go(gateway: &Gateway) -> io::Result<()> {
    let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // Standard error first: once the line below is read, nobody reads it any more.
    rustix::stdio::dup2_stderr(&nowhere)?;
    let announcement = Announcement { pid: std::process::id(), listeners: gateway.listeners() };
    announce(&Word::Ready(announcement));
    rustix::stdio::dup2_stdout(&nowhere)?;
    Ok(())
}

/// Says the line that `start` waits for.
fn announce(word: &Word) {
    // It has no key that could fail to be written.
    super::say(&serde_json::to_string(word).unwrap_or_default());
}
