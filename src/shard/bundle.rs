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
    Clock,
    caps::Caps,
    encode::{Message, PLAIN, Press, SMALLEST, WINDOWS},
    outbound::{Frame, Meter},
};
use crate::message::{Payload, WhenBehind};

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
    /// Messages that are queued now.
    pub(super) fn new(payloads: &'a [Payload], clock: &Clock) -> Self {
        let messages = payloads.iter().map(|payload| Message::new(payload, clock));
        Self { messages: messages.collect(), forms: Default::default() }
    }

    /// What happens to a message if a client is behind.
    pub(super) fn when_behind(&self, index: usize) -> &'a WhenBehind {
        self.messages[index].when_behind()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{config::Config, message::Kind};

    #[test]
    fn a_form_is_made_once_and_holds_all_messages_in_order() {
        let texts = ["one, one, one ".repeat(20), "two".to_owned(), "three, three ".repeat(30)];
        let payloads = texts.map(|text| Payload::from_text(Kind::Text, text));
        let caps = Caps::new(&Arc::new(Config::default().into()), 1);
        let (meter, mut press) = (Meter::default(), Press::default());
        let mut bundle = Bundle::new(&payloads, &Clock::default());
        assert_eq!(bundle.len(), 3);
        let mut lengths = Vec::new();
        for window in [PLAIN, 9, 12, 15] {
            let form = bundle.form(window, &caps, &mut press, &meter);
            let end_to_end: Vec<u8> =
                form.frames().iter().flat_map(|frame| frame.bytes().to_vec()).collect();
            assert_eq!(form.bytes(), end_to_end);
            lengths.push(form.bytes().len());
            let first = Rc::clone(&form.frames()[0]);
            let again = bundle.form(window, &caps, &mut press, &meter);
            assert!(Rc::ptr_eq(&first, &again.frames()[0]), "window {window}");
        }
        assert!(lengths[1..].iter().all(|length| *length < lengths[0] / 4), "{lengths:?}");

        let off = Caps { deflate: false, ..caps };
        assert_eq!(bundle.form(15, &off, &mut press, &meter).bytes().len(), lengths[0]);
    }

    #[test]
    fn a_single_message_is_not_copied() {
        let payload = Payload::from_text(Kind::Text, "hello".to_owned());
        let caps = Caps::new(&Arc::new(Config::default().into()), 1);
        let (meter, mut press) = (Meter::default(), Press::default());
        let mut bundle = Bundle::new(std::slice::from_ref(&payload), &Clock::default());
        let form = bundle.form(PLAIN, &caps, &mut press, &meter);
        assert_eq!(form.bytes().as_ptr(), form.frames()[0].bytes().as_ptr());
        assert_eq!(form.bytes(), b"\x81\x05hello");
    }
}
