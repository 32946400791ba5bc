//! The gateway from outside: real sockets, real gRPC, and for the commands the real program.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests: a panic is how they fail")]

mod calls;
mod classic;
mod client;
mod commands;
mod gateway;
mod program;
mod scale;
mod settings;
mod tidy;
