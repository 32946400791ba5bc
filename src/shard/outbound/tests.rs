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
fn frame(sort: u8, number: u8, len: u8, meter: &Meter) -> Rc<Frame> {
    let mut bytes = vec![sort, number, len];
    bytes.extend(std::iter::repeat_n(number, usize::from(len)));
    Frame::new(bytes.into(), meter)
}

proptest! {
    #[test]
    fn frames_come_out_whole_and_in_order_and_every_one_is_accounted_for(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let meter = Meter::default();
        let mut queue = Outbound::default();
        let mut socket = Socket { room: 0, taken: Vec::new() };
        let ping = frame(b'i', 0, 0, &meter);
        let (mut appended, mut dropped, mut reported, mut number) = (0u64, 0u64, 0u64, 0u8);
        for step in steps {
            match step {
                Step::Message(len) => {
                    number = number.wrapping_add(1);
                    queue.append(frame(b'm', number, len, &meter), Sort::Message, &meter);
                    appended += 1;
                }
                Step::Ping => queue.set_ping(&ping),
                Step::Pong(len) => queue.set_pong(frame(b'o', 0, len, &meter)),
                Step::DropOldest => dropped += u64::from(queue.drop_oldest(&meter)),
                Step::Flush(room) => {
                    socket.room = room;
                    let flushed = queue.flush(&mut socket, &meter);
                    reported += flushed.messages;
                }
            }
            prop_assert_eq!(appended, dropped + reported + u64::from(queue.messages()));
        }
        dropped += queue.discard(&meter);
        socket.room = usize::MAX;
        let last = queue.flush(&mut socket, &meter);
        reported += last.messages;
        prop_assert_eq!(last.state, State::Empty);
        prop_assert!(queue.is_empty());
        prop_assert_eq!((queue.bytes(), queue.messages()), (0, 0));
        prop_assert_eq!(appended, dropped + reported);
        drop(ping);
        prop_assert_eq!(meter.get(), 0, "memory is given back");

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
    Wait(u8),
    Flush(usize),
}

fn turn() -> impl Strategy<Value = Turn> {
    let message = (1u8..60, prop::option::of(0u8..3), prop::option::of(1u8..20));
    prop_oneof![
        4 => message.prop_map(|(len, key, ttl)| Turn::Message { len, key, ttl }),
        2 => (0u8..3).prop_map(Turn::Replace),
        2 => (0u8..12).prop_map(Turn::Wait),
        3 => (0usize..200).prop_map(Turn::Flush),
    ]
}

proptest! {
    #[test]
    fn only_what_was_not_begun_is_replaced_or_expires(
        turns in prop::collection::vec(turn(), 1..100),
    ) {
        let meter = Meter::default();
        let (mut queue, mut now) = (Outbound::default(), Instant::now());
        let mut socket = Socket { room: 0, taken: Vec::new() };
        // The model: what waits, each with its bytes, and how much of the first is out.
        let (mut waiting, mut begun, mut out) = (Vec::<(Rc<Frame>, Vec<u8>)>::new(), 0, Vec::new());
        let key = |key: u8| Name::new(&key.to_string(), 9).ok();
        let mut number = 0u8;
        let mut append = |queue: &mut Outbound, len: u8, waits: Waits| {
            number = number.wrapping_add(1);
            let bytes = vec![number; usize::from(len)];
            let frame = Frame::on_terms(bytes.clone().into(), &waits, &meter);
            queue.append(Rc::clone(&frame), Sort::Message, &meter);
            (frame, bytes)
        };
        for turn in turns {
            match turn {
                Turn::Message { len, key: of, ttl } => {
                    let until = ttl.map(|ttl| now + Duration::from_millis(ttl.into()));
                    let waits = Waits { until, key: of.and_then(key) };
                    waiting.push(append(&mut queue, len, waits));
                }
                Turn::Replace(of) => {
                    let of = key(of).expect("a short name");
                    let before = waiting.len();
                    let mut index = 0;
                    waiting.retain(|(frame, _)| {
                        index += 1;
                        (index == 1 && begun > 0) || frame.key() != Some(&of)
                    });
                    let gone = (before - waiting.len()) as u64;
                    prop_assert_eq!(queue.drop_with_key(&of, &meter), gone);
                    let waits = Waits { until: None, key: Some(of) };
                    waiting.push(append(&mut queue, 5, waits));
                }
                Turn::Wait(millis) => now += Duration::from_millis(millis.into()),
                Turn::Flush(mut room) => {
                    let before = waiting.len();
                    let mut index = 0;
                    waiting.retain(|(frame, _)| {
                        index += 1;
                        (index == 1 && begun > 0) || frame.until().is_none_or(|until| until > now)
                    });
                    let gone = (before - waiting.len()) as u64;
                    prop_assert_eq!(queue.drop_expired(now, &meter), gone);
                    socket.room = room;
                    queue.flush(&mut socket, &meter);
                    while room > 0 && !waiting.is_empty() {
                        let left = &waiting[0].1[begun..];
                        let taken = left.len().min(room);
                        out.extend_from_slice(&left[..taken]);
                        (room, begun) = (room - taken, begun + taken);
                        if begun == waiting[0].1.len() {
                            waiting.remove(0);
                            begun = 0;
                        }
                    }
                }
            }
            prop_assert_eq!(&socket.taken, &out);
            prop_assert_eq!(queue.messages() as usize, waiting.len());
            let bytes: usize = waiting.iter().map(|(_, bytes)| bytes.len()).sum();
            prop_assert_eq!(queue.bytes(), bytes);
        }
        drop(waiting);
        queue.abandon(&meter);
        prop_assert_eq!((queue.bytes(), queue.messages(), meter.get()), (0, 0, 0));
    }
}

#[test]
fn a_pong_overtakes_what_was_not_begun_and_only_the_newest_is_kept() {
    let meter = Meter::default();
    let mut queue = Outbound::default();
    queue.append(frame(b'm', 1, 10, &meter), Sort::Message, &meter);
    queue.append(frame(b'm', 2, 1, &meter), Sort::Message, &meter);
    let mut socket = Socket { room: 5, taken: Vec::new() };
    assert_eq!(queue.flush(&mut socket, &meter).state, State::Blocked);
    queue.set_pong(frame(b'o', 7, 1, &meter));
    queue.set_pong(frame(b'o', 8, 1, &meter));
    socket.room = usize::MAX;
    queue.flush(&mut socket, &meter);
    assert_eq!(socket.taken[13..], [b'o', 8, 1, 8, b'm', 2, 1, 2]);
}

#[test]
fn what_a_socket_did_not_take_is_queued_message_by_message() {
    let meter = Meter::default();
    let frames: Vec<_> = (0..3).map(|number| frame(0, number, 7, &meter)).collect();
    let all: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
    for taken in 0..all.len() {
        let before = meter.get();
        let mut out = Outbound::default();
        let flushed = out.go_on_with(&frames, taken, &meter);
        assert_eq!(flushed.state, State::Blocked);
        assert_eq!(flushed.bytes, taken as u64);
        assert_eq!(flushed.messages, (taken / 10) as u64);
        assert_eq!(out.messages() as usize, 3 - taken / 10);
        assert_eq!(out.begun_bytes(), if taken % 10 == 0 { 0 } else { 10 });

        let mut socket = Socket { room: usize::MAX, taken: all[..taken].to_vec() };
        let flushed = out.flush(&mut socket, &meter);
        assert_eq!(flushed.state, State::Empty);
        assert_eq!(socket.taken, all, "{taken} bytes were taken at first");
        assert!(out.is_empty());
        assert_eq!(meter.get(), before);
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

    let meter = Meter::default();
    for calls in 0..3 {
        let mut queue = Outbound::default();
        for _ in 0..200 {
            queue.append(frame(b'm', 1, 7, &meter), Sort::Message, &meter);
        }
        let flushed = queue.flush(&mut Brittle(calls), &meter);
        assert_eq!(flushed.state, State::Broken);
        assert_eq!(flushed.messages, (calls * BATCH) as u64);
        assert_eq!(flushed.bytes, flushed.messages * 10);
        assert_eq!(queue.abandon(&meter), 200 - flushed.messages);
        assert_eq!(meter.get(), 0);
    }
}
