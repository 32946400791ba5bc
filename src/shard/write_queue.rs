//! What waits to be written to one socket, and the writing of it.
//!
//! ```text
//!  append ─► [ head │ rest … ]   pong, ping ──┐ (go out before the rest, after a half-written head)
//!              └── written: bytes of the head that are already on the socket
//!                                    flush ───┴──► one send(2) or writev(2)
//! ```
//!
//! Frames are shared: a message for a thousand clients is encoded once and queued a thousand times
//! by reference. A client mostly has nothing or one frame waiting, so the first one lives in the
//! session itself and the list is allocated only behind it.

mod rest;

use std::{
    io::{self, IoSlice, Write},
    rc::Rc,
    time::Instant,
};

use super::memory::{Budget, Charge};
use crate::ids::Name;
use rest::{KEYED_BYTES, Rest};

/// One encoded WebSocket frame, shared by all queues it waits in. Its memory is charged once, however
/// many queues that are, and given back when the last of them lets go.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Box<[u8]>,
    /// How it waits, if not on the usual terms.
    waits: Option<Box<QueuePolicy>>,
    charge: Charge,
}

/// How a frame waits in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct QueuePolicy {
    /// Until when it is worth being sent.
    pub(super) until: Option<Instant>,
    /// A later one with the same key takes its place.
    pub(super) key: Option<Name>,
}

impl Frame {
    pub(super) fn new(bytes: Box<[u8]>, memory: &Budget) -> Rc<Self> {
        Self::on_terms(bytes, &QueuePolicy::default(), memory)
    }

    /// A frame that is there as long as the shard is, and so no part of what waits.
    pub(super) fn constant(bytes: Box<[u8]>, memory: &Budget) -> Rc<Self> {
        Rc::new(Self { bytes, waits: None, charge: memory.charge(0) })
    }

    pub(super) fn on_terms(bytes: Box<[u8]>, waits: &QueuePolicy, memory: &Budget) -> Rc<Self> {
        let waits = (*waits != QueuePolicy::default()).then(|| Box::new(waits.clone()));
        let charge = memory.charge(bytes.len());
        Rc::new(Self { bytes, waits, charge })
    }

    /// Whether it waits on the usual terms, as most do.
    fn is_plain(&self) -> bool {
        self.waits.is_none()
    }

    fn until(&self) -> Option<Instant> {
        self.waits.as_ref()?.until
    }

    /// The key by which a later frame can take its place.
    pub(super) fn key(&self) -> Option<&Name> {
        self.waits.as_ref()?.key.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a frame is, as far as the queue cares.
///
/// As wide as a number, so that an entry has no gaps and is moved in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Sort {
    /// A message of the business system: counted, and droppable while none of it was written.
    Message,
    /// The answer to the upgrade and the welcome: without it a client takes nothing else for what
    /// it is, so it goes out even when all else is discarded.
    Greeting,
    /// A ping or a pong: neither counted nor dropped.
    Control,
    /// The close frame; nothing follows it.
    Close,
}

/// A frame in one queue. Its own memory is charged from its making to its end.
#[derive(Debug)]
struct Entry {
    frame: Rc<Frame>,
    /// Among those behind the first; it means nothing before.
    number: u32,
    sort: Sort,
}

impl Entry {
    fn new(frame: Rc<Frame>, sort: Sort) -> Self {
        let entry = Self { frame, number: 0, sort };
        entry.frame.charge.budget().add(entry.cost());
        entry
    }

    /// Memory that it takes, the frame apart.
    fn cost(&self) -> usize {
        if self.frame.is_plain() {
            return size_of::<Self>();
        }
        size_of::<Self>() + self.frame.key().map_or(0, |_| KEYED_BYTES)
    }

    fn has_key(&self, key: &Name) -> bool {
        self.frame.key() == Some(key)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.frame.charge.budget().give_back(self.cost());
    }
}

/// Frames handed to one `writev`. More save little: by then the system call is a small part.
const BATCH: usize = 64;

/// System calls one socket may use up in one turn before its neighbours have theirs.
const WRITES_PER_TURN: usize = 8;

/// The frames that wait for one socket.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    head: Option<Entry>,
    rest: Option<Box<Rest>>,
    pong: Option<Rc<Frame>>,
    ping: Option<Rc<Frame>>,
    /// Bytes of the head that the socket has taken.
    written: usize,
    /// Bytes waiting, frames counted in full.
    bytes: usize,
    /// Messages waiting, the half-written one included.
    messages: u32,
    /// Of the bytes, those that were sealed and that the socket has not taken: they are no frames
    /// any more.
    held: u32,
}

/// What one flush achieved.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    pub(super) bytes: u64,
    pub(super) messages: u64,
    /// The close frame is on its way: nothing will follow.
    pub(super) closed: bool,
    pub(super) state: State,
}

