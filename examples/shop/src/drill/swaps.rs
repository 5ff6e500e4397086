//! Identities in files, replaced as Kubernetes replaces a secret: a new folder, and a symlink that is swapped.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use shop_mesh::pods::{PROXY_UID, Pod};
use shop_mesh::raised::TRUST_DOMAIN;
use shop_mesh::{sidecar, state};
use tokio::sync::{Mutex, MutexGuard};

use crate::{authority, certs};

/// Life of a certificate in files. What the drill holds back must not expire meanwhile.
const TTL: &str = "10m";

/// The files of one pod.
pub(crate) struct Swaps {
    pod: Pod,
    /// Held during a swap; whoever else holds it holds the sidecar on its certificate.
    turn: Mutex<()>,
    count: AtomicU64,
}

impl Swaps {
    pub(crate) fn new(pod: Pod) -> Arc<Self> {
        Arc::new(Self { pod, turn: Mutex::new(()), count: 0.into() })
    }

    pub(crate) fn pod(&self) -> Pod {
        self.pod
    }

    /// No further swap until the guard is gone; returns after the one under way.
    pub(crate) async fn hold(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// How many swaps were taken into use.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whom its certificates name.
    pub(crate) fn id(&self) -> anyhow::Result<String> {
        let account = self.pod.account.context("only a pod with a sidecar has a certificate")?;
        Ok(format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{account}"))
    }

    fn folder(&self) -> PathBuf {
        state::path(self.pod.name).join("tls")
    }

    /// The first identity: the three names lead through the symlink `..data`, as in a mounted secret.
    pub(crate) async fn begin(&self) -> anyhow::Result<()> {
        fs::create_dir_all(self.folder())?;
        self.swap(0).await?;
        for name in ["cert.pem", "key.pem", "bundle.pem"] {
            symlink(format!("..data/{name}"), self.folder().join(name))?;
        }
        Ok(())
    }

    async fn swap(&self, number: u64) -> anyhow::Result<()> {
        let id = self.id()?;
        let generation = format!("..{number}");
        let out = self.folder().join(&generation);
        fs::create_dir_all(&out)?;
        if let Some(last) = number.checked_sub(1) {
            // By the certificate that is there the authority sees what the new one replaces.
            let last = self.folder().join(format!("..{last}"));
            fs::copy(last.join("cert.pem"), out.join("cert.pem"))?;
        }
        authority::issue(&id, &out, TTL, PROXY_UID).await?;
        let (beside, data) = (self.folder().join("..data_tmp"), self.folder().join("..data"));
        symlink(&generation, &beside)?;
        fs::rename(&beside, &data)?;
        if let Some(last) = number.checked_sub(1) {
            fs::remove_dir_all(self.folder().join(format!("..{last}")))?;
        }
        Ok(())
    }

    /// Swaps again and again, each only once its sidecar uses the one before: a swap that is missed is an error. At most
    /// one each `pace`; ends after the swap under way when `stop` is set.
    pub(crate) async fn run(
        self: Arc<Self>,
        pace: Duration,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<BTreeSet<String>> {
        let mut serials = BTreeSet::new();
        let mut ticks = tokio::time::interval(pace);
        for number in 1.. {
            ticks.tick().await;
            let _turn = self.turn.lock().await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let old = certs::served(self.pod).await?.serial;
            self.swap(number).await?;
            let renewed = sidecar::wait(self.pod, "has not taken its swapped files", || async {
                Ok(certs::served(self.pod).await?.serial != old)
            });
            renewed.await?;
            serials.insert(certs::served(self.pod).await?.serial);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(serials)
    }
}
