//! The queue against a socket that takes what it likes.

use std::time::Duration;

use super::*;
use proptest::prelude::*;

/// Takes at most `room` bytes, then blocks.
struct Socket {
    room: usize,
    taken: Vec<u8>,
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = 0;
        for slice in slices {
            let part = slice.len().min(self.room);
            self.taken.extend_from_slice(&slice[..part]);
            self.room -= part;
            count += part;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Message(u8),
    Ping,
    Pong(u8),
    DropOldest,
    Flush(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..60).prop_map(Step::Message),
        1 => Just(Step::Ping),
        1 => (1u8..9).prop_map(Step::Pong),
        1 => Just(Step::DropOldest),
        3 => (0usize..200).prop_map(Step::Flush),
    ]
}

/// A frame of `len` + 3 bytes that can be told apart: sort, number, length, filling.
fn frame(sort: u8, number: u8, len: u8, memory: &Budget) -> Rc<Frame> {
    let mut bytes = vec![sort, number, len];
    bytes.extend(std::iter::repeat_n(number, usize::from(len)));
    Frame::new(bytes.into(), memory)
}

proptest! {
    #[test]
    fn frames_come_out_whole_and_in_order_and_every_one_is_accounted_for(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let memory = Budget::default();
        let mut queue = WriteQueue::default();
        let mut socket = Socket { room: 0, taken: Vec::new() };
        let ping = frame(b'i', 0, 0, &memory);
        let (mut appended, mut dropped, mut reported, mut number) = (0u64, 0u64, 0u64, 0u8);
        for step in steps {
            match step {
                Step::Message(len) => {
                    number = number.wrapping_add(1);
                    queue.append(frame(b'm', number, len, &memory), Sort::Message);
                    appended += 1;
                }
                Step::Ping => queue.set_ping(&ping),
                Step::Pong(len) => queue.set_pong(frame(b'o', 0, len, &memory)),
                Step::DropOldest => dropped += u64::from(queue.drop_oldest()),
                Step::Flush(room) => {
                    socket.room = room;
                    let flushed = queue.flush(&mut socket);
                    reported += flushed.messages;
                }
            }
            prop_assert_eq!(appended, dropped + reported + u64::from(queue.messages()));
        }
        dropped += queue.discard();
        socket.room = usize::MAX;
        let last = queue.flush(&mut socket);
        reported += last.messages;
        prop_assert_eq!(last.state, State::Empty);
        prop_assert!(queue.is_empty());
        prop_assert_eq!((queue.bytes(), queue.messages()), (0, 0));
        prop_assert_eq!(appended, dropped + reported);
        drop(ping);
        prop_assert_eq!(memory.used(), 0, "memory is given back");

        let (mut rest, mut messages, mut newest) = (&socket.taken[..], 0, 0u8);
        while let [sort, number, len, tail @ ..] = rest {
            let (filling, tail) = tail.split_at(usize::from(*len));
            prop_assert!(filling.iter().all(|byte| byte == number), "a frame is whole");
            if *sort == b'm' {
                prop_assert!(number.wrapping_sub(newest) < 128, "messages keep their order");
                newest = *number;
                messages += 1;
            }
            rest = tail;
        }
        prop_assert_eq!(messages, reported);
    }
}

/// What happens to a queue of messages on terms of their own.
#[derive(Clone, Debug)]
enum Turn {
    /// A message of so many bytes, with one of a few keys, which is worth something for so long.
    Message {
        len: u8,
        key: Option<u8>,
        ttl: Option<u8>,
    },
    /// A message with the key, which replaces those before it.
    Replace(u8),
    DropOldest,
    Ping,
    Wait(u8),
    Flush(usize),
}

fn turn() -> impl Strategy<Value = Turn> {
    let message = (1u8..60, prop::option::of(0u8..9), prop::option::of(1u8..200));
    prop_oneof![
        8 => message.prop_map(|(len, key, ttl)| Turn::Message { len, key, ttl }),
        8 => (0u8..9).prop_map(Turn::Replace),
        1 => Just(Turn::DropOldest),
        1 => Just(Turn::Ping),
        3 => (0u8..12).prop_map(Turn::Wait),
        3 => (0usize..150).prop_map(Turn::Flush),
    ]
}

