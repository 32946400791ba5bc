//! What holds for the decoder, whatever a client sends.
//!
//! ```text
//!   input   settings: deflate, ways to cut │ limits │ pieces │ stream of the client …
//! ```
//!
//! The stream is heard whole, byte by byte, in pieces of the input's own choice, in pieces with a
//! decoder that is moved between them, and with a stop at each event. All have to hear the same.
//! Then what was heard is said again with the gateway's own encoder, and has to be heard again.

use gateway_websocket::{
    message::Kind,
    wire::{self, Decoder, Event, Limits, Opcode, Violation, Work},
};

use super::{choose, peer, settings};

/// Whether a receiver shall go on after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with the next frame.
    Continue,
    /// Leave the rest of the bytes untouched.
    Stop,
}

/// Has `decoder` hear `bytes`; answers how many it took.
pub fn feed(
    decoder: &mut Decoder,
    bytes: &mut [u8],
    limits: &Limits,
    on_event: &mut dyn FnMut(Event<'_>) -> Flow,
) -> Result<usize, Violation> {
    let all = bytes.len();
    let mut input = bytes;
    while let Some(event) = decoder.next(&mut input, limits, &mut Work::unbounded())? {
        if on_event(event) == Flow::Stop {
            break;
        }
    }
    Ok(all - input.len())
}

/// The receiving half that is judged: [`Decoder`], or one that is wrong on purpose.
pub trait Receiver {
    /// See [`feed`].
    fn feed(
        &mut self,
        bytes: &mut [u8],
        limits: &Limits,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<usize, Violation>;
    /// See [`Decoder::partial_bytes`].
    fn partial_bytes(&self) -> usize;
    /// See [`Decoder::mid_message`].
    fn mid_message(&self) -> bool;
    /// The same, written down and read again in another place.
    #[must_use]
    fn moved(&self) -> Self;
}

impl Receiver for Decoder {
    fn feed(
        &mut self,
        bytes: &mut [u8],
        limits: &Limits,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<usize, Violation> {
        feed(self, bytes, limits, on_event)
    }

    fn partial_bytes(&self) -> usize {
        Decoder::partial_bytes(self)
    }

    fn mid_message(&self) -> bool {
        Decoder::mid_message(self)
    }

    fn moved(&self) -> Self {
        let written = serde_json::to_vec(self).expect("a decoder can be written down");
        serde_json::from_slice(&written).expect("and read again")
    }
}

/// An [`Event`] that owns what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Message { kind: Kind, compressed: bool, bytes: Vec<u8> },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message { kind, compressed, bytes } => {
                Self::Message { kind, compressed, bytes: bytes.into() }
            }
            Event::Ping(bytes) => Self::Ping(bytes.into()),
            Event::Pong(bytes) => Self::Pong(bytes.into()),
            Event::Close(close) => Self::Close(close),
        }
    }
}

/// What came of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    said: Vec<Said>,
    failed: Option<Violation>,
}

impl Heard {
    /// Nothing more may come: the client has closed or failed.
    fn is_over(&self) -> bool {
        self.failed.is_some() || matches!(self.said.last(), Some(Said::Close(_)))
    }
}

/// An input, taken apart.
pub(super) struct Case<'a> {
    pub(super) deflate: bool,
    pub(super) limits: Limits,
    /// Lengths of the reads, over and over; none is empty.
    pieces: Vec<usize>,
    pub(super) stream: &'a [u8],
}

const MOST_BYTES: [usize; 8] = [0, 1, 5, 125, 126, 300, 1 << 16, 1 << 20];
const MOST_FRAGMENTS: [u32; 8] = [0, 1, 2, 3, 4, 16, 1024, u32::MAX];
/// How often a decoder is moved on its way: writing it down costs more than all else.
const MOVES: usize = 12;
/// What a decoder may hold beside twice the bytes that arrived.
const OWN: usize = 512;

impl<'a> Case<'a> {
    fn read(input: &'a [u8]) -> Option<Self> {
        let ([ways, limits], rest) = settings(input)?;
        let (pieces, stream) = rest.split_at_checked(usize::from(ways >> 1 & 7))?;
        Some(Self {
            deflate: ways & 1 == 1,
            limits: Limits {
                max_message: choose(&MOST_BYTES, limits, 0),
                max_fragments: choose(&MOST_FRAGMENTS, limits, 3),
            },
            pieces: pieces.iter().map(|&piece| usize::from(piece) + 1).collect(),
            stream,
        })
    }
}

/// Checks what `receiver` makes of `input`; it gives a new one, with permessage-deflate or without.
pub fn check<R: Receiver>(input: &[u8], receiver: impl Fn(bool) -> R) {
    let Some(case) = Case::read(input) else { return };
    let new = || receiver(case.deflate);

    let whole = hear(new(), &case, &[case.stream.len().max(1)], 0);
    check_heard(&whole, &case);
    peer::check(&whole.said, whole.failed, &case);

    let bytewise = hear(new(), &case, &[1], 0);
    assert_eq!(bytewise, whole, "byte by byte it is the same");
    if !case.pieces.is_empty() {
        let pieces = hear(new(), &case, &case.pieces, 0);
        assert_eq!(pieces, whole, "in pieces it is the same");
        let moved = hear(new(), &case, &case.pieces, MOVES);
        assert_eq!(moved, whole, "a decoder that is moved goes on the same");
    }
    assert_eq!(hear_with_stops(new(), &case), whole, "who stops hears the same");
    check_again(&whole, &case, new());
}

