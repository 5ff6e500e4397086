//! The shop in the cluster: its plain manifests with sidecars, a door to it, and a collector of spans.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{MutexGuard, OnceLock, PoisonError};

use serde_json::{Value, json};

use crate::cluster::{Cluster, TURN};
use crate::gateway;

/// The shop, held by one test at a time.
pub(crate) struct Shop {
    pub(crate) cluster: &'static Cluster,
    _turn: MutexGuard<'static, ()>,
}

/// The running shop, set up by whoever comes first; none where there is no cluster.
pub(crate) fn shop() -> Option<Shop> {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static FAILED: AtomicBool = AtomicBool::new(false);
    let Some(folder) = std::env::var_os("REMORA_CLUSTER_NODE") else {
        println!("SKIPPED: no cluster here (make test-cluster)");
        return None;
    };
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = CLUSTER.get_or_init(|| {
        assert!(!FAILED.swap(true, Ordering::Relaxed), "the shop did not come up: see the first test");
        let cluster = Cluster::prepare(Path::new(&folder), &manifests("mesh.yaml"));
        set_up(&cluster);
        cluster
    });
    FAILED.store(false, Ordering::Relaxed);
    Some(Shop { cluster, _turn: turn })
}

fn manifests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop/kubernetes").join(name)
}

fn set_up(cluster: &Cluster) {
    // Who is in the mesh, and what its sidecars do, stands on the namespace.
    let traced = json!({
        "remora.dev/tracing-endpoint": "http://traces.observe.svc.cluster.local:4317", "remora.dev/tracing-sampling": "1",
    });
    namespace(cluster, "shop", &json!({"labels": {"remora.dev/inject": "enabled"}, "annotations": traced}));
    namespace(cluster, "observe", &json!({}));
    namespace(cluster, "plain", &json!({}));
    plain(
        cluster,
        "observe",
        "traces",
        &["collector", "--listen", "0.0.0.0:4317", "--query", "0.0.0.0:16686"],
        &[4317, 16686],
    );
    plain(cluster, "plain", "stranger", &["echo", "--listen", "0.0.0.0:8080", "--name", "stranger"], &[8080]);
    cluster.await_rollout("observe", "traces");
    for application in ["catalog", "pricing", "storefront"] {
        let file = manifests(&format!("{application}.yaml"));
        cluster.kubectl(&["-n", "shop", "apply", "-f", file.to_str().unwrap()]);
    }
    gateway::set_up(cluster, &std::fs::read_to_string(manifests("gateway.yaml")).unwrap());
    for deployment in ["catalog", "pricing", "storefront", "gateway", "gateway-by-variable"] {
        cluster.await_rollout("shop", deployment);
    }
    cluster.await_rollout("plain", "stranger");
}

/// Makes a namespace, and waits until pods can be made in it.
pub(crate) fn namespace(cluster: &Cluster, name: &str, metadata: &Value) {
    let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    object["metadata"]["name"] = json!(name);
    cluster.apply(name, &object);
    cluster.await_that("the namespace's account", || {
        let accounts = cluster.object(&["serviceaccounts", "-n", name]);
        (!accounts["items"].as_array().unwrap().is_empty()).then_some(())
    });
}

/// A Deployment of one of the shop's applications and its Service, without a sidecar.
fn plain(cluster: &Cluster, namespace: &str, name: &str, arguments: &[&str], ports: &[u16]) {
    let container = json!({"name": name, "image": "localhost/remora/shop:0.1.0", "args": arguments});
    cluster.apply(namespace, &deployment(name, &json!({"containers": [container]})));
    let ports: Vec<Value> = ports.iter().map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    cluster.apply(namespace, &json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports},
    }));
}

/// A Deployment of one pod.
pub(crate) fn deployment(name: &str, pod: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    })
}

impl Shop {
    /// The address of the door that `name` keeps.
    pub(crate) fn door(&self, name: &str) -> String {
        address(&self.cluster.pod("shop", name))
    }

    /// One request from outside through the door; the answer as JSON.
    pub(crate) fn ask(&self, path: &str, more: &[&str]) -> Value {
        let url = format!("http://{}:8080{path}", self.door("gateway"));
        let output = curl(&[&["-sS", "--fail-with-body", &url], more].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{path}: {said} {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{path}: {said}"))
    }

    /// The sum of a metric's series with all of `labels`, at a pod's sidecar.
    pub(crate) fn metric(&self, pod: &Value, name: &str, labels: &[&str]) -> f64 {
        let url = format!("http://{}:15020/metrics", address(pod));
        let text = String::from_utf8(curl(&["-sS", &url]).stdout).unwrap();
        let series =
            text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// A pod's address.
pub(crate) fn address(pod: &Value) -> String {
    pod["status"]["podIP"].as_str().unwrap().to_owned()
}

/// curl on this machine: to a pod it is a client without a sidecar.
pub(crate) fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["--max-time", "20"]).args(arguments).output().unwrap()
}
