//! Masking (RFC 6455 §5.3): every byte from a client is combined by exclusive or with one of four
//! key bytes.
//!
//! Works in place and eight bytes at a time, which the compiler widens to whatever vectors the
//! target has. Reads are unaligned on purpose: a payload starts where its header ends.

/// The masking key of a frame, as it applies to the next byte.
pub(super) type Key = [u8; 4];

/// Takes the mask off `bytes` (or puts it on: the operation is its own inverse) and returns the
/// key as it applies to the byte that follows them.
pub(super) fn apply(bytes: &mut [u8], key: Key) -> Key {
    let wide = u64::from(u32::from_ne_bytes(key));
    let wide = wide << 32 | wide;
    let next = bytes.len() % key.len();
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    let mut key = key;
    key.rotate_left(next);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_meets_its_key_byte(
            original in prop::collection::vec(any::<u8>(), 0..200), key: Key, skip in 0usize..9,
        ) {
            let mut bytes = original.clone();
            let skip = skip.min(bytes.len());
            apply(&mut bytes[skip..], key);
            for (at, byte) in original.iter().enumerate() {
                let mask = if at < skip { 0 } else { key[(at - skip) % 4] };
                prop_assert_eq!(bytes[at], byte ^ mask);
            }
        }

        #[test]
        fn pieces_unmask_like_the_whole(
            original in prop::collection::vec(any::<u8>(), 0..200), key: Key, cut in 0usize..200,
        ) {
            let mut whole = original.clone();
            let end = apply(&mut whole, key);
            let mut pieces = original;
            let (left, right) = pieces.split_at_mut(cut.min(whole.len()));
            let between = apply(left, key);
            prop_assert_eq!(apply(right, between), end);
            prop_assert_eq!(pieces, whole);
        }
    }
}