/// What a queue should hold, searched from one end to the other each time.
#[derive(Default)]
struct Model {
    waiting: Vec<(Rc<Frame>, Sort)>,
    pinged: bool,
    /// Bytes of the first that are out.
    begun: usize,
    out: Vec<u8>,
}

impl Model {
    /// Drops those of which nothing is out; answers how many that were.
    fn drop(&mut self, which: impl Fn(&Frame) -> bool) -> u64 {
        let (before, mut index) = (self.waiting.len(), 0);
        self.waiting.retain(|(frame, _)| {
            index += 1;
            (index == 1 && self.begun > 0) || !which(frame)
        });
        (before - self.waiting.len()) as u64
    }

    fn drop_oldest(&mut self) -> bool {
        let unsent = self.waiting.iter().skip(usize::from(self.begun > 0));
        let at = unsent.clone().position(|(_, sort)| *sort == Sort::Message);
        at.map(|at| self.waiting.remove(at + usize::from(self.begun > 0))).is_some()
    }

    fn unsent_with_key(&self, key: &Name) -> (usize, usize) {
        let unsent = self.waiting.iter().skip(usize::from(self.begun > 0));
        let with_key = unsent.filter(|(frame, _)| frame.key() == Some(key));
        with_key.fold((0, 0), |(count, bytes), (frame, _)| (count + 1, bytes + frame.len()))
    }

    fn flush(&mut self, mut room: usize, ping: &Rc<Frame>) {
        if std::mem::take(&mut self.pinged) {
            let at = usize::from(self.begun > 0);
            self.waiting.insert(at, (Rc::clone(ping), Sort::Control));
        }
        while room > 0 && !self.waiting.is_empty() {
            let left = &self.waiting[0].0.bytes()[self.begun..];
            let taken = left.len().min(room);
            self.out.extend_from_slice(&left[..taken]);
            (room, self.begun) = (room - taken, self.begun + taken);
            if self.begun == self.waiting[0].0.len() {
                self.waiting.remove(0);
                self.begun = 0;
            }
        }
    }
}

proptest! {
    #[test]
    fn only_what_was_not_begun_is_replaced_or_expires(
        turns in prop::collection::vec(turn(), 1..400),
    ) {
        let memory = Budget::default();
        let (mut queue, mut now) = (WriteQueue::default(), Instant::now());
        let mut socket = Socket { room: 0, taken: Vec::new() };
        let mut model = Model::default();
        let ping = frame(b'i', 0, 0, &memory);
        let key = |key: u8| Name::new(&key.to_string(), 9).expect("a short name");
        let mut number = 0u8;
        let mut append = |queue: &mut WriteQueue, model: &mut Model, len: u8, waits: QueuePolicy| {
            number = number.wrapping_add(1);
            let frame = Frame::on_terms(vec![number; usize::from(len)].into(), &waits, &memory);
            queue.append(Rc::clone(&frame), Sort::Message);
            model.waiting.push((frame, Sort::Message));
        };
        for turn in turns {
            match turn {
                Turn::Message { len, key: of, ttl } => {
                    let until = ttl.map(|ttl| now + Duration::from_millis(ttl.into()));
                    append(&mut queue, &mut model, len, QueuePolicy { until, key: of.map(key) });
                }
                Turn::Replace(of) => {
                    let of = key(of);
                    let gone = model.drop(|frame| frame.key() == Some(&of));
                    prop_assert_eq!(queue.drop_with_key(&of), gone);
                    append(&mut queue, &mut model, 5, QueuePolicy { until: None, key: Some(of) });
                }
                Turn::DropOldest => {
                    prop_assert_eq!(queue.drop_oldest(), model.drop_oldest());
                }
                Turn::Ping => {
                    queue.set_ping(&ping);
                    model.pinged = true;
                }
                Turn::Wait(millis) => now += Duration::from_millis(millis.into()),
                Turn::Flush(room) => {
                    let gone = model.drop(|it| it.until().is_some_and(|until| until <= now));
                    prop_assert_eq!(queue.drop_expired(now), gone);
                    socket.room = room;
                    queue.flush(&mut socket);
                    model.flush(room, &ping);
                }
            }
            prop_assert_eq!(&socket.taken, &model.out);
            let messages = model.waiting.iter().filter(|(_, sort)| *sort == Sort::Message);
            prop_assert_eq!(queue.messages() as usize, messages.count());
            prop_assert_eq!(queue.len(), model.waiting.len());
            let bytes: usize = model.waiting.iter().map(|(frame, _)| frame.len()).sum();
            prop_assert_eq!(queue.bytes(), bytes);
            for of in 0..9 {
                let of = key(of);
                prop_assert_eq!(queue.unsent_with_key(&of), model.unsent_with_key(&of));
            }
        }
        drop((model, ping));
        queue.abandon();
        prop_assert_eq!((queue.bytes(), queue.messages(), memory.used()), (0, 0, 0));
    }
}

