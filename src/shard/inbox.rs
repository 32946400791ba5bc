//! The door of a shard: commands from the control runtime, in order and in bounds.
//!
//! A call that addresses several shards must reach all of them or none, so it first *reserves* a
//! place in each inbox and only then *commits*; a reservation that is dropped gives its place back.
//! The shard takes everything at once, with one swap under the lock.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use smallvec::SmallVec;
use tokio::sync::{Notify, futures::Notified, oneshot};

use super::{
    drain::Pace,
    new_connection::NewConnection,
    question::{Described, Scan, Scanned},
};
use crate::{
    attributes::Attributes,
    change::{Change, Changed, Refusal, Subject},
    close::Close,
    ids::{ClientId, Name},
    message::{Payload, Receipt, Selection},
    metrics::Single,
};

/// What a shard is told or asked. Where a `Reply` is, the answer is sent when the step is done.
pub(crate) enum Command {
    /// Take over a connection.
    Adopt(Box<NewConnection>),
    /// Queue a message for each of the clients.
    Send(Recipients, Payload, Reply<Receipt>),
    /// Queue several messages, in order; answers what became of each.
    SendAll(Vec<(Recipients, Payload)>, Reply<Vec<Receipt>>),
    /// Begin to close each of the clients; answers how many there were.
    Close(Recipients, Close, Reply<usize>),
    /// Change each of the clients in the same way; answers what that changed, one by one.
    Change(Vec<Subject>, Arc<Change>, Reply<Vec<Result<Changed, Refusal>>>),
    /// Forget groups, members stay; answers how many members each had here.
    Dissolve(Arc<[Name]>, Reply<Vec<usize>>),
    /// The uid of a client; none if there is no such client.
    UidOf(ClientId, Reply<Option<Uid>>),
    /// The attributes of a client; none if there is no such client.
    AttributesOf(ClientId, Reply<Option<Attributes>>),
    /// The ids of the clients.
    List(Recipients, Reply<Vec<ClientId>>),
    /// The clients of each of the users.
    ClientsOfEach(Arc<[Name]>, Reply<Vec<Vec<ClientId>>>),
    /// Which of the users have a client in the group.
    UsersIn(Name, Arc<[Name]>, Reply<Vec<bool>>),
    /// What is known of the clients; of each that is not connected, nothing.
    Describe(Vec<ClientId>, Reply<Vec<Option<Described>>>),
    /// A few of the clients that are searched for.
    Scan(Scan, Reply<Scanned>),
    /// Answer with how long this took to get here.
    Pulse(Instant, Reply<Duration>),
    /// Close all clients at this pace, and every newcomer.
    Drain(Close, Pace),
    /// End the thread; sockets are dropped as they are.
    Stop,
}

/// The uid of a client, if it has one.
pub(crate) type Uid = Option<Name>;

/// Which of a shard's clients.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Recipients {
    All,
    /// These, as far as they are still connected.
    These(SmallVec<[ClientId; 1]>),
    /// Those that belong to the user.
    User(Name),
    Group(Name),
    Selected(Arc<Selection>),
}

impl Recipients {
    /// Memory of the list that it is, if it is one.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::These(ids) if ids.spilled() => ids.len() * size_of::<ClientId>(),
            // Shared by all shards, but held for as long as one of them has it waiting.
            Self::Selected(selection) => selection.bytes(),
            Self::All | Self::These(_) | Self::User(_) | Self::Group(_) => 0,
        }
    }
}

/// What a command counts for while it waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) calls: usize,
    /// Of messages, and of the lists of those whom they are for.
    pub(crate) bytes: usize,
}

impl Cost {
    /// One call that carries nothing of notable size.
    pub(crate) const CALL: Self = Self { calls: 1, bytes: 0 };

    /// Several messages.
    pub(crate) fn of(sends: &[(Recipients, Payload)]) -> Self {
        let bytes = sends.iter().map(|(clients, payload)| clients.bytes() + payload.bytes.len());
        Self { calls: sends.len(), bytes: bytes.sum() }
    }
}

