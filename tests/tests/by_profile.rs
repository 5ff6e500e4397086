//! `bench/by_profile.sh`: what cargo is told of the profile of the load, and where nothing.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use remora_test::mesh::Folder;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a script of bash says on both outputs, where `rustc` of any arguments prints `rustc`, and a variable is set.
fn says(script: &str, rustc: &str, (variable, value): (&str, &str), target: &Path) -> Vec<String> {
    let bin = Folder::new();
    std::fs::write(bin.path().join("says"), rustc).unwrap();
    for (name, what) in [("rustc", "exec cat \"$(dirname \"$0\")/says\""), ("cargo", "printf '%s\\n' \"$@\"; exit 9")] {
        let fake = bin.path().join(name);
        std::fs::write(&fake, format!("#!/bin/sh\n{what}\n")).unwrap();
        std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &format!("exec 2>&1; {script}")])
        .current_dir(repository())
        .env("PATH", format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap()))
        .env("CARGO_TARGET_DIR", target)
        .env_remove("CARGO")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env(variable, value)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// What it says and then `by:` and what cargo is told.
fn told(rustc: &str, variable: (&str, &str), target: &Path) -> Vec<String> {
    says(". bench/by_profile.sh; by_profile; printf '%s\\n' by: \"${by[@]}\"", rustc, variable, target)
}

/// What a function is called in a crate of the name `one`, by `images/rustc.sh`.
fn symbol(package: &str, version: &str, arguments: &[&str]) -> String {
    let folder = Folder::new();
    let source = folder.path().join("one.rs");
    std::fs::write(&source, "#[inline(never)] pub fn run() {}").unwrap();
    let output = Command::new(repository().join("images/rustc.sh"))
        .args(["rustc", "--edition=2024", "--crate-type=lib", "-Csymbol-mangling-version=v0", "--emit=asm=/dev/stdout"])
        .args(arguments)
        .arg(&source)
        .env("CARGO_PKG_NAME", package)
        .env("CARGO_PKG_VERSION", version)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let assembly = String::from_utf8(output.stdout).unwrap();
    let name = assembly.lines().find_map(|line| line.strip_suffix(':').filter(|name| name.ends_with("3one3run")));
    name.unwrap_or_else(|| panic!("{assembly}")).to_owned()
}

/// The compiler that the profiles are of.
fn recorded() -> String {
    std::fs::read_to_string(repository().join("bench/profiles/rustc")).unwrap()
}

#[test]
fn the_recorded_compiler_is_told_of_the_profile() {
    let target = Folder::new();
    let said = told(&recorded(), ("UNUSED", ""), target.path());
    let [by, flag, flags] = &said[..] else { panic!("{said:?}") };
    assert_eq!((by.as_str(), flag.as_str()), ("by:", "--config"));
    let (_, rest) = flags.split_once("'-Cprofile-use=").unwrap_or_else(|| panic!("{flags}"));
    let profile = Path::new(rest.split('\'').next().unwrap());
    assert!(profile.starts_with(target.path().join("profiles")), "{flags}");
    // An indexed profile, as LLVM begins it.
    assert!(std::fs::read(profile).unwrap().starts_with(b"\xfflprofi\x81"));
}

#[test]
fn others_build_without_it_and_say_so() {
    let target = Folder::new();
    let same = recorded();
    let newer = same.replacen("rustc 1.", "rustc 9.", 1);
    let elsewhere = same.replace("host: x86_64", "host: aarch64");
    for (rustc, variable) in [(&newer, "UNUSED"), (&elsewhere, "UNUSED"), (&same, "RUSTFLAGS")] {
        let said = told(rustc, (variable, "-Cdebuginfo=0"), target.path());
        let [why, by] = &said[..] else { panic!("{variable} {rustc}: {said:?}") };
        assert!(why.starts_with("building without the profile of the load: "), "{why}");
        assert_eq!(by, "by:");
    }
    assert!(!target.path().join("profiles").exists());
}

#[test]
fn images_are_built_by_it_too() {
    let target = Folder::new();
    for image in ["proxy", "control"] {
        let said = says(&format!("images/build.sh {image} || [ $? = 9 ]"), &recorded(), ("UNUSED", ""), target.path());
        assert_eq!(said.iter().filter(|word| word.contains("'-Cprofile-use=")).count(), 1, "{said:?}");
        // With the features that it has beside the others.
        for package in ["remora-init", "remora-proxy", "remora-control"] {
            assert!(said.iter().any(|word| word == package), "{package}: {said:?}");
        }
    }
}

#[test]
fn a_function_is_called_the_same_in_each_kind_of_build() {
    let release = symbol("one", "0.4.20", &["-C", "metadata=0123456789abcdef", "-Copt-level=3"]);
    let image = symbol("one", "0.4.21", &["-C", "metadata=fedcba9876543210", "-Ctarget-feature=+crt-static"]);
    assert_eq!(release, image);
    // Cargo links others beside it.
    assert_ne!(release, symbol("one", "0.5.0", &["-C", "metadata=0123456789abcdef", "-Copt-level=3"]));
    assert_ne!(release, symbol("other", "0.4.20", &["-C", "metadata=0123456789abcdef", "-Copt-level=3"]));
}
