//! The proxy's image alone is a gateway.

use remora_test::netns::run;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::shop::{curl, deployment, shop};

/// The proxy's image alone, twice: its configuration named by a flag, and by a variable.
pub(crate) fn set_up(cluster: &Cluster, configuration: &str) {
    let data = json!({"gateway.yaml": configuration});
    cluster.apply(
        "shop",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gateway"}, "data": data}),
    );
    for name in ["gateway", "gateway-by-variable"] {
        let mut proxy = proxy();
        if name == "gateway" {
            proxy["args"] = json!(["--config", "/etc/remora/gateway/gateway.yaml"]);
        } else {
            let variable = json!({"name": "REMORA_CONFIG", "value": "/etc/remora/gateway/gateway.yaml"});
            proxy["env"].as_array_mut().unwrap().push(variable);
        }
        let mut gateway = deployment(name, &json!({"containers": [proxy], "volumes": volumes()}));
        gateway["spec"]["template"]["metadata"]["labels"]["remora.dev/inject"] = json!("false");
        cluster.apply("shop", &gateway);
    }
}

/// The proxy's container, with its identity from the mesh's authority.
fn proxy() -> Value {
    json!({
        "name": "remora-proxy", "image": "localhost/remora/proxy:0.1.0", "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": "REMORA_TRUST_DOMAIN", "value": "cluster.local"},
            {"name": "REMORA_CA_ADDRESS", "value": "remora-control.remora-system.svc:15012"},
            {"name": "REMORA_CA_ROOTS", "value": "/etc/remora/trust/bundle.pem"},
            {"name": "REMORA_CA_TOKEN", "value": "/var/run/secrets/remora/token"},
            {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://traces.observe.svc.cluster.local:4317"},
            {"name": "OTEL_TRACES_SAMPLER", "value": "parentbased_always_on"},
        ],
        "startupProbe": {"httpGet": {"path": "/ready", "port": 15021}, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 15021}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "gateway", "mountPath": "/etc/remora/gateway", "readOnly": true},
            {"name": "trust", "mountPath": "/etc/remora/trust", "readOnly": true},
            {"name": "token", "mountPath": "/var/run/secrets/remora", "readOnly": true},
        ],
    })
}

fn volumes() -> Value {
    json!([
        {"name": "gateway", "configMap": {"name": "gateway"}},
        {"name": "trust", "configMap": {"name": "remora-trust-bundle"}},
        {"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": "remora-ca", "expirationSeconds": 3600, "path": "token"}},
        ]}},
    ])
}

#[test]
fn the_proxys_image_alone_is_a_gateway() {
    let Some(shop) = shop() else { return };
    // Its configuration named by a flag, and by a variable.
    for name in ["gateway", "gateway-by-variable"] {
        let answer = curl(&["-sS", "--fail", &format!("http://{}:8080/products", shop.door(name))]);
        assert!(String::from_utf8_lossy(&answer.stdout).contains("teapot"), "{name}: {answer:?}");
    }
}

#[test]
fn the_proxys_image_runs_as_its_own_user_without_capabilities() {
    let Some(shop) = shop() else { return };
    let process = shop.cluster.process(&shop.cluster.pod("shop", "gateway"), "remora-proxy");
    let status = run(&mut shop.cluster.on_node(&["cat", &format!("/proc/{process}/status")])).unwrap().stdout;
    let status = String::from_utf8(status).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!(field("Uid:").split_whitespace().collect::<Vec<_>>(), ["1337"; 4]);
    assert_eq!(field("Gid:").split_whitespace().collect::<Vec<_>>(), ["1337"; 4]);
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
}

#[test]
fn a_gateway_told_to_go_ends_well() {
    let Some(shop) = shop() else { return };
    let pod = shop.cluster.pod("shop", "gateway-by-variable");
    let before = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap();
    let process = shop.cluster.process(&pod, "remora-proxy");
    run(&mut shop.cluster.on_node(&["kill", "-TERM", &process])).unwrap();
    let ended = shop.cluster.await_that("its restart after SIGTERM", || {
        let status = shop.cluster.pod("shop", "gateway-by-variable")["status"]["containerStatuses"][0].clone();
        (status["restartCount"] == before + 1 && status["ready"] == true).then_some(status)
    });
    let last = &ended["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&0.into(), &"Completed".into()), "{ended}");
}
