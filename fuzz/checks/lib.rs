//! What has to hold whatever comes from the network: the checks behind the fuzz targets.
//!
//! A check takes bytes and the code that it judges, and panics if that code does what it must not.
//! libFuzzer is not in here, so that the same checks serve twice:
//!
//! ```text
//!   fuzz_targets/*.rs  ──►┐
//!   (libFuzzer's bytes)   ├── checks ──► wire::{Decoder, Inflater, Deflater}, ws::rehearse,
//!                         │      │       net::proxy::parse, identity::Identity, access::Keys
//!   tests/it/corpus.rs ──►┘      └─────► code that is wrong on purpose, to see them fail
//!   (fuzz/corpus/*/*)
//! ```

mod claims;
pub mod codec;
pub mod head;
pub mod inflate;
pub mod keys;
mod members;
mod peer;
pub mod proxy;
pub mod token;

/// The first `N` bytes of an input are settings; the rest is what came from the network.
fn settings<const N: usize>(input: &[u8]) -> Option<([u8; N], &[u8])> {
    input.split_first_chunk().map(|(settings, rest)| (*settings, rest))
}

/// Bytes in base64url, as tokens and keys have them.
mod number {
    use base64::{
        Engine as _,
        engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
    };

    pub(super) fn text(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn read(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(text).ok()
    }

    /// The same, where padding may stand, as much as is due or less.
    pub(super) fn read_padded(text: &str) -> Option<Vec<u8>> {
        let bare = text.trim_end_matches('=');
        let due = bare.len().next_multiple_of(4) - bare.len();
        let padded = format!("{bare}{}", "=".repeat(due));
        (text.len() - bare.len() <= due).then(|| URL_SAFE.decode(padded).ok()).flatten()
    }
}

/// The entry of `table` that the bits of `choice` from `shift` on stand for.
fn choose<T: Copy>(table: &[T; 8], choice: u8, shift: u32) -> T {
    table[usize::from(choice >> shift) & 7]
}
