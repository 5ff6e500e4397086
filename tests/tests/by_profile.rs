//! `bench/by_profile.sh`: what cargo is told of the profile of the load, and where nothing.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use remora_test::mesh::Folder;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What it says and then `by:` and what cargo is told, where `rustc -vV` prints `rustc` and a variable is set.
fn told(rustc: &str, (variable, value): (&str, &str), target: &Path) -> Vec<String> {
    let bin = Folder::new();
    let fake = bin.path().join("rustc");
    std::fs::write(bin.path().join("says"), rustc).unwrap();
    std::fs::write(&fake, "#!/bin/sh\nexec cat \"$(dirname \"$0\")/says\"\n").unwrap();
    std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new("bash")
        .args([
            "-euo",
            "pipefail",
            "-c",
            "exec 2>&1; . bench/by_profile.sh; by_profile release; printf '%s\\n' by: \"${by[@]}\"",
        ])
        .current_dir(repository())
        .env("PATH", format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap()))
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env(variable, value)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
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
