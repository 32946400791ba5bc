//! What a shard has been told to do and has not done yet.
//!
//! Commands are carried out in the order in which they came. Those about very many clients are
//! *resumable*: a few clients, then a turn for everybody, then the next few.
//!
//! ```text
//!   jobs   │ close 1,024 of 5,000 │ …    first turn
//!          │ close 1,024 of 3,976 │ …    sockets are read and written, then the second
//!          │ …                           what was sent later is carried out when that is done
//! ```
//!
//! Whom a command is about is settled when it begins: who comes in between is not among them. Who
//! leaves in between by himself does not count.

use std::{collections::VecDeque, rc::Rc, sync::Arc, vec};

use smallvec::SmallVec;

use super::{
    batch::Batch,
    closing::close_after,
    connections::Connections,
    effect::Effects,
    guard::guarded,
    inbox::{Command, Recipients, Reply},
    membership::Membership,
    reply::{Answer, BatchReply},
    settings::ShardSettings,
    state::State,
};
use crate::{
    close::Close,
    ids::{ClientId, Name},
    message::Payload,
    wire,
};

/// Clients of one part: a few milliseconds at most.
const AT_ONCE: usize = 1024;

/// Messages that are written to a client at once. More save little: by then the system call is a
/// small part.
const LONGEST_RUN: usize = 64;

/// Bytes that are written to a client at once, unless a single message is longer: with more, a large
/// crowd would keep everybody else from being heard for too long.
const LARGEST_RUN: usize = 64 * 1024;

/// Messages for the same clients that wait one behind the other, and whom to answer for each.
pub(super) type Run = SmallVec<[(Payload, Answer); 1]>;

/// One thing to be done.
pub(super) enum Job {
    /// A message, by itself or one of several.
    Send(Recipients, Payload, Answer),
    Close(CloseJob),
    Dissolve(DissolveJob),
    Other(Command),
}

/// What is to be done, in order.
#[derive(Default)]
pub(super) struct Jobs(VecDeque<Job>);

impl Jobs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts a command at the end; several messages one by one, so that each finds those behind it for
    /// the same clients.
    pub(super) fn push(&mut self, command: Command) {
        match command {
            Command::Send(recipients, payload, reply) => {
                self.0.push_back(Job::Send(recipients, payload, Answer::Caller(reply)));
            }
            Command::SendAll(sends, reply) => {
                let reply = BatchReply::new(sends.len(), reply);
                for (index, (recipients, payload)) in sends.into_iter().enumerate() {
                    let answer = Answer::Part(Rc::clone(&reply), index);
                    self.0.push_back(Job::Send(recipients, payload, answer));
                }
            }
            other => self.0.push_back(Job::Other(other)),
        }
    }

    /// What is to be done next.
    pub(super) fn pop(&mut self) -> Option<Job> {
        self.0.pop_front()
    }

    /// Puts what is not done yet before all else.
    pub(super) fn go_on_with(&mut self, job: Job) {
        self.0.push_front(job);
    }

    /// The message and those behind it for the same clients, as many as fit into an empty queue: so
    /// that a client for whom nothing waits can take all of them.
    pub(super) fn run_of(
        &mut self,
        settings: &ShardSettings,
        recipients: &Recipients,
        payload: Payload,
        answer: Answer,
    ) -> Run {
        let room = settings.queue_bytes.min(LARGEST_RUN);
        let mut room = room.saturating_sub(wire::framed(payload.bytes.len()));
        let mut run = Run::new();
        run.push((payload, answer));
        let most = settings.queue_entries.min(LONGEST_RUN);
        while run.len() < most
            && let Some(Job::Send(others, payload, _)) = self.0.front()
            && others == recipients
            && let Some(left) = room.checked_sub(wire::framed(payload.bytes.len()))
            && let Some(Job::Send(_, payload, answer)) = self.0.pop_front()
        {
            room = left;
            run.push((payload, answer));
        }
        run
    }
}

/// How far a part of a job has brought it.
pub(super) enum Progress<J> {
    /// It is done, with about as much work as so many deliveries.
    Done(usize),
    /// There is more to do, in the next turn.
    More(J),
}

/// Clients that are being closed.
pub(super) struct CloseJob {
    left: vec::IntoIter<ClientId>,
    close: Close,
    closed: usize,
    reply: Reply<usize>,
}

impl CloseJob {
    pub(super) fn new(
        membership: &Membership,
        connections: &Connections,
        recipients: &Recipients,
        close: Close,
        reply: Reply<usize>,
    ) -> Self {
        let slots = membership.slots_of(connections, recipients).into_iter();
        // By id: a slot may have another client by then.
        let ids: Vec<_> = slots.filter_map(|slot| Some(connections.get(slot)?.id)).collect();
        Self { left: ids.into_iter(), close, closed: 0, reply }
    }

    /// Closes the next few.
    pub(super) fn go_on(mut self, state: &mut State, effects: &mut Effects) -> Progress<Self> {
        let clock = state.context.clock.clone();
        let last = self.close.last.as_ref();
        let mut last = last.map(|last| Batch::new(std::slice::from_ref(last), &clock));
        for client in self.left.by_ref().take(AT_ONCE) {
            if let Some(slot) = state.connections.find(client) {
                self.closed += 1;
                guarded(slot, effects, |_| close_after(state, last.as_mut(), slot, &self.close));
            }
        }
        drop(last);
        if self.left.len() > 0 {
            return Progress::More(self);
        }
        // Who asked may be gone; what was asked for is done all the same.
        let _ = self.reply.send(self.closed);
        Progress::Done(self.closed)
    }
}

/// Groups that are being forgotten.
pub(super) struct DissolveJob {
    groups: Arc<[Name]>,
    /// Members that were taken out, of those groups that were begun.
    out: Vec<usize>,
    reply: Reply<Vec<usize>>,
}

impl DissolveJob {
    pub(super) fn new(groups: Arc<[Name]>, reply: Reply<Vec<usize>>) -> Self {
        Self { groups, out: Vec::new(), reply }
    }

    /// Takes the next few members out of their groups.
    pub(super) fn go_on(mut self, state: &mut State) -> Progress<Self> {
        let State { connections, membership, .. } = state;
        let mut most = AT_ONCE;
        for index in self.out.len().saturating_sub(1)..self.groups.len() {
            let out = membership.dissolve(connections, &self.groups[index], most);
            self.out.resize(index + 1, 0);
            self.out[index] += out;
            most -= out;
            if most == 0 {
                return Progress::More(self);
            }
        }
        let members = self.out.iter().sum();
        let _ = self.reply.send(self.out);
        Progress::Done(members)
    }
}
