//! The control plane while it is used: its replicas, certificates, copies, and the mesh's configuration.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use remora_test::netns::run;
use serde_json::{Value, json};

use crate::cluster::meanwhile;
use crate::shop::{Shop, address, curl, namespace, shop};

const SYSTEM: &str = "remora-system";

/// The control plane's pods, once there are two, both ready, and those before them are gone.
fn replicas(shop: &Shop) -> Vec<Value> {
    shop.cluster.await_that("two replicas", || {
        let pods = shop.cluster.object(&["pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=remora-control"]);
        let pods = pods["items"].as_array().unwrap().clone();
        let ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        (pods.len() == 2 && pods.iter().all(ready)).then_some(pods)
    })
}

/// Tries to make pods in the injected namespace while `change` happens; how many tries there were, and what refused.
fn while_admitting(shop: &Shop, change: impl FnOnce()) -> (u32, Vec<String>) {
    let file = shop.cluster.folder("admitted").join("pod.json");
    let container = json!({"name": "app", "image": "app"});
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": {"containers": [container]}});
    std::fs::write(&file, pod.to_string()).unwrap();
    let command = ["-n", "shop", "create", "--dry-run=server", "-o", "json", "-f", file.to_str().unwrap()];
    let attempt = || {
        let answer = shop.cluster.kubectl_command(&command).output().unwrap();
        let said = String::from_utf8_lossy(&answer.stdout);
        match answer.status.success() && said.contains("remora-proxy") {
            true => Ok(()),
            false => Err(format!("{said}{}", String::from_utf8_lossy(&answer.stderr))),
        }
    };
    meanwhile(1, attempt, change)
}

