//! The certificate authority under drill: its directory, and the steps from one root to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use shop_mesh::raised::{TRUST_DOMAIN, run, text};
use shop_mesh::state;

/// Who signs now and who is trusted. The second root is an authority of its own.
pub(crate) struct Authority(Mutex<Now>);

#[derive(Clone)]
struct Now {
    signs: PathBuf,
    bundle: String,
}

impl Authority {
    /// The first root's, which [`shop_mesh::raised::prepare`] has made.
    pub(crate) fn open() -> anyhow::Result<Self> {
        Ok(Self(Mutex::new(Now { signs: old(), bundle: root(&old())? })))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a new certificate and key of `id` into `out`, and the bundle as it is now.
    pub(crate) async fn issue(&self, id: &str, out: &Path, ttl: &str, owner: u32) -> anyhow::Result<()> {
        let now = self.now().clone();
        let (ca, folder, owner) = (text(&now.signs), text(out), format!("{owner}:{owner}"));
        let arguments = ["issue", "--ca", &ca, "--id", id, "--out", &folder, "--ttl", ttl, "--owner", &owner];
        run("remora-certs", &arguments).await?;
        fs::write(out.join("bundle.pem"), now.bundle).context("cannot write a bundle")
    }

    /// A second root, which every bundle holds from here on beside the first.
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        run("remora-certs", &["init", "--dir", &text(&new()), "--trust-domain", TRUST_DOMAIN]).await?;
        self.now().bundle = root(&old())? + &root(&new())?;
        Ok(())
    }

    /// The second root vouches for what is issued.
    pub(crate) fn issue_from_new(&self) {
        self.now().signs = new();
    }

    /// The first root leaves every bundle.
    pub(crate) fn drop_old(&self) -> anyhow::Result<()> {
        self.now().bundle = root(&new())?;
        Ok(())
    }
}

fn old() -> PathBuf {
    state::path("ca")
}

fn new() -> PathBuf {
    state::path("ca-2")
}

fn root(directory: &Path) -> anyhow::Result<String> {
    let file = directory.join("root.pem");
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}