impl Command {
    /// What it counts for; nothing for what needs no place.
    pub(crate) fn cost(&self) -> Cost {
        let bytes = match self {
            Self::Adopt(_) | Self::Pulse(..) | Self::Drain(..) | Self::Stop => {
                return Cost::default();
            }
            Self::SendAll(sends, _) => return Cost::of(sends),
            Self::Send(clients, payload, _) => clients.bytes() + payload.bytes.len(),
            Self::Change(subjects, change, _) => {
                let messages: usize = change.messages.iter().map(|it| it.bytes.len()).sum();
                // One is what every call for a single client has.
                size_of_val(&subjects[1.min(subjects.len())..]) + messages
            }
            Self::Close(clients, close, _) => {
                clients.bytes() + close.last.as_ref().map_or(0, |last| last.bytes.len())
            }
            Self::List(clients, _) => clients.bytes(),
            _ => 0,
        };
        Cost { calls: 1, bytes }
    }
}

/// Where an answer goes; who asked may have gone away.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// The sending half, for everybody; the receiving half is [`Inbox::take`], for the shard.
pub(crate) struct Inbox {
    state: Mutex<State>,
    /// A copy of [`State::calls`] for who must not wait for the lock; written under it.
    calls: Single,
    /// Tells who waits for room that there is some.
    room: Notify,
    waker: Arc<mio::Waker>,
}

#[derive(Default)]
struct State {
    commands: Vec<Command>,
    /// Calls waiting or reserved; newcomers are bounded by `limits.max_clients` instead.
    calls: usize,
    /// Bytes waiting or reserved: of messages, and of the lists of those whom they are for.
    bytes: usize,
    closed: bool,
}

/// Why a command did not find a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many calls wait as `limits.inbox` allows.
    Calls,
    /// The shard's share of `limits.queued_bytes` is used up.
    Bytes,
    /// The shard has ended.
    Closed,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

/// A place for one command, taken but not yet filled.
pub(crate) struct Reservation<'a> {
    inbox: &'a Inbox,
    cost: Cost,
    filled: bool,
}

impl Inbox {
    pub(crate) fn new(waker: Arc<mio::Waker>) -> Self {
        Self { state: Mutex::default(), calls: Single::default(), room: Notify::new(), waker }
    }

