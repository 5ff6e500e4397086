//! Where an identity comes from, and how a newer one reaches whoever uses it.
//!
//! Three kinds of source keep one: [`FileSource`], [`CaSource`] and [`WorkloadSource`]. Whatever its kind, a source never
//! gives up a good identity for a bad one, never waits busily, and says what it is waiting for. The revocation lists and
//! federated bundles of the configuration are joined to what each of them brings.

mod ca;
mod files;
mod outlet;
mod schedule;
mod status;
mod trust_files;
mod workload;

use std::sync::Arc;
#[cfg(test)]
use std::time::Duration;

use remora_model::identity::{IdentityConfig, IdentitySource};
use tokio::sync::watch;

pub use self::ca::CaSource;
pub use self::files::FileSource;
pub use self::status::SourceStatus;
pub use self::workload::WorkloadSource;
use crate::Identity;

/// The longest time from one request for a certificate to the next of the same process, where the first answer was lost:
/// one deadline until it gives up, the longest wait, and two tries within the next attempt.
#[cfg(test)]
pub(crate) const LONGEST_RETRY: Duration = schedule::BACK_OFF_CAP.saturating_add(ca::DEADLINE.saturating_mul(3));

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
        IdentitySource::Files(files) => Box::new(FileSource::start(config, files)),
        IdentitySource::Ca(client) => Box::new(CaSource::start(config, client)),
        IdentitySource::WorkloadApi(api) => Box::new(WorkloadSource::start(config, api)),
    }
}

#[cfg(test)]
mod fixture;
