//! One message in the forms that its receivers agreed to, each made at most once per shard.
//!
//! Most receivers share one form: the plain frame, or the frame deflated for one window size. A
//! form is made when the first receiver asks for it and shared by all others. Permessage-deflate
//! is agreed without context takeover, so a compressed frame depends on nothing but the message
//! and the window, and can be the same for everybody.

use std::rc::Rc;

use super::{
    caps::Caps,
    outbound::{Frame, Meter},
};
use crate::{
    message::{Kind, Payload},
    wire::{self, Deflater, Opcode},
};

/// Window size of a client that did not agree to compression.
pub(super) const PLAIN: u8 = 0;

/// The smallest window (RFC 7692 allows 8, zlib has none so small for raw streams).
pub(super) const SMALLEST: u8 = 9;

/// How many window sizes there are: 9 to 15.
pub(super) const WINDOWS: usize = 7;

/// What compressing takes: a compressor per window size, and a place for what comes out.
#[derive(Default)]
pub(super) struct Press {
    deflater: Deflater,
    out: Vec<u8>,
}

impl Press {
    /// The compressed frame, if it is worth it.
    fn frame(&mut self, kind: Kind, bytes: &[u8], window: u8, caps: &Caps) -> Option<Box<[u8]>> {
        let worth = caps.deflate && (caps.deflate_from..=caps.deflate_to).contains(&bytes.len());
        if window == PLAIN || !worth {
            return None;
        }
        let deflated = self.deflater.deflate(window, caps.deflate_level, bytes, &mut self.out)?;
        let frame = wire::encode_with(kind.into(), true, deflated);
        wire::trim(&mut self.out);
        Some(frame)
    }
}

/// A message on its way to many clients.
pub(super) struct Message<'a> {
    payload: &'a Payload,
    plain: Option<Rc<Frame>>,
    deflated: [Form; WINDOWS],
}

/// A form of a message.
#[derive(Default)]
enum Form {
    /// Nobody asked yet.
    #[default]
    Unmade,
    /// It would not be smaller than the plain one.
    Useless,
    Made(Rc<Frame>),
}

impl<'a> Message<'a> {
    pub(super) fn new(payload: &'a Payload) -> Self {
        Self { payload, plain: None, deflated: Default::default() }
    }

    /// The frame for a client with the window size.
    pub(super) fn frame(
        &mut self,
        window: u8,
        caps: &Caps,
        press: &mut Press,
        meter: &Meter,
    ) -> Rc<Frame> {
        let deflates = window != PLAIN && caps.deflate;
        if deflates && let Some(frame) = self.deflated(window, caps, press, meter) {
            return frame;
        }
        let payload = self.payload;
        let plain = self
            .plain
            .get_or_insert_with(|| Frame::new(wire::encode(payload.kind, &payload.bytes), meter));
        Rc::clone(plain)
    }

    fn deflated(
        &mut self,
        window: u8,
        caps: &Caps,
        press: &mut Press,
        meter: &Meter,
    ) -> Option<Rc<Frame>> {
        let form = self.deflated.get_mut(usize::from(window.checked_sub(SMALLEST)?))?;
        if let Form::Unmade = form {
            *form = match deflated(self.payload, window, caps, press) {
                Some(frame) => Form::Made(Frame::new(frame, meter)),
                None => Form::Useless,
            };
        }
        match form {
            Form::Made(frame) => Some(Rc::clone(frame)),
            Form::Unmade | Form::Useless => None,
        }
    }
}

fn deflated(payload: &Payload, window: u8, caps: &Caps, press: &mut Press) -> Option<Box<[u8]>> {
    let opcode = Opcode::from(payload.kind);
    let ahead = payload.deflated.iter().find(|(bits, _)| *bits == window);
    if let Some((_, deflated)) = ahead {
        return Some(wire::encode_with(opcode, true, deflated));
    }
    press.frame(payload.kind, &payload.bytes, window, caps)
}

/// The frame of a message to one client, as an echo is.
pub(super) fn frame_for_one(
    kind: Kind,
    bytes: &[u8],
    window: u8,
    caps: &Caps,
    press: &mut Press,
    meter: &Meter,
) -> Rc<Frame> {
    let frame = press.frame(kind, bytes, window, caps);
    Frame::new(frame.unwrap_or_else(|| wire::encode(kind, bytes)), meter)
}
