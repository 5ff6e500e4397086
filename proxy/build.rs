//! Tells the linker what belongs together. The kernel maps files sixteen pages at a time, so functions that are spread over the whole program
//! bring nearly all of it into memory.

fn main() {
    println!("cargo::rerun-if-changed=startup.ld");
    // Other profiles are built often, and not for their size.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        // The script knows functions by the names that .cargo/config.toml asks for.
        if !std::env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("symbol-mangling-version=v0")) {
            println!(
                "cargo::warning=without -Csymbol-mangling-version=v0 in RUSTFLAGS, an idle sidecar takes 4 MiB more"
            );
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/startup.ld");
        println!("cargo::rustc-link-arg-bin=remora-proxy=-T{script}");
        // A hundredth of the size: half a megabyte that is read, and so stays, at each start. The C library knows it since 2.36.
        println!("cargo::rustc-link-arg-bin=remora-proxy=-Wl,-z,pack-relative-relocs");
    }
}
