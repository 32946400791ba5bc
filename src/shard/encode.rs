//! One message in the forms that its receivers agreed to, each made at most once per shard.
//!
//! Most receivers share one form: the plain frame, or the frame deflated for one window size. A
//! form is made when the first receiver asks for it and shared by all others. Permessage-deflate
//! is agreed without context takeover, so a compressed frame depends on nothing but the message
//! and the window, and can be the same for everybody.

use std::rc::Rc;

use super::{
    clock::Clock,
    memory::Budget,
    settings::ShardSettings,
    write_queue::{Frame, QueuePolicy},
};
use crate::{
    message::{Kind, Payload, WhenBehind},
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
pub(super) struct Compressor {
    deflater: Deflater,
    out: Vec<u8>,
}

impl Compressor {
    /// The compressed frame, if it is worth it.
    fn frame(
        &mut self,
        kind: Kind,
        bytes: &[u8],
        window: u8,
        settings: &ShardSettings,
    ) -> Option<Box<[u8]>> {
        let worth = settings.deflate
            && (settings.deflate_from..=settings.deflate_to).contains(&bytes.len());
        if window == PLAIN || !worth {
            return None;
        }
        let deflated =
            self.deflater.deflate(window, settings.deflate_level, bytes, &mut self.out)?;
        let frame = wire::encode_with(kind.into(), true, deflated);
        wire::trim(&mut self.out);
        Some(frame)
    }
}

/// A message on its way to many clients.
pub(super) struct Message<'a> {
    payload: &'a Payload,
    waits: QueuePolicy,
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
    /// A message that is queued now. A turn may take a while, so only the clock tells when that is;
    /// it is not looked at for what may wait for ever.
    pub(super) fn new(payload: &'a Payload, clock: &Clock) -> Self {
        let key = match &payload.terms.when_behind {
            WhenBehind::Conflate(key) => Some(key.clone()),
            WhenBehind::Queue | WhenBehind::Drop => None,
        };
        // What lies beyond the reach of the clock is for ever.
        let until = payload.terms.ttl.and_then(|ttl| clock.now().checked_add(ttl));
        Self {
            payload,
            waits: QueuePolicy { until, key },
            plain: None,
            deflated: Default::default(),
        }
    }

    /// What happens to it if the client is behind.
    pub(super) fn when_behind(&self) -> &'a WhenBehind {
        &self.payload.terms.when_behind
    }

    /// The frame for a client with the window size.
    pub(super) fn frame(
        &mut self,
        window: u8,
        settings: &ShardSettings,
        compressor: &mut Compressor,
        memory: &Budget,
    ) -> Rc<Frame> {
        let deflates = window != PLAIN && settings.deflate;
        if deflates && let Some(frame) = self.deflated(window, settings, compressor, memory) {
            return frame;
        }
        let Self { payload, waits, plain, .. } = self;
        let plain = plain.get_or_insert_with(|| {
            Frame::on_terms(wire::encode(payload.kind, &payload.bytes), waits, memory)
        });
        Rc::clone(plain)
    }

    fn deflated(
        &mut self,
        window: u8,
        settings: &ShardSettings,
        compressor: &mut Compressor,
        memory: &Budget,
    ) -> Option<Rc<Frame>> {
        let form = self.deflated.get_mut(usize::from(window.checked_sub(SMALLEST)?))?;
        if let Form::Unmade = form {
            *form = match deflated(self.payload, window, settings, compressor) {
                Some(frame) => Form::Made(Frame::on_terms(frame, &self.waits, memory)),
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
    settings: &ShardSettings,
    compressor: &mut Compressor,
) -> Option<Box<[u8]>> {
    let opcode = Opcode::from(payload.kind);
    let ahead = payload.deflated.iter().find(|(bits, _)| *bits == window);
    if let Some((_, deflated)) = ahead {
        return Some(wire::encode_with(opcode, true, deflated));
    }
    compressor.frame(payload.kind, &payload.bytes, window, settings)
}

/// The frame of a message to one client, as an echo is.
pub(super) fn frame_for_one(
    kind: Kind,
    bytes: &[u8],
    window: u8,
    settings: &ShardSettings,
    compressor: &mut Compressor,
    memory: &Budget,
) -> Rc<Frame> {
    let frame = compressor.frame(kind, bytes, window, settings);
    Frame::new(frame.unwrap_or_else(|| wire::encode(kind, bytes)), memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::sync::Arc;

    const WINDOWS: std::ops::RangeInclusive<u8> = SMALLEST..=15;

    fn settings() -> ShardSettings {
        ShardSettings::new(&Arc::new(Config::default().into()), 1)
    }

    fn text(size: usize) -> Payload {
        Payload::from_text(Kind::Text, "hello, hello ".repeat(size))
    }

    /// Bytes that get no shorter.
    fn noise(size: usize) -> Payload {
        let mut state = 1u32;
        let byte = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
        let bytes: Vec<u8> = byte.take(size).collect();
        Payload { bytes: bytes.into(), ..Payload::from_text(Kind::Binary, String::new()) }
    }

    /// A compressor that was never used owns nothing.
    fn untouched(compressor: &Compressor) -> bool {
        compressor.out.capacity() == 0
    }

    #[test]
    fn all_receivers_of_a_window_share_one_frame() {
        let (payload, settings, memory) = (text(50), settings(), Budget::default());
        let mut message = Message::new(&payload, &Clock::default());
        let mut compressor = Compressor::default();
        let plain = message.frame(PLAIN, &settings, &mut compressor, &memory);
        assert!(untouched(&compressor), "nobody asked for it compressed");
        let mut frames = vec![plain];
        for window in WINDOWS {
            frames.push(message.frame(window, &settings, &mut compressor, &memory));
        }
        let made = memory.used();
        assert_eq!(made, frames.iter().map(|frame| frame.len()).sum::<usize>());
        for _ in 0..100 {
            for (frame, window) in frames.iter().zip([PLAIN].into_iter().chain(WINDOWS)) {
                let mut compressor = Compressor::default();
                let again = message.frame(window, &settings, &mut compressor, &memory);
                assert!(Rc::ptr_eq(frame, &again), "window {window}");
                assert!(untouched(&compressor), "window {window}");
            }
        }
        assert_eq!(memory.used(), made);
    }

    #[test]
    fn what_gets_no_shorter_is_tried_once_and_shared_plain() {
        let (payload, settings, memory) = (noise(2000), settings(), Budget::default());
        let mut message = Message::new(&payload, &Clock::default());
        let mut compressor = Compressor::default();
        let plain = message.frame(PLAIN, &settings, &mut compressor, &memory);
        let first = message.frame(15, &settings, &mut compressor, &memory);
        assert!(Rc::ptr_eq(&plain, &first));
        assert!(!untouched(&compressor));
        let mut compressor = Compressor::default();
        let again = message.frame(15, &settings, &mut compressor, &memory);
        assert!(Rc::ptr_eq(&plain, &again));
        assert!(untouched(&compressor), "it was tried again");
    }

    #[test]
    fn what_was_compressed_ahead_is_not_compressed_again() {
        let (settings, memory) = (settings(), Budget::default());
        let mut payload = text(50);
        let ahead = wire::compress_once(12, 1, &payload.bytes).unwrap();
        payload.deflated.push((12, ahead.into()));
        let mut message = Message::new(&payload, &Clock::default());
        let mut compressor = Compressor::default();
        let frame = message.frame(12, &settings, &mut compressor, &memory);
        assert!(untouched(&compressor));
        assert!(frame.len() < payload.bytes.len() / 2);
        assert!(Rc::ptr_eq(&frame, &message.frame(12, &settings, &mut compressor, &memory)));
    }

    #[test]
    fn the_settings_decide_what_is_compressed() {
        let memory = Budget::default();
        let plain = |payload: &Payload, settings: &ShardSettings| {
            let mut compressor = Compressor::default();
            let (kind, bytes) = (payload.kind, &payload.bytes);
            let one = frame_for_one(kind, bytes, 15, settings, &mut compressor, &memory).len();
            let shared = Message::new(payload, &Clock::default())
                .frame(15, settings, &mut compressor, &memory)
                .len();
            assert_eq!(one, shared);
            assert_eq!(untouched(&compressor), shared > bytes.len());
            untouched(&compressor)
        };
        let settings = settings();
        let off = ShardSettings { deflate: false, ..settings.clone() };
        let from = ShardSettings { deflate_from: 1301, ..settings.clone() };
        let to = ShardSettings { deflate_to: 1299, ..settings.clone() };
        let exactly = ShardSettings { deflate_from: 1300, deflate_to: 1300, ..settings.clone() };
        let payload = text(100);
        assert_eq!(payload.bytes.len(), 1300);
        assert!(!plain(&payload, &settings) && !plain(&payload, &exactly));
        assert!(plain(&payload, &off) && plain(&payload, &from) && plain(&payload, &to));
    }
}
