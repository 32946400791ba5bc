//! The gateway from outside: real sockets, real gRPC, and for the commands the real program.

#![allow(clippy::unwrap_used, clippy::missing_docs_in_private_items, reason = "tests")]

mod calls;
mod classic;
mod client;
mod gateway;
