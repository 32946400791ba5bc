//! The loop of a shard.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mio::{Events, Poll, Token};
use slab::Slab;

use super::{
    Clock, World,
    adopt::Random,
    answer::{Answer, Shares},
    caps::Caps,
    deliver::Desk,
    door::Doors,
    drain::Draining,
    farewell::Farewells,
    inbox::{Clients, Command, Inbox},
    line::Line,
    members::Sets,
    outbound::{Frame, Meter},
    parts::{Closing, Dissolving},
    query::{Calendar, SLOTS},
    session::{Session, Stage, slot_at},
    wheel::{STEP, Tick, Wheel},
};
use crate::{
    close::{Cause, Close, code},
    config::Reader,
    directory::Directory,
    message::{Kind, Payload},
    metrics::ShardStats,
    sink::Ear,
    wire::{self, Inflater},
};

/// The token of the inbox's waker; slots count up from zero and never get here.
pub(super) const WAKER: Token = Token(usize::MAX);

/// Readiness events taken from the kernel at once.
const EVENTS: usize = 1024;

/// Deliveries after which a turn flushes and reads before it goes on with the commands, so that a
/// flood of broadcasts can't keep clients from being heard.
pub(super) const DELIVERIES_PER_TURN: usize = 64 * 1024;

/// Clients that are looked at for a list in the time of a delivery.
const LISTED_PER_DELIVERY: usize = 16;

/// How often a drain closes the next few clients, at the most.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// The state of one shard; see the module `shard` for the picture.
pub(super) struct Loop {
    pub(super) index: u16,
    pub(super) poll: Poll,
    inbox: Arc<Inbox>,
    pub(super) directory: Arc<Directory>,
    pub(super) ear: Box<dyn Ear>,
    reader: Reader,
    shards: usize,
    pub(super) clock: Clock,
    pub(super) sessions: Slab<Session>,
    /// The sockets of the sessions, by the same slots.
    pub(super) doors: Doors,
    pub(super) groups: Sets,
    pub(super) users: Sets,
    pub(super) desk: Desk,
    pub(super) wheel: Wheel,
    pub(super) calendar: Calendar,
    pub(super) frames: Frames,
    /// Taken out while a session is being read.
    pub(super) buffer: Vec<u8>,
    /// What was opened of a client's TLS; taken out while it is being heard.
    pub(super) opened: Vec<u8>,
    pub(super) inflater: Inflater,
    /// What the inflater writes to; taken out while a message is being heard.
    pub(super) inflated: Vec<u8>,
    /// Sessions with input left over from the last turn.
    pub(super) again: Vec<u32>,
    /// Who waits for room for what it said.
    pub(super) line: Line,
    /// Whose end waits for answers to what it said.
    pub(super) farewells: Farewells,
    /// A roll call is under way that goes on in the next turn.
    pub(super) calling: bool,
    /// Taken from the inbox and not yet carried out.
    pub(super) work: VecDeque<Work>,
    /// What comes from the inbox, and what comes due: lists that keep their memory.
    taken: Vec<Command>,
    due: Vec<(u32, Tick)>,
    pub(super) random: Random,
    /// Tells apart the clients that use a slot one after the other.
    pub(super) generation: u32,
    /// Memory of incomplete inbound messages.
    pub(super) partial: usize,
    pub(super) drain: Option<Draining>,
    stopped: bool,
}

/// One step to be carried out.
pub(super) enum Work {
    /// A message, by itself or one of several.
    Send(Clients, Payload, Answer),
    Closing(Closing),
    Dissolving(Dissolving),
    Other(Command),
}

/// Frames that are always the same.
pub(super) struct Frames {
    pub(super) ping: Rc<Frame>,
    /// The answers to `ping`, each to that of its kind.
    pub(super) text_pong: Rc<Frame>,
    pub(super) binary_pong: Rc<Frame>,
}

/// Runs shard `index` until it is told to stop.
pub(super) fn run(
    index: u16,
    poll: Poll,
    inbox: Arc<Inbox>,
    stats: Arc<ShardStats>,
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
    Loop::new(index, poll, inbox, stats, ear, world).run();
}

