//! As much of RFC 6455 as a load generator needs: where a frame ends, and what it holds.

/// The first frame of some bytes.
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    /// Bytes of the head, the key included.
    pub(crate) head: usize,
    /// Bytes of the whole frame.
    pub(crate) len: usize,
}

/// The frame that the bytes begin with, if it is whole.
pub(crate) fn first(bytes: &[u8]) -> Option<Frame> {
    let [first, second, ..] = *bytes else {
        return None;
    };
    let key = if second & 0x80 == 0 { 0 } else { 4 };
    let (length, head): (u64, usize) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4 + key),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10 + key),
        length => (u64::from(length), 2 + key),
    };
    let len = head.checked_add(usize::try_from(length).ok()?)?;
    (len <= bytes.len()).then_some(Frame { opcode: first & 0x0f, head, len })
}

/// A masked text frame. The key is all zeros: whoever takes the mask off has the same work, and the
/// payload is as it was.
pub(crate) fn masked_text(payload: &[u8]) -> Vec<u8> {
    let mut frame =
        gateway_websocket::wire::encode(gateway_websocket::message::Kind::Text, payload).into_vec();
    frame[1] |= 0x80;
    let head = frame.len() - payload.len();
    frame.splice(head..head, [0; 4]);
    frame
}
