//! Clients that break the protocol or a limit: each fault has its violation and its close code.

use super::*;
use crate::close::{Cause, Close};

/// Feeds `frames` whole and byte by byte; both must fail alike.
fn failure(decoder: &Decoder, frames: &[Vec<u8>], limits: &Limits) -> (Violation, usize) {
    let stream = frames.concat();
    let whole = hear(&mut decoder.clone(), &stream, limits, &[]);
    let ends: Vec<_> = (0..stream.len()).collect();
    let bytewise = hear(&mut decoder.clone(), &stream, limits, &ends);
    assert_eq!(whole.verdict(), bytewise.verdict());
    bytewise.failed.unwrap()
}

fn violation(frames: &[Vec<u8>]) -> Violation {
    failure(&Decoder::default(), frames, &LIMITS).0
}

/// Fails at the last byte given, not before.
#[track_caller]
fn fails_with_its_last_byte(stream: &[u8], expected: Violation) {
    let found = failure(&Decoder::default(), &[stream.to_vec()], &LIMITS);
    assert_eq!(found, (expected, stream.len()));
}

#[test]
fn reserved_bits_are_refused_with_the_first_byte() {
    for bits in [0x10, 0x20, 0x40, 0x70] {
        fails_with_its_last_byte(&[FIN | bits | TEXT], Violation::ReservedBits);
    }
}

#[test]
fn deflate_allows_the_first_bit_at_the_head_of_a_message_only() {
    let deflate = Decoder::new(true);
    for frames in [
        vec![frame(FIN | RSV1 | PING, b"")],
        vec![frame(FIN | 0x20 | TEXT, b"")],
        vec![frame(RSV1 | TEXT, b""), frame(FIN | RSV1 | CONTINUE, b"")],
    ] {
        assert_eq!(failure(&deflate, &frames, &LIMITS).0, Violation::ReservedBits);
    }
}

#[test]
fn unknown_opcodes_are_refused_with_the_first_byte() {
    for opcode in (3..8).chain(11..16) {
        fails_with_its_last_byte(&[FIN | opcode], Violation::UnknownOpcode(opcode));
    }
}

#[test]
fn control_frames_are_whole_and_short() {
    for opcode in [CLOSE, PING, PONG] {
        fails_with_its_last_byte(&[opcode], Violation::FragmentedControl);
        fails_with_its_last_byte(&[FIN | opcode, 0xfe], Violation::LongControl);
        fails_with_its_last_byte(&[FIN | opcode, 0xff], Violation::LongControl);
    }
}

#[test]
fn fragments_come_in_order() {
    fails_with_its_last_byte(&[CONTINUE], Violation::LoneContinuation);
    fails_with_its_last_byte(&[FIN | CONTINUE], Violation::LoneContinuation);
    for opcode in [TEXT, FIN | TEXT, BINARY, FIN | BINARY] {
        let mut stream = frame(TEXT, b"begun");
        stream.push(opcode);
        fails_with_its_last_byte(&stream, Violation::InterleavedMessage);
    }
    let finished = [frame(TEXT, b""), frame(FIN | CONTINUE, b""), frame(FIN | CONTINUE, b"")];
    assert_eq!(violation(&finished), Violation::LoneContinuation);
}

#[test]
fn frames_without_a_mask_are_refused() {
    fails_with_its_last_byte(&[FIN | TEXT, 5], Violation::Unmasked);
    assert_eq!(violation(&[frame::encode(Kind::Text, b"hi").into()]), Violation::Unmasked);
}

#[test]
fn lengths_are_minimal_and_have_63_bits() {
    fails_with_its_last_byte(&[FIN | TEXT, 0xfe, 0, 125], Violation::WideLength);
    let wide = [FIN | TEXT, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    fails_with_its_last_byte(&wide, Violation::WideLength);
    let negative = [FIN | TEXT, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0];
    fails_with_its_last_byte(&negative, Violation::NegativeLength);
}

#[test]
fn close_frames_hold_a_code_and_text_or_nothing() {
    let close = |payload: &[u8]| violation(&[frame(FIN | CLOSE, payload)]);
    assert_eq!(close(b"\x03"), Violation::HalfCloseCode);
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        assert_eq!(close(&code.to_be_bytes()), Violation::BadCloseCode(code));
    }
    assert_eq!(close(b"\x03\xe8\xff"), Violation::BadCloseReason);
    assert_eq!(close(b"\x03\xe8\xe2\x82"), Violation::BadCloseReason);
}

