//! The certificate authority under drill: its directory, and the steps from one root to the next.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Context as _;
use shop_mesh::raised::{TRUST_DOMAIN, run, text};
use shop_mesh::state;

/// Which directory signs now. The second root is an authority of its own, whose bundle is kept the same as the first's.
pub(crate) struct Authority(Mutex<PathBuf>);

impl Authority {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(old()))
    }

    /// What `remora-certs issue --ca` takes.
    pub(crate) fn directory(&self) -> PathBuf {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// A second root, which every bundle holds from here on beside the first.
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        run("remora-certs", &["init", "--dir", &text(&new()), "--trust-domain", TRUST_DOMAIN]).await?;
        let both = root(old())? + &root(new())?;
        bundles(&both)
    }

    /// The second root vouches for what is issued.
    pub(crate) fn issue_from_new(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = new();
    }

    /// The first root leaves every bundle.
    pub(crate) fn drop_old(&self) -> anyhow::Result<()> {
        bundles(&root(new())?)
    }
}

fn old() -> PathBuf {
    state::path("ca")
}

fn new() -> PathBuf {
    state::path("ca-2")
}

fn root(directory: PathBuf) -> anyhow::Result<String> {
    let file = directory.join("root.pem");
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

fn bundles(pem: &str) -> anyhow::Result<()> {
    for directory in [old(), new()] {
        let (beside, bundle) = (directory.join("bundle.new"), directory.join("bundle.pem"));
        fs::write(&beside, pem)?;
        fs::rename(beside, bundle)?;
    }
    Ok(())
}