impl Loop {
    /// Shard `index`, with nobody on it yet.
    fn new(
        index: u16,
        poll: Poll,
        inbox: Arc<Inbox>,
        stats: Arc<ShardStats>,
        ear: Box<dyn Ear>,
        world: &World,
    ) -> Self {
        let mut reader = world.live.reader();
        let caps = Caps::new(reader.current(), world.shards);
        let meter = Meter::default();
        // Not a part of what waits, and so on a meter of their own.
        let always = Meter::default();
        let frame = |bytes: Box<[u8]>| Frame::new(bytes, &always);
        let frames = Frames {
            ping: frame(wire::PING.into()),
            text_pong: frame(wire::encode(Kind::Text, b"pong")),
            binary_pong: frame(wire::encode(Kind::Binary, b"pong")),
        };
        Self {
            index,
            poll,
            inbox,
            directory: Arc::clone(&world.directory),
            ear,
            reader,
            shards: world.shards,
            clock: world.clock.clone(),
            sessions: Slab::new(),
            doors: Doors::default(),
            groups: Sets::default(),
            users: Sets::default(),
            desk: Desk::new(stats, caps, meter, world.clock.now()),
            wheel: Wheel::new(world.clock.now()),
            calendar: Calendar::new(),
            frames,
            buffer: Vec::new(),
            opened: Vec::new(),
            inflater: Inflater::default(),
            inflated: Vec::new(),
            again: Vec::new(),
            line: Line::default(),
            farewells: Farewells::default(),
            calling: false,
            work: VecDeque::new(),
            taken: Vec::new(),
            due: Vec::new(),
            random: Random::default(),
            generation: 0,
            partial: 0,
            drain: None,
            stopped: false,
        }
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.stopped {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                // The kernel refuses to tell what happens: the process can't do its work.
                tracing::error!(shard = self.index, %error, "the shard's poll failed; it ends");
                return;
            }
            self.turn(&events);
        }
    }

    /// Does what there is to do, and no more of it than lets everybody have a turn soon.
    fn turn(&mut self, events: &Events) {
        self.begin_turn();
        self.hear_line();
        for slot in std::mem::take(&mut self.again) {
            self.guard(slot, |shard| shard.read_again(slot));
        }
        for event in events {
            if event.token() != WAKER {
                self.ready(event);
            }
        }
        if self.work.is_empty() {
            // Before the inbox, in which the answers are by then.
            self.look_for_answers();
            let mut taken = std::mem::take(&mut self.taken);
            self.inbox.take(&mut taken);
            taken.drain(..).for_each(|command| self.lay_out(command));
            self.taken = taken;
        }
        self.carry_out();
        self.end_answered();
        self.close_next_of_drain();
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(self.desk.tick, &mut due);
        for (slot, tick) in due.drain(..) {
            self.guard(slot, |shard| shard.look_at(slot, tick));
        }
        self.due = due;
        self.shed_partials();
        self.flush_dirty();
        self.answer_roll_call();
        self.end_turn();
        let queued = self.desk.meter.get() + self.inbox.bytes();
        self.desk.stats.queued_bytes.set(queued as u64);
    }

    /// How long the poll may sleep.
    fn patience(&self) -> Option<Duration> {
        let has_more = !self.again.is_empty() || self.line.goes_on() || self.calling;
        if has_more || !(self.work.is_empty() && self.desk.dirty.is_empty()) {
            return Some(Duration::ZERO);
        }
        let now = self.clock.now();
        let drain = self.drain.as_ref().and_then(|drain| drain.wait(now));
        let drain = drain.map(|wait| wait.max(DRAIN_STEP));
        let farewells = (!self.farewells.is_empty()).then_some(STEP);
        let timer = self.wheel.next(now);
        drain.into_iter().chain(farewells).chain(timer).min()
    }

    fn begin_turn(&mut self) {
        self.desk.now = self.clock.now();
        self.desk.tick = self.wheel.tick(self.desk.now);
        let current = self.reader.current();
        if !Arc::ptr_eq(current, &self.desk.caps.source) {
            self.desk.caps = Caps::new(current, self.shards);
            self.reschedule_all();
        }
    }

    fn ready(&mut self, event: &mio::event::Event) {
        let Ok(slot) = u32::try_from(event.token().0) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if event.is_read_closed() || event.is_error() {
            session.flags.hung_up = true;
        }
        if event.is_writable() && session.flags.blocked {
            // Until all of it is written, the client stays behind.
            session.flags.writable = true;
            self.desk.mark_dirty(slot, session);
        }
        if event.is_readable() || session.flags.hung_up {
            self.guard(slot, |shard| shard.read(slot));
        }
    }

    /// Puts a command in line, several messages one by one: so all find those behind them for the
    /// same clients.
    fn lay_out(&mut self, command: Command) {
        match command {
            Command::Send(clients, payload, reply) => {
                self.work.push_back(Work::Send(clients, payload, Answer::Caller(reply)));
            }
            Command::SendAll(sends, reply) => {
                let shares = Shares::new(sends.len(), reply);
                for (index, (clients, payload)) in sends.into_iter().enumerate() {
                    let answer = Answer::Share(Rc::clone(&shares), index);
                    self.work.push_back(Work::Send(clients, payload, answer));
                }
            }
            other => self.work.push_back(Work::Other(other)),
        }
    }

    fn carry_out(&mut self) {
        let mut deliveries = 0;
        while deliveries < DELIVERIES_PER_TURN && !self.stopped {
            let Some(work) = self.work.pop_front() else {
                break;
            };
            deliveries += 1;
            // A panic costs the caller of this one step the answer, and the shard nothing.
            let step = AssertUnwindSafe(|| self.take_step(work));
            deliveries += catch_unwind(step).unwrap_or_else(|_| {
                self.desk.stats.panics.add(1);
                tracing::error!(shard = self.index, "a panic in a call; it gets no answer");
                0
            });
        }
    }

    /// Answers about how many deliveries that was worth.
    fn take_step(&mut self, work: Work) -> usize {
        match work {
            Work::Send(clients, payload, answer) => {
                let run = self.run_of(&clients, payload, answer);
                let last = self.work.is_empty();
                self.deliver(&clients, run, last)
            }
            Work::Closing(closing) => self.close_some(closing),
            Work::Dissolving(dissolving) => self.dissolve_some(dissolving),
            Work::Other(command) => self.carry_out_one(command),
        }
    }

    /// Answers about how many deliveries that was worth, so that a flood of these can't keep clients
    /// from being heard either. Who asked may be gone; what was asked for is done all the same.
    fn carry_out_one(&mut self, command: Command) -> usize {
        let mut worth = 0;
        match command {
            Command::Adopt(newcomer) => self.adopt(*newcomer),
            // Laid out as work of its own.
            Command::Send(..) | Command::SendAll(..) => self.lay_out(command),
            Command::Close(clients, close, reply) => {
                let closing = self.closing(&clients, close, reply);
                worth = self.close_some(closing);
            }
            Command::Change(subjects, change, reply) => {
                worth = subjects.len();
                let changes = subjects.iter().map(|it| self.change_or_close(it, &change));
                let _ = reply.send(changes.collect());
            }
            Command::Dissolve(groups, reply) => {
                let dissolving = Dissolving::new(groups, reply);
                worth = self.dissolve_some(dissolving);
            }
            Command::UidOf(client, reply) => {
                let session = self.find(client).and_then(|slot| self.sessions.get(slot as usize));
                let _ = reply.send(session.map(|session| session.uid.clone()));
            }
            Command::AttributesOf(client, reply) => {
                let session = self.find(client).and_then(|slot| self.sessions.get(slot as usize));
                let attributes = |session: &Session| session.attributes.as_deref().cloned();
                let _ = reply.send(session.map(|it| attributes(it).unwrap_or_default()));
            }
            Command::List(clients, reply) => {
                let ids = self.slots_of(&clients).into_iter();
                let ids = ids.filter_map(|slot| self.sessions.get(slot as usize));
                let ids: Vec<_> = ids.map(|session| session.id).collect();
                worth = ids.len() / LISTED_PER_DELIVERY;
                let _ = reply.send(ids);
            }
            Command::ClientsOfEach(uids, reply) => {
                let of_each = self.clients_of_each(&uids);
                let clients: usize = of_each.iter().map(Vec::len).sum();
                worth = (uids.len() + clients) / LISTED_PER_DELIVERY;
                let _ = reply.send(of_each);
            }
            Command::UsersIn(group, uids, reply) => {
                worth = uids.len() / LISTED_PER_DELIVERY;
                let _ = reply.send(self.users_in(&group, &uids));
            }
            Command::Describe(clients, reply) => {
                worth = clients.len();
                let _ = reply.send(self.describe(&clients));
            }
            Command::Scan(scan, reply) => {
                worth = SLOTS as usize / LISTED_PER_DELIVERY;
                let _ = reply.send(self.scan(&scan));
            }
            Command::Pulse(sent, reply) => {
                let _ = reply.send(sent.elapsed());
            }
            Command::Drain(close, pace) => self.begin_drain(close, pace),
            Command::Stop => self.stopped = true,
        }
        worth
    }

    /// Runs one step of one session; a panic in it closes that session and nothing else.
    pub(super) fn guard(&mut self, slot: u32, step: impl FnOnce(&mut Self)) {
        let outcome = catch_unwind(AssertUnwindSafe(|| step(self)));
        if outcome.is_err() {
            self.fault(slot);
        }
    }

    /// A step of the session in `slot` panicked.
    pub(super) fn fault(&mut self, slot: u32) {
        self.desk.stats.panics.add(1);
        let client = self.sessions.get(slot as usize).map(|session| session.id);
        tracing::error!(
            shard = self.index,
            client = client.map(tracing::field::display),
            "a panic in one session; it is closed with 1011"
        );
        let close = Close::new(Cause::Fault, code::FAULT, "internal error");
        if catch_unwind(AssertUnwindSafe(|| self.close(slot, &close))).is_err() {
            // Even saying goodbye fails: let go of the socket.
            self.desk.stats.panics.add(1);
            self.remove(slot);
        }
    }

    /// The session's time in the wheel has come: does what is due and asks for the next look.
    fn look_at(&mut self, slot: u32, tick: Tick) {
        let now = self.desk.tick;
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if session.timer != tick {
            return;
        }
        let caps = &self.desk.caps;
        if let Stage::Closing(until) = session.stage {
            if now >= until {
                return self.cut_off(slot);
            }
        } else if session.expires.as_ref().is_some_and(|expiry| now >= expiry.due) {
            let reason = "the time until which the client was allowed in is over";
            return self.close(slot, &Close::new(Cause::Expired, code::EXPIRED, reason));
        } else if session.can_be_silent()
            && caps.heartbeat.is_some_and(|limit| now - session.heard >= limit)
        {
            let silence = STEP * (now - session.heard);
            let reason = format!("nothing heard for {} s", silence.as_secs());
            return self.close(slot, &Close::new(Cause::Silent, code::SILENT, reason));
        } else if let (Some(since), Some(limit)) = (session.partial_since, caps.message_deadline)
            && now - since >= limit
        {
            let reason = "message not finished within limits.message_deadline";
            return self.close(slot, &Close::new(Cause::Policy, code::POLICY, reason));
        } else if caps.ping.is_some_and(|interval| now - session.pinged >= interval) {
            session.pinged = now;
            // While one is unanswered, another tells nothing: all pings look the same.
            session.asked.get_or_insert_with(|| self.wheel.micros(self.clock.now()));
            session.out.set_ping(&self.frames.ping);
            self.desk.drop_expired(session);
            self.desk.mark_dirty(slot, session);
        }
        self.schedule(slot);
    }

    /// Puts the session's next look into the wheel.
    pub(super) fn schedule(&mut self, slot: u32) {
        if let Some(session) = self.sessions.get_mut(slot as usize)
            && let Some(next) = self.desk.caps.next_look(session)
        {
            session.timer = self.wheel.bring_forward(slot, session.timer, next);
        }
    }

    /// The times have changed: every session gets a new look.
    fn reschedule_all(&mut self) {
        for (slot, session) in &mut self.sessions {
            if let Some(next) = self.desk.caps.next_look(session) {
                session.timer = self.wheel.bring_forward(slot_at(slot), session.timer, next);
            }
        }
    }
}

#[cfg(test)]
mod tests;
