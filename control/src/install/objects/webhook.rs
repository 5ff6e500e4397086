//! Which pods the API server shows to the webhook.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::cluster_metadata;
use crate::cluster::{CONTROL, ENABLED, INJECT, INJECTOR, NAMESPACE};
use crate::webhook::server::PATH;

/// Without these two no injection can be repaired: whatever happens to the webhook, pods start there.
const EXCLUDED: [&str; 2] = [NAMESPACE, "kube-system"];

pub(super) fn configuration(url: Option<&str>) -> MutatingWebhookConfiguration {
    let by_namespace = webhook(
        "namespaces.injector.remora.dev",
        url,
        requirement(INJECT, "In", &[ENABLED]),
        requirement(INJECT, "NotIn", &["false"]),
    );
    let by_pod = webhook(
        "pods.injector.remora.dev",
        url,
        requirement(INJECT, "NotIn", &[ENABLED]),
        requirement(INJECT, "In", &["true"]),
    );
    MutatingWebhookConfiguration { metadata: cluster_metadata(INJECTOR), webhooks: Some(vec![by_namespace, by_pod]) }
}

fn webhook(
    name: &str,
    url: Option<&str>,
    namespace: LabelSelectorRequirement,
    pod: LabelSelectorRequirement,
) -> MutatingWebhook {
    let not_excluded = requirement("kubernetes.io/metadata.name", "NotIn", &EXCLUDED);
    MutatingWebhook {
        name: name.to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: client_config(url),
        // A pod that should be in the mesh and is not would speak plaintext: rather none.
        failure_policy: Some("Fail".to_owned()),
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: Some(selector(vec![not_excluded, namespace])),
        object_selector: Some(selector(vec![pod])),
        // Containers that other webhooks add later are seen, too; injecting twice is injecting once.
        reinvocation_policy: Some("IfNeeded".to_owned()),
        rules: Some(vec![RuleWithOperations {
            api_groups: Some(vec![String::new()]),
            api_versions: Some(vec!["v1".to_owned()]),
            operations: Some(vec!["CREATE".to_owned()]),
            resources: Some(vec!["pods".to_owned()]),
            scope: Some("Namespaced".to_owned()),
        }]),
        // The ConfigMaps that a pod mounts are copied to where they are missing, but not for a dry run.
        side_effects: "NoneOnDryRun".to_owned(),
        timeout_seconds: Some(10),
        ..MutatingWebhook::default()
    }
}

/// The bundle by which the webhook is known is the control plane's to set.
fn client_config(url: Option<&str>) -> WebhookClientConfig {
    match url {
        Some(url) => WebhookClientConfig { url: Some(url.to_owned()), ..WebhookClientConfig::default() },
        None => WebhookClientConfig {
            service: Some(ServiceReference {
                name: CONTROL.to_owned(),
                namespace: NAMESPACE.to_owned(),
                path: Some(PATH.to_owned()),
                port: Some(443),
            }),
            ..WebhookClientConfig::default()
        },
    }
}

fn selector(expressions: Vec<LabelSelectorRequirement>) -> LabelSelector {
    LabelSelector { match_expressions: Some(expressions), ..LabelSelector::default() }
}

fn requirement(key: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
    }
}
