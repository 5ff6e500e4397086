//! Revocation lists and bundles of federated trust domains that the configuration names, watched for every kind of
//! source.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use remora_model::identity::{FederatedBundle, IdentityConfig};
use tokio::time::sleep;

use super::outlet::Outlet;
use crate::watch::FileWatcher;
use crate::{Error, RevocationList, TrustBundle, TrustBundles};

/// How soon files that cannot be used are read again; a change of theirs is noticed at once.
const RETRY: Duration = Duration::from_secs(10);

/// What the trust files say.
#[derive(Clone, Debug, Default)]
pub(super) struct FileTrust {
    federated: Vec<TrustBundle>,
    crls: Vec<Arc<RevocationList>>,
}

impl FileTrust {
    /// `bundles` with these besides. A federated bundle from a file stands before the source's own of the same domain:
    /// it is what the operator wrote down for this workload.
    pub(super) fn joined_to(&self, bundles: TrustBundles) -> TrustBundles {
        let bundles = self.federated.iter().cloned().fold(bundles, TrustBundles::with_federated);
        bundles.with_crls(self.crls.iter().cloned())
    }
}

/// The files that are watched.
#[derive(Clone, Debug)]
pub(super) struct TrustFiles {
    federated: Vec<FederatedBundle>,
    crls: Vec<PathBuf>,
}

impl TrustFiles {
    pub(super) fn of(config: &IdentityConfig) -> Self {
        Self { federated: config.federated.clone(), crls: config.crls.clone() }
    }

    fn is_empty(&self) -> bool {
        self.federated.is_empty() && self.crls.is_empty()
    }

    fn load(&self) -> Result<FileTrust, Error> {
        let bundle = |one: &FederatedBundle| TrustBundle::load(one.trust_domain.clone(), &one.roots);
        let federated = self.federated.iter().map(bundle).collect::<Result<_, _>>()?;
        let crls = self.crls.iter().map(|path| RevocationList::load(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(FileTrust { federated, crls: crls.concat() })
    }

    /// An outlet with what the files say now, and the work of following them; none where there are no files.
    pub(super) fn open(self, kind: &'static str) -> (Arc<Outlet>, Option<impl Future<Output = ()> + Send + 'static>) {
        if self.is_empty() {
            return (Outlet::new(Some(FileTrust::default()), kind), None);
        }
        let paths = self.federated.iter().map(|one| one.roots.clone()).chain(self.crls.iter().cloned());
        let watcher = FileWatcher::new(paths);
        let first = self.load();
        let usable = first.is_ok();
        let outlet = Outlet::new(None, kind);
        self.take(first, &outlet);
        (Arc::clone(&outlet), Some(self.follow(watcher, outlet, usable)))
    }

    async fn follow(self, mut watcher: FileWatcher, outlet: Arc<Outlet>, mut usable: bool) {
        loop {
            if usable {
                watcher.changed().await;
            } else {
                tokio::select! {
                    () = watcher.changed() => {}
                    () = sleep(RETRY) => {}
                }
            }
            let loaded = self.load();
            usable = loaded.is_ok();
            self.take(loaded, &outlet);
        }
    }

    fn take(&self, loaded: Result<FileTrust, Error>, outlet: &Outlet) {
        match loaded {
            Ok(trust) => {
                let _ = outlet.status().set_trust_error(None);
                outlet.publish_files(trust);
            }
            Err(error) => {
                let message = error.to_string();
                // A file is half written for a moment; each thing is logged once.
                if outlet.status().set_trust_error(Some(message.clone())) {
                    tracing::warn!(error = message, "a trust file cannot be used; what was read last stays");
                }
            }
        }
    }
}