    /// Takes a place for a command.
    pub(crate) fn reserve(&self, cost: Cost, bounds: Bounds) -> Result<Reservation<'_>, Full> {
        let Cost { calls, bytes } = cost;
        let mut state = self.state();
        if state.closed {
            return Err(Full::Closed);
        }
        // One command always fits into an empty inbox, however small the bounds.
        if state.calls > 0 && state.calls + calls > bounds.calls {
            return Err(Full::Calls);
        }
        if bytes > 0 && state.bytes > 0 && state.bytes + bytes > bounds.bytes {
            return Err(Full::Bytes);
        }
        state.calls += calls;
        state.bytes += bytes;
        self.calls.set(state.calls as u64);
        Ok(Reservation { inbox: self, cost, filled: false })
    }

    /// Completes when places have become free after this was called.
    pub(crate) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// Puts in a command that needs no place: newcomers, which hold a seat, and the process's own.
    /// If the shard has ended, it is dropped, and with it what it holds: a newcomer's socket closes.
    pub(crate) fn push(&self, command: Command) {
        let state = self.state();
        if !state.closed {
            self.put(state, command);
        }
    }

    /// Bytes waiting.
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// Calls waiting or about to; never waits for the shard.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// Takes all that waits, into an empty vector, which is left here for the next commands.
    pub(crate) fn take(&self, into: &mut Vec<Command>) {
        debug_assert!(into.is_empty());
        let mut state = self.state();
        std::mem::swap(&mut state.commands, into);
        for Cost { calls, bytes } in into.iter().map(Command::cost) {
            state.calls -= calls;
            state.bytes -= bytes;
        }
        self.calls.set(state.calls as u64);
        drop(state);
        if !into.is_empty() {
            self.room.notify_waiters();
        }
    }

    /// Refuses everything from now on and drops what waits, so that whoever waits for an answer
    /// learns that none will come.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let orphans = std::mem::take(&mut state.commands);
        drop(state);
        drop(orphans);
        self.room.notify_waiters();
    }

    fn put(&self, mut state: MutexGuard<'_, State>, command: Command) {
        state.commands.push(command);
        let was_empty = state.commands.len() == 1;
        drop(state);
        if was_empty {
            // It fails only if the eventfd's counter is full, and then the shard is awake anyway.
            let _ = self.waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step under this lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// Fills the place.
    pub(crate) fn commit(mut self, command: Command) {
        self.filled = true;
        let state = self.inbox.state();
        if !state.closed {
            self.inbox.put(state, command);
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.filled {
            let mut state = self.inbox.state();
            state.calls -= self.cost.calls;
            state.bytes -= self.cost.bytes;
            self.inbox.calls.set(state.calls as u64);
            drop(state);
            self.inbox.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Filter;

    fn inbox() -> (mio::Poll, Inbox) {
        let poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        (poll, Inbox::new(Arc::new(waker)))
    }

    fn cost(calls: usize, bytes: usize) -> Cost {
        Cost { calls, bytes }
    }

    fn question() -> Command {
        Command::List(Recipients::All, oneshot::channel().0)
    }

    #[test]
    fn a_reservation_counts_until_it_is_dropped_or_taken() {
        let (_poll, inbox) = inbox();
        let bounds = Bounds { calls: 2, bytes: 10 };
        let first = inbox.reserve(cost(1, 6), bounds).ok();
        assert_eq!(inbox.reserve(cost(1, 6), bounds).err(), Some(Full::Bytes));
        let second = inbox.reserve(cost(1, 4), bounds).ok();
        assert_eq!(inbox.reserve(cost(1, 0), bounds).err(), Some(Full::Calls));
        drop(first);
        second.expect("there was room").commit(question());
        assert_eq!(inbox.calls(), 1);
        assert!(inbox.reserve(cost(1, 6), bounds).is_ok());
        assert_eq!(inbox.bytes(), 4);
        inbox.push(Command::Pulse(Instant::now(), oneshot::channel().0));
        inbox.push(Command::Stop);
        assert_eq!(inbox.calls(), 1, "the process's own needs no place");
        let mut taken = Vec::new();
        inbox.take(&mut taken);
        assert_eq!((taken.len(), inbox.calls()), (3, 0));
    }

    #[test]
    fn a_list_of_clients_counts_as_much_as_it_takes() {
        let ids: Vec<_> = (0..1000).map(|slot| ClientId::new(0, slot, 0, 0)).collect();
        let payload = || Payload::new(crate::message::Kind::Binary, vec![7; 100].into());
        let one = Recipients::These(ids[..1].into());
        let names = vec![Name::new("u", 9).expect("a short name"); 10];
        let many = Recipients::These(ids.clone().into());
        let filter = Filter::new(ids[..5].to_vec(), names.clone(), Attributes::default());
        let selection = Selection::of(ids[..10].to_vec(), names[..1].to_vec(), names, filter);
        let selected = Recipients::Selected(Arc::new(selection));
        let listed = [(&one, 0), (&many, 16_000), (&selected, 576), (&Recipients::All, 0)];
        for (clients, bytes) in listed {
            let send = Command::Send(clients.clone(), payload(), oneshot::channel().0);
            assert_eq!(send.cost(), cost(1, bytes + 100));
            let list = Command::List(clients.clone(), oneshot::channel().0);
            assert_eq!(list.cost(), cost(1, bytes));
        }
        let sends = listed.map(|(clients, _)| (clients.clone(), payload()));
        let all = Command::SendAll(sends.into(), oneshot::channel().0);
        assert_eq!(all.cost(), cost(4, 16_576 + 400));

        let (_poll, inbox) = inbox();
        let all_cost = all.cost();
        let place = inbox.reserve(all_cost, Bounds { calls: 9, bytes: 9 });
        place.unwrap_or_else(|_| unreachable!()).commit(all);
        assert_eq!((inbox.calls(), inbox.bytes()), (4, 16_976));
        inbox.take(&mut Vec::new());
        assert_eq!((inbox.calls(), inbox.bytes()), (0, 0));
    }

    #[test]
    fn one_command_fits_whatever_its_size() {
        let (_poll, inbox) = inbox();
        assert!(inbox.reserve(cost(100, 0), Bounds { calls: 10, bytes: 10 }).is_ok());
        assert!(inbox.reserve(cost(1, 1000), Bounds { calls: 1, bytes: 10 }).is_ok());
    }

    #[test]
    fn who_waits_for_a_closed_inbox_learns_of_it() {
        let (_poll, inbox) = inbox();
        let (reply, mut answer) = oneshot::channel();
        let place = inbox
            .reserve(cost(1, 0), Bounds { calls: 1, bytes: 1 })
            .unwrap_or_else(|_| unreachable!());
        place.commit(Command::List(Recipients::All, reply));
        inbox.close();
        assert!(
            answer.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
        );
        assert_eq!(
            inbox.reserve(cost(1, 0), Bounds { calls: 9, bytes: 9 }).err(),
            Some(Full::Closed)
        );
    }
}
