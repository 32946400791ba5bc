//! The WebSocket codec (RFC 6455, server side): bytes in, events out; messages in, bytes out.
//!
//! The codec is *sans-io*: it knows no socket, no clock and no runtime. Whoever owns the socket
//! reads into a buffer of its own, pulls event by event out of it with a [`Decoder`] and writes what the
//! encoder gives back.
//!
//! ```text
//!   read buffer ──► Decoder::next ──► Event::{Message, Ping, Pong, Close}
//!   (shared by         │    ▲
//!    many clients)     ▼    │ only what is incomplete
//!                 Violation  └─ the decoder's own memory, freed with the message
//!
//!   message, ping, pong, close ──► encode, PING, pong, close ──► one contiguous frame
//! ```
//!
//! # Invariants
//!
//! * **Between messages a decoder owns no heap.** A whole frame is unmasked where it lies and
//!   lent to the caller; bytes are copied only when a frame or a message is incomplete.
//! * **A declared length reserves nothing.** Memory grows with the bytes that arrived, and never
//!   over [`Limits::max_message`].
//! * **Text fails at the first byte that no continuation can mend**, in the middle of a frame too;
//!   a head fails with the first of its fields that is wrong. The [`Violation`] is the same however
//!   the stream was cut into reads.
//! * **A decoder is plain data.** It can be taken out at any byte, carried into another process
//!   and go on there as if nothing had happened.
//!
//! Decoder and encoder don't compress: where permessage-deflate was agreed on ([`negotiate`]), a
//! message may come marked as `compressed`, whole and as it was sent (RFC 7692 §6), and goes
//! through an [`Inflater`]; a [`Deflater`] makes what is sent marked so.

mod decode;
mod deflate;
mod extensions;
mod frame;
mod mask;
mod utf8;

pub use decode::Decoder;
pub use deflate::{Deflater, Inflater, Inflating, compress_once, trim};
pub use extensions::{Agreed, negotiate};
pub use frame::{
    Head, MAX_CONTROL, Opcode, PING, as_heard, close, encode, encode_with, framed, head, pong,
};

use std::borrow::Cow;

use crate::{
    close::{Cause, Close, code},
    message::Kind,
};

/// What one client may ask of the gateway's memory.
///
/// Given with every call, so that a changed limit holds from the next read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of payload in one message, all its fragments together.
    pub max_message: usize,
    /// Most frames that one message may come in, empty ones included. A message that comes in a
    /// single frame is always welcome.
    pub max_fragments: u32,
}

/// What a client said. The bytes are lent from what was read, unless they came in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message.
    Message {
        /// Text or binary.
        kind: Kind,
        /// The payload is deflated (RSV1 was set), and text is not yet checked to be UTF-8.
        /// Comes only from a decoder that was told of the extension.
        compressed: bool,
        /// The payload, unmasked. Text is UTF-8 unless `compressed`.
        bytes: Cow<'a, [u8]>,
    },
    /// A ping, to be answered with a [`pong`] of the same payload (at most 125 bytes).
    Ping(Cow<'a, [u8]>),
    /// A pong, asked for or not (at most 125 bytes).
    Pong(Cow<'a, [u8]>),
    /// The client's close frame with its code and reason, if it gave any. Nothing comes after it.
    Close(Option<(u16, String)>),
}

/// How much may be done before others have their turn, in units of about a nanosecond: a byte that is
/// copied costs one, and all else what it costs beside that.
///
/// Bytes on the wire say little of the work that they make: a frame of no bytes has to be parsed, a
/// deflated byte can become a thousand. A budget may be overdrawn by the last thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work(usize);

impl Work {
    /// What parsing a frame costs, beside its bytes.
    pub const FRAME: usize = 64;

    /// A budget of so many units.
    pub fn new(units: usize) -> Self {
        Self(units)
    }

    /// No bound at all.
    pub fn unbounded() -> Self {
        Self(usize::MAX)
    }

    /// Takes units off the budget.
    pub fn charge(&mut self, units: usize) {
        self.0 = self.0.saturating_sub(units);
    }

    /// Whether nothing is left.
    pub fn is_spent(self) -> bool {
        self.0 == 0
    }

    /// Units that are left.
    pub fn left(self) -> usize {
        self.0
    }
}

/// How a client broke RFC 6455 or a limit. The connection is over: send [`Violation::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// RFC 6455 §5.2: RSV1 without permessage-deflate, or RSV2 or RSV3 at all.
    #[error("reserved bits are set")]
    ReservedBits,
    /// RFC 6455 §5.2: opcodes 3–7 and 11–15.
    #[error("unknown opcode {0}")]
    UnknownOpcode(u8),
    /// RFC 6455 §5.5.
    #[error("control frame is fragmented")]
    FragmentedControl,
    /// RFC 6455 §5.5: more than 125 bytes.
    #[error("control frame is over 125 bytes")]
    LongControl,
    /// RFC 6455 §5.4: nothing had begun that could be continued.
    #[error("continuation of no message")]
    LoneContinuation,
    /// RFC 6455 §5.4: a message begins before the one under way has ended.
    #[error("new message inside a fragmented one")]
    InterleavedMessage,
    /// RFC 6455 §5.1: a client masks every frame.
    #[error("frame is not masked")]
    Unmasked,
    /// RFC 6455 §5.2: a length in more bytes than it needs.
    #[error("payload length is not minimally encoded")]
    WideLength,
    /// RFC 6455 §5.2: the most significant bit of a 64-bit length.
    #[error("payload length has its highest bit set")]
    NegativeLength,
    /// RFC 6455 §5.5.1: a close payload of one byte.
    #[error("close frame holds half a code")]
    HalfCloseCode,
    /// RFC 6455 §7.4: a code that must not, or not yet, be sent.
    #[error("close code {0} is not allowed")]
    BadCloseCode(u16),
    /// RFC 6455 §5.5.1: the reason of a close frame is text.
    #[error("close reason is not UTF-8")]
    BadCloseReason,
    /// RFC 6455 §8.1: a text message that is not, and can't become, UTF-8.
    #[error("text is not UTF-8")]
    BadText,
    /// RFC 7692 §7.2.2: the payload of a compressed message is no whole DEFLATE data.
    #[error("compressed message is not valid DEFLATE")]
    BadDeflate,
    /// The message would be larger than [`Limits::max_message`].
    #[error("message is over {limit} bytes")]
    TooBig {
        /// The limit that was in force.
        limit: usize,
    },
    /// The message comes in more frames than [`Limits::max_fragments`].
    #[error("message is in more than {limit} fragments")]
    TooManyFragments {
        /// The limit that was in force.
        limit: u32,
    },
}

impl Violation {
    /// The close frame that answers the violation, and what is counted for it.
    pub fn close(&self) -> Close {
        let (cause, code) = match self {
            Self::ReservedBits
            | Self::UnknownOpcode(_)
            | Self::FragmentedControl
            | Self::LongControl
            | Self::LoneContinuation
            | Self::InterleavedMessage
            | Self::Unmasked
            | Self::WideLength
            | Self::NegativeLength
            | Self::HalfCloseCode
            | Self::BadCloseCode(_) => (Cause::Protocol, code::PROTOCOL),
            Self::BadDeflate => (Cause::Protocol, code::BAD_DATA),
            Self::BadCloseReason | Self::BadText => (Cause::BadText, code::BAD_DATA),
            Self::TooBig { .. } => (Cause::TooBig, code::TOO_BIG),
            Self::TooManyFragments { .. } => (Cause::Policy, code::POLICY),
        };
        Close::new(cause, code, self.to_string())
    }
}
