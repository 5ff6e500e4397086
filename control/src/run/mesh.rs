//! The sidecar's configuration: who it is, and an outbound entry for every port of every other run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use remora_config::Environment;
use remora_model::MtlsMode;
use serde_json::{Map, Value, json};

use super::Error;
use super::identity::trust_domain;
use super::state::Record;
use crate::manifest::{Limits, Manifest};

/// What stays the same while other runs come and go.
#[derive(Debug)]
pub(super) struct Mesh {
    /// What `--config` says.
    base: Map<String, Value>,
    pub(super) mtls: MtlsMode,
    /// Ports that anyone on the host may speak to.
    pub(super) published: BTreeSet<u16>,
    /// Where the sidecar finds its identity.
    pub(super) folder: PathBuf,
}

impl Mesh {
    pub(super) fn new(
        config: Option<&Path>,
        mtls: MtlsMode,
        published: BTreeSet<u16>,
        folder: PathBuf,
    ) -> Result<Self, Error> {
        let mesh = Self { base: Map::new(), mtls, published, folder };
        match config {
            Some(file) => Ok(Self { base: mesh.read(file)?, ..mesh }),
            None => Ok(mesh),
        }
    }

    /// Reads what is to go into every configuration of this run, and checks it as the sidecar will.
    fn read(&self, file: &Path) -> Result<Map<String, Value>, Error> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(Error::file(file))?;
        // Ours come last, so that the places in messages are the file's own.
        let whole = format!("{text}\nservice: run\nmtls: {}\n", self.identity());
        let given = Manifest::read(text.as_bytes(), &Limits::default());
        let value = given.ok().and_then(|manifest| manifest.documents.into_iter().next()?.value);
        let base = value.and_then(|value| value.as_object().cloned()).unwrap_or_default();
        if let Some(field) = ["service", "mtls", "admin", "gateway"].into_iter().find(|field| base.contains_key(*field))
        {
            return Err(Error::Config(format!(
                "{name}: {field}: not in a file for `remora run`, which sets it itself"
            )));
        }
        match remora_config::parse(&name, whole.as_bytes(), &Environment::default()) {
            Ok(_) => Ok(base),
            Err(errors) => Err(Error::Config(errors.to_string())),
        }
    }

    fn identity(&self) -> Value {
        let file = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        json!({
            "trust_domain": trust_domain().as_str(),
            "certificate": file("cert.pem"),
            "key": file("key.pem"),
            "trust_bundle": file("bundle.pem"),
        })
    }

    /// The configuration of `own`'s sidecar while `runs` are there: JSON, which is YAML, too.
    pub(super) fn configuration(&self, own: &Record, runs: &[Record]) -> String {
        let mut root = self.base.clone();
        root.insert("service".to_owned(), json!({"name": own.name, "namespace": "local"}));
        root.insert("mtls".to_owned(), self.identity());
        // Whoever calls may be gone at once: when the sidecar is told to end, its application has.
        root.entry("lame_duck").or_insert_with(|| json!("0"));
        root.entry("drain_timeout").or_insert_with(|| json!("1s"));
        self.open_published(&mut root);
        let entries = list(&mut root, "outbound");
        for run in runs.iter().filter(|run| run.name != own.name) {
            entries.extend(
                run.ports.iter().map(|port| entry(run, *port)).filter(|new| !has(entries, new)).collect::<Vec<_>>(),
            );
        }
        if entries.is_empty() {
            root.remove("outbound");
        }
        serde_json::to_string_pretty(&root).unwrap_or_default()
    }

    /// What connections are taken: a published port takes plaintext whatever the mode, since whoever is outside has no identity.
    fn open_published(&self, root: &mut Map<String, Value>) {
        let inbound = root.entry("inbound").or_insert_with(|| json!({}));
        let Some(inbound) = inbound.as_object_mut() else { return };
        let mode = inbound.entry("mtls").or_insert_with(|| serde_json::to_value(self.mtls).unwrap_or_default());
        if mode != "strict" {
            return;
        }
        let ports = list(inbound, "ports");
        for port in &self.published {
            match ports.iter_mut().find(|entry| entry["port"] == *port) {
                Some(entry) => entry["mtls"] = json!("permissive"),
                None => ports.push(json!({"port": port, "mtls": "permissive"})),
            }
        }
        if ports.is_empty() {
            inbound.remove("ports");
        }
    }
}

fn entry(run: &Record, port: u16) -> Value {
    json!({
        "host": format!("{}:{port}", run.name),
        "addresses": [run.address],
        "endpoints": [format!("{}:{port}", run.address)],
        "identity": run.id,
    })
}

/// Whether the file of `--config` says itself how to reach it.
fn has(entries: &[Value], new: &Value) -> bool {
    entries.iter().any(|entry| entry["host"] == new["host"])
}

fn list<'a>(object: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let value = object.entry(name).or_insert_with(|| json!([]));
    value.as_array_mut().expect("a list: the configuration has been checked")
}

#[cfg(test)]
mod tests;
