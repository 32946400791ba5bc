//! Compressed messages, and payloads to compress: `checks::inflate` says what has to hold.

#![no_main]

use checks::inflate::{Wire, check};

libfuzzer_sys::fuzz_target!(|input: &[u8]| check(input, &mut Wire::default()));
