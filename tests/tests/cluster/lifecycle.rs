//! Pods that come, end, crash and are replaced.

use std::io::{Read, Write};
use std::net::TcpStream;

use remora_test::netns::run;
use serde_json::{Value, json};

use crate::cluster::meanwhile;
use crate::shop::{Shop, address, curl, deployment, shop};

/// A Job that is done at once; `pod` says more of its pod.
fn job(name: &str, metadata: &Value, pod: &Value) -> Value {
    let container = json!({"name": "job", "image": "localhost/remora/shop:0.1.0", "args": ["--version"]});
    let mut spec = json!({"restartPolicy": "Never", "containers": [container]});
    spec.as_object_mut().unwrap().extend(pod.as_object().unwrap().clone());
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"metadata": metadata, "spec": spec}, "backoffLimit": 0},
    })
}

#[test]
fn a_jobs_pod_completes_with_either_kind_of_sidecar() {
    let Some(shop) = shop() else { return };
    let classic = json!({"annotations": {"remora.dev/native-sidecar": "false"}});
    let jobs = [
        ("native", job("native", &json!({}), &json!({}))),
        ("classic", job("classic", &classic, &json!({"shareProcessNamespace": true}))),
    ];
    for (name, job) in &jobs {
        shop.cluster.apply("shop", job);
        let status = shop.cluster.await_that("the Job's end", || {
            let status = shop.cluster.object(&["job", "-n", "shop", name])["status"].clone();
            status["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["type"] == "Complete" || one["type"] == "Failed"))
                .then_some(status)
        });
        assert_eq!(status["succeeded"], 1, "{name}: {status}");
        let pods = shop.cluster.object(&["pods", "-n", "shop", "-l", &format!("job-name={name}")]);
        let spec = &pods["items"][0]["spec"];
        let place = if *name == "native" { "initContainers" } else { "containers" };
        let containers = spec[place].as_array().unwrap();
        assert!(containers.iter().any(|one| one["name"] == "remora-proxy"), "{name}: it had a sidecar: {spec}");
        shop.cluster.kubectl(&["-n", "shop", "delete", "job", name]);
    }
}

#[test]
fn an_application_that_crashes_restarts_alone() {
    let Some(shop) = shop() else { return };
    let before = shop.cluster.pod("shop", "pricing");
    let process = shop.cluster.process(&before, "pricing");
    run(&mut shop.cluster.on_node(&["kill", "-9", &process])).unwrap();
    let after = shop.cluster.await_that("the application's restart", || {
        let pod = shop.cluster.pod("shop", "pricing");
        let status = &pod["status"]["containerStatuses"][0];
        (status["restartCount"] == 1 && status["ready"] == true).then_some(pod)
    });
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "the same pod");
    assert_eq!(after["status"]["initContainerStatuses"][1]["restartCount"], 0, "the sidecar went on");
    shop.cluster.await_that("prices again", || {
        let url = format!("http://{}:8080/products", shop.door("gateway"));
        curl(&["-sS", "--fail", &url]).status.success().then_some(())
    });
}

/// Requests through the door, four at a time, while `change` happens; how many there were, and those that failed.
fn under_load(shop: &Shop, change: impl FnOnce()) -> (u32, Vec<String>) {
    let url = format!("http://{}:8080/products", shop.door("gateway"));
    let attempt = || {
        let answer = curl(&["-sS", "--fail-with-body", "-D", "-", &url]);
        match answer.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned()),
        }
    };
    meanwhile(4, attempt, change)
}

