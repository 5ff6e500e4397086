//! The annotation that marks a pod as injected: the version, and what must be taken back beside what is recognised by name.
//!
//! `0.1.0;default-container;empty-volumes`: a version, then flags.

use std::collections::BTreeSet;

use serde_json::Value;

/// The annotation that tells kubectl which container is meant.
pub(crate) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// The flag: that annotation is ours.
const DEFAULT_CONTAINER_FLAG: &str = "default-container";

/// The places that injection may have to create, and which may have stood there empty before.
const PLACES: [(&str, &str); 4] = [
    ("metadata", "/metadata"),
    ("annotations", "/metadata/annotations"),
    ("init-containers", "/spec/initContainers"),
    ("volumes", "/spec/volumes"),
];

/// What the marker says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marker {
    version: String,
    flags: BTreeSet<String>,
}

impl Marker {
    /// The marker for the bare pod `pod`.
    pub(crate) fn of(version: &str, pod: &Value, default_container: bool) -> Self {
        let mut flags = BTreeSet::new();
        if default_container {
            flags.insert(DEFAULT_CONTAINER_FLAG.to_owned());
        }
        for (name, pointer) in PLACES {
            match pod.pointer(pointer) {
                Some(Value::Null) => drop(flags.insert(format!("null-{name}"))),
                Some(value) if is_empty(value) => drop(flags.insert(format!("empty-{name}"))),
                _ => {}
            }
        }
        Self { version: version.to_owned(), flags }
    }

    /// Reads a marker; what is not understood counts for nothing.
    pub(crate) fn parse(text: &str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        Self {
            version: parts.next().unwrap_or_default().to_owned(),
            flags: parts.filter(|flag| !flag.is_empty()).map(str::to_owned).collect(),
        }
    }

    /// What injected.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Whether the annotation that names the default container is ours.
    pub(crate) fn default_container(&self) -> bool {
        self.flags.contains(DEFAULT_CONTAINER_FLAG)
    }

    /// Brings every place that is empty now to what it was: absent, empty or null; the innermost first.
    pub(crate) fn restore(&self, pod: &mut Value) {
        for (name, pointer) in PLACES.iter().rev() {
            if !pod.pointer(pointer).is_some_and(is_empty) || self.flags.contains(&format!("empty-{name}")) {
                continue;
            }
            let Some((parent, key)) = pointer.rsplit_once('/') else { continue };
            let Some(fields) = pod.pointer_mut(parent).and_then(Value::as_object_mut) else { continue };
            if self.flags.contains(&format!("null-{name}")) {
                fields.insert(key.to_owned(), Value::Null);
            } else {
                fields.remove(key);
            }
        }
    }
}

impl std::fmt::Display for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.version)?;
        self.flags.iter().try_for_each(|flag| write!(f, ";{flag}"))
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}
