//! Generates the messages (and with `server` the tonic service) from the .proto files, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 3] = ["github.proto", "push.proto", "registry.proto"];
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
        .build_client(false)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
