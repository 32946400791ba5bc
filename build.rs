//! Compiles the protobuf files under `proto/` without a system `protoc`.
//!
//! Two things come out: the Rust code of each package, and descriptor sets: one per API, which the
//! reflection service hands to clients that bring no generated code, and one of the modern API with
//! its comments, by which a test judges its style.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const CLASSIC: &[&str] = &["proto/classic.proto"];

const V1: &[&str] = &[
    "proto/gateway/v1/types.proto",
    "proto/gateway/v1/messages.proto",
    "proto/gateway/v1/connections.proto",
    "proto/gateway/v1/membership.proto",
    "proto/gateway/v1/directory.proto",
    "proto/gateway/v1/events.proto",
    "proto/gateway/v1/admission.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (api, files) in [("classic", CLASSIC), ("v1", V1)] {
        let descriptors = protox::compile(files, ["proto"])?;
        fs::write(out.join(api).with_extension("commented.bin"), descriptors.encode_to_vec())?;
        let mut served = descriptors.clone();
        for file in &mut served.file {
            // Comments and positions would be most of it.
            file.source_code_info = None;
        }
        fs::write(out.join(api).with_extension("bin"), served.encode_to_vec())?;
        tonic_prost_build::configure()
            .build_server(true)
            .build_client(true)
            // Clients take any channel; the program itself, which is none, is built without one.
            .build_transport(false)
            // What is sent is passed on by reference, never copied.
            .bytes(".")
            // Two requests that are equal are encoded to the same bytes, too.
            .btree_map(".")
            .compile_fds(descriptors)?;
    }
    Ok(())
}
