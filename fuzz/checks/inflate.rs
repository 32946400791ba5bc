//! What holds for permessage-deflate, whatever a client sends or a caller has it send.
//!
//! ```text
//!   input   settings: kind, level │ limit, window │ bytes …
//! ```
//!
//! The bytes are taken twice: for a compressed message, of which two other inflaters have an
//! opinion, and for a payload that is deflated and has to come back.

use flate2::{Decompress, FlushDecompress, Status};
use gateway_websocket::{
    message::Kind,
    wire::{Deflater, Inflater, Violation, compress_once},
};

use super::{choose, settings};

/// An inflater straight from RFC 1951, that the unit tests have as well.
#[path = "../../src/wire/deflate/tests/reference.rs"]
mod reference;

/// What is judged: [`Wire`], or one that is wrong on purpose. It goes from message to message.
pub trait Deflate {
    /// See [`Inflater::inflate`].
    fn inflate(
        &mut self,
        kind: Kind,
        payload: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Violation>;
    /// See [`Deflater::deflate`].
    fn deflate(&mut self, window_bits: u8, level: u8, payload: &[u8]) -> Option<Vec<u8>>;
}

/// The gateway's own pair.
#[derive(Debug, Default)]
pub struct Wire {
    inflater: Inflater,
    deflater: Deflater,
}

impl Deflate for Wire {
    fn inflate(
        &mut self,
        kind: Kind,
        payload: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Violation> {
        self.inflater.inflate(kind, payload, limit, out)
    }

    fn deflate(&mut self, window_bits: u8, level: u8, payload: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.deflater.deflate(window_bits, level, payload, &mut out).map(<[u8]>::to_vec)
    }
}

const LIMITS: [usize; 8] = [0, 1, 5, 100, 1024, 4096, 1 << 16, 1 << 20];
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// From here on the bit-by-bit inflater would take longer than it is worth.
const LONG: usize = 1 << 16;

/// Checks what `deflate` makes of `input`.
pub fn check(input: &[u8], deflate: &mut impl Deflate) {
    let Some(([way, choice], bytes)) = settings(input) else { return };
    let kind = if way & 1 == 1 { Kind::Text } else { Kind::Binary };
    check_inflate(deflate, kind, bytes, choose(&LIMITS, choice, 0));
    let (window_bits, level) = (9 + (choice >> 3) % 7, 1 + (way >> 1) % 9);
    check_deflate(deflate, window_bits, level, bytes);
    // What came before must not show: neither a failure nor another window.
    check_inflate(deflate, kind, bytes, choose(&LIMITS, choice, 0));
}

/// What plain zlib makes of a message, its tail included.
#[derive(Debug, PartialEq, Eq)]
enum Plain {
    /// It used all of the input.
    Whole(Vec<u8>),
    /// A final block came before the end of the input.
    Ended(Vec<u8>),
    Invalid,
    /// More than any limit here.
    Huge,
}

fn check_inflate(deflate: &mut impl Deflate, kind: Kind, message: &[u8], limit: usize) {
    let mut out = vec![0xee; 3];
    let room = out.capacity().max(limit + 1);
    let verdict = deflate.inflate(kind, message, limit, &mut out);
    assert!(out.capacity() <= room, "memory grows to the limit and the byte that shows more");
    let plain = plain(&[message, &TAIL].concat());
    match verdict {
        Ok(()) => {
            assert!(out.len() <= limit, "what is over the limit fails");
            let is_text = std::str::from_utf8(&out).is_ok();
            assert!(kind == Kind::Binary || is_text, "text is UTF-8");
            match &plain {
                Plain::Whole(theirs) => assert_eq!(&out, theirs, "plain zlib reads the same"),
                Plain::Ended(theirs) => assert!(out.starts_with(theirs), "up to the final block"),
                Plain::Invalid | Plain::Huge => panic!("plain zlib says {plain:?}"),
            }
        }
        Err(Violation::TooBig { limit: named }) => {
            assert_eq!(named, limit, "the limit is named");
            if let Plain::Whole(theirs) = &plain {
                assert!(theirs.len() > limit, "what is within the limit is not over it");
            }
        }
        Err(Violation::BadText) => {
            assert_eq!(kind, Kind::Text, "bytes need not be text");
            if let Plain::Whole(theirs) = &plain {
                assert!(std::str::from_utf8(theirs).is_err(), "text is taken for text");
            }
        }
        Err(Violation::BadDeflate) => {}
        Err(other) => panic!("an inflater doesn't know of {other:?}"),
    }
    if let Plain::Whole(theirs) = &plain
        && theirs.len() <= LONG
    {
        check_by_reference(verdict, message, theirs, limit);
    }
}

/// A message without a final block, on which the inflater from the RFC can decide.
fn check_by_reference(verdict: Result<(), Violation>, message: &[u8], theirs: &[u8], limit: usize) {
    if message.is_empty() {
        // No DEFLATE data at all, and yet nothing is missing: taken for an empty message.
        assert_eq!((verdict, theirs), (Ok(()), &[][..]));
        return;
    }
    let known = reference::inflate(&[message, &TAIL].concat());
    match verdict {
        Ok(()) => {
            let known = known.map(|(known, _)| known);
            assert_eq!(known.as_deref(), Some(theirs), "the RFC reads the same");
        }
        Err(Violation::BadDeflate) => {
            // The tail can only end a message, it can't be part of one.
            let bad = known.is_none_or(|(known, _)| known.ends_with(&TAIL) || known.len() > limit);
            assert!(bad, "the RFC finds no fault");
        }
        Err(_) => {}
    }
}

fn plain(stream: &[u8]) -> Plain {
    let mut zlib = Decompress::new(false);
    let mut out = Vec::new();
    loop {
        out.reserve(4096);
        let rest = usize::try_from(zlib.total_in()).map_or(&[][..], |used| &stream[used..]);
        match zlib.decompress_vec(rest, &mut out, FlushDecompress::None) {
            Err(_) => return Plain::Invalid,
            Ok(Status::StreamEnd) => return Plain::Ended(out),
            Ok(_) if out.len() > 1 << 20 => return Plain::Huge,
            Ok(_) if zlib.total_in() == stream.len() as u64 && out.len() < out.capacity() => {
                return Plain::Whole(out);
            }
            Ok(_) => {}
        }
    }
}

fn check_deflate(deflate: &mut impl Deflate, window_bits: u8, level: u8, payload: &[u8]) {
    let deflated = deflate.deflate(window_bits, level, payload);
    assert_eq!(deflated, compress_once(window_bits, level, payload), "one for all is as one each");
    let Some(message) = deflated else { return };
    assert!(message.len() < payload.len(), "what is sent compressed is shorter");
    let mut out = Vec::new();
    let verdict = deflate.inflate(Kind::Binary, &message, payload.len(), &mut out);
    assert_eq!((verdict, &*out), (Ok(()), payload), "what is deflated comes back");
    let known = reference::inflate(&[&*message, &TAIL].concat());
    let Some((known, farthest)) = known else { panic!("what is deflated is right by the RFC") };
    assert_eq!(known, payload, "what is deflated is right by the RFC");
    assert!(farthest <= 1 << window_bits, "it reaches {farthest} back with {window_bits} bits");
}
