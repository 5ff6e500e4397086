//! A mesh: one bridge, one certificate authority, one folder that all users may enter.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::binaries::binary;
use crate::netns::{Bridge, run};
use crate::pod::Pod;

/// The trust domain of every mesh's own authority.
pub const TRUST_DOMAIN: &str = "example.org";

/// One mesh. Its pods keep what they need of it alive, so that the order of drops does not matter.
#[derive(Debug)]
pub struct Mesh {
    bridge: Bridge,
    folder: Arc<Folder>,
    pods: AtomicU32,
}

impl Mesh {
    /// Makes the bridge and the folder; the authority is made when it is first asked for.
    ///
    /// # Panics
    /// When that fails, for one because the caller is not root.
    #[must_use]
    pub fn new() -> Self {
        Self { bridge: Bridge::new().unwrap(), folder: Arc::new(Folder::new()), pods: AtomicU32::new(0) }
    }

    /// A new pod: a namespace and a folder, with nothing started in it.
    ///
    /// # Panics
    /// When the namespace cannot be made.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        Pod::new(name, 2_000 + number, self.bridge.pod(name).unwrap(), Arc::clone(&self.folder))
    }

    /// The wire between the pods.
    #[must_use]
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// The mesh's folder, for files of the test's own.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the authority: root, intermediate and their keys, made by `remora-certs init`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn authority(&self) -> &Path {
        self.folder.authority()
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes an authority with `remora-certs init`.
///
/// # Panics
/// When it fails.
pub fn make_authority(folder: &Path, trust_domain: &str) {
    let mut command = Command::new(binary("remora-certs"));
    command.arg("init").arg("--dir").arg(folder).args(["--trust-domain", trust_domain]);
    run(&mut command).unwrap();
}

/// Issues an SVID with `remora-certs issue` into `out`, owned by the proxy's user.
///
/// # Panics
/// When it fails.
pub fn issue(authority: &Path, id: &str, out: &Path, more: &[&str]) {
    let mut command = Command::new(binary("remora-certs"));
    command.arg("issue").arg("--ca").arg(authority).args(["--id", id]).arg("--out").arg(out);
    command.args(["--owner", "1337:1337"]).args(more);
    run(&mut command).unwrap();
}

/// A folder under /tmp that every user may enter; it goes with its last holder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    authority: OnceLock<PathBuf>,
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Folder {
    /// A new one, empty.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("remora-test-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Self { path, authority: OnceLock::new() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its certificate authority, made on first use.
    pub(crate) fn authority(&self) -> &Path {
        self.authority.get_or_init(|| {
            let folder = self.path.join("ca");
            make_authority(&folder, TRUST_DOMAIN);
            folder
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // REMORA_TEST_KEEP leaves configuration, certificates and logs for a look.
        if std::env::var_os("REMORA_TEST_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
