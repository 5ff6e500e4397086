use serde_json::json;

use super::*;
use crate::cluster::LABELS;

fn options() -> Options {
    Options {
        trust_domain: "example.org".parse().unwrap(),
        image_registry: "registry.example.org/remora".to_owned(),
        version: "1.2.3".to_owned(),
        compat: None,
        replicas: 2,
        mesh: Some(default_mesh(MtlsMode::Strict)),
        webhook_url: None,
    }
}

fn value(kind: &str) -> Value {
    objects(&options()).into_iter().find(|object| object.resource.kind == kind).unwrap().value
}

#[test]
fn every_object_is_found_by_label_and_by_kind() {
    let kinds: Vec<_> = kinds().into_iter().map(|resource| resource.kind).collect();
    for object in objects(&options()) {
        let labels = &object.value["metadata"]["labels"];
        assert!(LABELS.iter().all(|(name, value)| labels[*name] == **value), "{}", object.title());
        assert!(kinds.contains(&object.resource.kind), "{}", object.title());
        assert_eq!(object.value["kind"], object.resource.kind);
        assert_eq!(object.value["apiVersion"], object.resource.api_version);
    }
}

#[test]
fn namespace_and_account_come_first_and_the_webhook_last() {
    let titles: Vec<_> = objects(&options()).iter().map(Object::title).collect();
    assert_eq!(titles[..2], ["Namespace remora-system", "ServiceAccount remora-system/remora-control"]);
    assert_eq!(titles.last().unwrap(), "MutatingWebhookConfiguration remora-injector");
    let kept = objects(&Options { mesh: None, ..options() });
    assert_eq!(kept.len() + 1, titles.len(), "only the configuration is left out");
}

#[test]
fn the_webhook_fails_closed_but_never_for_what_would_repair_it() {
    let configuration = value("MutatingWebhookConfiguration");
    let webhooks = configuration["webhooks"].as_array().unwrap();
    assert_eq!(webhooks.len(), 2);
    for webhook in webhooks {
        assert_eq!(webhook["failurePolicy"], "Fail");
        let excluded = json!({
            "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["remora-system", "kube-system"],
        });
        assert!(webhook["namespaceSelector"]["matchExpressions"].as_array().unwrap().contains(&excluded), "{webhook}");
        assert_eq!(webhook["clientConfig"]["service"]["path"], "/inject");
        assert_eq!(webhook["clientConfig"].get("caBundle"), None, "that is the control plane's to set");
    }
    let by_url = objects(&Options { webhook_url: Some("https://127.0.0.1:1/inject".to_owned()), ..options() });
    let client = &by_url.last().unwrap().value["webhooks"][0]["clientConfig"];
    assert_eq!(*client, json!({"url": "https://127.0.0.1:1/inject"}));
}

#[test]
fn the_control_plane_may_do_nothing_that_is_not_listed() {
    let cluster = value("ClusterRole");
    for rule in cluster["rules"].as_array().unwrap().iter().chain(value("Role")["rules"].as_array().unwrap()) {
        let text = rule.to_string();
        assert!(!text.contains('*'), "{text}");
        let names_nothing = rule.get("resourceNames").is_none();
        let verbs = rule["verbs"].as_array().unwrap();
        let reads = rule["resources"] == json!(["namespaces"]);
        assert!(!names_nothing || reads || *verbs == ["create"], "{text}");
    }
    assert!(!cluster.to_string().contains("secrets"), "Secrets of one namespace only");
}

#[test]
fn the_webhook_is_told_whose_annotations_it_understands() {
    let with = objects(&Options { compat: Some(Compat::Istio), ..options() });
    let deployment = with.into_iter().find(|object| object.resource.kind == "Deployment").unwrap().value;
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["args"][3], "--compat=istio");
}

#[test]
fn the_pods_are_confined() {
    let pod = &value("Deployment")["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example.org/remora/control:1.2.3");
    let arguments = json!(["control", "--trust-domain=example.org", "--image-registry=registry.example.org/remora"]);
    assert_eq!(container["args"], arguments);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["metadata"]["labels"]["remora.dev/inject"], "false");
}

#[test]
fn the_default_configuration_is_one_that_a_proxy_takes() {
    let environment = remora_config::Environment::new([
        ("OTEL_SERVICE_NAME", "web"),
        ("REMORA_TRUST_DOMAIN", "example.org"),
        ("REMORA_CA_ADDRESS", crate::inject::CA_ADDRESS),
        ("REMORA_CA_ROOTS", "/etc/remora/trust/bundle.pem"),
        ("REMORA_CA_TOKEN", "/var/run/secrets/remora/token"),
    ]);
    for mode in [MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Off] {
        let mesh = default_mesh(mode);
        remora_config::parse("mesh.yaml", mesh.as_bytes(), &environment).unwrap();
    }
}
