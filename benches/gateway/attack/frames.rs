//! HTTP/2 frames as no library writes them: requests whose answers nobody will read.

/// Kinds of frames and their flags (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;

/// The beginning of a connection on which the peer may send so many bytes per stream.
pub(super) fn preface(window: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = INITIAL_WINDOW.to_be_bytes().to_vec();
    settings.extend(window.to_be_bytes());
    frame(&mut bytes, SETTINGS, 0, 0, &settings);
    bytes
}

/// A call's head, and its empty request if `ended`.
pub(super) fn call(bytes: &mut Vec<u8>, stream: u32, path: &str, token: Option<&str>, ended: bool) {
    let mut block = Vec::new();
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "gateway.example"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    if let Some(bearer) = &bearer {
        fields.push(("authorization", bearer));
    }
    for (name, value) in fields {
        // A literal field without indexing and with a new name (RFC 7541 §6.2.2).
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    frame(bytes, HEADERS, END_HEADERS, stream, &block);
    if ended {
        frame(bytes, DATA, END_STREAM, stream, &[0; 5]);
    }
}

/// A string without Huffman coding (RFC 7541 §5.2).
fn text(block: &mut Vec<u8>, text: &str) {
    // All of them are shorter than what fits into the prefix of seven bits.
    block.push(u8::try_from(text.len()).unwrap_or(0));
    block.extend(text.as_bytes());
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    bytes.extend(&length[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}
