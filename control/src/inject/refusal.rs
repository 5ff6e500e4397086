//! Why a pod is not injected.

use std::fmt;

/// One reason why a pod is not injected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Where in the pod, such as `spec.containers[0].securityContext.runAsUser`; in a workload, below `spec.template`.
    pub path: String,
    /// What is wrong there, a sentence without full stop.
    pub reason: String,
}

impl Refusal {
    pub(crate) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }

    /// The same, seen from the object whose template is at `prefix` (`spec.template.`); what is said about the namespace stays.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        if !self.path.starts_with("namespace ") {
            self.path.insert_str(0, prefix);
        }
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}
