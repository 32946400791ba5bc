//! One frame: how its head is read, and how the gateway's own frames are built.
//!
//! ```text
//!    byte 0            byte 1        0, 2 or 8 bytes   4 bytes
//!   ┌─────┬──────┬────────┬──────┬────────┬─────────────────┬─────────┬─────────┐
//!   │ FIN │ RSV  │ opcode │ MASK │ length │ extended length │   key   │ payload │
//!   │  1  │ 123  │   4    │  1   │   7    │  if 126 or 127  │ if MASK │         │
//!   └─────┴──────┴────────┴──────┴────────┴─────────────────┴─────────┴─────────┘
//! ```
//!
//! Clients mask, the gateway doesn't; so one encoded message serves every receiver.

use serde::{Deserialize, Serialize};

use super::{Violation, mask::Key};
use crate::message::Kind;

/// Most bytes in the payload of a control frame (RFC 6455 §5.5).
pub const MAX_CONTROL: usize = 125;
/// A ping without a payload, as it goes onto the wire.
pub const PING: &[u8] = &[FIN | Opcode::Ping as u8, 0];

/// Most bytes in the head of a frame that a client sends.
pub(super) const MAX_HEAD: usize = 14;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// What a frame is for (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opcode {
    /// More of the message that is under way.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The last frame of its sender.
    Close = 0x8,
    /// A question for a pong.
    Ping = 0x9,
    /// The answer to a ping, or a sign of life.
    Pong = 0xa,
}

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

impl TryFrom<u8> for Opcode {
    type Error = Violation;

    fn try_from(value: u8) -> Result<Self, Violation> {
        Ok(match value {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            other => return Err(Violation::UnknownOpcode(other)),
        })
    }
}

impl From<Kind> for Opcode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text,
            Kind::Binary => Self::Binary,
        }
    }
}

/// What is permitted at this point of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// permessage-deflate was negotiated.
    pub(super) deflate: bool,
    /// A fragmented message is under way.
    pub(super) in_message: bool,
}

/// A frame from a client whose head has arrived and whose payload may still be on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Incoming {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    pub(super) compressed: bool,
    /// The masking key, as it applies to the next byte of payload.
    pub(super) key: Key,
    /// Bytes of payload that have not arrived.
    pub(super) left: u64,
}

impl Incoming {
    /// Reads a head from the beginning of `bytes`; gives the frame and the length of its head.
    ///
    /// `None` means that bytes are missing and those at hand are in order. Checks go byte by byte
    /// in the order of the wire, so that the verdict doesn't depend on how many bytes are at hand.
    pub(super) fn read(
        bytes: &[u8],
        expected: Expected,
    ) -> Result<Option<(Self, usize)>, Violation> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let opcode = Opcode::try_from(first & 0x0f)?;
        let fin = first & FIN != 0;
        check_first(first, opcode, expected)?;

        let Some((&second, rest)) = rest.split_first() else {
            return Ok(None);
        };
        if second & MASKED == 0 {
            return Err(Violation::Unmasked);
        }
        if opcode.is_control() && usize::from(second & LENGTH) > MAX_CONTROL {
            return Err(Violation::LongControl);
        }

        let (left, rest) = match second & LENGTH {
            LENGTH_16 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            LENGTH_64 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from_be_bytes(*length), rest)
            }
            length => (u64::from(length), rest),
        };
        check_length(second & LENGTH, left)?;

        let Some((&key, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let compressed = first & RSV1 != 0;
        Ok(Some((Self { opcode, fin, compressed, key, left }, bytes.len() - rest.len())))
    }
}

fn check_first(first: u8, opcode: Opcode, expected: Expected) -> Result<(), Violation> {
    // RFC 7692 §6.1: only the first frame of a message says that the message is compressed.
    let begins = matches!(opcode, Opcode::Text | Opcode::Binary);
    let allowed = if expected.deflate && begins { RSV1 } else { 0 };
    if first & RESERVED & !allowed != 0 {
        return Err(Violation::ReservedBits);
    }
    if opcode.is_control() && first & FIN == 0 {
        return Err(Violation::FragmentedControl);
    }
    if opcode == Opcode::Continuation && !expected.in_message {
        return Err(Violation::LoneContinuation);
    }
    if begins && expected.in_message {
        return Err(Violation::InterleavedMessage);
    }
    Ok(())
}

fn check_length(marker: u8, length: u64) -> Result<(), Violation> {
    if length >> 63 != 0 {
        return Err(Violation::NegativeLength);
    }
    let least = match marker {
        LENGTH_16 => u64::from(LENGTH_16),
        LENGTH_64 => 1 << 16,
        _ => 0,
    };
    if length < least { Err(Violation::WideLength) } else { Ok(()) }
}

/// Reads the payload of a close frame (RFC 6455 §5.5.1, §7.4).
pub(super) fn read_close(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    if payload.is_empty() {
        return Ok(None);
    }
    let Some((code, reason)) = payload.split_first_chunk() else {
        return Err(Violation::HalfCloseCode);
    };
    let code = u16::from_be_bytes(*code);
    // 1004 is reserved; 1005, 1006 and 1015 stand for closes without a frame; 1012-1014 were
    // registered after the RFC; 3000-4999 belong to libraries and applications.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::BadCloseCode(code));
    }
    let reason = super::utf8::whole(reason).ok_or(Violation::BadCloseReason)?;
    Ok(Some((code, reason)))
}

/// The head of a frame that the gateway sends: 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; 10],
    len: u8,
}

