//! The commands that ask the running gateway, over its control socket.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use super::{Exit, complain, given, render, say};
use crate::config::{self, Source};
use crate::control::{Client, ClientError};
use crate::lifecycle::Reloaded;
use crate::status::{Phase, Status};

/// What the running gateway is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Stop,
    Status { json: bool },
    Reload { plan: bool },
    Drain { wait: bool },
    Health,
}

/// Between the answer to a stop and the end of the process there is next to nothing left to do.
const LAST_BREATH: Duration = Duration::from_secs(10);

/// How often it is looked whether a drain has begun.
const LOOK: Duration = Duration::from_millis(20);

/// Asks, prints the answer, and says how it went.
pub(super) fn run(source: &Source, ask: Ask) -> Exit {
    let socket = config::control_socket(source, std::env::vars_os());
    match block_on(answer(source, socket.as_deref(), ask)) {
        Ok(exit) => exit,
        Err(ClientError::NotRunning { .. }) if ask == Ask::Stop => {
            say("not running");
            Exit::Done
        }
        Err(ClientError::NotRunning { tried }) => {
            let tried: Vec<_> = tried.iter().map(|path| path.display().to_string()).collect();
            complain(&format!("not running (no control socket at {})", tried.join(", ")));
            Exit::NotRunning
        }
        Err(error) => {
            complain(&error.to_string());
            Exit::Failed
        }
    }
}

/// The gateway that runs already, in words, if one does. One that is starting is waited for.
pub(super) fn running(
    socket: Option<&Path>,
    patience: Duration,
) -> Result<Option<String>, ClientError> {
    let found = block_on(async {
        let mut client = Client::connect(socket).await?;
        let pid = client.pid();
        match client.status_within(patience).await {
            Ok(status) => Ok(format!("pid {pid}, version {}", status.version)),
            Err(error @ (ClientError::Broken { .. } | ClientError::Silent { .. })) => Err(error),
            // It holds the socket, even if it is too different to say more.
            Err(_) => Ok(format!("pid {pid}")),
        }
    });
    match found {
        Ok(running) => Ok(Some(running)),
        // It ended before it was ready.
        Err(ClientError::NotRunning { .. } | ClientError::Broken { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How far a drain is: one line on the terminal, written over as long as it goes on. Where nobody
/// looks on, nothing; the gateway's log has lines of its own.
struct Progress {
    terminal: bool,
    /// Length of what stands there.
    shown: usize,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: 0 }
    }

    fn show(&mut self, status: &Status) {
        if let Some(drain) = &status.drain {
            self.write(&format!("draining: {}", drain.text()));
        }
    }

    fn write(&mut self, line: &str) {
        if self.terminal {
            let mut terminal = std::io::stderr().lock();
            let _ = write!(terminal, "\r{line:width$}", width = self.shown);
            let _ = terminal.flush();
            self.shown = line.len();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown > 0 {
            self.write("");
            let _ = write!(std::io::stderr().lock(), "\r");
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(ClientError::Refused(format!("can't start a runtime: {error}"))),
    }
}

/// Why the gateway that runs can't be given what `source` says.
pub(super) fn refusal(source: &Source, socket: Option<&Path>) -> Option<String> {
    let asked = block_on(async { refusal_of(source, &mut Client::connect(socket).await?).await });
    // Of one that says nothing nothing is known.
    asked.ok().flatten()
}

async fn refusal_of(source: &Source, client: &mut Client) -> Result<Option<String>, ClientError> {
    let pid = client.pid();
    Ok(given::refusal(source, pid, &client.status().await?.config))
}

async fn answer(source: &Source, socket: Option<&Path>, ask: Ask) -> Result<Exit, ClientError> {
    let mut client = Client::connect(socket).await?;
    match ask {
        Ask::Status { json } => {
            let status = client.status().await?;
            if json {
                let text = serde_json::to_string_pretty(&status);
                say(&text.map_err(|error| ClientError::Refused(error.to_string()))?);
            } else {
                say(&render::status(&status));
            }
            Ok(Exit::Done)
        }
        Ask::Reload { plan } => {
            if let Some(refusal) = refusal_of(source, &mut client).await? {
                complain(&format!("reload refused: {refusal}"));
                return Ok(Exit::Failed);
            }
            let outcome = if plan { client.plan().await? } else { client.reload().await? };
            Ok(tell_outcome(&outcome, plan))
        }
        Ask::Health => {
            let ready = client.health().await?;
            say(if ready { "ready" } else { "not ready" });
            Ok(if ready { Exit::Done } else { Exit::Failed })
        }
        Ask::Drain { wait: true } => {
            let mut progress = Progress::new();
            let drained = client.drain(|status| progress.show(status)).await;
            drop(progress);
            say(&render::drained(drained?));
            Ok(Exit::Done)
        }
        Ask::Drain { wait: false } => begin_drain(client, socket).await,
        Ask::Stop => stop(client).await,
    }
}

/// Says how a reload ended, or how one would end.
fn tell_outcome(outcome: &Reloaded, plan: bool) -> Exit {
    match outcome {
        Reloaded::Refused { faults } => {
            complain(&render::faults(
                if plan {
                    "a reload would be refused; the configuration has"
                } else {
                    "reload refused, nothing changed; the configuration has"
                },
                faults,
            ));
            Exit::Failed
        }
        Reloaded::Accepted { .. } => {
            say(&if plan { render::planned(outcome) } else { render::reloaded(outcome) });
            Exit::Done
        }
    }
}

async fn stop(mut client: Client) -> Result<Exit, ClientError> {
    let pid = client.pid();
    let mut progress = Progress::new();
    let drained = client.stop(|status| progress.show(status)).await;
    drop(progress);
    say(&render::drained(drained?));
    if client.wait_for_exit(LAST_BREATH).await? {
        say("stopped");
        return Ok(Exit::Done);
    }
    let waited = LAST_BREATH.as_secs();
    complain(&format!(
        "the clients are gone, but process {pid} has not ended within {waited} s: its log says what it \
         waits for; kill -9 {pid} ends it"
    ));
    Ok(Exit::Failed)
}

/// Asks for the drain and returns once the gateway is seen to be draining. It goes on by itself:
/// the answer that is not waited for here would only bring the numbers.
async fn begin_drain(mut client: Client, socket: Option<&Path>) -> Result<Exit, ClientError> {
    let mut watcher = Client::connect(socket).await?;
    let drained = client.drain(|_| ());
    tokio::pin!(drained);
    loop {
        tokio::select! {
            drained = &mut drained => {
                say(&render::drained(drained?));
                return Ok(Exit::Done);
            }
            () = tokio::time::sleep(LOOK) => {
                let status = watcher.status().await?;
                if matches!(status.phase, Phase::Draining | Phase::Stopping) {
                    say(&format!("draining: {} clients left; status shows how it goes", status.clients));
                    return Ok(Exit::Done);
                }
            }
        }
    }
}
