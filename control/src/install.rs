//! `remora install` and `remora uninstall`: the control plane's objects, applied in order, and taken away without a trace.
//!
//! [`objects`] makes them from Kubernetes' types, pure; [`apply`] hands them to the API server, server-side and in the name
//! of one field manager, so that what others set stays theirs; [`remove`] finds everything by label.

pub mod apply;
pub mod objects;
pub mod remove;
pub(crate) mod wait;

use std::time::Duration;

use crate::cluster;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// Something did not come to be.
    #[error("{what} within {}: {why}", shown(*within))]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
        /// What is known about it.
        why: String,
    },
    /// Objects are still there.
    #[error("still there: {}", .0.join(", "))]
    Left(Vec<String>),
}

/// Whether an injected proxy takes this configuration; `name` stands for it in messages.
///
/// # Errors
/// All that is wrong with it.
pub fn check_mesh(name: &str, text: &str) -> Result<(), remora_config::Errors> {
    // As injection sets them; the values do not matter.
    let environment = remora_config::Environment::new([
        ("OTEL_SERVICE_NAME", "workload"),
        ("REMORA_TRUST_DOMAIN", "cluster.local"),
        ("REMORA_CA_ADDRESS", crate::inject::CA_ADDRESS),
        ("REMORA_CA_ROOTS", "/etc/remora/trust/bundle.pem"),
        ("REMORA_CA_TOKEN", "/var/run/secrets/remora/token"),
    ]);
    remora_config::parse(name, text.as_bytes(), &environment).map(drop)
}

fn shown(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}
