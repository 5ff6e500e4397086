//! What the control plane's /metrics shows beside the authority's.

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What became of a request to the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A pod was injected.
    Injected,
    /// A pod was left as it is.
    Unchanged,
    /// A pod was refused.
    Denied,
    /// The request was no review.
    Unreadable,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::Denied => "denied",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The control plane's own metrics.
pub struct Metrics {
    registry: Registry,
    reviews: Family<[(&'static str, &'static str); 1], Counter>,
    duration: Histogram,
    certificates: Counter,
    /// Namespaces with copies of the mesh's ConfigMaps.
    pub namespaces: Gauge,
    /// Copies that could not be made or removed.
    pub copies_failed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("remora_control"),
            reviews: Family::default(),
            duration: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            certificates: Counter::default(),
            namespaces: Gauge::default(),
            copies_failed: Counter::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let Self { registry, .. } = self;
        registry.register("reviews", "Requests to the webhook, by what became of them", self.reviews.clone());
        let text = "From a request to the webhook to its answer";
        registry.register_with_unit("review_duration", text, Unit::Seconds, self.duration.clone());
        let text = "Serving certificates that the webhook took into use";
        registry.register("webhook_certificates", text, self.certificates.clone());
        let text = "Namespaces with copies of the mesh's ConfigMaps";
        registry.register("injected_namespaces", text, self.namespaces.clone());
        let text = "Copies of the mesh's ConfigMaps that could not be made or removed";
        registry.register("copy_failures", text, self.copies_failed.clone());
    }

    /// Counts a request.
    pub fn reviewed(&self, outcome: Outcome, took: Duration) {
        self.reviews.get_or_create(&[("outcome", outcome.word())]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a certificate.
    pub fn certificate(&self) {
        self.certificates.inc();
    }

    /// All of it in OpenMetrics' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
