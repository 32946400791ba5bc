//! Round trips, streams made by hand or by others, and streams made to do harm.

mod reference;

use super::*;
use crate::close::{Cause, code};
use proptest::prelude::*;

const AMPLE: usize = 1 << 20;
/// "Hello" in one block of the fixed code (RFC 7692 §7.2.3.1).
const HELLO: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

/// What a new inflater makes of a compressed binary message.
fn inflate(payload: &[u8], limit: usize) -> Result<Vec<u8>, Violation> {
    inflate_with(&mut Inflater::new(), (Kind::Binary, payload), limit)
}

/// What an inflater makes of a message, all at once; what it holds is never more than allowed.
fn inflate_with(
    inflater: &mut Inflater,
    (kind, payload): (Kind, &[u8]),
    limit: usize,
) -> Result<Vec<u8>, Violation> {
    inflate_by(inflater, (kind, payload), limit, usize::MAX)
}

/// The same, with so much work at a time, and the memory of each piece moved in between.
fn inflate_by(
    inflater: &mut Inflater,
    (kind, payload): (Kind, &[u8]),
    limit: usize,
    work: usize,
) -> Result<Vec<u8>, Violation> {
    let mut inflating = inflater.begin(kind, payload.into());
    let outcome = loop {
        match inflating.go_on(limit, &mut Work::new(work)) {
            Ok(false) => inflating = inflating.into_owned(),
            Ok(true) => break Ok(inflating.bytes().to_vec()),
            Err(violation) => break Err(violation),
        }
    };
    assert!(inflating.out.capacity() <= limit.saturating_add(1).max(KEEP));
    inflater.end(inflating);
    outcome
}

/// The compressed message, whether it is shorter or not.
fn deflated(window_bits: u8, level: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Compressor::new(window_bits, level).run(payload, &mut out).unwrap();
    out
}

/// Inflates by the reference; the payload, and how far back the message reaches.
fn judged(message: &[u8]) -> (Vec<u8>, usize) {
    reference::inflate(&[message, &TAIL].concat()).unwrap()
}

/// Text that compresses well, with repetitions near and far.
fn prose(length: usize) -> Vec<u8> {
    let mut seed = 1u32;
    let mut text = Vec::new();
    while text.len() < length {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(format!("word{} ", (seed >> 16) % 97).as_bytes());
    }
    text.truncate(length);
    text
}

/// Bytes that no compressor makes shorter.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(length)
    .collect()
}

#[test]
fn the_examples_of_the_rfc_say_hello() {
    for (message, what) in [
        (HELLO, "one block"),
        (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], "stored"),
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "final block"),
        (
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
            "two blocks",
        ),
    ] {
        assert_eq!(inflate(message, AMPLE).unwrap(), b"Hello", "{what}");
    }
    assert_eq!(deflated(15, 9, b"Hello"), HELLO);
}

#[test]
fn a_window_does_not_outlive_its_message() {
    // The second message of RFC 7692 §7.2.3.2 refers to the first.
    let mut inflater = Inflater::new();
    let mut inflate = |payload| inflate_with(&mut inflater, (Kind::Text, payload), AMPLE);
    assert_eq!(inflate(HELLO).unwrap(), b"Hello");
    assert_eq!(inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00]), Err(Violation::BadDeflate));
    assert_eq!(inflate(HELLO).unwrap(), b"Hello");
}

#[test]
fn blocks_may_follow_on_a_final_one() {
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(inflate(&[&last[..], HELLO].concat(), AMPLE).unwrap(), b"HelloHello");
    assert_eq!(inflate(&[&last[..], &last, &[0]].concat(), AMPLE).unwrap(), b"HelloHello");
    assert_eq!(inflate(&[&last[..], &last].concat(), AMPLE).unwrap(), b"HelloHello");
    // An empty final block, of which the tail was cut off like that of any other.
    assert_eq!(inflate(&[0x01], AMPLE).unwrap(), b"");
    let farther = [&last[..], &[0xf2, 0x00, 0x11, 0x00, 0x00]].concat();
    assert_eq!(inflate(&farther, AMPLE), Err(Violation::BadDeflate));
}

#[test]
fn the_empty_message_is_a_zero_byte() {
    for window_bits in 9..=15 {
        for level in 1..=9 {
            assert_eq!(deflated(window_bits, level, b""), [0]);
        }
    }
    for message in [&[0][..], &[0x02, 0x00], &[]] {
        assert_eq!(inflate(message, 0).unwrap(), b"");
    }
    assert_eq!(compress_once(15, 1, b""), None);
}

