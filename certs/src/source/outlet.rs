//! The one place where a newer identity is made of its parts and handed on: what the source brings, joined with the
//! trust files of the configuration.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::status::SourceStatus;
use super::trust_files::FileTrust;
use crate::{Identity, Svid, TrustBundles};

/// Where a source puts what it has.
#[derive(Debug)]
pub(super) struct Outlet {
    parts: Mutex<Parts>,
    sender: watch::Sender<Option<Arc<Identity>>>,
    status: Arc<SourceStatus>,
}

/// The latest of each part. Both are needed: without a revocation list that was asked for, nobody is trusted yet.
#[derive(Debug)]
struct Parts {
    brought: Option<(Svid, TrustBundles)>,
    files: Option<FileTrust>,
}

impl Outlet {
    /// An outlet with nothing in it; `files` is [`None`] as long as trust files are awaited.
    pub(super) fn new(files: Option<FileTrust>, kind: &'static str) -> Arc<Self> {
        Arc::new(Self {
            parts: Mutex::new(Parts { brought: None, files }),
            sender: watch::Sender::new(None),
            status: Arc::new(SourceStatus::new(kind)),
        })
    }

    pub(super) fn status(&self) -> &Arc<SourceStatus> {
        &self.status
    }

    pub(super) fn identity(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.sender.subscribe()
    }

    /// Takes what the source brought into use, unless it is what it brought before.
    pub(super) fn publish(&self, svid: Svid, bundles: impl Into<TrustBundles>) {
        self.change(|parts| parts.brought = Some((svid, bundles.into())));
    }

    /// Takes bundles into use beside the SVID there is; before the first SVID they are of no use.
    pub(super) fn publish_bundles(&self, bundles: impl Into<TrustBundles>) {
        self.change(|parts| {
            if let Some(brought) = &mut parts.brought {
                brought.1 = bundles.into();
            }
        });
    }

    /// Takes the content of the trust files into use.
    pub(super) fn publish_files(&self, files: FileTrust) {
        self.change(|parts| parts.files = Some(files));
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        // Held until the identity is sent, so that none overtakes a newer one.
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let (Some((svid, bundles)), Some(files)) = (&parts.brought, &parts.files) else { return };
        self.send(Identity::new(svid.clone(), files.joined_to(bundles.clone())));
    }

    fn send(&self, identity: Identity) {
        let current = self.sender.borrow().clone();
        let mut news = "identity obtained";
        if let Some(current) = &current {
            if identity.same_certificates(current) {
                return;
            }
            news = "trust bundle replaced";
            if !identity.bundles().same(current.bundles()) {
                self.status.record_bundle_update();
            }
            if identity.svid().certificates() != current.svid().certificates() {
                news = "identity replaced";
                self.status.record_success();
            }
        }
        tracing::info!(
            spiffe_id = %identity.svid().spiffe_id(),
            serial = identity.svid().serial(),
            generation = identity.generation(),
            "{news}"
        );
        self.sender.send_replace(Some(Arc::new(identity)));
    }
}
