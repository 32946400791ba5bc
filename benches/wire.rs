//! Micro-benchmarks of the codec: unmasking, checking of text, parsing, encoding, deflating.
//!
//! `cargo bench --bench wire`. What can be read is heard as a client would say it, so that unmasking
//! shows in large binary messages, checking in the difference to text, and parsing in small ones.

#![allow(missing_docs, reason = "a program")]

use divan::{Bencher, black_box, counter::BytesCount};
use gateway_websocket::{
    message::Kind,
    wire::{self, Decoder, Deflater, Event, Inflater, Limits, Work},
};

const SIZES: [usize; 4] = [16, 128, 4096, 65536];
const LIMITS: Limits = Limits { max_message: 1 << 20, max_fragments: 1024 };

fn main() {
    divan::main();
}

/// Prose with some characters of two and three bytes, as chats have them.
fn prose(size: usize) -> Vec<u8> {
    let text = "The quick brown fox says: “naïve café”, and jumps over the lazy dog — again. ";
    let mut bytes = text.repeat(size / text.len() + 1).into_bytes();
    bytes.truncate(size);
    while std::str::from_utf8(&bytes).is_err() {
        bytes.pop();
        bytes.insert(0, b'.');
        bytes.truncate(size);
        if let Some(at) = bytes.iter().rposition(u8::is_ascii) {
            bytes.truncate(at + 1);
        }
    }
    bytes.resize(size, b'.');
    bytes
}

/// The message as a client sends it, under a key that is not all zeros.
fn from_client(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let frame = wire::encode(kind, payload);
    let head = frame.len() - payload.len();
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = frame[..head].to_vec();
    bytes[1] |= 0x80;
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Hears one message from a copy of the bytes, as they come out of the socket.
fn hear(bencher: Bencher<'_, '_>, kind: Kind, payload: &[u8]) {
    let frame = from_client(kind, payload);
    let mut buffer = frame.clone();
    let mut decoder = Decoder::default();
    bencher.counter(BytesCount::new(payload.len())).bench_local(|| {
        buffer.copy_from_slice(&frame);
        let mut input = buffer.as_mut_slice();
        let heard = decoder.next(&mut input, &LIMITS, &mut Work::unbounded());
        black_box(matches!(heard, Ok(Some(Event::Message { .. }))))
    });
}

/// What the copying in the two below takes of their time.
#[divan::bench(args = SIZES)]
fn copy(bencher: Bencher<'_, '_>, size: usize) {
    let frame = from_client(Kind::Binary, &prose(size));
    let mut buffer = frame.clone();
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        buffer.copy_from_slice(black_box(&frame));
        black_box(&mut buffer);
    });
}

#[divan::bench(args = SIZES)]
fn hear_binary(bencher: Bencher<'_, '_>, size: usize) {
    hear(bencher, Kind::Binary, &prose(size));
}

#[divan::bench(args = SIZES)]
fn hear_text(bencher: Bencher<'_, '_>, size: usize) {
    hear(bencher, Kind::Text, &prose(size));
}

/// A hundred messages that came in one read.
#[divan::bench]
fn parse_a_hundred_of_16_bytes(bencher: Bencher<'_, '_>) {
    let frames = from_client(Kind::Binary, &prose(16)).repeat(100);
    let mut buffer = frames.clone();
    let mut decoder = Decoder::default();
    bencher.counter(divan::counter::ItemsCount::new(100u32)).bench_local(|| {
        buffer.copy_from_slice(&frames);
        let mut input = buffer.as_mut_slice();
        let mut work = Work::unbounded();
        while let Ok(Some(event)) = decoder.next(&mut input, &LIMITS, &mut work) {
            black_box(event);
        }
    });
}

#[divan::bench(args = SIZES)]
fn encode(bencher: Bencher<'_, '_>, size: usize) {
    let payload = prose(size);
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| wire::encode(Kind::Text, black_box(&payload)));
}

#[divan::bench(args = SIZES, consts = [9, 15])]
fn deflate<const WINDOW: u8>(bencher: Bencher<'_, '_>, size: usize) {
    let payload = prose(size);
    let (mut deflater, mut out) = (Deflater::new(), Vec::new());
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        black_box(deflater.deflate(WINDOW, 1, black_box(&payload), &mut out).map(<[u8]>::len))
    });
}

#[divan::bench(args = [128, 4096, 65536])]
fn inflate(bencher: Bencher<'_, '_>, size: usize) {
    let payload = prose(size);
    let deflated = wire::compress_once(15, 1, &payload).unwrap_or_default();
    let (mut inflater, mut out) = (Inflater::new(), Vec::new());
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        black_box(inflater.inflate(Kind::Text, black_box(&deflated), 1 << 20, &mut out))
    });
}
