//! Requests for an upgrade: `checks::head` says what has to hold of the answer.

#![no_main]

use checks::head::{check, rehearse};

libfuzzer_sys::fuzz_target!(|input: &[u8]| check(input, rehearse));
