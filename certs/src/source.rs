//! Where an identity comes from, and how a newer one reaches whoever uses it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use remora_model::identity::IdentityFiles;
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
    /// The identity now and every later one. The channel closes when the source is dropped.
    fn identity(&self) -> watch::Receiver<Arc<Identity>>;

    /// How keeping it fresh went so far.
    fn reloads(&self) -> Arc<Reloads>;
}

/// Counts of a source's attempts to replace its identity.
#[derive(Debug, Default)]
pub struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Reloads {
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
    identity: watch::Receiver<Arc<Identity>>,
    reloads: Arc<Reloads>,
    task: JoinHandle<()>,
}

impl FileSource {
    /// Reads the files and begins to watch them. Call it inside a tokio runtime, which then drives it.
    ///
    /// # Errors
    /// The files cannot be used now; as [`load`].
    pub fn start(files: IdentityFiles) -> Result<Self, Error> {
        let paths = [&files.certificate, &files.key, &files.trust_bundle].map(Clone::clone);
        Self::watching(files, FileWatcher::new(paths))
    }

    fn watching(files: IdentityFiles, watcher: FileWatcher) -> Result<Self, Error> {
        let (sender, identity) = watch::channel(Arc::new(load(&files)?));
        let reloads = Arc::new(Reloads::default());
        let task = tokio::spawn(follow(files, watcher, sender, Arc::clone(&reloads)));
        Ok(Self { identity, reloads, task })
    }
}

impl CertificateSource for FileSource {
    fn identity(&self) -> watch::Receiver<Arc<Identity>> {
        self.identity.clone()
    }

    fn reloads(&self) -> Arc<Reloads> {
        Arc::clone(&self.reloads)
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
    files: IdentityFiles,
    mut watcher: FileWatcher,
    sender: watch::Sender<Arc<Identity>>,
    reloads: Arc<Reloads>,
) {
    let mut trouble: Option<Trouble> = None;
    loop {
        match &trouble {
            None => watcher.changed().await,
            Some(trouble) => tokio::select! {
                () = watcher.changed() => {}
                () = sleep(trouble.wait) => {}
            },
        }
        match load(&files) {
            Ok(identity) => {
                trouble = None;
                reloads.set_error(None);
                take(identity, &sender, &reloads);
            }
            Err(error) => trouble.get_or_insert_with(Trouble::begin).again(&error, &reloads),
        }
    }
}

impl Trouble {
    fn begin() -> Self {
        Self { since: Instant::now(), reported: None, wait: RETRY.0 / 2 }
    }

    /// Once the writer had time to finish, says what is wrong; each thing once.
    fn again(&mut self, error: &Error, reloads: &Reloads) {
        self.wait = (self.wait * 2).min(RETRY.1);
        let message = error.to_string();
        if self.since.elapsed() < PATIENCE || self.reported.as_ref() == Some(&message) {
            return;
        }
        tracing::warn!(%error, "the changed identity files cannot be used; the last good identity stays");
        reloads.failed.fetch_add(1, Ordering::Relaxed);
        reloads.set_error(Some(message.clone()));
        self.reported = Some(message);
    }
}

fn take(identity: Identity, sender: &watch::Sender<Arc<Identity>>, reloads: &Reloads) {
    if identity.same_certificates(&sender.borrow()) {
        return;
    }
    reloads.record_success();
    tracing::info!(
        spiffe_id = %identity.svid().spiffe_id(),
        serial = identity.svid().serial(),
        generation = identity.generation(),
        "identity replaced"
    );
    sender.send_replace(Arc::new(identity));
}

#[cfg(test)]
mod tests;
