//! What the API server says to injected pods: to those the webhook injects, and to what `remora inject` writes.

use std::path::Path;

use serde_json::{Value, json};

use crate::shop::{Shop, deployment, namespace, shop};

fn pod(name: &str, metadata: &Value) -> Value {
    let container = json!({"name": "app", "image": "localhost/remora/shop:0.1.0", "args": ["--version"]});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}});
    pod["metadata"]["name"] = json!(name);
    pod
}

/// kubectl's answer to an attempt to make an object: whether it was made, and what was said.
fn create(shop: &Shop, place: &str, object: &Value, flags: &[&str]) -> (bool, String) {
    let file = shop.cluster.folder("admission").join("object.json");
    std::fs::write(&file, object.to_string()).unwrap();
    let command = ["-n", place, "create", "-f", file.to_str().unwrap()];
    let output = shop.cluster.kubectl_command(&[&command, flags].concat()).output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn a_bad_annotation_is_refused_at_admission_with_its_reason() {
    let Some(shop) = shop() else { return };
    let metadata = json!({"annotations": {"remora.dev/exclude-outbund-ports": "80", "remora.dev/log-level": "loud"}});
    let (made, said) = create(&shop, "shop", &pod("bad", &metadata), &[]);
    assert!(!made, "{said}");
    for part in [
        "remora cannot inject this pod",
        "metadata.annotations[\"remora.dev/exclude-outbund-ports\"]",
        "did you mean \"remora.dev/exclude-outbound-ports\"?",
        "remora.dev/log-level",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let pods = shop.cluster.object(&["pods", "-n", "shop"]);
    assert!(pods["items"].as_array().unwrap().iter().all(|pod| pod["metadata"]["name"] != "bad"));
}

#[test]
fn a_workload_whose_pods_are_refused_says_why() {
    let Some(shop) = shop() else { return };
    let mut object = deployment("refused", &pod("refused", &json!({}))["spec"]);
    object["spec"]["template"]["metadata"]["annotations"] = json!({"remora.dev/mtls": "maybe"});
    shop.cluster.apply("shop", &object);
    let said = shop.cluster.await_that("the ReplicaSet's failure", || {
        let object = shop.cluster.object(&["deployment", "-n", "shop", "refused"]);
        let conditions = object["status"]["conditions"].as_array()?.clone();
        let failure = conditions.into_iter().find(|one| one["type"] == "ReplicaFailure")?;
        Some(failure["message"].as_str().unwrap().to_owned())
    });
    assert!(said.contains("remora.dev/mtls") && said.contains("maybe"), "{said}");
    shop.cluster.kubectl(&["-n", "shop", "delete", "deployment", "refused"]);
}

#[test]
fn labels_choose_who_is_injected() {
    let Some(shop) = shop() else { return };
    let injected = |place: &str, object: &Value| {
        let (made, said) = create(&shop, place, object, &["--dry-run=server", "-o", "json"]);
        assert!(made, "{said}");
        let object: Value = serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap();
        object["spec"]["initContainers"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["name"] == "remora-proxy"))
    };
    let label = |value: &str| pod("labelled", &json!({"labels": {"remora.dev/inject": value}}));
    let silent = pod("silent", &json!({}));
    assert!(injected("shop", &silent), "the namespace says so");
    assert!(!injected("shop", &label("false")), "the pod says no");
    assert!(!injected("plain", &silent), "nobody says so");
    assert!(injected("plain", &label("true")), "the pod says so itself");
    assert!(!injected("kube-system", &label("true")), "never there");
    let mut host = silent;
    host["spec"]["hostNetwork"] = json!(true);
    let (made, said) = create(&shop, "shop", &host, &["--dry-run=server"]);
    assert!(
        made && said.contains("Warning") && said.contains("spec.hostNetwork"),
        "let through with a warning: {said}"
    );
    host["metadata"]["labels"] = json!({"remora.dev/inject": "true"});
    let (made, said) = create(&shop, "shop", &host, &["--dry-run=server"]);
    assert!(!made && said.contains("spec.hostNetwork"), "it asked itself: {said}");
}

#[test]
fn the_api_server_takes_every_injected_manifest() {
    let Some(shop) = shop() else { return };
    let folder = shop.cluster.folder("goldens");
    // The one that some of them name.
    namespace(shop.cluster, "team", &json!({}));
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/tests/inject");
    let mut taken = 0;
    let mut refused = Vec::new();
    for entry in std::fs::read_dir(goldens).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "injected") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap().replace("VERSION", "0.1.0");
        // kubectl reads no directives.
        let text = text.trim_start_matches("%YAML 1.2\n");
        let file = folder.join(path.file_stem().unwrap()).with_extension("yaml");
        std::fs::write(&file, text).unwrap();
        let output = shop
            .cluster
            .kubectl_command(&["-n", "team", "create", "--dry-run=server", "--validate=strict", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        taken += String::from_utf8_lossy(&output.stdout).lines().count();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // The Namespaces among them are there; of what is not Kubernetes' own, nothing is known.
        let passing = ["already exists", "in version \"example.org/v1\"", "ensure CRDs are installed first"];
        let said = said.lines().filter(|line| !passing.iter().any(|passing| line.ends_with(passing)));
        refused.extend(said.map(|line| format!("{}: {line}", file.file_name().unwrap().to_string_lossy())));
    }
    println!("{taken} objects");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(taken >= 40, "only {taken} objects");
    shop.cluster.kubectl(&["delete", "namespace", "team", "--wait=false"]);
}
