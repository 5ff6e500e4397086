//! Where the peers are, and which versions of them.

use std::path::PathBuf;

/// The folder of this suite's own files.
pub(crate) const OURS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance");

/// The files that pin versions.
const PINS: [&str; 6] = [
    include_str!("../../conformance/go.mod"),
    include_str!("../../conformance/requirements.txt"),
    include_str!("../../conformance/corpus.txt"),
    include_str!("../../conformance/crates.txt"),
    include_str!("../../conformance/pom.xml"),
    include_str!("../../conformance/package.json"),
];

/// The folders of these peers of `suite`; says SKIPPED, and why, where one of them was not made.
pub(crate) fn peers<const N: usize>(suite: &str, names: [&str; N]) -> Option<[PathBuf; N]> {
    let Some(all) = std::env::var_os("REMORA_CONFORMANCE").map(PathBuf::from) else {
        println!("SKIPPED {suite}: `make conformance` runs it");
        return None;
    };
    for name in names {
        if !all.join(name).join("complete").exists() {
            println!("SKIPPED {suite}: no {name} in {} (tests/conformance/build.sh {name} makes it)", all.display());
            return None;
        }
    }
    Some(names.map(|name| all.join(name)))
}

/// The version that is pinned of `name`.
pub(crate) fn version(name: &str) -> &'static str {
    let number = |rest: &'static str| {
        let rest = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
        rest.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()
    };
    let found = PINS.iter().find_map(|text| text.split_once(name));
    found.and_then(|(_, rest)| number(rest)).unwrap_or_else(|| panic!("nothing pins a version of {name}"))
}