/// The fingerprint of the certificate that a replica's webhook shows.
fn shown(replica: &Value) -> String {
    let script = format!(
        "openssl s_client -connect {}:15017 </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256",
        address(replica)
    );
    let output = run(Command::new("bash").args(["-o", "pipefail", "-c", &script])).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn bundle(shop: &Shop) -> Vec<String> {
    let configuration = shop.cluster.object(&["mutatingwebhookconfiguration", "remora-injector"]);
    let webhooks = configuration["webhooks"].as_array().unwrap().clone();
    webhooks.into_iter().map(|webhook| webhook["clientConfig"]["caBundle"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_webhooks_certificate_and_authority_change_and_no_pod_is_refused() {
    let Some(shop) = shop() else { return };
    let rollout = || shop.cluster.await_rollout(SYSTEM, "remora-control");
    // Lives of seconds instead of months, for what is made from now on; `remora install` takes that back below.
    let patch: Value = ["--webhook-certificate-life=9s", "--webhook-authority-life=30s"]
        .map(|flag| json!({"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": flag}))
        .into_iter()
        .collect();
    let patch = patch.to_string();
    shop.cluster.kubectl(&["-n", SYSTEM, "patch", "deployment", "remora-control", "--type=json", "-p", &patch]);
    rollout();
    // Those before them would make it anew with long lives.
    let old = replicas(&shop);
    let long = bundle(&shop);
    shop.cluster.kubectl(&["-n", SYSTEM, "delete", "secret", "remora-webhook"]);
    shop.cluster
        .await_that("another authority in the place of the deleted one", || (bundle(&shop) != long).then_some(()));
    let (first, began) = (bundle(&shop), shown(&old[0]));
    let mut seen = [BTreeSet::from([began]), BTreeSet::from([shown(&old[1])])];
    let (count, refused) = while_admitting(&shop, || {
        shop.cluster.await_that("another authority, and three certificates of each replica", || {
            for (replica, seen) in old.iter().zip(&mut seen) {
                seen.insert(shown(replica));
            }
            let replaced = bundle(&shop).iter().zip(&first).all(|(now, then)| !now.contains(then.as_str()));
            (replaced && seen.iter().all(|seen| seen.len() >= 3)).then_some(())
        });
    });
    assert!(count >= 10, "only {count} pods were tried");
    assert!(refused.is_empty(), "{} of {count} pods were refused: {}", refused.len(), refused[0]);
    let restarts = replicas(&shop)
        .iter()
        .map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].clone())
        .collect::<Vec<_>>();
    assert_eq!(restarts, [json!(0), json!(0)], "nothing restarted");
    let names = |pods: &[Value]| pods.iter().map(|pod| pod["metadata"]["name"].to_string()).collect::<BTreeSet<_>>();
    assert_eq!(names(&replicas(&shop)), names(&old), "the same pods");
    shop.cluster.remora(&["install"]);
    rollout();
}

#[test]
fn a_rolling_restart_of_the_control_plane_refuses_no_pod() {
    let Some(shop) = shop() else { return };
    let old: Vec<String> =
        replicas(&shop).iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    let (count, refused) = while_admitting(&shop, || {
        shop.cluster.kubectl(&["-n", SYSTEM, "rollout", "restart", "deployment", "remora-control"]);
        shop.cluster.await_rollout(SYSTEM, "remora-control");
        for name in &old {
            shop.cluster.kubectl(&["-n", SYSTEM, "wait", "--for=delete", &format!("pod/{name}"), "--timeout=120s"]);
        }
    });
    assert!(count >= 10, "only {count} pods were tried");
    assert!(refused.is_empty(), "{} of {count} pods were refused: {}", refused.len(), refused[0]);
}

/// The commands of the document's first block that has `word` in it.
pub(crate) fn commands(document: &str, word: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    text.split("```").skip(1).step_by(2).find(|block| block.contains(word)).unwrap().to_owned()
}

#[test]
fn the_root_is_replaced_as_the_document_says() {
    let Some(shop) = shop() else { return };
    let roots = |namespace: &str| {
        let map = shop.cluster.object(&["configmap", "-n", namespace, "remora-trust-bundle"]);
        map["data"]["bundle.pem"].as_str().unwrap().matches("BEGIN CERTIFICATE").count()
    };
    let before = roots("shop");
    let folder = shop.cluster.folder("root");
    let script = commands("control.md", "remora-certs rotate root");
    // Certificates are being issued all the time: what changed meanwhile is refused, and done again, as the document says.
    shop.cluster.await_that("the new root is put back", || {
        let _ = std::fs::remove_dir_all(folder.join("ca"));
        let output = shop.cluster.shell(&folder, &script);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("Conflict") || said.contains("modified"), "{output:?}");
        output.status.success().then_some(())
    });
    shop.cluster.await_that("both roots in every bundle", || {
        (roots(SYSTEM) == before + 1 && roots("shop") == before + 1).then_some(())
    });
    // Whoever asks for a certificate now is served as before.
    shop.cluster.kubectl(&["-n", "shop", "rollout", "restart", "deployment", "storefront"]);
    shop.cluster.await_rollout("shop", "storefront");
    let url = format!("http://{}:8080/products", shop.door("gateway"));
    shop.cluster.await_that("an answer by way of it", || curl(&["-sS", "--fail", &url]).status.success().then_some(()));
}

#[test]
fn what_pods_mount_comes_and_goes_with_the_namespaces_label() {
    let Some(shop) = shop() else { return };
    let cluster = shop.cluster;
    namespace(cluster, "later", &json!({}));
    let there = || {
        let maps = cluster.object(&["configmaps", "-n", "later"]);
        let names =
            maps["items"].as_array().unwrap().iter().map(|map| map["metadata"]["name"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("remora-")).collect::<BTreeSet<_>>()
    };
    assert_eq!(there(), BTreeSet::new());
    let both = BTreeSet::from(["remora-mesh".to_owned(), "remora-trust-bundle".to_owned()]);
    cluster.kubectl(&["label", "namespace", "later", "remora.dev/inject=enabled"]);
    cluster.await_that("copies", || (there() == both).then_some(()));
    // What somebody deletes comes back.
    cluster.kubectl(&["-n", "later", "delete", "configmap", "remora-mesh"]);
    cluster.await_that("the copy again", || (there() == both).then_some(()));
    cluster.kubectl(&["label", "namespace", "later", "remora.dev/inject-"]);
    cluster.await_that("no copies", || there().is_empty().then_some(()));
    cluster.kubectl(&["delete", "namespace", "later", "--wait=false"]);
}

#[test]
fn a_changed_mesh_configuration_reaches_running_pods() {
    let Some(shop) = shop() else { return };
    let pod = shop.cluster.pod("shop", "pricing");
    let url = format!("http://{}:8080/prices", address(&pod));
    assert!(!curl(&["-sS", &url]).status.success(), "strict: plaintext is refused");
    let mesh = shop.cluster.object(&["configmap", "-n", SYSTEM, "remora-mesh"])["data"]["mesh.yaml"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(mesh.contains("mtls: strict"));
    let put = |text: &str| {
        let patch = json!({"data": {"mesh.yaml": text}}).to_string();
        shop.cluster.kubectl(&["-n", SYSTEM, "patch", "configmap", "remora-mesh", "--type=merge", "-p", &patch]);
    };
    put(&mesh.replace("mtls: strict", "mtls: permissive"));
    shop.cluster.await_that("plaintext is taken", || curl(&["-sS", "--fail", &url]).status.success().then_some(()));
    put(&mesh);
    shop.cluster.await_that("plaintext is refused again", || (!curl(&["-sS", &url]).status.success()).then_some(()));
    let now = shop.cluster.pod("shop", "pricing");
    assert_eq!(now["metadata"]["uid"], pod["metadata"]["uid"], "the same pod");
    assert_eq!(now["status"]["initContainerStatuses"][1]["restartCount"], 0, "the same proxy");
}

#[test]
fn the_check_finds_nothing_wrong() {
    let Some(shop) = shop() else { return };
    let found: Value = serde_json::from_str(&shop.cluster.remora(&["check", "cluster", "-o", "json"])).unwrap();
    let lines = found.as_array().unwrap();
    assert!(lines.len() >= 10, "{found:#}");
    // What other tests restarted or made may be on its way: that is a warning. A failure ends `check` with 1.
    assert!(lines.iter().all(|line| line["result"] != "failure"), "{found:#}");
}
