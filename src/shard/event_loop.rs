//! The event loop of a shard: one turn after the other, and the only place where effects are applied.
//!
//! ```text
//!   poll ─► read ─► jobs ─► closes that are due ─► timers ─► write ─► tell who listens ─► poll …
//!             │       │            │                 │         │
//!             └───────┴── effects ─┴─────────────────┴─────────┘
//!                            └──► applied after each step, here
//! ```
//! Everything else of a shard knows its own part and nothing of the loop.

use std::{sync::Arc, time::Duration};

use mio::{Poll, Token};
use smallvec::SmallVec;

use super::{
    adopt::{ClientIds, adopt},
    backpressure::set_reading,
    batch::Batch,
    change::change,
    closing::{close, cut_off, lost, remove, stop_reading},
    connection::{Connection, ReadState},
    context::Context,
    deferred::DeferredCloses,
    drain::{Draining, Pace},
    effect::{Effect, Effects},
    guard::{caught, guarded},
    inbox::{Command, Inbox, Recipients, Reply},
    jobs::{CloseJob, DissolveJob, Job, Jobs, Progress, Run},
    load::Load,
    outbound::Outbound,
    queries::{self, Calendar},
    receive,
    send::{queue, write_through},
    settings::ShardSettings,
    slot::Slot,
    state::State,
    wheel::STEP,
    world::World,
};
use crate::{
    change::{Change, Changed, Refusal, Subject},
    close::{Cause, Close, code},
    config::{Messages, Reader},
    ids::ClientId,
    metrics::ShardStats,
    sink::Ear,
};

/// The token of the inbox's waker; slots count up from zero and never get here.
pub(super) const WAKER: Token = Token(usize::MAX);

/// Readiness events taken from the kernel at once.
const READY_AT_ONCE: usize = 1024;

/// Deliveries after which a turn flushes and reads before it goes on with the jobs, so that a flood of
/// broadcasts can't keep clients from being heard.
const DELIVERIES_PER_TURN: usize = 64 * 1024;

/// How often a drain closes the next few clients, at the most.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// A shard at work.
pub(super) struct EventLoop {
    poll: Poll,
    inbox: Arc<Inbox>,
    reader: Reader,
    state: State,
    /// What the step at hand wants to have done.
    effects: Effects,
    jobs: Jobs,
    ids: ClientIds,
    calendar: Calendar,
    deferred: DeferredCloses,
    drain: Option<Draining>,
    stopped: bool,
    /// What comes from the inbox: a list that keeps its memory.
    taken: Vec<Command>,
}