/// Feeds the stream in `pieces`, moving the receiver before each of the first `moves`, and looks
/// after each what is held.
fn hear<R: Receiver>(mut receiver: R, case: &Case<'_>, pieces: &[usize], moves: usize) -> Heard {
    let mut heard = Heard { said: Vec::new(), failed: None };
    let mut rest = case.stream;
    // Bytes that arrived since something was last complete.
    let mut open = 0;
    for (turn, &piece) in pieces.iter().cycle().enumerate() {
        if rest.is_empty() {
            break;
        }
        if turn < moves {
            receiver = receiver.moved();
        }
        let (read, later) = rest.split_at(piece.min(rest.len()));
        rest = later;
        let (before, over) = (heard.said.len(), heard.is_over());
        let taken = receiver.feed(&mut read.to_vec(), &case.limits, &mut |event| {
            heard.said.push(event.into());
            Flow::Continue
        });
        assert!(!over || heard.said.len() == before, "after the end nothing is heard");
        match taken {
            Ok(taken) => assert_eq!(taken, read.len(), "all is taken"),
            Err(violation) => {
                assert!(!over, "after the end nothing fails");
                heard.failed = Some(violation);
            }
        }
        let passing = |said: &Said| matches!(said, Said::Ping(_) | Said::Pong(_));
        let passed = heard.said[before..].iter().all(passing);
        open = if passed { open + read.len() } else { read.len() };
        let held = receiver.partial_bytes();
        assert!(held <= 2 * open + OWN, "{held} bytes are held of {open} that arrived");
        assert_eq!(held > 0, receiver.mid_message(), "memory is held in the middle, and only then");
        assert!(held == 0 || !heard.is_over(), "after the end nothing is held");
    }
    heard
}

/// Stops at each event; what is not taken must be as it came, and is fed again.
fn hear_with_stops(mut receiver: impl Receiver, case: &Case<'_>) -> Heard {
    let mut heard = Heard { said: Vec::new(), failed: None };
    let mut rest = case.stream;
    while !rest.is_empty() && !heard.is_over() {
        let mut read = rest.to_vec();
        let before = heard.said.len();
        let taken = receiver.feed(&mut read, &case.limits, &mut |event| {
            heard.said.push(event.into());
            Flow::Stop
        });
        assert!(heard.said.len() <= before + 1, "after a stop nothing is heard");
        match taken {
            Ok(taken) => {
                assert!((1..=rest.len()).contains(&taken), "it goes on");
                assert_eq!(read[taken..], rest[taken..], "what is left is as it came");
                rest = &rest[taken..];
            }
            Err(violation) => heard.failed = Some(violation),
        }
    }
    heard
}

/// What holds for each event by itself, and for their order.
fn check_heard(heard: &Heard, case: &Case<'_>) {
    let last = heard.said.len().saturating_sub(1);
    for (at, said) in heard.said.iter().enumerate() {
        match said {
            Said::Message { kind, compressed, bytes } => {
                assert!(bytes.len() <= case.limits.max_message, "no message is over the limit");
                assert!(case.deflate || !compressed, "compressed only where it was agreed on");
                let is_text = *kind == Kind::Text && !compressed;
                assert!(!is_text || std::str::from_utf8(bytes).is_ok(), "text is UTF-8");
            }
            Said::Ping(bytes) | Said::Pong(bytes) => {
                assert!(bytes.len() <= wire::MAX_CONTROL, "control frames are short");
            }
            Said::Close(_) => {
                assert!(at == last && heard.failed.is_none(), "nothing comes after a close");
            }
        }
    }
}

/// Says all of it again, in one frame each, and expects to be heard.
fn check_again(heard: &Heard, case: &Case<'_>, receiver: impl Receiver) {
    let mut stream = Vec::new();
    for (at, said) in heard.said.iter().enumerate() {
        let frame = match said {
            Said::Message { kind, compressed: false, bytes } => wire::encode(*kind, bytes),
            Said::Message { kind, compressed, bytes } => {
                wire::encode_with((*kind).into(), *compressed, bytes)
            }
            Said::Ping(bytes) => wire::encode_with(Opcode::Ping, false, bytes),
            Said::Pong(bytes) => wire::pong(bytes),
            Said::Close(Some((code, reason))) => wire::close(*code, reason),
            Said::Close(None) => wire::encode_with(Opcode::Close, false, &[]),
        };
        let seed = u8::try_from(at % 256).unwrap_or_default();
        stream.extend(peer::masked(&frame, [seed, 0x55, !seed, 0xa7]));
    }
    let again =
        Case { deflate: case.deflate, limits: case.limits, pieces: Vec::new(), stream: &stream };
    let said_again = hear(receiver, &again, &[stream.len().max(1)], 0);
    assert_eq!(said_again.said, heard.said, "what is encoded is heard");
    assert_eq!(said_again.failed, None, "what is encoded is in order");
}
