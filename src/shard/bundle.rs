//! Messages for the same clients that wait one behind the other, ready to leave together.
//!
//! ```text
//!   payloads ──► one frame each, per form ──► end to end in one piece ──► send(2) per socket
//!                     └── Rc each ──────────► a queue, for what a socket doesn't take
//! ```
//!
//! A form is the plain one or that of a window size; all clients that agreed to the same share it.
//! It is made when the first of them needs it.

use std::rc::Rc;

use smallvec::SmallVec;

use super::{
    caps::Caps,
    encode::{Message, PLAIN, Press, SMALLEST, WINDOWS},
    outbound::{Frame, Meter},
};
use crate::message::Payload;

/// The messages, in order.
pub(super) struct Bundle<'a> {
    messages: SmallVec<[Message<'a>; 1]>,
    /// The plain form, then one per window size.
    forms: [Option<Form>; 1 + WINDOWS],
}

/// All messages of a bundle as one kind of client gets them.
pub(super) struct Form {
    frames: SmallVec<[Rc<Frame>; 1]>,
    /// The frames end to end; nothing if there is only one.
    joined: Vec<u8>,
}

impl<'a> Bundle<'a> {
    pub(super) fn new(payloads: impl Iterator<Item = &'a Payload>) -> Self {
        Self { messages: payloads.map(Message::new).collect(), forms: Default::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The messages for a client with the window size.
    pub(super) fn form(
        &mut self,
        window: u8,
        caps: &Caps,
        press: &mut Press,
        meter: &Meter,
    ) -> &Form {
        let window = if caps.deflate { window } else { PLAIN };
        let index = window.checked_sub(SMALLEST).map_or(0, |above| 1 + usize::from(above));
        let Self { messages, forms } = self;
        forms[index].get_or_insert_with(|| {
            let frames = messages.iter_mut().map(|it| it.frame(window, caps, press, meter));
            Form::new(frames.collect())
        })
    }
}

impl Form {
    fn new(frames: SmallVec<[Rc<Frame>; 1]>) -> Self {
        let mut joined = Vec::new();
        if frames.len() > 1 {
            joined.reserve_exact(frames.iter().map(|frame| frame.len()).sum());
            for frame in &frames {
                joined.extend_from_slice(frame.bytes());
            }
        }
        Self { frames, joined }
    }

    pub(super) fn frames(&self) -> &[Rc<Frame>] {
        &self.frames
    }

    /// All frames, end to end.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.frames[..] {
            [only] => only.bytes(),
            _ => &self.joined,
        }
    }
}
