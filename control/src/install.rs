//! `remora install` and `remora uninstall`: the control plane's objects, applied in order, and taken away without a trace.
//!
//! [`objects`] makes them from Kubernetes' types, pure; [`apply`] hands them to the API server, server-side and in the name
//! of one field manager, so that what others set stays theirs; [`remove`] finds everything by label.

pub mod apply;
pub mod objects;
pub mod remove;
mod wait;

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

fn shown(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}
