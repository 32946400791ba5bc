//! The life of a running gateway: signals and asks come in, and in the end it stops.
//!
//! | what comes | what is done |
//! |---|---|
//! | SIGTERM, SIGINT, `stop` | drain, then end; a drain under way is gone on with |
//! | a second SIGTERM or SIGINT | end at once |
//! | SIGHUP, `reload` | load, check and swap the configuration, or nothing; not while stopping |
//! | a file of the configuration has changed | the same, if it says anything new |
//! | `reload --plan` | the same, but for the swap |
//! | `drain` | drain and stay |
//! | a shard or a surface ends by itself | end with an error, so that a supervisor restarts us |
//!
//! All of it is heard while a drain is under way, too.

use std::{
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_stream::StreamExt as _;

use super::{
    Gateway, RunError, Surface,
    drain::{Drain, Event},
    reload::Why,
    stop_time, systemd,
};
use crate::{
    lifecycle::{Ask, Drained, Reloaded},
    status::{Phase, counted},
};

/// How often it is checked that all shards live, and shown that the supervisor does.
pub(super) const CHECK: Duration = Duration::from_secs(1);

/// Time that the surfaces have to end once the clients are gone.
const GRACE: Duration = Duration::from_secs(3);

/// Time that the shards' threads have to end after that, which takes them a turn of their loop.
const LAST_TURN: Duration = Duration::from_secs(3);

/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(5);

/// How many checks there are between two lines about a drain that is under way.
const CHECKS_PER_LINE: u32 = 5;

/// What a stop may take beyond what is known of, on a machine that is busy.
const BUSY: Duration = Duration::from_secs(2);

/// What woke the supervisor.
enum Wake {
    Ask(Ask),
    Signal(i32),
    Check,
    Drain(Event),
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
        let mut checks = 0_u32;
        loop {
            let wake = tokio::select! {
                Some(ask) = self.asks.asks.recv() => Wake::Ask(ask),
                Some(signal) = signals.next() => Wake::Signal(signal),
                _ = check.tick() => Wake::Check,
                event = next(&mut self.drain) => Wake::Drain(event),
                Some(ended) = self.surfaces.join_next() => {
                    Wake::Surface(ended.map_err(|error| error.to_string()).flatten())
                }
                files = self.watch.rested() => Wake::Files(files),
                error = self.listeners.failed() => Wake::Listener(error),
            };
            self.asks.at_work.send_replace(Instant::now());
            match wake {
                Wake::Ask(ask) => self.answer(ask),
                Wake::Files(files) => {
                    for file in &files {
                        tracing::debug!(file = %file.display(), "a file has changed");
                    }
                    // The outcome is logged and stands in the status: nobody asked.
                    let _ = self.reload(Why::Seen);
                }
                Wake::Signal(SIGHUP) => {
                    // The outcome is logged and stands in the status: a signal has no answer.
                    if self.reload(Why::Asked).is_none() {
                        self.reload.reopen_log();
                        tracing::warn!("the gateway is stopping: SIGHUP reloads nothing any more");
                    }
                }
                Wake::Signal(signal) if self.is_stopping() => {
                    tracing::warn!(signal, "told again to stop; clients that are left are cut off");
                    if let Some(drain) = self.drain.take() {
                        drain.cut_off();
                    }
                    return self.end().await;
                }
                Wake::Signal(signal) => {
                    tracing::info!(signal, "told to stop; a second signal stops at once");
                    self.leave(None, true);
                }
                Wake::Drain(Event::DelayOver) => self.close_clients(),
                Wake::Drain(Event::Over(drained)) => {
                    if let Some(drain) = self.drain.take() {
                        drain.end(drained);
                    }
                    self.show_drain();
                    if self.is_stopping() {
                        return self.end().await;
                    }
                }
                Wake::Check if self.threads.any_ended() => return Err(RunError::Shard),
                Wake::Check => {
                    said = self.say_how_it_is(&said);
                    self.show_config();
                    self.show_drain();
                    checks += 1;
                    if checks.is_multiple_of(CHECKS_PER_LINE)
                        && let Some(drain) = &self.drain
                    {
                        drain.say_how_far();
                    }
                }
                Wake::Surface(Ok(())) => {
                    return Err(RunError::Surface("a server ended unexpectedly".to_owned()));
                }
                Wake::Surface(Err(error)) | Wake::Listener(error) => {
                    return Err(RunError::Surface(error));
                }
            }
        }
    }

    fn answer(&mut self, ask: Ask) {
        // Who asked may be gone: what was done stands in the status all the same. Who is not
        // answered is told that the gateway is stopping.
        match ask {
            Ask::Reload(reply) => {
                if let Some(outcome) = self.reload(Why::Asked) {
                    let _ = reply.send(outcome);
                }
            }
            Ask::Plan(reply) => {
                if !self.is_stopping() {
                    let _ = reply.send(self.reload.plan(&self.live, &self.listeners));
                }
            }
            Ask::Drain(reply) => self.leave(Some(reply), false),
            Ask::Stop(reply) => self.leave(Some(reply), true),
        }
    }

    /// Reloads the configuration. Not while the process is stopping: listeners that have closed
    /// would open again, and the service manager be told that all is well.
    fn reload(&mut self, why: Why) -> Option<Reloaded> {
        if self.is_stopping() {
            return None;
        }
        systemd::reloading();
        let read_at = SystemTime::now();
        let watch = &mut self.watch;
        let disturbed = || why == Why::Seen && watch.disturbed();
        let outcome = self.reload.reload(&self.live, &mut self.listeners, why, disturbed);
        self.watch.set(&self.reload.files(&self.live.snapshot()), read_at);
        self.show_config();
        // Before anybody is answered: when `reload` has returned, systemd knows that it is over.
        systemd::ready();
        Some(outcome)
    }

    /// Keeps up to date what `status` says of the configuration.
    fn show_config(&self) {
        let mut now = self.reload.status();
        now.unwatched = self.watch.trouble();
        self.asks.config.send_if_modified(|shown| std::mem::replace(shown, now.clone()) != now);
    }

    /// Keeps up to date what `status` says of the drain.
    fn show_drain(&self) {
        self.asks.drain.send_replace(self.drain.as_ref().map(Drain::bounds));
    }

    /// Keeps the line of `systemctl status` up to date; answers what it is.
    fn say_how_it_is(&self, said: &str) -> String {
        let clients = counted(self.hub.count_clients(), "client");
        let groups = counted(self.hub.count_groups(), "group");
        let now = match self.reload.status().faults.len() {
            0 => format!("{clients}, {groups}"),
            faults => {
                let faults = counted(faults as u64, "fault");
                format!("{clients}, {groups}; last reload refused: {faults}")
            }
        };
        let now = match &self.drain {
            Some(drain) => format!("draining, at most {} s left: {now}", drain.at_most().as_secs()),
            None => now,
        };
        if now != said {
            systemd::status(&now);
        }
        now
    }

    fn is_stopping(&self) -> bool {
        *self.asks.phase.borrow() == Phase::Stopping
    }

    /// Goes out of service, by the drain that is under way or by a new one; for good if it is
    /// `last`.
    fn leave(&mut self, reply: Option<oneshot::Sender<Drained>>, last: bool) {
        let settings = &self.live.snapshot().drain;
        // Once readiness is red, nobody has to be given the time to see it turn.
        let in_service = *self.asks.phase.borrow() == Phase::Ready;
        let delay = if in_service { settings.delay } else { Duration::ZERO };
        let drain = self.drain.get_or_insert_with(|| {
            Drain::begin(self.hub.clone(), self.events.clone(), settings.clone(), delay)
        });
        if let Some(reply) = reply {
            drain.tell(reply);
        }
        if last && !drain.is_last() {
            drain.make_last();
            self.asks.phase.send_replace(Phase::Stopping);
            let at_most = drain.at_most();
            let asked = systemd::stopping(at_most + GRACE + LAST_TURN + BUSY);
            stop_time::warn_if_too_long(at_most, asked);
            if drain.closes() {
                // Newcomers are refused already; now they can't even come.
                drop(self.listeners.close(CLIENTS));
            }
        } else if in_service {
            self.asks.phase.send_replace(Phase::Draining);
        }
        self.show_drain();
    }

    /// The delay of the drain is over.
    fn close_clients(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        if drain.is_last() {
            // Who was accepted already is not refused: where systemd holds the sockets, whoever
            // comes later is served by the next process.
            drain.let_in(self.listeners.close(CLIENTS));
        } else {
            drain.close();
        }
    }

    /// Takes everything down. The clients are gone, or are cut off here.
    async fn end(mut self) -> Result<(), RunError> {
        drop(self.listeners.close(&Surface::ALL));
        self.events.stop();
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
        let ended = async {
            while !self.threads.all_ended() {
                sleep(LOOK).await;
            }
        };
        if timeout(LAST_TURN, ended).await.is_err() {
            let threads = self.threads.running().join(", ");
            tracing::error!(threads, "shards do not end; the process ends without them");
            return Err(RunError::Stuck(threads));
        }
        self.threads.join();
        tracing::info!("stopped");
        Ok(())
    }
}

/// What comes next of a drain, if there is one.
async fn next(drain: &mut Option<Drain>) -> Event {
    match drain {
        Some(drain) => drain.next().await,
        None => std::future::pending().await,
    }
}