#[test]
fn text_fails_in_the_middle_of_a_frame() {
    // Autobahn 6.4: good text, then a byte that can't be mended, then more that never comes.
    let good = "κόσμε".as_bytes();
    let stream = frame(FIN | TEXT, &[good, b"\xf4\x90\x80\x80 and more"].concat());
    let bad = 6 + good.len() + 2;
    fails_with_its_last_byte(&stream[..bad], Violation::BadText);
    let unfinished = frame(FIN | TEXT, b"\xe2\x82");
    fails_with_its_last_byte(&unfinished, Violation::BadText);
    let fragments = [frame(TEXT, b"\xe2"), frame(CONTINUE, b"\x82"), frame(FIN | CONTINUE, b"")];
    fails_with_its_last_byte(&fragments.concat(), Violation::BadText);
}

#[test]
fn a_message_over_the_limit_fails_with_the_head_that_declares_it() {
    let limits = Limits { max_message: 300, max_fragments: 64 };
    let too_big = Violation::TooBig { limit: 300 };
    let one = frame(FIN | BINARY, &[0; 301]);
    assert_eq!(failure(&Decoder::default(), &[one], &limits), (too_big, 8));
    let huge = [FIN | BINARY, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4];
    assert_eq!(failure(&Decoder::default(), &[huge.into()], &limits), (too_big, 14));
    let two = [frame(BINARY, &[0; 300]), frame(FIN | CONTINUE, &[0; 1])];
    assert_eq!(failure(&Decoder::default(), &two, &limits), (too_big, 308 + 6));

    let fits = [frame(BINARY, &[0; 299]), frame(FIN | CONTINUE, &[0; 1])].concat();
    let heard = hear(&mut Decoder::default(), &fits, &limits, &[]);
    assert_eq!(heard.verdict(), (&[Said::Message(Kind::Binary, vec![0; 300])][..], None));
}

#[test]
fn a_limit_holds_for_messages_and_not_for_control_frames() {
    let limits = Limits { max_message: 0, max_fragments: 0 };
    let stream = [frame(FIN | PING, &[7; 125]), frame(FIN | TEXT, b"")].concat();
    let heard = hear(&mut Decoder::default(), &stream, &limits, &[]);
    assert_eq!(heard.verdict(), (&[Said::Ping(vec![7; 125]), text("")][..], None));
}

#[test]
fn empty_fragments_are_counted() {
    let limits = Limits { max_message: 300, max_fragments: 3 };
    let head = [frame(TEXT, b""), frame(CONTINUE, b"")];
    let fits = [head.concat(), frame(FIN | CONTINUE, b"")].concat();
    assert_eq!(hear(&mut Decoder::default(), &fits, &limits, &[]).said, [text("")]);

    let many = [head.concat(), frame(CONTINUE, b""), frame(FIN | CONTINUE, b"")];
    let (found, _) = failure(&Decoder::default(), &many, &limits);
    assert_eq!(found, Violation::TooManyFragments { limit: 3 });
}

#[test]
fn each_violation_has_its_cause_and_code() {
    for (violation, cause, code) in [
        (Violation::ReservedBits, Cause::Protocol, 1002),
        (Violation::UnknownOpcode(3), Cause::Protocol, 1002),
        (Violation::FragmentedControl, Cause::Protocol, 1002),
        (Violation::LongControl, Cause::Protocol, 1002),
        (Violation::LoneContinuation, Cause::Protocol, 1002),
        (Violation::InterleavedMessage, Cause::Protocol, 1002),
        (Violation::Unmasked, Cause::Protocol, 1002),
        (Violation::WideLength, Cause::Protocol, 1002),
        (Violation::NegativeLength, Cause::Protocol, 1002),
        (Violation::HalfCloseCode, Cause::Protocol, 1002),
        (Violation::BadCloseCode(5), Cause::Protocol, 1002),
        (Violation::BadCloseReason, Cause::BadText, 1007),
        (Violation::BadText, Cause::BadText, 1007),
        (Violation::TooBig { limit: usize::MAX }, Cause::TooBig, 1009),
        (Violation::TooManyFragments { limit: u32::MAX }, Cause::Policy, 1008),
    ] {
        let close = violation.close();
        assert_eq!(close, Close::new(cause, code, violation.to_string()));
        assert!(close.reason.len() <= 123);
    }
}
