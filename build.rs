//! Compiles the protobuf files under `proto/` without a system `protoc`.
//!
//! Two things come out: the Rust code of each package, and one descriptor set per API, which the
//! reflection service hands to clients that bring no generated code.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/classic.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("classic.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        // Clients take any channel; the program itself, which is none, is built without one.
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
