//! The life of a running gateway: signals and asks come in, and in the end it stops.
//!
//! | what comes | what is done |
//! |---|---|
//! | SIGTERM, SIGINT, `stop` | drain, then end; a second signal ends at once |
//! | SIGHUP, `reload` | load, check and swap the configuration, or nothing |
//! | a file of the configuration has changed | the same, if it says anything new |
//! | `reload --plan` | the same, but for the swap |
//! | `drain` | drain and stay |
//! | a shard or a surface ends by itself | end with an error, so that a supervisor restarts us |

use std::{
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::{sync::oneshot, time::timeout};
use tokio_stream::StreamExt as _;

use super::{Gateway, RunError, Surface, drain::drain, reload::Why, systemd};
use crate::{
    config::Drain,
    lifecycle::{Ask, Drained, Reloaded},
    status::Phase,
};

/// How often it is checked that all shards live.
const CHECK: Duration = Duration::from_secs(1);

/// Time that the surfaces have to end once the clients are gone.
const GRACE: Duration = Duration::from_secs(3);

/// Time that handshakes under way have before a stop refuses them.
const LET_IN: Duration = Duration::from_millis(500);

/// What woke the supervisor.
enum Wake {
    Ask(Ask),
    Signal(i32),
    Check,
    Surface(Result<(), String>),
    Listener(String),
    Files(Vec<PathBuf>),
}

/// Where clients come in.
const CLIENTS: &[Surface] = &[Surface::WebSocket, Surface::Tls];

impl Gateway {
    /// Registers the signals; from here on SIGTERM, SIGINT and SIGHUP are the gateway's.
    pub fn signals() -> io::Result<Signals> {
        Signals::new([SIGTERM, SIGINT, SIGHUP])
    }

    /// Runs until somebody asks for the end, by signal or through the handle.
    pub async fn run(mut self, mut signals: Signals) -> Result<(), RunError> {
        let mut check = tokio::time::interval(CHECK);
        let mut said = String::new();
        loop {
            let wake = tokio::select! {
                Some(ask) = self.asks.asks.recv() => Wake::Ask(ask),
                Some(signal) = signals.next() => Wake::Signal(signal),
                _ = check.tick() => Wake::Check,
                Some(ended) = self.surfaces.join_next() => {
                    Wake::Surface(ended.map_err(|error| error.to_string()).flatten())
                }
                files = self.watch.rested() => Wake::Files(files),
                error = self.listeners.failed() => Wake::Listener(error),
            };
            match wake {
                Wake::Ask(Ask::Reload(reply)) => {
                    let outcome = self.reload(Why::Asked);
                    // Who asked may be gone; the outcome stands in the status all the same.
                    let _ = reply.send(outcome);
                }
                Wake::Files(files) => {
                    tracing::debug!(?files, "files have changed");
                    // The outcome is logged and stands in the status: nobody asked.
                    let _ = self.reload(Why::Seen);
                }
                Wake::Ask(Ask::Plan(reply)) => {
                    let _ = reply.send(self.reload.plan(&self.live, &self.listeners));
                }
                Wake::Signal(SIGHUP) => {
                    // The outcome is logged and stands in the status: a signal has no answer.
                    let _ = self.reload(Why::Asked);
                }
                Wake::Ask(Ask::Drain(reply)) => {
                    self.go_out_of_service(Phase::Draining, reply, &mut signals).await;
                    if *self.asks.phase.borrow() == Phase::Stopping {
                        return self.end().await;
                    }
                }
                Wake::Ask(Ask::Stop(reply)) => {
                    self.go_out_of_service(Phase::Stopping, reply, &mut signals).await;
                    return self.end().await;
                }
                Wake::Signal(signal) => {
                    tracing::info!(signal, "told to stop; a second signal stops at once");
                    let (reply, _nobody) = oneshot::channel();
                    self.go_out_of_service(Phase::Stopping, reply, &mut signals).await;
                    return self.end().await;
                }
                Wake::Check if self.threads.any_ended() => return Err(RunError::Shard),
                Wake::Check => said = self.say_how_it_is(&said),
                Wake::Surface(Ok(())) => {
                    return Err(RunError::Surface("a server ended unexpectedly".to_owned()));
                }
                Wake::Surface(Err(error)) | Wake::Listener(error) => {
                    return Err(RunError::Surface(error));
                }
            }
        }
    }

    fn reload(&mut self, why: Why) -> Reloaded {
        systemd::reloading();
        let read_at = SystemTime::now();
        let watch = &mut self.watch;
        let disturbed = || why == Why::Seen && watch.disturbed();
        let outcome = self.reload.reload(&self.live, &mut self.listeners, why, disturbed);
        self.watch.set(&self.reload.files(&self.live.snapshot()), read_at);
        self.asks.config.send_replace(self.reload.status());
        // Before anybody is answered: when `reload` has returned, systemd knows that it is over.
        systemd::ready();
        outcome
    }

    /// Keeps the line of `systemctl status` up to date; answers what it is.
    fn say_how_it_is(&self, said: &str) -> String {
        let (clients, groups) = (self.hub.count_clients(), self.hub.count_groups());
        let now = match self.reload.status().faults.len() {
            0 => format!("{clients} clients, {groups} groups"),
            faults => {
                format!("{clients} clients, {groups} groups; last reload refused: {faults} faults")
            }
        };
        if now != said {
            systemd::status(&now);
        }
        now
    }

    /// Drains, unless a signal to stop comes first, which ends the waiting (and turns a drain into
    /// a stop).
    async fn go_out_of_service(
        &mut self,
        phase: Phase,
        reply: oneshot::Sender<Drained>,
        signals: &mut Signals,
    ) {
        self.asks.phase.send_replace(phase);
        let config = self.live.snapshot();
        if phase == Phase::Stopping {
            systemd::stopping(longest(&config.drain));
        }
        let listeners = &mut self.listeners;
        let stop_accepting = async || {
            if phase == Phase::Stopping {
                // Who was accepted already is not refused: where systemd holds the sockets, whoever
                // comes later is served by the next process.
                let _ = timeout(LET_IN, listeners.close(CLIENTS)).await;
            }
        };
        let drained = tokio::select! {
            drained = drain(&self.hub, &config, stop_accepting) => drained,
            () = told_to_stop(signals) => {
                tracing::warn!("told again to stop; clients that are left are cut off");
                self.asks.phase.send_replace(Phase::Stopping);
                Drained { closed: 0, cut_off: self.hub.count_sockets() }
            }
        };
        tracing::info!(closed = drained.closed, cut_off = drained.cut_off, "drained");
        // Who asked may be gone; the drain is done all the same.
        let _ = reply.send(drained);
    }

    /// Takes everything down. The clients are gone, or are cut off here.
    async fn end(mut self) -> Result<(), RunError> {
        drop(self.listeners.close(&Surface::ALL));
        self.stop_grpc.send_replace(true);
        self.hub.stop();
        self.stop_control.send_replace(true);
        let ended = async {
            self.listeners.ended().await;
            while self.surfaces.join_next().await.is_some() {}
        };
        if timeout(GRACE, ended).await.is_err() {
            tracing::warn!("a listener did not end in time; it is cut off");
        }
        self.threads.join();
        tracing::info!("stopped");
        Ok(())
    }
}

/// The time that a stop can take.
fn longest(drain: &Drain) -> Duration {
    // The threads end at once; what is added is for a machine that is busy.
    drain.delay + drain.window + drain.timeout + GRACE + Duration::from_secs(5)
}

async fn told_to_stop(signals: &mut Signals) {
    while let Some(signal) = signals.next().await {
        if signal != SIGHUP {
            return;
        }
    }
    // The signals have ended, which they never do before the process does.
    std::future::pending::<()>().await;
}
