//! Headers that are lists, taken apart (RFC 9110 §5.6.1).

use hyper::{HeaderMap, header::HeaderName};

/// The elements of a comma-separated header, over all its lines.
pub(super) fn elements<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}
