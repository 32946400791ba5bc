//! permessage-deflate (RFC 7692 §7.2): payloads in, deflated payloads out, and back.
//!
//! A message stands for itself: neither direction has a context that outlives it. So a shard needs
//! one [`Inflater`] for all its clients, and a message that goes to many of them is deflated once
//! per window size by the shard's [`Deflater`], or beforehand by [`compress_once`] if it is large.
//!
//! ```text
//!   payload ──► Deflater ──► … 00 00 00 FF FF ──► … 00             RSV1 set
//!                  └─ no shorter than the payload ──► None         sent as it is, RSV1 clear
//!
//!   … 00 ──► Inflater (as if 00 00 FF FF followed) ──► payload, never over the limit
//! ```
//!
//! A message is inflated by pieces, with a look at the work that is left after each, and can be put aside
//! between two of them. A buffer that grew large is given back after use ([`trim`]). What both keep beside
//! that has a fixed size and is allocated when it is first needed.

use std::borrow::Cow;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Violation, Work, utf8};
use crate::message::Kind;

#[cfg(test)]
mod tests;

/// What ends a flushed stream, and is left out of the message (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty final block. A stream takes it as such only where a block may begin.
const END: [u8; 2] = [0x03, 0x00];
/// The window sizes that zlib has for raw streams, as base-2 logarithms: 9 to 15.
const SMALLEST_WINDOW: u8 = 9;
const WINDOWS: usize = 7;
/// Least memory that inflating begins with, in bytes.
const FIRST_ROOM: usize = 1024;

/// Most bytes of input and output of one step, between two looks at what work is left.
const PIECE_IN: usize = 4 * 1024;
const PIECE_OUT: usize = 16 * 1024;

/// What a byte of compressed input costs beside what it inflates to: up to this much where blocks are
/// short and each brings a code of its own.
const WORK_PER_INPUT_BYTE: usize = 8;

/// What it costs to begin anew after a final block.
const WORK_PER_RESET: usize = 400;

/// Memory of zlib's state with its window, about.
const ZLIB: usize = 50 * 1024;

/// Most bytes that [`trim`] leaves to a buffer, so that small messages find one ready.
const KEEP: usize = 64 * 1024;

/// Clears a buffer after use; one above 64 KiB goes back to the allocator.
pub fn trim(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEEP {
        *buffer = Vec::new();
    }
}

/// Deflates messages, for each window size with a compressor of its own (up to 0.3 MB).
#[derive(Debug, Default)]
pub struct Deflater {
    /// By window size; each is as good as new.
    compressors: [Option<Compressor>; WINDOWS],
}

impl Deflater {
    /// A deflater that owns no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The payload of the compressed message (RSV1 set), which lies in `out`.
    ///
    /// `None` if it would be no shorter: the message goes out as it is (RSV1 clear), which
    /// RFC 7692 §6 allows for each single message. An empty message is such a one. So is any, if
    /// `window_bits` is not within 9 to 15.
    ///
    /// `level` is 1 (fastest) to 9 (smallest). It is meant to be the same for long: another one
    /// than before costs a new compressor.
    pub fn deflate<'o>(
        &mut self,
        window_bits: u8,
        level: u8,
        payload: &[u8],
        out: &'o mut Vec<u8>,
    ) -> Option<&'o [u8]> {
        out.clear();
        let slot =
            self.compressors.get_mut(usize::from(window_bits.checked_sub(SMALLEST_WINDOW)?))?;
        let mut compressor = slot
            .take()
            .filter(|known| known.level == level)
            .unwrap_or_else(|| Compressor::new(window_bits, level));
        // One that failed is dropped: a reset doesn't mend it.
        compressor.run(payload, out)?;
        compressor.zlib.reset();
        *slot = Some(compressor);
        (out.len() < payload.len()).then_some(out.as_slice())
    }
}

/// Like [`Deflater::deflate`], with a compressor for this one message: on any thread, for messages
/// so large that a new compressor doesn't matter.
pub fn compress_once(window_bits: u8, level: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    Deflater::new().deflate(window_bits, level, payload, &mut out)?;
    out.shrink_to_fit();
    Some(out)
}

