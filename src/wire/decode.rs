//! The decoder: the bytes of one client in, in pieces of any size; its events out.
//!
//! ```text
//!             ┌──────── head ────────┐┌────────── payload ──────────┐
//!   at hand   whole                   whole, message in one frame ──► lent from the read buffer
//!             whole                   whole, control frame ─────────► lent from the read buffer
//!             whole                   cut, or a fragment ───────────► copied to `Partial`
//!             cut ─► copied to `Partial`
//! ```
//!
//! What arrived incomplete lives in one [`Partial`] on the heap. It exists only while there is
//! something to remember, so an idle client costs the two words of its [`Decoder`].

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{
    Event, Limits, Violation, Work,
    frame::{self, Expected, Incoming, MAX_HEAD, Opcode},
    mask, utf8,
};
use crate::message::Kind;

/// The receiving half of one WebSocket: what has to be remembered from one read to the next.
///
/// It is plain data: cloned or serialised at any byte and restored elsewhere, it goes on as if
/// nothing had happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoder {
    /// permessage-deflate was negotiated, so messages may have RSV1 set.
    deflate: bool,
    /// The client closed or failed; whatever it still sends is ignored (RFC 6455 §7.1.7).
    over: bool,
    /// `None` exactly when the stream stands between two frames and between two messages.
    partial: Option<Box<Partial>>,
}

/// What has arrived of things that are incomplete. At any time a head or the payload of a frame
/// can be open, and beside it a message that comes in fragments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Partial {
    /// The beginning of a head.
    head: Vec<u8>,
    /// The frame whose payload is incomplete.
    frame: Option<Incoming>,
    /// The payload of that frame so far, if it is a control frame.
    control: Vec<u8>,
    /// The message so far: earlier fragments, and what came of the frame above.
    message: Option<Message>,
}

/// The beginning of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    kind: Kind,
    compressed: bool,
    /// Frames that the message came in so far.
    fragments: u32,
    /// The payload so far, unmasked.
    bytes: Vec<u8>,
    /// How many of the bytes are known to be whole characters, if it is text.
    checked: usize,
}

impl Decoder {
    /// The state of a connection that was just opened; `deflate` says that permessage-deflate was
    /// negotiated. Without it ([`Decoder::default`]) RSV1 is a violation.
    pub fn new(deflate: bool) -> Self {
        Self { deflate, ..Self::default() }
    }