/// How a flush left the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// All written.
    #[default]
    Empty,
    /// The socket takes no more for now; it will tell when it does.
    Blocked,
    /// The socket would take more, but others have a turn too.
    Unfinished,
    /// The connection is broken: nothing of what is left will ever be written.
    Broken,
}

impl WriteQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none() && self.pong.is_none() && self.ping.is_none() && self.held == 0
    }

    /// Bytes waiting.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames waiting.
    pub(super) fn len(&self) -> usize {
        usize::from(self.head.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Messages waiting.
    pub(super) fn messages(&self) -> u32 {
        self.messages
    }

    /// Appends a frame. The caller has looked at the limits.
    pub(super) fn append(&mut self, frame: Rc<Frame>, sort: Sort) {
        let entry = Entry::new(frame, sort);
        self.bytes += entry.frame.len();
        self.messages += u32::from(sort == Sort::Message);
        if self.head.is_none() {
            self.head = Some(entry);
        } else {
            self.rest.get_or_insert_default().push_back(entry);
        }
    }

    /// Takes over messages that were written to the socket past the queue, which was empty, as far
    /// as the socket took them.
    pub(super) fn go_on_with(&mut self, frames: &[Rc<Frame>], taken: usize) -> Flushed {
        let mut flushed = Flushed { state: State::Blocked, ..Flushed::default() };
        for frame in frames {
            self.append(Rc::clone(frame), Sort::Message);
        }
        self.advance(taken, &mut flushed);
        flushed
    }

    /// Asks for a pong to be sent, in place of one that has not been begun: the newest is enough
    /// (RFC 6455 §5.5.3).
    pub(super) fn set_pong(&mut self, frame: Rc<Frame>) {
        self.pong = Some(frame);
    }

    /// Asks for a ping to be sent, unless one is waiting already.
    pub(super) fn set_ping(&mut self, frame: &Rc<Frame>) {
        self.ping.get_or_insert_with(|| Rc::clone(frame));
    }

    /// Drops the oldest waiting message of which nothing was written yet; false if there is none.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let droppable = |entry: &Entry| entry.sort == Sort::Message;
        let dropped = if self.written == 0 && self.head.as_ref().is_some_and(droppable) {
            let next = self.next_of_rest();
            std::mem::replace(&mut self.head, next)
        } else {
            self.of_rest(|rest| rest.take_first(droppable))
        };
        dropped.map(|entry| self.forget(&entry)).is_some()
    }

    /// Drops the messages that have waited for too long; answers how many that were.
    pub(super) fn drop_expired(&mut self, now: Instant) -> u64 {
        let is_over = |entry: &Entry| entry.frame.until().is_some_and(|until| until <= now);
        self.drop_unsent(is_over, |rest, taken| rest.take_expired(now, taken))
    }

    /// The messages with the key of which nothing was written yet: how many, and their bytes.
    pub(super) fn unsent_with_key(&self, key: &Name) -> (usize, usize) {
        let head = self.head.iter().filter(|head| self.written == 0 && head.has_key(key));
        let rest = self.rest.iter().flat_map(|rest| rest.with_key(key));
        head.chain(rest)
            .fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.frame.len()))
    }

    /// Drops the messages with the key; answers how many that were.
    pub(super) fn drop_with_key(&mut self, key: &Name) -> u64 {
        let has_key = |entry: &Entry| entry.has_key(key);
        self.drop_unsent(has_key, |rest, taken| rest.take_with_key(key, taken))
    }

    /// Drops what is to go of the rest, and the head if it is to go and nothing of it was written
    /// yet; answers how many that were.
    fn drop_unsent(
        &mut self,
        head_goes: impl Fn(&Entry) -> bool,
        take: impl FnOnce(&mut Rest, &mut dyn FnMut(Entry)),
    ) -> u64 {
        let before = self.messages;
        if let Some(mut rest) = self.rest.take() {
            take(&mut rest, &mut |entry| self.forget(&entry));
            self.rest = (!rest.is_empty()).then_some(rest);
        }
        if self.written == 0 && self.head.as_ref().is_some_and(head_goes) {
            let next = self.next_of_rest();
            if let Some(entry) = std::mem::replace(&mut self.head, next) {
                self.forget(&entry);
            }
        }
        u64::from(before - self.messages)
    }

    /// Drops everything of which nothing was written yet; answers how many messages that were.
    pub(super) fn discard(&mut self) -> u64 {
        (self.pong, self.ping) = (None, None);
        let before = self.messages;
        let greeting = self.head.as_ref().is_some_and(|head| head.sort == Sort::Greeting);
        let half_written = if self.written > 0 || greeting { self.head.take() } else { None };
        while let Some(entry) = self.head.take().or_else(|| self.next_of_rest()) {
            self.forget(&entry);
        }
        let kept = half_written.as_ref().is_some_and(|entry| entry.sort == Sort::Message);
        self.head = half_written;
        debug_assert_eq!(self.messages, u32::from(kept), "only a half-written message is left");
        u64::from(before - self.messages)
    }

    /// Gives up the half-written frame too: the socket is gone. Answers how many messages that were.
    pub(super) fn abandon(&mut self) -> u64 {
        let mut dropped = self.discard();
        if let Some(head) = self.head.take() {
            self.forget(&head);
            dropped += u64::from(head.sort == Sort::Message);
        }
        self.written = 0;
        dropped
    }

    /// Bytes of a frame that has been begun and so can't be dropped any more, and of what is held.
    pub(super) fn begun_bytes(&self) -> usize {
        let begun = self.head.as_ref().filter(|_| self.written > 0);
        begun.map_or(0, |head| head.frame.len()) + self.held as usize
    }

    /// Says how many bytes the socket has yet to take of what was sealed.
    pub(super) fn hold(&mut self, bytes: usize) {
        let held = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes = self.bytes - self.held as usize + held as usize;
        self.held = held;
    }

    /// What is to be written next, frame by frame.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &[u8]> {
        let head = self.head.iter().map(|head| &head.frame.bytes[self.written..]);
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        head.chain(rest.map(|entry| entry.frame.bytes()))
    }

    /// Writes as much as the socket takes in this turn. What was written before the connection
    /// turned out to be broken is counted like everything else.
    pub(super) fn flush(&mut self, socket: &mut impl Write) -> Flushed {
        let mut flushed = Flushed::default();
        self.promote();
        for _ in 0..WRITES_PER_TURN {
            let Some(head) = &self.head else {
                return flushed;
            };
            let (wanted, outcome) = match &self.rest {
                None => {
                    let bytes = &head.frame.bytes[self.written..];
                    (bytes.len(), socket.write(bytes))
                }
                Some(rest) => {
                    let mut slices = [IoSlice::new(&[]); BATCH];
                    slices[0] = IoSlice::new(&head.frame.bytes[self.written..]);
                    let mut wanted = slices[0].len();
                    let mut count = 1;
                    for (slice, entry) in slices[1..].iter_mut().zip(rest.iter()) {
                        *slice = IoSlice::new(&entry.frame.bytes);
                        wanted += entry.frame.len();
                        count += 1;
                    }
                    (wanted, socket.write_vectored(&slices[..count]))
                }
            };
            match outcome {
                Ok(taken @ 1..) => {
                    self.advance(taken, &mut flushed);
                    // A short write means a full socket buffer; the kernel has noted that we want
                    // to hear of room, so the system call that would only say so can be saved.
                    if taken < wanted {
                        flushed.state = State::Blocked;
                        return flushed;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flushed.state = State::Blocked;
                    return flushed;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    flushed.state = State::Broken;
                    return flushed;
                }
            }
        }
        if self.head.is_some() {
            flushed.state = State::Unfinished;
        }
        flushed
    }

    /// Puts a waiting pong and ping in line: before everything of which nothing was written yet.
    pub(super) fn promote(&mut self) {
        for frame in [self.ping.take(), self.pong.take()].into_iter().flatten() {
            let entry = Entry::new(frame, Sort::Control);
            self.bytes += entry.frame.len();
            let greeting = self.head.as_ref().is_some_and(|head| head.sort == Sort::Greeting);
            if self.written > 0 || greeting {
                self.rest.get_or_insert_default().push_front(entry);
            } else if let Some(behind) = self.head.replace(entry) {
                self.rest.get_or_insert_default().push_front(behind);
            }
        }
    }

    /// Takes the bytes that were written off the queue.
    pub(super) fn advance(&mut self, mut taken: usize, flushed: &mut Flushed) {
        flushed.bytes += taken as u64;
        while let Some(head) = &self.head {
            let left = head.frame.len() - self.written;
            if taken < left {
                self.written += taken;
                return;
            }
            taken -= left;
            self.written = 0;
            flushed.messages += u64::from(head.sort == Sort::Message);
            flushed.closed |= head.sort == Sort::Close;
            let next = self.next_of_rest();
            if let Some(entry) = std::mem::replace(&mut self.head, next) {
                self.forget(&entry);
            }
        }
    }

    fn next_of_rest(&mut self) -> Option<Entry> {
        self.of_rest(Rest::pop_front)
    }

    /// Takes something out of the rest, and gives its memory back if that was all.
    fn of_rest<T>(&mut self, take: impl FnOnce(&mut Rest) -> Option<T>) -> Option<T> {
        let rest = self.rest.as_deref_mut()?;
        let taken = take(rest);
        if rest.is_empty() {
            self.rest = None;
        }
        taken
    }

    fn forget(&mut self, entry: &Entry) {
        self.bytes -= entry.frame.len();
        self.messages -= u32::from(entry.sort == Sort::Message);
    }
}

#[cfg(test)]
mod tests;
