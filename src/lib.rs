//! `gateway-websocket` holds WebSocket connections so that a business system does not have to.
//!
//! Browsers, apps and devices keep plain WebSockets to this program; the business system drives it
//! over gRPC. The layers, from the bottom up (imports go down only; `tests/it/tidy.rs` checks it):
//!
//! ```text
//! 0  ids  attributes  about  message  change  close  metrics  sink  file  proto
//!    timestamp
//! 1  access  config  tls  wire  net  directory
//! 2  shard
//! 3  hub  lifecycle  status  events  identity  hook
//! 4  ws  grpc  admin  control
//! 5  app  telemetry  cli  main
//! ```

pub mod about;
pub mod access;
pub mod admin;
pub mod app;
pub mod attributes;
pub mod change;
pub mod cli;
pub mod close;
pub mod config;
pub mod control;
pub mod directory;
pub mod events;
pub mod file;
pub mod grpc;
pub mod hook;
pub mod hub;
pub mod identity;
pub mod ids;
pub mod lifecycle;
pub mod message;
pub mod metrics;
pub mod net;
pub mod proto;
pub mod shard;
pub mod sink;
pub mod status;
pub mod telemetry;
pub mod timestamp;
pub mod tls;
pub mod wire;
pub mod ws;