    /// The next event in `input`, which were just read; none if they hold no other whole one, or if
    /// `work` is spent.
    ///
    /// What is left in `input` is as it came: where an event is given back or work is spent, it is to be
    /// given again, before what is read next. Bytes that were taken are unmasked in place, and an event
    /// lends them where it can. After a close frame or a violation everything is taken and ignored.
    #[expect(clippy::mut_mut, reason = "it is the slice itself that moves on")]
    pub fn next<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        limits: &Limits,
        work: &mut Work,
    ) -> Result<Option<Event<'a>>, Violation> {
        while !input.is_empty() && !self.over && !work.is_spent() {
            let before = input.len();
            let event = self.step(input, limits).inspect_err(|_| self.end())?;
            work.charge(Work::FRAME + before - input.len());
            if event.is_some() {
                return Ok(event);
            }
        }
        if self.over {
            *input = &mut [];
        }
        Ok(None)
    }

    /// Heap that is held for what is incomplete, in bytes: counted against
    /// `limits.partial_bytes`, and zero between messages.
    pub fn partial_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            let message = partial.message.as_ref().map_or(0, |message| message.bytes.capacity());
            size_of::<Partial>() + partial.head.capacity() + partial.control.capacity() + message
        })
    }

    /// Whether a frame or a message has begun and is not complete.
    ///
    /// A deadline on this has to start anew with every [`Event::Message`]: a client that sends
    /// much is in the middle of something after every read, but not of the same thing.
    pub fn mid_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Takes what belongs to one frame, or all there is; `input` is not empty.
    #[expect(clippy::mut_mut, reason = "it is the slice itself that moves on")]
    fn step<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        limits: &Limits,
    ) -> Result<Option<Event<'a>>, Violation> {
        let begun = self.partial.as_mut().and_then(|partial| partial.frame.take());
        let read = match begun {
            Some(frame) => Some((frame, 0)),
            None => self.read_head(input, limits)?,
        };
        let bytes = std::mem::take(input);
        let Some((mut frame, head)) = read else { return Ok(None) };
        let rest = bytes.get_mut(head..).unwrap_or_default();
        if rest.is_empty() && frame.left > 0 {
            // Clients like to send a head and its payload apart; this way the payload need not be
            // copied when it then comes in one piece.
            self.partial().frame = Some(frame);
            return Ok(None);
        }
        let here = usize::try_from(frame.left).map_or(rest.len(), |left| left.min(rest.len()));
        let (payload, rest) = rest.split_at_mut(here);
        *input = rest;
        frame.key = mask::apply(payload, frame.key);
        frame.left -= here as u64;
        if frame.opcode.is_control() {
            self.take_control(frame, payload)
        } else {
            self.take_data(frame, payload, limits)
        }
    }

    /// Reads the head of a frame: gives the frame and how many of `bytes` its head took, or keeps
    /// the bytes of an incomplete one.
    fn read_head(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<(Incoming, usize)>, Violation> {
        let (kept, message) = match self.partial.as_deref_mut() {
            Some(partial) => (std::mem::take(&mut partial.head), partial.message.as_mut()),
            None => (Vec::new(), None),
        };
        let expected = Expected { deflate: self.deflate, in_message: message.is_some() };
        let read = if kept.is_empty() {
            Incoming::read(bytes, expected)?
        } else {
            let more = &bytes[..bytes.len().min(MAX_HEAD.saturating_sub(kept.len()))];
            let head = [&kept, more].concat();
            Incoming::read(&head, expected)?
                .map(|(frame, len)| (frame, len.saturating_sub(kept.len())))
        };
        if let Some((frame, used)) = read {
            admit(&frame, message, limits)?;
            return Ok(Some((frame, used)));
        }
        let mut head = kept;
        head.reserve_exact(MAX_HEAD.saturating_sub(head.len()));
        head.extend_from_slice(bytes);
        self.partial().head = head;
        Ok(None)
    }

    fn take_control<'a>(
        &mut self,
        frame: Incoming,
        payload: &'a [u8],
    ) -> Result<Option<Event<'a>>, Violation> {
        let kept = self.partial.as_mut().map(|partial| std::mem::take(&mut partial.control));
        let mut kept = kept.unwrap_or_default();
        if frame.left > 0 {
            kept.extend_from_slice(payload);
            let partial = self.partial();
            partial.control = kept;
            partial.frame = Some(frame);
            return Ok(None);
        }
        let payload = if kept.is_empty() {
            Cow::Borrowed(payload)
        } else {
            kept.extend_from_slice(payload);
            Cow::Owned(kept)
        };
        self.tidy();
        Ok(Some(match frame.opcode {
            Opcode::Ping => Event::Ping(payload),
            Opcode::Pong => Event::Pong(payload),
            _ => {
                let close = frame::read_close(&payload)?;
                self.end();
                Event::Close(close.map(|(code, reason)| (code, reason.to_owned())))
            }
        }))
    }

    fn take_data<'a>(
        &mut self,
        frame: Incoming,
        payload: &'a [u8],
        limits: &Limits,
    ) -> Result<Option<Event<'a>>, Violation> {
        let complete = frame.left == 0 && frame.fin;
        let begun = self.partial.as_mut().and_then(|partial| partial.message.take());
        let kind = if frame.opcode == Opcode::Text { Kind::Text } else { Kind::Binary };
        let mut message = match begun {
            Some(message) => message,
            None if complete => {
                let compressed = frame.compressed;
                if kind == Kind::Text && !compressed && utf8::whole(payload).is_none() {
                    return Err(Violation::BadText);
                }
                self.tidy();
                return Ok(Some(Event::Message { kind, compressed, bytes: payload.into() }));
            }
            None => Message {
                kind,
                compressed: frame.compressed,
                fragments: 1,
                bytes: Vec::new(),
                checked: 0,
            },
        };
        message.append(payload, &frame, limits)?;
        if complete {
            let Message { kind, compressed, bytes, .. } = message;
            self.tidy();
            return Ok(Some(Event::Message { kind, compressed, bytes: bytes.into() }));
        }
        let partial = self.partial();
        partial.message = Some(message);
        partial.frame = (frame.left > 0).then_some(frame);
        Ok(None)
    }

    fn partial(&mut self) -> &mut Partial {
        self.partial.get_or_insert_default()
    }

    /// Frees `partial` if nothing is left to remember.
    fn tidy(&mut self) {
        if self.partial.as_deref().is_some_and(Partial::is_empty) {
            self.partial = None;
        }
    }

    fn end(&mut self) {
        self.over = true;
        self.partial = None;
    }
}

impl Partial {
    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.frame.is_none() && self.message.is_none()
    }
}

impl Message {
    /// Adds `payload`, just unmasked, which is of `frame`.
    fn append(
        &mut self,
        payload: &[u8],
        frame: &Incoming,
        limits: &Limits,
    ) -> Result<(), Violation> {
        let needed = self.bytes.len() + payload.len();
        if needed > self.bytes.capacity() {
            // Doubling keeps copying linear; where the end is known, or limited, it stops there.
            let most = if frame.fin {
                usize::try_from(frame.left).map_or(usize::MAX, |left| needed.saturating_add(left))
            } else {
                limits.max_message
            };
            let capacity = self.bytes.capacity().saturating_mul(2).min(most).max(needed);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(payload);
        if self.kind == Kind::Binary || self.compressed {
            return Ok(());
        }
        self.checked = utf8::advance(&self.bytes, self.checked)?;
        let complete = frame.left == 0 && frame.fin;
        if complete && self.checked < self.bytes.len() {
            return Err(Violation::BadText);
        }
        Ok(())
    }
}

/// Holds a frame that just began, and the message it continues, against the limits.
fn admit(
    frame: &Incoming,
    message: Option<&mut Message>,
    limits: &Limits,
) -> Result<(), Violation> {
    if frame.opcode.is_control() {
        return Ok(());
    }
    let before = message.as_ref().map_or(0, |message| message.bytes.len() as u64);
    if before.saturating_add(frame.left) > limits.max_message as u64 {
        return Err(Violation::TooBig { limit: limits.max_message });
    }
    if let Some(message) = message {
        message.fragments = message.fragments.saturating_add(1);
        if message.fragments > limits.max_fragments {
            return Err(Violation::TooManyFragments { limit: limits.max_fragments });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
