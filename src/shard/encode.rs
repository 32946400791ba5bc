//! One message in the forms that its receivers agreed to, each made at most once per shard.
//!
//! Most receivers share one form: the plain frame, or the frame deflated for one window size. A
//! form is made when the first receiver asks for it and shared by all others. Permessage-deflate
//! is agreed without context takeover, so a compressed frame depends on nothing but the message
//! and the window, and can be the same for everybody.

use std::rc::Rc;

use super::{
    Clock,
    caps::Caps,
    outbound::{Frame, Meter, Waits},
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
    waits: Waits,
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
        Self { payload, waits: Waits { until, key }, plain: None, deflated: Default::default() }
    }

    /// What happens to it if the client is behind.
    pub(super) fn when_behind(&self) -> &'a WhenBehind {
        &self.payload.terms.when_behind
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
        let Self { payload, waits, plain, .. } = self;
        let plain = plain.get_or_insert_with(|| {
            Frame::on_terms(wire::encode(payload.kind, &payload.bytes), waits, meter)
        });
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
                Some(frame) => Form::Made(Frame::on_terms(frame, &self.waits, meter)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::sync::Arc;

    const WINDOWS: std::ops::RangeInclusive<u8> = SMALLEST..=15;

    fn caps() -> Caps {
        Caps::new(&Arc::new(Config::default().into()), 1)
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

    /// A press that was never used owns nothing.
    fn untouched(press: &Press) -> bool {
        press.out.capacity() == 0
    }

    #[test]
    fn all_receivers_of_a_window_share_one_frame() {
        let (payload, caps, meter) = (text(50), caps(), Meter::default());
        let mut message = Message::new(&payload, &Clock::default());
        let mut press = Press::default();
        let plain = message.frame(PLAIN, &caps, &mut press, &meter);
        assert!(untouched(&press), "nobody asked for it compressed");
        let mut frames = vec![plain];
        for window in WINDOWS {
            frames.push(message.frame(window, &caps, &mut press, &meter));
        }
        let made = meter.get();
        assert_eq!(made, frames.iter().map(|frame| frame.len()).sum::<usize>());
        for _ in 0..100 {
            for (frame, window) in frames.iter().zip([PLAIN].into_iter().chain(WINDOWS)) {
                let mut press = Press::default();
                let again = message.frame(window, &caps, &mut press, &meter);
                assert!(Rc::ptr_eq(frame, &again), "window {window}");
                assert!(untouched(&press), "window {window}");
            }
        }
        assert_eq!(meter.get(), made);
    }

    #[test]
    fn what_gets_no_shorter_is_tried_once_and_shared_plain() {
        let (payload, caps, meter) = (noise(2000), caps(), Meter::default());
        let mut message = Message::new(&payload, &Clock::default());
        let mut press = Press::default();
        let plain = message.frame(PLAIN, &caps, &mut press, &meter);
        let first = message.frame(15, &caps, &mut press, &meter);
        assert!(Rc::ptr_eq(&plain, &first));
        assert!(!untouched(&press));
        let mut press = Press::default();
        let again = message.frame(15, &caps, &mut press, &meter);
        assert!(Rc::ptr_eq(&plain, &again));
        assert!(untouched(&press), "it was tried again");
    }

    #[test]
    fn what_was_compressed_ahead_is_not_compressed_again() {
        let (caps, meter) = (caps(), Meter::default());
        let mut payload = text(50);
        let ahead = wire::compress_once(12, 1, &payload.bytes).unwrap();
        payload.deflated.push((12, ahead.into()));
        let mut message = Message::new(&payload, &Clock::default());
        let mut press = Press::default();
        let frame = message.frame(12, &caps, &mut press, &meter);
        assert!(untouched(&press));
        assert!(frame.len() < payload.bytes.len() / 2);
        assert!(Rc::ptr_eq(&frame, &message.frame(12, &caps, &mut press, &meter)));
    }

    #[test]
    fn the_settings_decide_what_is_compressed() {
        let meter = Meter::default();
        let plain = |payload: &Payload, caps: &Caps| {
            let mut press = Press::default();
            let (kind, bytes) = (payload.kind, &payload.bytes);
            let one = frame_for_one(kind, bytes, 15, caps, &mut press, &meter).len();
            let shared =
                Message::new(payload, &Clock::default()).frame(15, caps, &mut press, &meter).len();
            assert_eq!(one, shared);
            assert_eq!(untouched(&press), shared > bytes.len());
            untouched(&press)
        };
        let caps = caps();
        let off = Caps { deflate: false, ..caps.clone() };
        let from = Caps { deflate_from: 1301, ..caps.clone() };
        let to = Caps { deflate_to: 1299, ..caps.clone() };
        let exactly = Caps { deflate_from: 1300, deflate_to: 1300, ..caps.clone() };
        let payload = text(100);
        assert_eq!(payload.bytes.len(), 1300);
        assert!(!plain(&payload, &caps) && !plain(&payload, &exactly));
        assert!(plain(&payload, &off) && plain(&payload, &from) && plain(&payload, &to));
    }
}
