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
//! Both write into a buffer of the caller's, who calls [`trim`] when the bytes are used: a buffer
//! that grew large is given back then. What they keep of their own has a fixed size and is allocated when it
//! is first needed.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Violation, utf8};
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
#[derive(Debug, Default)]
pub struct Inflater {
    zlib: Option<Decompress>,
}

impl Inflater {
    /// An inflater that owns no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts the message that was sent as the compressed `payload` into `out`, and makes sure that
    /// text is UTF-8.
    ///
    /// The memory of `out` never grows over `limit` + 1 bytes, and a message over `limit` fails as
    /// soon as that shows. After a failure `out` holds bytes of no meaning, and perhaps more of
    /// them if it had the room.
    ///
    /// Blocks may follow on a final one (RFC 7692 §7.2.3.4); they start with an empty window, as
    /// with browsers.
    pub fn inflate(
        &mut self,
        kind: Kind,
        payload: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Violation> {
        out.clear();
        let zlib = self.zlib.get_or_insert_with(|| Decompress::new(false));
        zlib.reset(false);
        inflate_message(zlib, payload, limit, out)?;
        if kind == Kind::Text && utf8::whole(out).is_none() {
            return Err(Violation::BadText);
        }
        Ok(())
    }
}

fn inflate_message(
    zlib: &mut Decompress,
    payload: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), Violation> {
    let mut rest = payload;
    let mut under_way = false;
    while !rest.is_empty() {
        let fed = feed(zlib, rest, limit, out)?;
        rest = &rest[fed.bytes..];
        under_way = !fed.ended;
        if fed.ended {
            zlib.reset(false);
        }
    }
    if !under_way {
        // Empty, or ended by a final block to which no empty one was added. Nothing is missing,
        // and a tail would only be the start of the next stream.
        return Ok(());
    }
    let length = out.len();
    // What the tail adds is what the message lacks, and not too much of it.
    let mut feed = |bytes: &[u8]| feed(zlib, bytes, limit, out).map_err(|_| Violation::BadDeflate);
    let tail = feed(&TAIL)?;
    let complete = if tail.ended {
        tail.bytes == TAIL.len()
    } else {
        let end = feed(&END)?;
        end.ended && end.bytes == END.len()
    };
    if complete && out.len() == length { Ok(()) } else { Err(Violation::BadDeflate) }
}

/// How far [`feed`] came.
struct Fed {
    /// How much of the input was used: all of it, unless the stream ended.
    bytes: usize,
    /// A final block came to its end.
    ended: bool,
}

/// Inflates `input` to its end or to that of the stream, within `limit`.
fn feed(
    zlib: &mut Decompress,
    input: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<Fed, Violation> {
    let mut rest = input;
    loop {
        make_room(out, input.len(), limit);
        let before = zlib.total_in();
        let status = zlib
            .decompress_vec(rest, out, FlushDecompress::None)
            .map_err(|_| Violation::BadDeflate)?;
        let used = usize::try_from(zlib.total_in() - before).unwrap_or(rest.len());
        rest = rest.get(used..).unwrap_or_default();
        if out.len() > limit {
            return Err(Violation::TooBig { limit });
        }
        let ended = status == Status::StreamEnd;
        if ended || (rest.is_empty() && out.len() < out.capacity()) {
            return Ok(Fed { bytes: input.len() - rest.len(), ended });
        }
        if out.len() < out.capacity() {
            // Neither input nor room is lacking, and yet it stopped.
            return Err(Violation::BadDeflate);
        }
    }
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