/// Runs shard `index` until it is told to stop.
pub(super) fn run(
    index: u16,
    poll: Poll,
    inbox: Arc<Inbox>,
    counts: (Arc<ShardStats>, Arc<Load>),
    ear: Box<dyn Ear>,
    world: &World,
) {
    // However the loop ends, nobody may wait for an answer from it.
    struct CloseInbox(Arc<Inbox>);
    impl Drop for CloseInbox {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let _close = CloseInbox(Arc::clone(&inbox));
    EventLoop::new(index, poll, inbox, counts, ear, world).run();
}

impl EventLoop {
    /// Shard `index`, with nobody on it yet.
    fn new(
        index: u16,
        poll: Poll,
        inbox: Arc<Inbox>,
        (stats, load): (Arc<ShardStats>, Arc<Load>),
        ear: Box<dyn Ear>,
        world: &World,
    ) -> Self {
        let mut reader = world.live.reader();
        let settings = ShardSettings::new(reader.current(), world.shards);
        let (clock, now) = (world.clock.clone(), world.clock.now());
        let shards = world.shards;
        let context = Context { index, shards, clock, now, tick: 0, settings, stats, load };
        let owners = State::new(context, &world.directory, ear);
        Self {
            poll,
            inbox,
            reader,
            state: owners,
            effects: Effects::default(),
            jobs: Jobs::default(),
            ids: ClientIds::default(),
            calendar: Calendar::new(),
            deferred: DeferredCloses::default(),
            drain: None,
            stopped: false,
            taken: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut ready = mio::Events::with_capacity(READY_AT_ONCE);
        while !self.stopped {
            if let Err(error) = self.poll.poll(&mut ready, self.patience())
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                // The kernel refuses to tell what happens: the process can't do its work.
                let shard = self.state.context.index;
                tracing::error!(shard, %error, "the shard's poll failed; it ends");
                return;
            }
            self.turn(&ready);
        }
    }

    /// Does what there is to do, and no more of it than lets everybody have a turn soon.
    fn turn(&mut self, ready: &mio::Events) {
        self.state.begin_turn(self.reader.current());
        self.step(receive::read_waiting);
        for event in ready {
            if event.token() == WAKER {
                self.deferred.woken();
            } else {
                self.ready(event);
            }
        }
        while let Some(slot) = self.state.receiver.next() {
            self.step_of(slot, |state, effects| receive::read(state, slot, effects));
        }
        self.take_inbox();
        self.do_jobs();
        self.close_answered();
        self.close_drained();
        self.step(State::look_at_due);
        self.shed();
        self.step(State::flush);
        let State { context, connections, outbound, events, .. } = &mut self.state;
        events.end_turn(context, connections);
        let queued = outbound.memory.used() + self.inbox.bytes();
        context.stats.queued_bytes.set(queued as u64);
    }

    /// How long the poll may sleep.
    fn patience(&self) -> Option<Duration> {
        if self.state.goes_on() || self.deferred.goes_on() || !self.jobs.is_empty() {
            return Some(Duration::ZERO);
        }
        let State { context, timers, .. } = &self.state;
        let now = context.clock.now();
        let drain = self.drain.as_ref().and_then(|drain| drain.wait(now));
        let drain = drain.map(|wait| wait.max(DRAIN_STEP));
        let deferred = (!self.deferred.is_empty()).then_some(STEP);
        let timer = timers.wheel.next(now);
        drain.into_iter().chain(deferred).chain(timer).min()
    }

    fn ready(&mut self, event: &mio::event::Event) {
        let slot = Slot::at(event.token().0);
        let State { connections, outbound, receiver, .. } = &mut self.state;
        let Some(connection) = connections.get_mut(slot) else { return };
        if event.is_read_closed() || event.is_error() {
            connection.flags.hung_up = true;
        }
        if event.is_writable() && connection.flags.blocked {
            // Until all of it is written, the client stays behind.
            connection.flags.writable = true;
            outbound.mark_dirty(slot, connection);
        }
        if event.is_readable() || connection.flags.hung_up {
            receiver.is_ready(slot, connection);
        }
    }

    /// Takes what has come, if all that came before is done.
    fn take_inbox(&mut self) {
        if !self.jobs.is_empty() {
            return;
        }
        // Before the inbox, in which the answers are by then.
        self.deferred.look(self.state.context.tick);
        let mut taken = std::mem::take(&mut self.taken);
        self.inbox.take(&mut taken);
        taken.drain(..).for_each(|command| self.jobs.push(command));
        self.taken = taken;
    }

    fn do_jobs(&mut self) {
        let mut deliveries = 0;
        while deliveries < DELIVERIES_PER_TURN && !self.stopped {
            let Some(job) = self.jobs.pop() else { break };
            deliveries += 1;
            // A panic costs the caller of this one job the answer, and the shard nothing.
            deliveries += caught(|| self.do_job(job)).unwrap_or_else(|| {
                self.state.context.stats.panics.add(1);
                let shard = self.state.context.index;
                tracing::error!(shard, "a panic in a call; it gets no answer");
                0
            });
            self.apply();
        }
    }

    /// Answers about how many deliveries that was worth.
    fn do_job(&mut self, job: Job) -> usize {
        match job {
            Job::Send(recipients, payload, answer) => {
                let settings = &self.state.context.settings;
                let run = self.jobs.run_of(settings, &recipients, payload, answer);
                self.send(&recipients, run)
            }
            Job::Close(job) => {
                let progress = job.go_on(&mut self.state, &mut self.effects);
                self.go_on(progress, Job::Close)
            }
            Job::Dissolve(job) => {
                let progress = job.go_on(&mut self.state);
                self.go_on(progress, Job::Dissolve)
            }
            Job::Other(command) => self.command(command),
        }
    }

    /// Puts what is left of a job before all others. That has all that the turn has left.
    fn go_on<J>(&mut self, progress: Progress<J>, job: impl FnOnce(J) -> Job) -> usize {
        match progress {
            Progress::Done(worth) => worth,
            Progress::More(left) => {
                self.jobs.go_on_with(job(left));
                DELIVERIES_PER_TURN
            }
        }
    }

    fn command(&mut self, command: Command) -> usize {
        let State { connections, membership, .. } = &self.state;
        match command {
            Command::Adopt(new) => {
                let goodbye = self.drain.as_ref().map(|drain| &drain.close);
                let entry = (&mut self.ids, self.poll.registry());
                adopt(&mut self.state, entry, *new, goodbye, &mut self.effects);
            }
            Command::Close(recipients, close, reply) => {
                let job = CloseJob::new(membership, connections, &recipients, close, reply);
                return self.do_job(Job::Close(job));
            }
            Command::Dissolve(groups, reply) => {
                return self.do_job(Job::Dissolve(DissolveJob::new(groups, reply)));
            }
            Command::Change(subjects, change, reply) => {
                return self.change(&subjects, &change, reply);
            }
            Command::Drain(close, pace) => self.drain(close, pace),
            Command::Pulse(sent, reply) => drop(reply.send(sent.elapsed())),
            Command::Stop => self.stopped = true,
            other => match queries::answer(&mut self.state, &self.calendar, other) {
                Ok(worth) => return worth,
                // A message, which is a job of its own.
                Err(command) => self.jobs.push(*command),
            },
        }
        0
    }

    /// Sends a run of messages to each of the clients. The numbers are exact, and told, before
    /// anything is written.
    fn send(&mut self, recipients: &Recipients, run: Run) -> usize {
        let clock = self.state.context.clock.clone();
        let slots = match recipients {
            Recipients::All => None,
            some => Some(self.state.membership.slots_of(&self.state.connections, some)),
        };
        let slots = slots.as_deref();
        let last = self.jobs.is_empty();
        let (payloads, answers): (SmallVec<[_; 1]>, SmallVec<[_; 1]>) = run.into_iter().unzip();
        let mut batch = Batch::new(&payloads, &clock);
        let State { context, connections, outbound, .. } = &mut self.state;
        let effects = &mut self.effects;
        let receipts = queue(outbound, context, connections, (slots, last), &mut batch, effects);
        let deliveries = receipts.iter().map(|receipt| receipt.matched).sum();
        // Who was too slow is gone before anybody is told so.
        self.apply();
        answers.into_iter().zip(receipts).for_each(|(answer, receipt)| answer.give(receipt));
        let State { context, connections, outbound, .. } = &mut self.state;
        if last {
            write_through(outbound, context, connections, slots, &mut batch, &mut self.effects);
            self.apply();
        }
        drop(batch);
        self.shed_queues();
        deliveries
    }

    /// Changes each of the clients. A panic in it closes the client, which is not connected then,
    /// rather than leave it half changed.
    fn change(
        &mut self,
        subjects: &[Subject],
        to: &Change,
        reply: Reply<Vec<Result<Changed, Refusal>>>,
    ) -> usize {
        let mut outcomes = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let slot = Slot::of(subject.client);
            let Self { state, effects, .. } = self;
            let changed = guarded(slot, effects, |effects| change(state, subject, to, effects));
            outcomes.push(changed.unwrap_or(Err(Refusal::UnknownClient)));
            self.apply();
        }
        self.shed_queues();
        let _ = reply.send(outcomes);
        subjects.len()
    }

    /// Begins to close all clients at this pace, and every new connection.
    fn drain(&mut self, close: Close, pace: Pace) {
        let State { context, connections, .. } = &self.state;
        let clients = connections.open().map(|(_, connection)| connection.id).collect();
        self.drain = Some(Draining::new(close, pace, context.index, clients, context.now));
    }

    /// Closes the next clients of a drain that are due.
    fn close_drained(&mut self) {
        let Some(drain) = self.drain.as_mut() else { return };
        let due = drain.take_due(self.state.context.now);
        let goodbye = drain.close.clone();
        for client in due {
            self.close(client, &goodbye);
        }
    }

    /// Closes those whose last words were answered, once the jobs are done that came before.
    fn close_answered(&mut self) {
        if self.jobs.is_empty() {
            let answered = self.deferred.take_answered().into_iter();
            answered.for_each(|(client, goodbye)| self.close(client, &goodbye));
        }
    }

    fn close(&mut self, client: ClientId, goodbye: &Close) {
        if let Some(slot) = self.state.connections.find(client) {
            self.step_of(slot, |state, _| close(state, slot, goodbye));
        }
    }

    /// Begins to close the client as soon as what it said was answered, and the answers carried out.
    fn close_when_answered(&mut self, slot: Slot, goodbye: Box<Close>) {
        let State { context, connections, events, .. } = &mut self.state;
        let Some(connection) = connections.get_mut(slot).filter(|it| it.is_open()) else { return };
        let settings = &context.settings;
        let wait = settings.answer_wait.filter(|_| settings.messages != Messages::Drop);
        let Some(wait) = wait.filter(|_| !connection.flags.closing) else {
            return close(&mut self.state, slot, &goodbye);
        };
        set_reading(context, connection, ReadState::Leaving);
        let unanswered = events.unanswered(connection.id);
        let until = context.tick.saturating_add(wait);
        self.deferred.defer(connection.id, goodbye, until, unanswered);
    }

    /// Frees memory, where a share of the shard is used up.
    fn shed(&mut self) {
        self.shed_queues();
        let State { context, receiver, .. } = &self.state;
        let (memory, share) = (receiver.memory.clone(), context.settings.partial_share);
        if memory.used() > share {
            let enough = || memory.used() <= share - share / 10;
            self.shed_from(receive::holders(&self.state), "limits.partial_bytes", enough);
        }
    }

    /// Frees memory of what waits to be written, if more waits than may.
    fn shed_queues(&mut self) {
        let State { context, outbound, .. } = &self.state;
        let (memory, share) = (outbound.memory.clone(), context.settings.queued_share);
        if memory.used() <= share {
            return;
        }
        self.step(State::flush);
        if memory.used() > share {
            let holders = Outbound::holders(&self.state.connections);
            let enough = || memory.used() <= share - share / 10;
            self.shed_from(holders, "limits.queued_bytes", enough);
        }
    }

    /// Closes those who hold most until it is enough: a tenth less than allowed, so that the next
    /// byte doesn't start the search anew. Who is closing already is cut off.
    fn shed_from(&mut self, holders: Vec<Slot>, limit: &str, enough: impl Fn() -> bool) {
        for slot in holders {
            if enough() {
                return;
            }
            if self.state.connections.get(slot).is_some_and(Connection::is_open) {
                self.effects.over_budget(slot, limit);
            } else {
                self.effects.push(Effect::CutOff(slot));
            }
            self.apply();
        }
    }

    /// Does one step, and what it wants to have done.
    fn step(&mut self, step: impl FnOnce(&mut State, &mut Effects)) {
        step(&mut self.state, &mut self.effects);
        self.apply();
    }

    /// Does one step of one connection; a panic in it closes that connection and nothing else.
    fn step_of(&mut self, slot: Slot, step: impl FnOnce(&mut State, &mut Effects)) {
        let Self { state, effects, .. } = self;
        guarded(slot, effects, |effects| step(state, effects));
        self.apply();
    }

    /// Does what was wanted, in order, and what follows from that.
    fn apply(&mut self) {
        while !self.effects.is_empty() {
            for effect in self.effects.take() {
                let slot = effect.slot();
                let is_fault = matches!(effect, Effect::Fault(_));
                if caught(|| self.apply_one(effect)).is_some() {
                    continue;
                }
                if is_fault {
                    // Even saying goodbye fails: let go of the socket.
                    self.state.context.stats.panics.add(1);
                    remove(&mut self.state, slot);
                } else {
                    self.effects.push(Effect::Fault(slot));
                }
            }
        }
    }

    fn apply_one(&mut self, effect: Effect) {
        let state = &mut self.state;
        match effect {
            Effect::Close(slot, goodbye) => close(state, slot, &goodbye),
            Effect::CloseWhenAnswered(slot, goodbye) => self.close_when_answered(slot, goodbye),
            Effect::StopReading(slot) => stop_reading(state, slot),
            Effect::Lost(slot) => lost(state, slot),
            Effect::Remove(slot) => remove(state, slot),
            Effect::CutOff(slot) => cut_off(state, slot),
            Effect::Fault(slot) => self.fault(slot),
            Effect::ReadAgain(slot) => {
                if let Some(connection) = state.connections.get_mut(slot) {
                    state.receiver.read_again(slot, connection);
                }
            }
            Effect::Schedule(slot) => {
                if let Some(connection) = state.connections.get_mut(slot) {
                    state.timers.schedule(&state.context.settings, slot, connection);
                }
            }
        }
    }

    /// A step of the connection in `slot` panicked.
    fn fault(&mut self, slot: Slot) {
        let State { context, connections, .. } = &self.state;
        context.stats.panics.add(1);
        let client = connections.get(slot).map(|connection| connection.id);
        tracing::error!(
            shard = context.index,
            client = client.map(tracing::field::display),
            "a panic in one connection; it is closed with 1011"
        );
        let goodbye = Close::new(Cause::Fault, code::FAULT, "internal error");
        close(&mut self.state, slot, &goodbye);
    }
}

#[cfg(test)]
mod tests;
