//! Makes the client's code of the gateway's protobuf files; no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../../proto";
    println!("cargo:rerun-if-changed={proto}");
    let files = ["connections", "directory", "events", "membership", "messages"];
    let files = files.map(|name| format!("gateway/v1/{name}.proto"));
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(protox::compile(files, [proto])?)?;
    Ok(())
}
