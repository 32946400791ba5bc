//! Tokens, whoever made them up: `checks::token` says what has to hold.

#![no_main]

use checks::token::{check, verify};

libfuzzer_sys::fuzz_target!(|input: &[u8]| check(input, verify));
