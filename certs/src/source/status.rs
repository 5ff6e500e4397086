//! How a source is doing, for logs, metrics and people.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// What a source achieved and what it is waiting for.
#[derive(Debug)]
pub struct SourceStatus {
    kind: &'static str,
    succeeded: AtomicU64,
    failed: AtomicU64,
    bundle_updates: AtomicU64,
    clock_skew_ms: AtomicI64,
    faults: Mutex<Faults>,
    next_renewal: Mutex<Option<SystemTime>>,
}

/// What is wrong, and since when: with the identity itself, and with the trust files beside it.
#[derive(Debug, Default)]
struct Faults {
    identity: Option<(String, SystemTime)>,
    trust_files: Option<(String, SystemTime)>,
}

impl Default for SourceStatus {
    /// That of files that nothing has happened to yet.
    fn default() -> Self {
        Self::new("files")
    }
}

impl SourceStatus {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            bundle_updates: AtomicU64::new(0),
            clock_skew_ms: AtomicI64::new(0),
            faults: Mutex::default(),
            next_renewal: Mutex::default(),
        }
    }

    /// What kind of source it is: `files`, `ca` or `workload_api`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Newer SVIDs taken into use after the first.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Attempts that failed. For files: changes that could not be used for longer than writing them takes, each counted
    /// once.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Changes of whom we trust (roots of any domain, revocation lists) that were taken into use.
    pub fn bundle_updates(&self) -> u64 {
        self.bundle_updates.load(Ordering::Relaxed)
    }

    /// Why the newest is not in use; [`None`] when it is.
    pub fn last_error(&self) -> Option<String> {
        let faults = self.faults();
        faults.identity.as_ref().or(faults.trust_files.as_ref()).map(|(message, _)| message.clone())
    }

    /// When [`SourceStatus::last_error`] was last met.
    pub fn last_error_at(&self) -> Option<SystemTime> {
        let faults = self.faults();
        faults.identity.as_ref().or(faults.trust_files.as_ref()).map(|(_, at)| *at)
    }

    /// When the identity will be renewed; [`None`] where that is not ours to say, as with files and the Workload API.
    pub fn next_renewal(&self) -> Option<SystemTime> {
        *self.next_renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the issuer's clock is ahead of ours, in milliseconds, as far as that is known; negative: behind.
    pub fn clock_skew_ms(&self) -> i64 {
        self.clock_skew_ms.load(Ordering::Relaxed)
    }

    pub(super) fn record_success(&self) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn record_failure(&self, message: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.set_error(Some(message));
    }

    pub(super) fn record_bundle_update(&self) {
        self.bundle_updates.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_error(&self, error: Option<String>) {
        self.faults().identity = error.map(|message| (message, SystemTime::now()));
    }

    /// Says what is wrong with the trust files; whether that is news.
    pub(super) fn set_trust_error(&self, error: Option<String>) -> bool {
        let known = &mut self.faults().trust_files;
        let news = known.as_ref().map(|(message, _)| message) != error.as_ref();
        *known = error.map(|message| (message, SystemTime::now()));
        news
    }

    pub(super) fn set_next_renewal(&self, at: SystemTime) {
        *self.next_renewal.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    pub(super) fn set_clock_skew_ms(&self, skew: i64) {
        self.clock_skew_ms.store(skew, Ordering::Relaxed);
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
