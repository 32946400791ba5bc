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
    clock::Clock,
    encode::{Compressor, Message, PLAIN, SMALLEST, WINDOWS},
    memory::Budget,
    settings::ShardSettings,
    write_queue::Frame,
};
use crate::message::{Payload, WhenBehind};

/// The messages, in order.
pub(super) struct Batch<'a> {
    messages: SmallVec<[Message<'a>; 1]>,
    /// The plain form, then one per window size.
    forms: [Option<EncodedBatch>; 1 + WINDOWS],
}

/// All messages of a batch as one kind of client gets them.
pub(super) struct EncodedBatch {
    frames: SmallVec<[Rc<Frame>; 1]>,
    /// The frames end to end; nothing if there is only one.
    joined: Vec<u8>,
}

impl<'a> Batch<'a> {
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
    pub(super) fn encoded(
        &mut self,
        window: u8,
        settings: &ShardSettings,
        compressor: &mut Compressor,
        memory: &Budget,
    ) -> &EncodedBatch {
        let window = if settings.deflate { window } else { PLAIN };
        let index = window.checked_sub(SMALLEST).map_or(0, |above| 1 + usize::from(above));
        let Self { messages, forms } = self;
        forms[index].get_or_insert_with(|| {
            let frames =
                messages.iter_mut().map(|it| it.frame(window, settings, compressor, memory));
            EncodedBatch::new(frames.collect())
        })
    }
}

impl EncodedBatch {
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
        let settings = ShardSettings::new(&Arc::new(Config::default().into()), 1);
        let (memory, mut compressor) = (Budget::default(), Compressor::default());
        let mut batch = Batch::new(&payloads, &Clock::default());
        assert_eq!(batch.len(), 3);
        let mut lengths = Vec::new();
        for window in [PLAIN, 9, 12, 15] {
            let form = batch.encoded(window, &settings, &mut compressor, &memory);
            let end_to_end: Vec<u8> =
                form.frames().iter().flat_map(|frame| frame.bytes().to_vec()).collect();
            assert_eq!(form.bytes(), end_to_end);
            lengths.push(form.bytes().len());
            let first = Rc::clone(&form.frames()[0]);
            let again = batch.encoded(window, &settings, &mut compressor, &memory);
            assert!(Rc::ptr_eq(&first, &again.frames()[0]), "window {window}");
        }
        assert!(lengths[1..].iter().all(|length| *length < lengths[0] / 4), "{lengths:?}");

        let off = ShardSettings { deflate: false, ..settings };
        assert_eq!(batch.encoded(15, &off, &mut compressor, &memory).bytes().len(), lengths[0]);
    }

    #[test]
    fn a_single_message_is_not_copied() {
        let payload = Payload::from_text(Kind::Text, "hello".to_owned());
        let settings = ShardSettings::new(&Arc::new(Config::default().into()), 1);
        let (memory, mut compressor) = (Budget::default(), Compressor::default());
        let mut batch = Batch::new(std::slice::from_ref(&payload), &Clock::default());
        let form = batch.encoded(PLAIN, &settings, &mut compressor, &memory);
        assert_eq!(form.bytes().as_ptr(), form.frames()[0].bytes().as_ptr());
        assert_eq!(form.bytes(), b"\x81\x05hello");
    }
}
