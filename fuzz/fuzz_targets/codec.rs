//! Frames of a client, in any pieces: `checks::codec` says what has to hold.

#![no_main]

use gateway_websocket::wire::Decoder;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::codec::check(input, Decoder::new));