#[test]
fn what_is_not_whole_deflate_data_is_refused() {
    for message in [
        &HELLO[..HELLO.len() - 1],
        &HELLO[..HELLO.len() - 2],
        &HELLO[..1],
        &[HELLO, &[0xff]].concat(),
        &[HELLO, &[0x07]].concat(),
        &[HELLO, &TAIL, &[0xff, 0xff]].concat(),
        &[0xff],
        &[0x06],
        // Stored blocks: of a length that its complement contradicts; one that wants the tail for
        // its data; one that wants more.
        &[0x00, 0x05, 0x00, 0xfa, 0xfe, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        &[0x00, 0x04, 0x00, 0xfb, 0xff],
        &[0x00, 0x06, 0x00, 0xf9, 0xff],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07],
    ] {
        assert_eq!(inflate(message, AMPLE), Err(Violation::BadDeflate), "{message:02x?}");
    }
    let close = Violation::BadDeflate.close();
    assert_eq!((close.cause, close.code), (Cause::Protocol, code::BAD_DATA));
}

#[test]
fn a_truncated_message_is_refused_wherever_it_was_cut() {
    let text = prose(3000);
    let message = deflated(15, 6, &text);
    for end in 1..message.len() {
        assert_eq!(inflate(&message[..end], AMPLE), Err(Violation::BadDeflate), "{end}");
    }
}

#[test]
fn what_the_tail_adds_to_a_truncated_message_is_not_over_the_limit() {
    // A stored block of nine bytes, of which one is there; the tail is taken for more of them.
    let message = [0x00, 0x09, 0x00, 0xf6, 0xff, 0x48];
    for limit in 1..10 {
        assert_eq!(inflate(&message, limit), Err(Violation::BadDeflate), "{limit}");
    }
    assert_eq!(inflate(&message, 0), Err(Violation::TooBig { limit: 0 }));
}

#[test]
fn text_has_to_be_utf8() {
    let mut inflater = Inflater::new();
    let message = deflated(15, 1, b"caf\xe9");
    let mut inflate = |kind| inflate_with(&mut inflater, (kind, &message), AMPLE);
    assert_eq!(inflate(Kind::Text), Err(Violation::BadText));
    assert_eq!(inflate(Kind::Binary).unwrap(), b"caf\xe9");
}

#[test]
fn the_limit_is_exact() {
    for size in [1, 1000, 4096, 100_000] {
        let message = deflated(15, 6, &prose(size));
        assert_eq!(inflate(&message, size).unwrap().len(), size);
        assert_eq!(inflate(&message, usize::MAX).unwrap().len(), size);
        let limit = size - 1;
        assert_eq!(inflate(&message, limit), Err(Violation::TooBig { limit }));
    }
    assert_eq!(inflate(&[0], 0), Ok(vec![]));
}

#[test]
fn a_bomb_is_stopped_before_twice_the_limit_is_allocated() {
    // One GiB of zeros: blocks of 1 MiB, each of them flushed, so that they can be repeated.
    let block = [&deflated(15, 9, &vec![0; 1 << 20])[..], &TAIL].concat();
    let bomb = block.repeat(1024);
    for limit in [0, 1, 1000, 4096, 1 << 20, (1 << 24) - 1] {
        let mut inflater = Inflater::new();
        let mut inflating = inflater.begin(Kind::Binary, Cow::Borrowed(&bomb));
        let result = inflating.go_on(limit, &mut Work::unbounded());
        assert_eq!(result, Err(Violation::TooBig { limit }));
        let room = inflating.out.capacity();
        assert!(room <= limit + 1, "{room} for {limit}");
    }
}

#[test]
fn a_message_is_inflated_by_pieces_and_many_blocks_are_much_work() {
    let zeros = deflated(15, 9, &vec![0; 1 << 20]);
    // Empty final blocks of the fixed code, each of which begins a stream of its own.
    let blocks = [0x03, 0x00].repeat(10_000);
    for (message, least) in [(&zeros, 10), (&blocks, 40)] {
        let mut inflating = Inflater::new().begin(Kind::Binary, Cow::Borrowed(message));
        let mut pieces = 1;
        while !inflating.go_on(AMPLE, &mut Work::new(100_000)).unwrap() {
            pieces += 1;
        }
        assert!(pieces >= least, "{pieces}");
    }
}

#[test]
fn room_never_takes_twice_the_limit_with_what_it_replaces() {
    for limit in [1, 100, 5000, 1 << 20, (1 << 20) + 1] {
        for input in [0, 1, 700, 1 << 18] {
            let mut out: Vec<u8> = Vec::new();
            while out.len() <= limit {
                let before = out.capacity();
                make_room(&mut out, input, limit);
                assert!(out.len() < out.capacity());
                assert!(before + out.capacity() <= limit + limit / 2 + 1);
                out.resize(out.capacity(), 0);
            }
        }
    }
}

