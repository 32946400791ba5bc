//! The gateway from outside: real sockets, real gRPC, and for the commands the real program.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests: a panic is how they fail")]

mod addresses;
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
mod dashboard;
mod effects;
mod fault;
mod gateway;
mod h2c;
mod hostile;
mod hostile_head;
mod hostile_many;
mod issuer;
mod leaving;
mod lines;
mod listeners;
mod metrics;
mod model;
mod origins;
mod peer;
mod program;
mod proxies;
mod random;
mod rates;
mod raw;
mod scale;
mod scrape;
mod settings;
mod site;
mod slow;
mod storm;
mod supervised;
mod tidy;
mod upgrades;
mod watch;
mod wss;
