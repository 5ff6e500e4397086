//! Where an identity comes from, and how a newer one reaches whoever uses it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use remora_model::TrustDomain;
use remora_model::identity::{IdentityConfig, IdentityFiles, IdentitySource};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::identity::load;
use crate::watch::FileWatcher;
use crate::{Error, Identity};

/// How soon files that cannot be used are read again, at first and at most; each wait doubles.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How long files may stay unusable before that is an error: writers need a moment between certificate and key.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something that keeps an identity fresh.
pub trait CertificateSource: Send + Sync {
    /// The identity now and every later one; [`None`] until there is a first. The channel closes when the source is
    /// dropped.
    fn identity(&self) -> watch::Receiver<Option<Arc<Identity>>>;

    /// How keeping it fresh goes.
    fn status(&self) -> Arc<SourceStatus>;
}

/// The source that `config` names, at work. Returns at once: the first identity comes when it comes, and until then
/// [`SourceStatus::last_error`] says what is missing. Call it inside a tokio runtime, which then drives it.
pub fn start(config: &IdentityConfig) -> Box<dyn CertificateSource> {
    match &config.source {
        IdentitySource::Files(files) => Box::new(FileSource::start(config.trust_domain.clone(), files.clone())),
        IdentitySource::Ca(_) | IdentitySource::WorkloadApi(_) => unreachable!("not configurable yet"),
    }
}

/// Counts of a source's attempts to replace its identity.
#[derive(Debug, Default)]
pub struct SourceStatus {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last_error: Mutex<Option<String>>,
    next_renewal: Mutex<Option<SystemTime>>,
    clock_skew_ms: AtomicI64,
}

impl SourceStatus {
    /// Newer identities taken into use.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Changes that could not be used for longer than writing the files takes, each counted once.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Why the latest change is not in use; [`None`] when it is.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the identity will be renewed; [`None`] where that is not ours to say, as with files.
    pub fn next_renewal(&self) -> Option<SystemTime> {
        *self.next_renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the issuer's clock is ahead of ours, in milliseconds, as far as that is known; negative: behind.
    pub fn clock_skew_ms(&self) -> i64 {
        self.clock_skew_ms.load(Ordering::Relaxed)
    }

    fn record_success(&self) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    fn set_error(&self, error: Option<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// An identity in three files, read again whenever they change.
///
/// While the files cannot be used (half written, key and certificate of different generations, expired), the last
/// good identity stays.
#[derive(Debug)]
pub struct FileSource {
    identity: watch::Receiver<Option<Arc<Identity>>>,
    status: Arc<SourceStatus>,
    task: JoinHandle<()>,
}

impl FileSource {
    /// Begins to watch the files and reads them. Call it inside a tokio runtime, which then drives it.
    pub fn start(trust_domain: TrustDomain, files: IdentityFiles) -> Self {
        let paths = [&files.certificate, &files.key, &files.trust_bundle].map(Clone::clone);
        Self::watching(trust_domain, files, FileWatcher::new(paths))
    }

    fn watching(trust_domain: TrustDomain, files: IdentityFiles, watcher: FileWatcher) -> Self {
        let status = Arc::new(SourceStatus::default());
        let first = load(&trust_domain, &files);
        status.set_error(first.as_ref().err().map(ToString::to_string));
        let (sender, identity) = watch::channel(first.ok().map(Arc::new));
        let task = tokio::spawn(follow(trust_domain, files, watcher, sender, Arc::clone(&status)));
        Self { identity, status, task }
    }
}

impl CertificateSource for FileSource {
    fn identity(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.identity.clone()
    }

    fn status(&self) -> Arc<SourceStatus> {
        Arc::clone(&self.status)
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.task.abort();
    }
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
    sender: watch::Sender<Option<Arc<Identity>>>,
    status: Arc<SourceStatus>,
) {
    let mut trouble = sender.borrow().is_none().then(Trouble::begin);
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
                status.set_error(None);
                take(identity, &sender, &status);
            }
            Err(error) => trouble.get_or_insert_with(Trouble::begin).again(&error, &status),
        }
    }
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
        status.failed.fetch_add(1, Ordering::Relaxed);
        status.set_error(Some(message.clone()));
        self.reported = Some(message);
    }
}

fn take(identity: Identity, sender: &watch::Sender<Option<Arc<Identity>>>, status: &SourceStatus) {
    if sender.borrow().as_ref().is_some_and(|current| identity.same_certificates(current)) {
        return;
    }
    status.record_success();
    tracing::info!(
        spiffe_id = %identity.svid().spiffe_id(),
        serial = identity.svid().serial(),
        generation = identity.generation(),
        "identity replaced"
    );
    sender.send_replace(Some(Arc::new(identity)));
}

#[cfg(test)]
mod tests;
