//! PROXY headers, and what is none: `checks::proxy` says what has to hold.

#![no_main]

use checks::proxy::check;
use gateway_websocket::net::proxy::parse;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check(input, parse));