/// zlib's state for one window size and level.
#[derive(Debug)]
struct Compressor {
    level: u8,
    zlib: Compress,
}

impl Compressor {
    /// `window_bits` is within 9 to 15.
    fn new(window_bits: u8, level: u8) -> Self {
        let strength = Compression::new(level.clamp(1, 9).into());
        Self { level, zlib: Compress::new_with_window_bits(strength, false, window_bits) }
    }

    /// Leaves the deflated `payload` in `out`, without [`TAIL`]; an empty one becomes a zero byte.
    fn run(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Option<()> {
        // Room for the worst case, the fixed code with its nine bits for a byte: zlib-rs 0.6.8,
        // at level 1, forgets on reset to close a block that it could not write to the end.
        out.reserve(payload.len() + payload.len() / 8 + 64);
        let status = self.zlib.compress_vec(payload, out, FlushCompress::Sync).ok()?;
        let whole = status == Status::Ok
            && self.zlib.total_in() == payload.len() as u64
            && out.len() < out.capacity()
            && out.ends_with(&TAIL);
        out.truncate(out.len().saturating_sub(TAIL.len()));
        whole.then_some(())
    }
}

/// Inflates messages, with a window of 15 bits (about 50 KB once it was used).
///
/// It lends its memory to one message at a time. A message that is put aside in the middle takes that
/// memory along, and the next one gets new.
#[derive(Debug, Default)]
pub struct Inflater {
    zlib: Option<Decompress>,
    buffer: Vec<u8>,
}

/// A compressed message that is being inflated, by pieces.
#[derive(Debug)]
pub struct Inflating<'a> {
    kind: Kind,
    payload: Cow<'a, [u8]>,
    /// Bytes of the payload that are used.
    used: usize,
    /// Something was inflated that did not end with a final block.
    under_way: bool,
    /// The last piece of output had no room for more.
    is_full: bool,
    zlib: Decompress,
    out: Vec<u8>,
}

impl Inflater {
    /// An inflater that owns no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins with the message that was sent as the compressed `payload`.
    pub fn begin<'a>(&mut self, kind: Kind, payload: Cow<'a, [u8]>) -> Inflating<'a> {
        let mut zlib = self.zlib.take().unwrap_or_else(|| Decompress::new(false));
        zlib.reset(false);
        let mut out = std::mem::take(&mut self.buffer);
        out.clear();
        Inflating { kind, payload, used: 0, under_way: false, is_full: false, zlib, out }
    }

    /// Inflates a message all at once into `out`, which keeps its memory: where nobody else waits.
    ///
    /// Errors and bounds are those of [`Inflating::go_on`].
    pub fn inflate(
        &mut self,
        kind: Kind,
        payload: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Violation> {
        out.clear();
        let mut inflating = self.begin(kind, payload.into());
        std::mem::swap(&mut inflating.out, out);
        let outcome = inflating.go_on(limit, &mut Work::unbounded());
        std::mem::swap(&mut inflating.out, out);
        self.end(inflating);
        outcome.map(drop)
    }

    /// Takes back the memory of a message that is no longer needed.
    pub fn end(&mut self, inflating: Inflating<'_>) {
        let Inflating { zlib, mut out, .. } = inflating;
        trim(&mut out);
        self.zlib = Some(zlib);
        self.buffer = out;
    }
}

