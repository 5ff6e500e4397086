//! What /ready and /metrics tell: of the authority, the webhook and the copies together.

use std::sync::Arc;

use remora_certs::server::admin::Shown;
use remora_certs::server::{Watched, prometheus_text};
use tokio::sync::watch;

use super::metrics::Metrics;
use super::namespaces::Namespaces;
use crate::webhook::certificates;

/// Whom it asks.
#[derive(Clone)]
pub struct Admin {
    /// The authority.
    pub authority: Watched,
    /// The webhook's certificate.
    pub shown: Arc<certificates::Shown>,
    /// The copies.
    pub namespaces: Arc<Namespaces>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether we are told to end.
    pub ending: watch::Receiver<bool>,
}

impl Shown for Admin {
    fn metrics(&self) -> String {
        self.authority.metrics() + &prometheus_text(&self.metrics.text())
    }

    fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<_> =
            self.authority.reasons().into_iter().map(|reason| format!("certificate authority: {reason}")).collect();
        if *self.ending.borrow() {
            reasons.push("ending".to_owned());
        }
        if !self.shown.is_there() {
            reasons.push("webhook: there is no certificate yet".to_owned());
        }
        reasons.extend(self.namespaces.problem().map(|problem| format!("namespaces: {problem}")));
        reasons
    }
}