#[test]
fn what_gets_no_shorter_is_left_as_it_is() {
    let mut deflater = Deflater::new();
    let mut out = Vec::new();
    let text = prose(2000);
    for level in 1..=9 {
        for length in [0, 1, 2, 1000, 100_000] {
            assert_eq!(deflater.deflate(15, level, &noise(length), &mut out), None);
            // The compressor is not the worse for it.
            let message = deflater.deflate(15, level, &text, &mut out).unwrap();
            assert_eq!(inflate(message, AMPLE).unwrap(), text);
        }
    }
    for window_bits in [0, 8, 16, 255] {
        assert_eq!(deflater.deflate(window_bits, 6, &text, &mut out), None);
    }
}

#[test]
fn a_message_depends_on_nothing_before_it() {
    let mut deflater = Deflater::new();
    let (mut first, mut again) = (Vec::new(), Vec::new());
    let text = prose(5000);
    for window_bits in 9..=15 {
        for level in [1, 2, 4, 6, 9] {
            let first = deflater.deflate(window_bits, level, &text, &mut first).unwrap();
            let again = deflater.deflate(window_bits, level, &text, &mut again).unwrap();
            assert_eq!(first, again);
            assert_eq!(compress_once(window_bits, level, &text).unwrap(), again);
        }
    }
}

#[test]
fn a_window_is_never_exceeded() {
    let text = prose(40_000);
    for window_bits in 9..=15 {
        for level in 1..=9 {
            let (back, farthest) = judged(&deflated(window_bits, level, &text));
            assert!(back == text, "{window_bits} {level}");
            assert!(farthest <= 1 << window_bits, "{farthest} at {window_bits} {level}");
        }
    }
    // The check is worth something: the largest window does reach farther back.
    assert!(judged(&deflated(15, 6, &text)).1 > 1 << 14);
}

#[test]
fn a_large_buffer_is_given_back() {
    let mut buffer = Vec::with_capacity(KEEP + 1);
    trim(&mut buffer);
    assert_eq!(buffer.capacity(), 0);
    let mut buffer = vec![1; KEEP];
    trim(&mut buffer);
    assert_eq!((buffer.len(), buffer.capacity()), (0, KEEP));
}

/// Messages of all sorts: noise, repetitions, and both in turn.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (any::<u8>(), 0usize..3000).prop_map(|(byte, times)| vec![byte; times]),
        (0usize..3000).prop_map(prose),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_deflated_comes_back(
        payloads in prop::collection::vec(payload(), 1..4), window_bits in 9u8..=15, level in 1u8..=9,
        work in 1usize..5000,
    ) {
        let mut deflater = Deflater::new();
        let mut inflater = Inflater::new();
        let mut small = Vec::new();
        for payload in payloads {
            let whole = deflated(window_bits, level, &payload);
            let shorter = deflater.deflate(window_bits, level, &payload, &mut small);
            prop_assert_eq!(shorter, (whole.len() < payload.len()).then_some(&*whole));
            let back = inflate_with(&mut inflater, (Kind::Binary, &whole), payload.len());
            prop_assert_eq!(back.as_ref(), Ok(&payload));
            let back = inflate_by(&mut inflater, (Kind::Binary, &whole), payload.len(), work);
            prop_assert_eq!(back, Ok(payload.clone()));
            let (judged, farthest) = judged(&whole);
            prop_assert_eq!(judged, payload);
            prop_assert!(farthest <= 1 << window_bits);
        }
    }

    /// A stream cut or changed anywhere: a result or a fault, and never more than the limit.
    #[test]
    fn no_stream_does_harm(
        mut message in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            payload().prop_map(|payload| deflated(15, 6, &payload)),
        ],
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        limit in 0usize..5000,
    ) {
        for (place, byte) in changes {
            if !message.is_empty() {
                let place = place.index(message.len());
                message[place] = byte;
            }
        }
        let result = inflate(&message, limit);
        prop_assert_eq!(&inflate_by(&mut Inflater::new(), (Kind::Binary, &message), limit, 1), &result);
        match result {
            Ok(out) => prop_assert!(out.len() <= limit),
            Err(Violation::TooBig { limit: told }) => prop_assert_eq!(told, limit),
            Err(fault) => prop_assert_eq!(fault, Violation::BadDeflate),
        }
    }

    /// Where the stream is whole, a plain inflater of 15 bits says the same.
    #[test]
    fn an_ordinary_inflater_agrees(payload in payload(), window_bits in 9u8..=15, level in 1u8..=9) {
        let stream = [&deflated(window_bits, level, &payload)[..], &TAIL].concat();
        let mut out = vec![0; payload.len() + 1];
        let mut zlib = Decompress::new(false);
        let status = zlib.decompress(&stream, &mut out, FlushDecompress::Sync).unwrap();
        prop_assert_eq!(status, Status::Ok);
        out.truncate(usize::try_from(zlib.total_out()).unwrap());
        prop_assert_eq!(out, payload);
    }
}
