//! Generates the messages and stubs of the three protocols in `proto/`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 3] = ["istio_ca.proto", "workload.proto", "trust_bundle.proto"];
    println!("cargo::rerun-if-changed=proto");
    // A compiler written in Rust: nothing to install.
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
