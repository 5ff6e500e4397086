//! What the load counts, exactly: nothing is answered, ended or failed without being one of these.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many reasons are remembered of what went wrong.
const REASONS: usize = 12;

/// Shared by every load and whoever watches them.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    stopped: AtomicBool,
    /// HTTP/1.1 requests whose whole answer was the right one.
    pub(crate) requests: Count,
    pub(crate) failed_requests: Count,
    /// gRPC streams that ended as they should.
    pub(crate) streams: Count,
    /// Their messages, each checked.
    pub(crate) messages: Count,
    /// gRPC streams that were told to end, by a status of their own, after the grace.
    pub(crate) told_streams: Count,
    /// TCP connections that ended as they should.
    pub(crate) connections: Count,
    /// Their bytes, which came back as they went.
    pub(crate) bytes: Count,
    /// gRPC streams and TCP connections that were cut.
    pub(crate) broken: Count,
    reasons: Mutex<BTreeMap<String, u64>>,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    /// No further request, stream or connection begins; those under way end.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn go_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn request_failed(&self, reason: &anyhow::Error) {
        self.failed_requests.add(1);
        self.remember(format!("request: {reason:#}"));
    }

    pub(crate) fn stream_broke(&self, reason: &anyhow::Error) {
        self.broken.add(1);
        self.remember(format!("stream: {reason:#}"));
    }

    pub(crate) fn connection_broke(&self, reason: &anyhow::Error) {
        self.broken.add(1);
        self.remember(format!("TCP: {reason:#}"));
    }

    fn remember(&self, reason: String) {
        let mut reasons = self.reasons.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if reasons.len() < REASONS || reasons.contains_key(&reason) {
            *reasons.entry(reason).or_default() += 1;
        }
    }

    /// The first reasons of what went wrong, and how often each was one.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let reasons = self.reasons.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reasons.iter().map(|(reason, count)| format!("{count} × {reason}")).collect()
    }
}
