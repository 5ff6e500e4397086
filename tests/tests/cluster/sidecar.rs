//! A pod with Remora beside its application, as it is written by hand.

use serde_json::{Value, json};

use crate::cluster::{Cluster, TRUST_DOMAIN};

/// What differs between pods.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shape<'s> {
    /// An ordinary container instead of a native sidecar.
    pub(crate) classic: bool,
    /// Inbound ports that are not captured.
    pub(crate) exclude_inbound: &'s str,
}

/// Puts init container and sidecar into a pod's template.
pub(crate) fn inject(cluster: &Cluster, service: &str, template: &mut Value, shape: Shape<'_>) {
    let spec = &mut template["spec"];
    for container in spec["containers"].as_array_mut().unwrap() {
        // What the kubelet asks of the application comes in plaintext: a strict sidecar would refuse it.
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            container.as_object_mut().unwrap().remove(probe);
        }
    }
    let mut proxy = proxy(cluster, service);
    let mut first = vec![init(shape.exclude_inbound)];
    let containers = spec["containers"].as_array_mut().unwrap();
    if shape.classic {
        proxy["readinessProbe"] = proxy["startupProbe"].clone();
        proxy.as_object_mut().unwrap().remove("startupProbe");
        containers.insert(0, proxy);
    } else {
        proxy["restartPolicy"] = json!("Always");
        first.push(proxy);
    }
    let later = spec["initContainers"].as_array().cloned().unwrap_or_default();
    spec["initContainers"] = Value::Array([first, later].concat());
    let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    volumes.extend(self::volumes().as_array().unwrap().clone());
    spec["volumes"] = Value::Array(volumes);
    spec["terminationGracePeriodSeconds"] = json!(45);
}

fn init(exclude_inbound: &str) -> Value {
    json!({
        "name": "remora-init", "image": "localhost/remora/init:0.1.0", "imagePullPolicy": "IfNotPresent",
        "args": ["--exclude-inbound-ports", exclude_inbound],
        "securityContext": {
            "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        },
    })
}

/// The proxy's container, with its identity from the cluster's authority.
pub(crate) fn proxy(cluster: &Cluster, service: &str) -> Value {
    let ready = json!({"httpGet": {"path": "/ready", "port": 15021}, "periodSeconds": 1, "failureThreshold": 60});
    json!({
        "name": "remora-proxy", "image": "localhost/remora/proxy:0.1.0", "imagePullPolicy": "IfNotPresent",
        "args": ["--config", "/etc/remora/mesh/mesh.yaml"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "REMORA_TRUST_DOMAIN", "value": TRUST_DOMAIN},
            {"name": "REMORA_CA_ADDRESS", "value": format!("{}:15012", cluster.node)},
            {"name": "REMORA_CA_ROOTS", "value": "/etc/remora/trust/bundle.pem"},
            {"name": "REMORA_CA_TOKEN", "value": "/var/run/secrets/remora/token"},
            {"name": "OTEL_SERVICE_NAME", "value": service},
            {"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "k8s.namespace.name=shop,k8s.pod.name=$(POD_NAME)"},
            {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://traces.observe.svc.cluster.local:4317"},
            {"name": "OTEL_TRACES_SAMPLER", "value": "parentbased_always_on"},
        ],
        "startupProbe": ready,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "remora-mesh", "mountPath": "/etc/remora/mesh", "readOnly": true},
            {"name": "remora-trust-bundle", "mountPath": "/etc/remora/trust", "readOnly": true},
            {"name": "remora-token", "mountPath": "/var/run/secrets/remora", "readOnly": true},
        ],
    })
}

/// What the proxy mounts.
pub(crate) fn volumes() -> Value {
    json!([
        {"name": "remora-mesh", "configMap": {"name": "remora-mesh"}},
        {"name": "remora-trust-bundle", "configMap": {"name": "remora-trust-bundle"}},
        {"name": "remora-token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": "remora-ca", "expirationSeconds": 3600, "path": "token"}},
        ]}},
    ])
}
