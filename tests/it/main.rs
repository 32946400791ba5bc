//! The gateway from outside: real sockets, real gRPC, and for the commands the real program.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests: a panic is how they fail")]

mod admin;
mod authority;
mod callers;
mod callers_tls;
mod calls;
mod classic;
mod client;
mod commands;
mod compression;
mod connections;
mod corpus;
mod fault;
mod gateway;
mod h2c;
mod hostile;
mod hostile_head;
mod hostile_many;
mod lines;
mod listeners;
mod model;
mod peer;
mod program;
mod random;
mod raw;
mod scale;
mod settings;
mod site;
mod slow;
mod tidy;
mod upgrades;