impl Inflating<'_> {
    /// Text or binary.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the message says, as far as it is inflated.
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// Memory that is held, in bytes.
    pub fn held(&self) -> usize {
        let payload = match &self.payload {
            Cow::Borrowed(_) => 0,
            Cow::Owned(payload) => payload.capacity(),
        };
        ZLIB + payload + self.out.capacity()
    }

    /// The same message, which lends nothing.
    pub fn into_owned(self) -> Inflating<'static> {
        let Self { kind, payload, used, under_way, is_full, zlib, out } = self;
        let payload = Cow::Owned(payload.into_owned());
        Inflating { kind, payload, used, under_way, is_full, zlib, out }
    }

    /// Goes on until the message is whole, which is when this is true, or until `work` is spent. Makes
    /// sure that text is UTF-8.
    ///
    /// The memory of what the message says never grows over `limit` + 1 bytes, and a message over
    /// `limit` fails as soon as that shows. After a failure [`bytes`](Self::bytes) have no meaning.
    ///
    /// Blocks may follow on a final one (RFC 7692 §7.2.3.4); they start with an empty window, as
    /// with browsers.
    pub fn go_on(&mut self, limit: usize, work: &mut Work) -> Result<bool, Violation> {
        while self.used < self.payload.len() || self.is_full {
            if work.is_spent() {
                return Ok(false);
            }
            let rest = &self.payload[self.used..];
            let step = step(&mut self.zlib, rest, limit, &mut self.out)?;
            self.used += step.used;
            self.is_full = step.is_full;
            self.under_way = !step.ended;
            work.charge(step.used * WORK_PER_INPUT_BYTE + step.inflated);
            if step.ended {
                work.charge(WORK_PER_RESET);
                self.zlib.reset(false);
            }
        }
        self.finish(limit)?;
        if self.kind == Kind::Text && utf8::whole(&self.out).is_none() {
            return Err(Violation::BadText);
        }
        Ok(true)
    }

    /// Checks that nothing is missing at the end of the payload.
    fn finish(&mut self, limit: usize) -> Result<(), Violation> {
        if !self.under_way {
            // Empty, or ended by a final block to which no empty one was added. Nothing is missing,
            // and a tail would only be the start of the next stream.
            return Ok(());
        }
        let length = self.out.len();
        // What the tail adds is what the message lacks, and not too much of it.
        let tail = self.finish_with(&TAIL, limit)?;
        let complete = if tail.ended {
            tail.used == TAIL.len()
        } else {
            let end = self.finish_with(&END, limit)?;
            end.ended && end.used == END.len()
        };
        if complete && self.out.len() == length { Ok(()) } else { Err(Violation::BadDeflate) }
    }

    fn finish_with(&mut self, bytes: &[u8], limit: usize) -> Result<Step, Violation> {
        // A few bytes inflate to no more than one piece of output, or to what is too much anyway.
        step(&mut self.zlib, bytes, limit, &mut self.out).map_err(|_| Violation::BadDeflate)
    }
}

/// What one step of inflating did.
struct Step {
    /// Bytes of the input that were used.
    used: usize,
    /// Bytes that it made of them.
    inflated: usize,
    /// A final block came to its end.
    ended: bool,
    /// There was no room left, so that there may be more to come of the same input.
    is_full: bool,
}

/// Inflates a piece of `input`, within `limit`.
fn step(
    zlib: &mut Decompress,
    input: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<Step, Violation> {
    let piece = &input[..input.len().min(PIECE_IN)];
    let start = out.len();
    make_room(out, input.len(), limit);
    // The room is filled with zeros first, so it is no larger than it may have to be.
    let wanted = piece.len().saturating_mul(4).max(start).clamp(FIRST_ROOM, PIECE_OUT);
    let room = wanted.min(out.capacity() - start);
    out.resize(start + room, 0);
    let (read, written) = (zlib.total_in(), zlib.total_out());
    let status = zlib
        .decompress(piece, &mut out[start..], FlushDecompress::None)
        .map_err(|_| Violation::BadDeflate)?;
    let used = usize::try_from(zlib.total_in() - read).unwrap_or(piece.len());
    let inflated = usize::try_from(zlib.total_out() - written).unwrap_or(room);
    out.truncate(start + inflated);
    if out.len() > limit {
        return Err(Violation::TooBig { limit });
    }
    let ended = status == Status::StreamEnd;
    let is_full = inflated == room && !ended;
    if !ended && !is_full && used < piece.len() {
        // Neither input nor room is lacking, and yet it stopped.
        return Err(Violation::BadDeflate);
    }
    Ok(Step { used, inflated, ended, is_full })
}

/// Gives a full `out` more room: by doubling, and from half the limit on all at once, so that the
/// old and the new memory together stay below twice the limit.
fn make_room(out: &mut Vec<u8>, input: usize, limit: usize) {
    if out.len() < out.capacity() {
        return;
    }
    let wanted = out.len().saturating_mul(2).max(input.saturating_mul(4)).max(FIRST_ROOM);
    let room = if wanted > limit / 2 { limit.saturating_add(1) } else { wanted };
    out.reserve_exact(room.saturating_sub(out.len()));
}
