//! The workload's identity: where it comes from, the wait for the first one, and the alarm when no newer one comes in time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remora_certs::Identity;
use remora_certs::source::{self, CertificateSource};
use remora_model::identity::{IdentityConfig, IdentitySource};
use tokio::sync::watch;
use tokio::time::{Instant, interval};

use super::Failure;
use super::alarm::Alarm;
use crate::admin::IdentityView;
use crate::readiness::Readiness;
use crate::telemetry::Registry;

/// How often the wait asks the source what is missing.
const LOOK: Duration = Duration::from_millis(200);
/// How often the wait says so in the log.
const SAY: Duration = Duration::from_secs(10);

/// The identity in use and where newer ones come from.
pub(super) struct IdentityInput(Option<Running>);

struct Running {
    kind: String,
    bound: Duration,
    source: Box<dyn CertificateSource>,
    updates: watch::Receiver<Option<Arc<Identity>>>,
    failures_seen: u64,
    alarm: Alarm,
}

impl IdentityInput {
    /// Starts the source; the first identity may be later.
    pub(super) fn start(config: Option<&IdentityConfig>) -> Self {
        Self(config.map(|config| {
            let source = source::start(config);
            let (kind, updates) = (kind(&config.source), source.identity());
            let bound = config.startup_timeout;
            Running { kind, bound, source, updates, failures_seen: 0, alarm: Alarm::default() }
        }))
    }

    /// Waits for the first identity; readiness and the log say what is missing.
    ///
    /// # Errors
    /// There is none at the end of the configured bound.
    pub(super) async fn first(&mut self, readiness: &Readiness) -> Result<(), Failure> {
        let Some(Running { kind, bound, source, updates, .. }) = &mut self.0 else { return Ok(()) };
        if updates.borrow().is_some() {
            return Ok(());
        }
        let status = source.status();
        let missing = || status.last_error().unwrap_or_else(|| format!("nothing heard from {kind} yet"));
        let guard = readiness.register(format!("identity: {}", missing()));
        tracing::warn!(source = %kind, timeout = ?bound, "waiting for identity: {}", missing());
        let wait = async {
            let (mut look, mut said) = (interval(LOOK), Instant::now());
            loop {
                tokio::select! {
                    first = updates.wait_for(Option::is_some) => return first.is_ok(),
                    _ = look.tick() => guard.rename(format!("identity: {}", missing())),
                }
                if said.elapsed() >= SAY {
                    said = Instant::now();
                    tracing::warn!(source = %kind, "still waiting for identity: {}", missing());
                }
            }
        };
        match tokio::time::timeout(*bound, wait).await {
            Ok(true) => Ok(()),
            _ => Err(Failure::NoIdentity { waited: *bound, reason: missing() }),
        }
    }

    pub(super) fn current(&self) -> Option<Arc<Identity>> {
        self.0.as_ref().and_then(|running| running.updates.borrow().clone())
    }

    /// What the admin interface shows.
    pub(super) fn shown(&self) -> Option<IdentityView> {
        self.0.as_ref().map(|running| IdentityView {
            source: running.kind.clone(),
            identity: running.updates.clone(),
            status: running.source.status(),
        })
    }

    /// Completes at a newer identity.
    pub(super) async fn changed(&mut self) {
        if let Some(running) = &mut self.0
            && running.updates.changed().await.is_ok()
        {
            return;
        }
        // No source, so nothing will ever change.
        std::future::pending().await
    }

    /// Once a second: what the source counts goes into the metrics, and an identity near its end is told of.
    pub(super) fn tick(&mut self, registry: &Registry, readiness: &Readiness) {
        let Some(running) = &mut self.0 else { return };
        let status = running.source.status();
        for _ in running.failures_seen..status.failed() {
            registry.identity_reload(false);
        }
        running.failures_seen = status.failed();
        registry.identity_renewals(status.succeeded(), status.failed());
        registry.identity_next_renewal(status.next_renewal());
        registry.clock_skew(status.clock_skew_ms());
        let identity = running.updates.borrow().clone();
        if let Some(identity) = identity {
            let reason = || status.last_error().unwrap_or_else(|| "no newer one has come".to_owned());
            let now = SystemTime::now();
            // Files are replaced by somebody else, who does not say when.
            let overdue = status.last_error().is_some() || status.next_renewal().is_none_or(|next| next < now);
            running.alarm.check(identity.svid(), now, (overdue, &reason), readiness);
        }
    }
}

/// A source's name for people.
fn kind(source: &IdentitySource) -> String {
    match source {
        IdentitySource::Files(files) => format!("files ({})", files.certificate.display()),
        IdentitySource::Ca(ca) => format!("authority ({})", ca.address),
        IdentitySource::WorkloadApi(api) => format!("workload API ({})", api.socket.display()),
    }
}
