//! The binaries under test: built once, and copied to where users other than root can run them.
//!
//! `REMORA_BIN_DIR` names a folder that has them already (`make test` builds first); without it the first caller runs
//! `cargo build` with the profile of the running test. Root's home is closed to other users, so they run from copies.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// Where the copies live, across runs: a binary that did not change is not copied again.
const COPIES: &str = "/tmp/remora-test-bin";

/// The path of a copy that everyone may run: `remora-proxy`, `remora-init`, `remora-certs`, `remora`, `remora-peer`.
///
/// # Panics
/// When it cannot be built or copied.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let folder = if name == "remora-peer" { beside() } else { built().to_owned() };
    readable(&folder.join(name))
}

/// The path of a copy of any binary that everyone may run.
///
/// # Panics
/// When it cannot be copied.
#[must_use]
pub fn readable(source: &Path) -> PathBuf {
    static COPYING: Mutex<()> = Mutex::new(());
    let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let meta = source.metadata().unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let copies = Path::new(COPIES);
    let target = copies.join(format!("{name}-{}-{}-{}", meta.ino(), meta.mtime(), meta.mtime_nsec()));
    let _guard = COPYING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if target.exists() {
        return target;
    }
    std::fs::create_dir_all(copies).unwrap();
    std::fs::set_permissions(copies, PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(copies.symlink_metadata().unwrap().uid(), 0, "{COPIES} belongs to somebody else");
    for old in std::fs::read_dir(copies).unwrap().flatten() {
        if old.file_name().to_string_lossy().starts_with(&format!("{name}-{}-", meta.ino())) {
            let _ = std::fs::remove_file(old.path());
        }
    }
    let fresh = copies.join(format!(".{name}-{}", std::process::id()));
    copy(source, &fresh);
    std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(&fresh, &target).unwrap();
    target
}

/// Copies a program, by another process: what a thread starts meanwhile would have the copy open for writing until it runs, and nobody can
/// run it then (ETXTBSY).
///
/// # Panics
/// When it cannot be copied.
pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
}

/// The folder of this crate's own binaries: the parent of the running test's `deps`.
fn beside() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let folder = exe.parent().unwrap();
    if folder.ends_with("deps") { folder.parent().unwrap().to_owned() } else { folder.to_owned() }
}

fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os("REMORA_BIN_DIR") {
            return folder.into();
        }
        let folder = beside();
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args([
            "build",
            "-q",
            "-p",
            "remora-proxy",
            "-p",
            "remora-init",
            "-p",
            "remora-certs",
            "-p",
            "remora-control",
            "-p",
            "remora-shop",
        ]);
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        build.env("CARGO_TARGET_DIR", folder.parent().unwrap());
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().expect("cargo runs");
        assert!(status.success(), "the binaries under test do not build");
        folder
    })
}
