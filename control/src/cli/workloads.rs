//! Where the pods are in an object: its own, or the template of a workload, or those of a List's items.

use serde_json::Value;

use crate::inject::Owner;

/// A pod in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    /// Where it is, as a JSON pointer into the document.
    pub(super) pointer: String,
    /// The same, as a path below the object: `spec.template.`.
    pub(super) path: String,
    /// `Deployment/web`.
    pub(super) object: String,
    /// The object's namespace, where it says.
    pub(super) namespace: Option<String>,
    /// What the pod belongs to.
    pub(super) owner: Option<Owner>,
}

/// The pods in `document`.
pub(super) fn workloads(document: &Value) -> Vec<Workload> {
    let mut found = Vec::new();
    collect(document, "", &mut found);
    found
}

fn collect(object: &Value, at: &str, found: &mut Vec<Workload>) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (Some(version), Some(kind)) = (text("/apiVersion"), text("/kind")) else { return };
    if version == "v1" && kind == "List" {
        let items = object.get("items").and_then(Value::as_array).into_iter().flatten();
        for (index, item) in items.enumerate() {
            collect(item, &format!("{at}/items/{index}"), found);
        }
        return;
    }
    let Some(template) = template(version, kind) else { return };
    let name = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or("(without a name)");
    let owner = if kind == "Pod" { Owner::of_pod(object) } else { Some(Owner::new(kind, name)) };
    found.push(Workload {
        pointer: format!("{at}{template}"),
        path: template
            .trim_start_matches('/')
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| format!("{part}."))
            .collect(),
        object: format!("{kind}/{name}"),
        namespace: text("/metadata/namespace").map(str::to_owned),
        owner,
    });
}

/// Where the pod of such an object is; [`None`]: it has none.
fn template(version: &str, kind: &str) -> Option<&'static str> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(""),
        ("apps" | "extensions", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") => Some("/spec/template"),
        ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}