impl std::ops::Deref for Head {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The head of an unfragmented frame with `payload` bytes to follow.
///
/// `compressed` sets RSV1, for a message that was deflated by an agreement of RFC 7692.
#[expect(clippy::cast_possible_truncation, reason = "each arm holds what its range fits into")]
pub fn head(opcode: Opcode, compressed: bool, payload: usize) -> Head {
    let mut bytes = [0; 10];
    bytes[0] = FIN | if compressed { RSV1 } else { 0 } | opcode as u8;
    let len = match payload {
        0..126 => {
            bytes[1] = payload as u8;
            2
        }
        126..=0xffff => {
            bytes[1] = LENGTH_16;
            bytes[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = LENGTH_64;
            bytes[2..].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    Head { bytes, len }
}

/// Bytes of an unfragmented frame with `payload` bytes in it.
pub fn framed(payload: usize) -> usize {
    head(Opcode::Binary, false, payload).len() + payload
}

/// A message as one unfragmented frame, head and payload contiguous, ready for any number of
/// receivers. Who sends text vouches for its being UTF-8.
pub fn encode(kind: Kind, payload: &[u8]) -> Box<[u8]> {
    encode_with(kind.into(), false, payload)
}

/// A message as a client could have sent it: one frame, masked with zeros, so that the payload is as
/// it was. Fed to a decoder it is heard again.
pub fn as_heard(kind: Kind, payload: &[u8]) -> Box<[u8]> {
    let head = head(kind.into(), false, payload.len());
    let mut frame = Vec::with_capacity(head.len() + size_of::<Key>() + payload.len());
    frame.extend_from_slice(&head);
    frame[1] |= MASKED;
    frame.extend_from_slice(&Key::default());
    frame.extend_from_slice(payload);
    frame.into_boxed_slice()
}

/// Like [`encode`], for any opcode and for a payload that may be `compressed` (sets RSV1).
pub fn encode_with(opcode: Opcode, compressed: bool, payload: &[u8]) -> Box<[u8]> {
    [&*head(opcode, compressed, payload.len()), payload].concat().into_boxed_slice()
}

/// The answer to a ping that held `payload`, of which at most 125 bytes are used.
pub fn pong(payload: &[u8]) -> Box<[u8]> {
    encode_with(Opcode::Pong, false, &payload[..payload.len().min(MAX_CONTROL)])
}

/// A close frame with `code` and as many whole characters of `reason` as fit (123 bytes).
pub fn close(code: u16, reason: &str) -> Box<[u8]> {
    let code = code.to_be_bytes();
    let end = reason.floor_char_boundary(MAX_CONTROL - code.len());
    let payload = [&code, &reason.as_bytes()[..end]].concat();
    encode_with(Opcode::Close, false, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANY: Expected = Expected { deflate: false, in_message: false };

    /// What a client would send: our head with the mask bit set and a key behind it.
    fn masked(opcode: Opcode, payload: usize) -> Vec<u8> {
        let mut bytes = head(opcode, false, payload).to_vec();
        bytes[1] |= MASKED;
        bytes.extend(*b"keys");
        bytes
    }

    #[test]
    fn a_head_takes_as_few_bytes_as_it_can() {
        for (payload, bytes) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (0xffff, &[0x81, 126, 0xff, 0xff]),
            (0x1_0000, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(&*head(Opcode::Text, false, payload), bytes);
        }
        assert_eq!(head(Opcode::Binary, true, 0)[0], 0xc2);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            payload in prop_oneof![0usize..300, 65_000usize..66_000, 0usize..1 << 40],
        ) {
            let bytes = masked(Opcode::Binary, payload);
            let (frame, used) = Incoming::read(&bytes, ANY).unwrap().unwrap();
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(frame.left, payload as u64);
            prop_assert_eq!(&frame.key, b"keys");
            for end in 0..bytes.len() {
                prop_assert_eq!(Incoming::read(&bytes[..end], ANY), Ok(None));
            }
        }

        #[test]
        fn the_verdict_on_a_head_is_the_same_however_much_is_at_hand(
            bytes in prop::collection::vec(any::<u8>(), MAX_HEAD), deflate: bool, in_message: bool,
        ) {
            let expected = Expected { deflate, in_message };
            let whole = Incoming::read(&bytes, expected);
            let first = (0..=bytes.len())
                .map(|end| Incoming::read(&bytes[..end], expected))
                .find(|read| *read != Ok(None));
            prop_assert_eq!(first, Some(whole));
        }

        #[test]
        fn a_reason_is_cut_at_a_character(reason in "[a-zé€𝄞]{0,130}") {
            let frame = close(3000, &reason);
            prop_assert!(frame.len() <= 2 + MAX_CONTROL);
            prop_assert_eq!(usize::from(frame[1]), frame.len() - 2);
            let (code, kept) = read_close(&frame[2..]).unwrap().unwrap();
            prop_assert_eq!(code, 3000);
            prop_assert!(reason.starts_with(kept));
            prop_assert!(kept.len() == reason.len() || kept.len() > 123 - 4);
        }
    }

    #[test]
    fn the_allowed_close_codes_are_these() {
        let allowed: Vec<u16> =
            (0..=u16::MAX).filter(|code| read_close(&code.to_be_bytes()).is_ok()).collect();
        let listed: Vec<u16> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(allowed, listed);
    }

    #[test]
    fn control_frames_stay_small() {
        assert_eq!(PING, [0x89, 0]);
        assert_eq!(*pong(b"hi"), [0x8a, 2, b'h', b'i']);
        assert_eq!(pong(&[0; 500]).len(), 2 + MAX_CONTROL);
    }
}
