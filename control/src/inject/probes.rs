//! Probes by way of the proxy: the kubelet has no certificate, so the proxy asks the application on its behalf.
//!
//! Each HTTP, gRPC and TCP handler becomes an `httpGet` of `/app-health/CONTAINER/KIND` at the proxy's metrics port; what it
//! was is told to the proxy in a variable, from which [`restore`] brings it back. A handler that names a host of its own, or
//! a port by a name that the container does not have, is left as it is: it never reached the pod's own port. So is one of the proxy's ports.

use std::collections::BTreeMap;

use remora_model::capture::{METRICS_PORT, OWN_PORTS};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::names::CONTAINERS;

/// Where handlers are found in a container, and what the proxy calls them.
const PLACES: [(&str, &str); 5] = [
    ("/startupProbe", "startupz"),
    ("/readinessProbe", "readyz"),
    ("/livenessProbe", "livez"),
    ("/lifecycle/preStop", "prestopz"),
    ("/lifecycle/postStart", "poststartz"),
];

/// One handler, as the proxy reads it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(skip_serializing_if = "Option::is_none")]
    http_get: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_socket: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<Value>,
    /// The kubelet's bound; the proxy keeps within it.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<Value>,
    /// What the port was called in the handler, for [`restore`].
    #[serde(skip_serializing_if = "Option::is_none")]
    port_name: Option<String>,
    /// The handler had no path, for [`restore`].
    #[serde(skip_serializing_if = "Option::is_none")]
    without_path: Option<bool>,
}

/// Rewrites every handler that can be; hands on the variable's text, or [`None`] where nothing was rewritten.
pub(crate) fn rewrite(pod: &mut Value) -> Option<String> {
    let mut probes = BTreeMap::new();
    for container in containers(pod) {
        let Some(name) = container.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
        let ports = named_ports(container);
        for (place, kind) in PLACES {
            let Some(handler) = container.pointer_mut(place).and_then(Value::as_object_mut) else { continue };
            let path = format!("/app-health/{name}/{kind}");
            if let Some(probe) = rewrite_one(handler, &path, &ports, kind.starts_with('p')) {
                probes.insert(path, probe);
            }
        }
    }
    (!probes.is_empty()).then(|| serde_json::to_string(&probes).unwrap_or_default())
}

/// `hook`: of a lifecycle hook, only HTTP is called by the kubelet.
fn rewrite_one(
    handler: &mut Map<String, Value>,
    path: &str,
    ports: &BTreeMap<String, Value>,
    hook: bool,
) -> Option<Probe> {
    let mut probe = Probe { timeout_seconds: handler.get("timeoutSeconds").cloned(), ..Probe::default() };
    if let Some(http) = handler.get("httpGet").and_then(Value::as_object) {
        let (mut asked, mut seen) = (http.clone(), http.clone());
        resolve(&mut asked, ports, &mut probe)?;
        if !asked.contains_key("path") {
            probe.without_path = Some(true);
            asked.insert("path".to_owned(), json!("/"));
        }
        seen.insert("path".to_owned(), json!(path));
        seen.insert("port".to_owned(), json!(METRICS_PORT));
        // Present where it was present: taking it back then touches one word.
        if seen.contains_key("scheme") {
            seen.insert("scheme".to_owned(), json!("HTTP"));
        }
        handler.insert("httpGet".to_owned(), Value::Object(seen));
        probe.http_get = Some(Value::Object(asked));
        return Some(probe);
    }
    let kind = ["tcpSocket", "grpc"].into_iter().find(|kind| handler.get(*kind).is_some_and(Value::is_object))?;
    if hook {
        return None;
    }
    let mut asked = handler.get(kind)?.as_object()?.clone();
    resolve(&mut asked, ports, &mut probe)?;
    handler.remove(kind);
    handler.insert("httpGet".to_owned(), json!({"path": path, "port": METRICS_PORT}));
    let slot = if kind == "grpc" { &mut probe.grpc } else { &mut probe.tcp_socket };
    *slot = Some(Value::Object(asked));
    Some(probe)
}

/// Makes a port's name its number.
fn resolve(handler: &mut Map<String, Value>, ports: &BTreeMap<String, Value>, probe: &mut Probe) -> Option<()> {
    if handler.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
        return None;
    }
    let port = handler.get("port")?;
    let number = match port {
        Value::String(name) => match name.parse::<u16>() {
            Ok(number) => json!(number),
            Err(_) => ports.get(name)?.clone(),
        },
        number => number.clone(),
    };
    let number = number.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?;
    if OWN_PORTS.contains(&number) {
        return None;
    }
    if let Value::String(name) = port {
        probe.port_name = Some(name.clone());
    }
    handler.insert("port".to_owned(), json!(number));
    Some(())
}

fn named_ports(container: &Value) -> BTreeMap<String, Value> {
    let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
    let named =
        ports.filter_map(|port| Some((port.get("name")?.as_str()?.to_owned(), port.get("containerPort")?.clone())));
    named.collect()
}

/// Takes [`rewrite`] back, given the variable's text; a handler that has been changed since is left as it is.
pub(crate) fn restore(pod: &mut Value, text: &str) {
    let Ok(mut probes) = serde_json::from_str::<BTreeMap<String, Probe>>(text) else { return };
    for container in containers(pod) {
        let Some(name) = container.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
        for (place, kind) in PLACES {
            let path = format!("/app-health/{name}/{kind}");
            let Some(handler) = container.pointer_mut(place).and_then(Value::as_object_mut) else { continue };
            let Some(http) = handler.get("httpGet").and_then(Value::as_object) else { continue };
            let ours = http.get("path").and_then(Value::as_str) == Some(&path)
                && http.get("port").and_then(Value::as_u64) == Some(u64::from(METRICS_PORT));
            if let Some(probe) = probes.remove(&path).filter(|_| ours) {
                restore_one(handler, probe);
            }
        }
    }
}

fn restore_one(handler: &mut Map<String, Value>, probe: Probe) {
    let named = |mut asked: Value| {
        if let (Some(name), Some(fields)) = (&probe.port_name, asked.as_object_mut()) {
            fields.insert("port".to_owned(), json!(name));
        }
        asked
    };
    if let Some(asked) = probe.http_get.clone().map(named) {
        let Some(http) = handler.get_mut("httpGet").and_then(Value::as_object_mut) else { return };
        // Only what rewriting changed; headers may have been edited since.
        for field in ["path", "port", "scheme"] {
            match asked.get(field) {
                Some(value) if field != "path" || probe.without_path != Some(true) => {
                    http.insert(field.to_owned(), value.clone());
                }
                _ => drop(http.remove(field)),
            }
        }
        return;
    }
    let (kind, asked) = match (probe.tcp_socket.clone(), probe.grpc.clone()) {
        (Some(asked), _) => ("tcpSocket", asked),
        (None, Some(asked)) => ("grpc", asked),
        (None, None) => return,
    };
    handler.remove("httpGet");
    handler.insert(kind.to_owned(), named(asked));
}

/// Every container of the pod, restartable init containers among them.
fn containers(pod: &mut Value) -> impl Iterator<Item = &mut Value> {
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut);
    let lists = spec.into_iter().flat_map(|spec| spec.iter_mut()).filter(|(key, _)| CONTAINERS.contains(&key.as_str()));
    lists.filter_map(|(_, list)| list.as_array_mut()).flatten()
}
