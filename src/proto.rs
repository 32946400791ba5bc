//! The code that `build.rs` makes of `proto/`, and what the reflection service says of it.
//!
//! Generated code follows no rule of this project, so it lives in this one exempt module.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    clippy::clone_on_ref_ptr,
    reason = "generated code"
)]

tonic::include_proto!("proto");

/// The descriptor set of the classic API, encoded.
pub const CLASSIC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/classic.bin"));

/// The modern API, package `gateway.v1`.
pub mod v1 {
    tonic::include_proto!("gateway.v1");

    /// The descriptor set of the modern API, encoded.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/v1.bin"));
}
