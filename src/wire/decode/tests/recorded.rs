//! Conversations of foreign clients, as they came over the wire, in which the decoder is exported
//! and restored at every byte.
//!
//! The recordings are what Chromium 156 and Python's websockets 17 sent after their handshake: each
//! once with permessage-deflate agreed (without context takeover, which is the gateway's answer to
//! every offer) and once without. Only the second one fragments and pings.

use super::*;
use crate::wire::Inflater;

/// What a client sent, and what it said by that.
struct Recording {
    name: &'static str,
    deflate: bool,
    stream: &'static [u8],
    said: Vec<Said>,
}

fn binary(bytes: impl Into<Vec<u8>>) -> Said {
    Said::Message(Kind::Binary, bytes.into())
}

fn recordings() -> [Recording; 4] {
    let words = "naïve Ada: 3 € for 𝄞! ".repeat(20);
    let bytes: Vec<u8> = (0..=255).collect();
    let same = [text("Hello"), text(""), text(&words), binary(bytes), text("Hello")];
    let last = [binary([]), binary([0; 1000])];
    let bye = Said::Close(Some((1000, "bye".to_owned())));
    let chromium: Vec<_> = same.iter().chain(&last).chain([&bye]).cloned().collect();
    let pings = [b"still there?".as_slice(), b"between"].map(|ping| Said::Ping(ping.to_vec()));
    let in_parts = text(&["x".repeat(100), "y".repeat(100), "é".repeat(50)].concat());
    let websockets =
        [same.as_slice(), &pings, &[text("in three parts")], &last, &[in_parts, bye]].concat();
    macro_rules! recording {
        ($name:literal, $deflate:literal, $said:expr) => {
            Recording {
                name: $name,
                deflate: $deflate,
                stream: include_bytes!(concat!("recorded/", $name, ".bin")),
                said: $said,
            }
        };
    }
    [
        recording!("chromium-plain", false, chromium.clone()),
        recording!("chromium-deflate", true, chromium),
        recording!("websockets-plain", false, websockets.clone()),
        recording!("websockets-deflate", true, websockets),
    ]
}

/// The same decoder, after its state has gone from one place to another.
fn moved(decoder: &Decoder) -> Decoder {
    let state = serde_json::to_string(decoder).unwrap();
    let restored = serde_json::from_str(&state).unwrap();
    assert_eq!(&restored, decoder);
    restored
}

/// What was said with it: compressed messages are inflated.
fn inflated(heard: Vec<Said>) -> Vec<Said> {
    let (mut inflater, mut out) = (Inflater::new(), Vec::new());
    let plain = |said| match said {
        Said::Deflated(kind, bytes) => {
            inflater.inflate(kind, &bytes, LIMITS.max_message, &mut out).unwrap();
            Said::Message(kind, out.clone())
        }
        other => other,
    };
    heard.into_iter().map(plain).collect()
}

#[test]
fn a_recorded_conversation_survives_a_move_at_every_byte() {
    for Recording { name, deflate, stream, said } in recordings() {
        for at in 0..=stream.len() {
            let mut here = Decoder::new(deflate);
            let mut heard = hear(&mut here, &stream[..at], &LIMITS, &[]);
            assert_eq!(heard.failed, None, "{name}, before byte {at}");
            let later = hear(&mut moved(&here), &stream[at..], &LIMITS, &[]);
            assert_eq!(later.failed, None, "{name}, after byte {at}");
            heard.said.extend(later.said);
            assert_eq!(inflated(heard.said), said, "{name}, moved at byte {at}");
        }
    }
}

#[test]
fn a_recorded_conversation_survives_a_move_after_each_byte() {
    for Recording { name, deflate, stream, said } in recordings() {
        let mut decoder = Decoder::new(deflate);
        let mut heard = Vec::new();
        for (at, byte) in stream.iter().enumerate() {
            let next = hear(&mut decoder, &[*byte], &LIMITS, &[]);
            assert_eq!(next.failed, None, "{name}, byte {at}");
            heard.extend(next.said);
            decoder = moved(&decoder);
        }
        assert_eq!(inflated(heard), said, "{name}");
        assert_eq!(decoder.partial_bytes(), 0);
    }
}

/// The recordings are worth something: moves fall into heads, payloads and between fragments.
#[test]
fn the_recordings_have_all_there_is_to_be_carried() {
    for Recording { name, deflate, stream, said } in recordings() {
        let mut decoder = Decoder::new(deflate);
        let (mut heads, mut messages, mut controls, mut compressed) = (0, 0, 0, 0);
        for byte in stream {
            let heard = hear(&mut decoder, &[*byte], &LIMITS, &[]);
            compressed += heard.said.iter().filter(|one| matches!(one, Said::Deflated(..))).count();
            let Some(partial) = &decoder.partial else { continue };
            heads += usize::from(!partial.head.is_empty());
            messages += usize::from(partial.message.is_some());
            controls += usize::from(!partial.control.is_empty());
        }
        assert!(heads > 0 && messages > 0 && controls > 0, "{name}");
        let spoken = said.iter().filter(|one| matches!(one, Said::Message(..))).count();
        assert_eq!(compressed, if deflate { spoken } else { 0 }, "{name}");
    }
}
