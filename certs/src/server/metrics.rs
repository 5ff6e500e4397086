//! What /metrics shows.

use std::time::SystemTime;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::refusal::Reason;
use super::reviewer::{Proof, word};

/// One label with one of a few fixed values.
type Label = [(&'static str, &'static str); 1];

/// The authority's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    issued: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    handshakes_failed: Family<Label, Counter>,
    /// Open connections.
    pub(crate) connections: Gauge,
    /// Streams of trust bundles under way.
    pub(crate) watchers: Gauge,
    /// The end of the signing certificate, seconds since 1970.
    signer_expiry: Gauge,
    /// The end of the serving certificate, seconds since 1970.
    serving_expiry: Gauge,
    bundle_version: Gauge,
    bundle_roots: Gauge,
    /// State that changed and could not be taken into use.
    pub(crate) reloads_failed: Counter,
    /// From call to answer, in seconds.
    pub(crate) duration: Histogram,
    /// Certificates recorded by one flush to disk.
    pub(crate) batch: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("remora_ca"),
            issued: Family::default(),
            refused: Family::default(),
            handshakes_failed: Family::default(),
            connections: Gauge::default(),
            watchers: Gauge::default(),
            signer_expiry: Gauge::default(),
            serving_expiry: Gauge::default(),
            bundle_version: Gauge::default(),
            bundle_roots: Gauge::default(),
            reloads_failed: Counter::default(),
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let Self { registry, .. } = self;
        registry.register("certificates_issued", "Certificates signed and recorded, by proof", self.issued.clone());
        registry.register("requests_refused", "Requests for certificates refused", self.refused.clone());
        let text = "TLS handshakes that did not complete";
        registry.register("tls_handshake_failures", text, self.handshakes_failed.clone());
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register("bundle_watchers", "Streams of trust bundles under way", self.watchers.clone());
        let text = "End of the signing certificate, Unix time";
        registry.register("signer_expiry_timestamp_seconds", text, self.signer_expiry.clone());
        let text = "End of the certificate this server shows, Unix time";
        registry.register("serving_certificate_expiry_timestamp_seconds", text, self.serving_expiry.clone());
        registry.register("bundle_version", "Version of the trust bundle", self.bundle_version.clone());
        registry.register("bundle_roots", "Roots in the trust bundle", self.bundle_roots.clone());
        let text = "Changes of the state that could not be taken into use";
        registry.register("reload_failures", text, self.reloads_failed.clone());
        let text = "From a request for a certificate to its answer";
        registry.register_with_unit("request_duration", text, Unit::Seconds, self.duration.clone());
        registry.register("journal_batch_records", "Certificates recorded by one flush to disk", self.batch.clone());
    }

    /// Counts a certificate.
    pub(crate) fn issued(&self, proof: Proof) {
        self.issued.get_or_create(&[("by", word(proof))]).inc();
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, reason: Reason) {
        self.refused.get_or_create(&[("reason", reason.word())]).inc();
    }

    /// Counts a handshake that failed, or a connection that was not even tried.
    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshakes_failed.get_or_create(&[("reason", reason)]).inc();
    }

    /// Notes what signs now.
    pub(crate) fn signing(&self, signer_end: SystemTime, serving_end: SystemTime, version: u64, roots: usize) {
        self.signer_expiry.set(unix(signer_end));
        self.serving_expiry.set(unix(serving_end));
        self.bundle_version.set(i64::try_from(version).unwrap_or(i64::MAX));
        self.bundle_roots.set(i64::try_from(roots).unwrap_or(i64::MAX));
    }

    /// All of it in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        prometheus(&text)
    }
}

/// OpenMetrics as the Prometheus text format has it (version 0.0.4): there a counter is described by its full name, with
/// `_total`, and there is no end mark.
pub fn prometheus(open_metrics: &str) -> String {
    let lines: Vec<_> = open_metrics.lines().filter(|line| *line != "# EOF").collect();
    let is_counter = |name: &str| lines.contains(&&*format!("# TYPE {name} counter"));
    let mut text = String::with_capacity(open_metrics.len() + 64);
    for line in &lines {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind @ ("HELP" | "TYPE")), Some(name), Some(rest)) if is_counter(name) => {
                text.extend(["# ", kind, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Seconds since 1970.
pub(crate) fn unix(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_documented() {
        let metrics = Metrics::new();
        metrics.issued(Proof::Oidc);
        metrics.refused(Reason::ForeignName);
        metrics.handshake_failed("timeout");
        metrics.signing(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7), SystemTime::UNIX_EPOCH, 3, 2);
        let text = metrics.text();
        for line in [
            "# TYPE remora_ca_certificates_issued_total counter",
            "remora_ca_certificates_issued_total{by=\"oidc\"} 1",
            "remora_ca_requests_refused_total{reason=\"foreign_name\"} 1",
            "remora_ca_tls_handshake_failures_total{reason=\"timeout\"} 1",
            "remora_ca_signer_expiry_timestamp_seconds 7",
            "remora_ca_bundle_version 3",
            "remora_ca_bundle_roots 2",
            "remora_ca_reload_failures_total 0",
            "remora_ca_request_duration_seconds_count 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
