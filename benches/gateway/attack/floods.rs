//! What floods are made of: few bytes that mean much work.

use gateway_websocket::wire::compress_once;

/// Bytes of one flood, which are sent over and over.
const LENGTH: usize = 64 * 1024;
/// Bytes that a bomb inflates to: as many as one message may have by default.
const INFLATED: usize = 1 << 20;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const PING: u8 = 9;

/// Messages of a kilobyte that inflate to a thousand of them.
pub(super) fn bombs() -> Vec<u8> {
    let bomb = compress_once(15, 9, &vec![0; INFLATED]).unwrap_or_default();
    repeated(&frame(FIN | RSV1 | BINARY, &bomb))
}

/// A message of as many final blocks as it can hold; each begins a stream of its own.
pub(super) fn final_blocks() -> Vec<u8> {
    frame(FIN | RSV1 | BINARY, &[0x03, 0x00].repeat(INFLATED / 2 - 1))
}

/// Messages of one byte.
pub(super) fn tiny() -> Vec<u8> {
    repeated(&frame(FIN | TEXT, b"x"))
}

/// Messages of many fragments without a byte.
pub(super) fn fragments() -> Vec<u8> {
    let middle = frame(0, b"").repeat(1000);
    repeated(&[frame(TEXT, b""), middle, frame(FIN, b"")].concat())
}

/// Pings of the protocol.
pub(super) fn pings() -> Vec<u8> {
    repeated(&frame(FIN | PING, b""))
}

fn repeated(bytes: &[u8]) -> Vec<u8> {
    bytes.repeat(LENGTH.div_ceil(bytes.len()))
}

/// A frame as a client sends it, masked with zeros (RFC 6455 §5.2).
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => bytes.push(FIN | short),
        (_, Ok(middle)) => {
            bytes.push(0xfe);
            bytes.extend(middle.to_be_bytes());
        }
        _ => {
            bytes.push(0xff);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}
