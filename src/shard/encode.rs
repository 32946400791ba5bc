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
const SMALLEST: u8 = 9;

/// A message on its way to many clients.
pub(super) struct Message<'a> {
    payload: &'a Payload,
    plain: Option<Rc<Frame>>,
    deflated: [Form; 7],
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
        deflater: &mut Deflater,
        meter: &Meter,
    ) -> Rc<Frame> {
        let deflates = window != PLAIN && caps.deflate;
        if deflates && let Some(frame) = self.deflated(window, caps, deflater, meter) {
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
        deflater: &mut Deflater,
        meter: &Meter,
    ) -> Option<Rc<Frame>> {
        let form = self.deflated.get_mut(usize::from(window.checked_sub(SMALLEST)?))?;
        if let Form::Unmade = form {
            *form = match deflated(self.payload, window, caps, deflater) {
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

fn deflated(
    payload: &Payload,
    window: u8,
    caps: &Caps,
    deflater: &mut Deflater,
) -> Option<Box<[u8]>> {
    let opcode = Opcode::from(payload.kind);
    let ahead = payload.deflated.iter().find(|(bits, _)| *bits == window);
    if let Some((_, deflated)) = ahead {
        return Some(wire::encode_with(opcode, true, deflated));
    }
    if payload.bytes.len() < caps.deflate_from || payload.bytes.len() > caps.deflate_to {
        return None;
    }
    let deflated = deflater.deflate(window, caps.deflate_level, &payload.bytes)?;
    Some(wire::encode_with(opcode, true, &deflated))
}

/// The frame of a message to one client, as an echo is.
pub(super) fn frame_for_one(
    kind: Kind,
    bytes: &[u8],
    window: u8,
    caps: &Caps,
    deflater: &mut Deflater,
    meter: &Meter,
) -> Rc<Frame> {
    let small = bytes.len() < caps.deflate_from;
    let deflated = if window == PLAIN || !caps.deflate || small {
        None
    } else {
        deflater.deflate(window, caps.deflate_level, bytes)
    };
    let frame = match deflated {
        Some(deflated) => wire::encode_with(kind.into(), true, &deflated),
        None => wire::encode(kind, bytes),
    };
    Frame::new(frame, meter)
}
