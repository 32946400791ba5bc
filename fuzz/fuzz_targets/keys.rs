//! Key sets and files of keys: `checks::keys` says what has to hold.

#![no_main]

use checks::keys::{check, read};

libfuzzer_sys::fuzz_target!(|input: &[u8]| check(input, read));