#[test]
fn a_pong_overtakes_what_was_not_begun_and_only_the_newest_is_kept() {
    let memory = Budget::default();
    let mut queue = WriteQueue::default();
    queue.append(frame(b'm', 1, 10, &memory), Sort::Message);
    queue.append(frame(b'm', 2, 1, &memory), Sort::Message);
    let mut socket = Socket { room: 5, taken: Vec::new() };
    assert_eq!(queue.flush(&mut socket).state, State::Blocked);
    queue.set_pong(frame(b'o', 7, 1, &memory));
    queue.set_pong(frame(b'o', 8, 1, &memory));
    socket.room = usize::MAX;
    queue.flush(&mut socket);
    assert_eq!(socket.taken[13..], [b'o', 8, 1, 8, b'm', 2, 1, 2]);
}

#[test]
fn what_a_socket_did_not_take_is_queued_message_by_message() {
    let memory = Budget::default();
    let frames: Vec<_> = (0..3).map(|number| frame(0, number, 7, &memory)).collect();
    let all: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
    for taken in 0..all.len() {
        let before = memory.used();
        let mut out = WriteQueue::default();
        let flushed = out.go_on_with(&frames, taken);
        assert_eq!(flushed.state, State::Blocked);
        assert_eq!(flushed.bytes, taken as u64);
        assert_eq!(flushed.messages, (taken / 10) as u64);
        assert_eq!(out.messages() as usize, 3 - taken / 10);
        assert_eq!(out.begun_bytes(), if taken % 10 == 0 { 0 } else { 10 });

        let mut socket = Socket { room: usize::MAX, taken: all[..taken].to_vec() };
        let flushed = out.flush(&mut socket);
        assert_eq!(flushed.state, State::Empty);
        assert_eq!(socket.taken, all, "{taken} bytes were taken at first");
        assert!(out.is_empty());
        assert_eq!(memory.used(), before);
    }
}

#[test]
fn what_was_taken_before_the_end_counts_and_the_rest_is_given_up_once() {
    /// Takes what one call offers, then breaks.
    struct Brittle(usize);

    impl Write for Brittle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::ConnectionReset)?;
            Ok(slices.iter().map(|slice| slice.len()).sum())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let memory = Budget::default();
    for calls in 0..3 {
        let mut queue = WriteQueue::default();
        for _ in 0..200 {
            queue.append(frame(b'm', 1, 7, &memory), Sort::Message);
        }
        let flushed = queue.flush(&mut Brittle(calls));
        assert_eq!(flushed.state, State::Broken);
        assert_eq!(flushed.messages, (calls * BATCH) as u64);
        assert_eq!(flushed.bytes, flushed.messages * 10);
        assert_eq!(queue.abandon(), 200 - flushed.messages);
        assert_eq!(memory.used(), 0);
    }
}
