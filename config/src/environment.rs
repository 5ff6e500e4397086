//! The environment variables that complete a configuration, taken once: compiling never looks at the process.

use std::collections::BTreeMap;

/// The variables besides `OTEL_*`: where an identity comes from, unless the file says so, and what a pod says of itself
/// whatever the file says.
const KNOWN: [&str; 12] = [
    "SPIFFE_ENDPOINT_SOCKET",
    "REMORA_TRUST_DOMAIN",
    "REMORA_CA_ADDRESS",
    "REMORA_CA_ROOTS",
    "REMORA_CA_TOKEN",
    "CA_ADDR",
    "REMORA_INBOUND_MTLS",
    "REMORA_INTERCEPTION",
    "REMORA_DRAIN_TIMEOUT",
    "REMORA_LAME_DUCK",
    "REMORA_EXIT_WITH_APPLICATION",
    "REMORA_PROBES",
];

/// The OpenTelemetry variables (`OTEL_*`), which complete or override the `tracing` part of a configuration and complete
/// its `service`; those that complete its `mtls` part (`SPIFFE_ENDPOINT_SOCKET`, `REMORA_TRUST_DOMAIN`, `REMORA_CA_*` and
/// Istio's `CA_ADDR`); and those by which a pod overrides a file that many share (`REMORA_INBOUND_MTLS` and so on)
/// or tells of its application's probes (`REMORA_PROBES`).
///
/// An empty value counts as unset, as the OpenTelemetry specification asks.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// Those of them among `variables`; the others are left out.
    pub fn new<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables = variables.into_iter().map(|(key, value)| (key.into(), value.into()));
        let ours = |key: &str| key.starts_with("OTEL_") || KNOWN.contains(&key);
        Self { variables: variables.filter(|(key, value)| ours(key) && !value.trim().is_empty()).collect() }
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