fn restart_under_load(deployment: &str) {
    let Some(shop) = shop() else { return };
    let old: Vec<Value> =
        shop.cluster.pods("shop", deployment).iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    let (count, failures) = under_load(&shop, || {
        shop.cluster.kubectl(&["-n", "shop", "rollout", "restart", "deployment", deployment]);
        shop.cluster.await_rollout("shop", deployment);
        for name in &old {
            let pod = format!("pod/{}", name.as_str().unwrap());
            shop.cluster.kubectl(&["-n", "shop", "wait", "--for=delete", &pod, "--timeout=120s"]);
        }
    });
    assert!(count >= 100, "only {count} requests in the whole restart of {deployment}");
    assert!(
        failures.is_empty(),
        "{} of {count} failed as {deployment} restarted: {:#?}",
        failures.len(),
        &failures[..failures.len().min(3)]
    );
}

#[test]
fn a_rolling_restart_of_the_replicas_under_load_loses_no_request() {
    restart_under_load("catalog");
}

#[test]
fn a_rolling_restart_behind_a_cluster_address_under_load_loses_no_request() {
    restart_under_load("pricing");
}

#[test]
fn a_classic_sidecar_serves_as_well() {
    let Some(shop) = shop() else { return };
    let container = json!({
        "name": "pricing", "image": "localhost/remora/shop:0.1.0", "args": ["pricing", "--listen", "0.0.0.0:8080"],
        "readinessProbe": {"httpGet": {"path": "/prices", "port": 8080}, "periodSeconds": 1},
    });
    let mut object = deployment("classic", &json!({"serviceAccountName": "pricing", "containers": [container]}));
    object["spec"]["template"]["metadata"]["annotations"] = json!({"remora.dev/native-sidecar": "false"});
    shop.cluster.apply("shop", &object);
    shop.cluster.await_rollout("shop", "classic");
    let pod = shop.cluster.pod("shop", "classic");
    assert_eq!(pod["spec"]["containers"][0]["name"], "remora-proxy", "an ordinary container, the first");
    // Strict like the others: in plaintext nothing comes out, and who has an identity is served.
    let url = format!("http://{}:8080/prices", address(&pod));
    assert!(!curl(&["-sS", &url]).status.success(), "plaintext was served");
    let asked = shop.metric(&pod, "remora_requests_total", &["direction=\"inbound\""]);
    assert_eq!(asked, 0.0, "the kubelet asks the application by another way");
    shop.cluster.kubectl(&["-n", "shop", "delete", "deployment", "classic", "--wait=false"]);
}

#[test]
fn a_deleted_pod_answers_what_it_has_begun() {
    let Some(shop) = shop() else { return };
    let container = json!({
        "name": "slow", "image": "localhost/remora/shop:0.1.0", "args": ["echo", "--listen", "0.0.0.0:8080", "--name", "slow"],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    });
    let mut object = deployment("slow", &json!({"containers": [container]}));
    object["spec"]["template"]["metadata"]["annotations"] = json!({"remora.dev/mtls": "permissive"});
    shop.cluster.apply("shop", &object);
    shop.cluster.await_rollout("shop", "slow");
    let pod = shop.cluster.pod("shop", "slow");
    let name = pod["metadata"]["name"].as_str().unwrap();
    let mut stream = TcpStream::connect((address(&pod), 8080)).unwrap();
    stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: slow\r\ncontent-length: 10\r\n\r\nhalf ").unwrap();
    shop.cluster.await_that("the sidecar has the request", || {
        (shop.metric(&pod, "remora_downstream_connections_active", &["direction=\"inbound\""]) >= 1.0).then_some(())
    });
    shop.cluster.kubectl(&["-n", "shop", "delete", "deployment", "slow", "--wait=false"]);
    shop.cluster.await_that("the pod is told to end", || {
        let pod = shop.cluster.object(&["pod", "-n", "shop", name]);
        (!pod["metadata"]["deletionTimestamp"].is_null()).then_some(())
    });
    stream.write_all(b"more.").unwrap();
    let mut answer = String::new();
    // The connection is closed after the answer: the pod leaves.
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("half more."), "{answer}");
    shop.cluster.kubectl(&["-n", "shop", "wait", "--for=delete", &format!("pod/{name}"), "--timeout=120s"]);
}
