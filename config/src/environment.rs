//! The `OTEL_*` environment variables, taken once: compiling never looks at the process.

use std::collections::BTreeMap;

/// The OpenTelemetry variables (`OTEL_*`) that complete or override the `tracing` part of a configuration.
///
/// An empty value counts as unset, as the OpenTelemetry specification asks.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The `OTEL_*` variables among `variables`; the others are left out.
    pub fn new<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables = variables.into_iter().map(|(key, value)| (key.into(), value.into()));
        Self {
            variables: variables.filter(|(key, value)| key.starts_with("OTEL_") && !value.trim().is_empty()).collect(),
        }
    }

    /// The variables of this process; bytes that are not UTF-8 are replaced.
    pub fn from_process() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        Self::new(std::env::vars_os().map(|(key, value)| (text(key), text(value))))
    }

    /// The variable `name`, without surrounding white space.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.trim())
    }

    /// The first of `names` that is set.
    pub(crate) fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &str)> {
        names.iter().find_map(|name| Some((*name, self.variable(name)?)))
    }
}

/// Names only: values may be credentials (`OTEL_EXPORTER_OTLP_HEADERS`).
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}
