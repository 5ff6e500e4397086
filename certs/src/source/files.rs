//! An identity in three files, as `remora-certs issue`, cert-manager or SPIRE's helper write them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use remora_model::TrustDomain;
use remora_model::identity::{IdentityConfig, IdentityFiles};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::outlet::Outlet;
use super::trust_files::TrustFiles;
use super::{CertificateSource, SourceStatus};
use crate::identity::load;
use crate::watch::FileWatcher;
use crate::{Error, Identity};

/// How soon files that cannot be used are read again, at first and at most; each wait doubles.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How long files may stay unusable before that is an error: writers need a moment between certificate and key.
const PATIENCE: Duration = Duration::from_secs(1);

/// An identity in three files, read again whenever they change.
///
/// While the files cannot be used (half written, key and certificate of different generations, expired), the last
/// good identity stays.
#[derive(Debug)]
pub struct FileSource {
    outlet: Arc<Outlet>,
    // Dropped with the source, and with it the work ends.
    _tasks: JoinSet<()>,
}

impl FileSource {
    /// Begins to watch the files and reads them. Call it inside a tokio runtime, which then drives it.
    pub fn start(config: &IdentityConfig, files: &IdentityFiles) -> Self {
        Self::watching(config, files, FileWatcher::new(paths(files)))
    }

    pub(super) fn watching(config: &IdentityConfig, files: &IdentityFiles, watcher: FileWatcher) -> Self {
        let (outlet, trust_files) = TrustFiles::of(config).open("files");
        let first = load(&config.trust_domain, files);
        let usable = first.is_ok();
        match first {
            Ok(identity) => take(&identity, &outlet),
            Err(error) => outlet.status().set_error(Some(error.to_string())),
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(config.trust_domain.clone(), files.clone(), watcher, Arc::clone(&outlet), usable));
        if let Some(trust_files) = trust_files {
            tasks.spawn(trust_files);
        }
        Self { outlet, _tasks: tasks }
    }
}

impl CertificateSource for FileSource {
    fn identity(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.outlet.identity()
    }

    fn status(&self) -> Arc<SourceStatus> {
        Arc::clone(self.outlet.status())
    }
}

pub(super) fn paths(files: &IdentityFiles) -> [PathBuf; 3] {
    [&files.certificate, &files.key, &files.trust_bundle].map(Clone::clone)
}

/// Files that cannot be used: since when, what was said about it, and how long until they are tried again.
struct Trouble {
    since: Instant,
    reported: Option<String>,
    wait: Duration,
}

async fn follow(
    trust_domain: TrustDomain,
    files: IdentityFiles,
    mut watcher: FileWatcher,
    outlet: Arc<Outlet>,
    usable: bool,
) {
    let mut trouble = (!usable).then(Trouble::begin);
    loop {
        match &trouble {
            None => watcher.changed().await,
            Some(trouble) => tokio::select! {
                () = watcher.changed() => {}
                () = sleep(trouble.wait) => {}
            },
        }
        match load(&trust_domain, &files) {
            Ok(identity) => {
                trouble = None;
                outlet.status().set_error(None);
                take(&identity, &outlet);
            }
            Err(error) => trouble.get_or_insert_with(Trouble::begin).again(&error, outlet.status()),
        }
    }
}

fn take(identity: &Identity, outlet: &Outlet) {
    outlet.publish(identity.svid().clone(), identity.bundles().as_ref().clone());
}

impl Trouble {
    fn begin() -> Self {
        Self { since: Instant::now(), reported: None, wait: RETRY.0 / 2 }
    }

    /// Once the writer had time to finish, says what is wrong; each thing once.
    fn again(&mut self, error: &Error, status: &SourceStatus) {
        self.wait = (self.wait * 2).min(RETRY.1);
        let message = error.to_string();
        if self.since.elapsed() < PATIENCE || self.reported.as_ref() == Some(&message) {
            return;
        }
        tracing::warn!(%error, "the changed identity files cannot be used; the last good identity stays");
        status.record_failure(message.clone());
        self.reported = Some(message);
    }
}

#[cfg(test)]
mod tests;
