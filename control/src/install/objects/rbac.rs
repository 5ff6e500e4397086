//! What the control plane may do, and no more.
//!
//! `create` cannot be limited to names: Kubernetes does not know an object's name when it asks whether it may be made.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::{Object, cluster_metadata, metadata};
use crate::cluster::{CA_SECRET, CONTROL, INJECTOR, MESH, NAMESPACE, TRUST_BUNDLE, WEBHOOK_SECRET};

const READ: [&str; 3] = ["get", "list", "watch"];

pub(super) fn objects() -> [Object; 4] {
    [
        Object::of(&cluster_role()),
        Object::of(&ClusterRoleBinding {
            metadata: cluster_metadata(CONTROL),
            role_ref: role_ref("ClusterRole"),
            subjects: Some(vec![subject()]),
        }),
        Object::of(&role()),
        Object::of(&RoleBinding {
            metadata: metadata(CONTROL),
            role_ref: role_ref("Role"),
            subjects: Some(vec![subject()]),
        }),
    ]
}

fn cluster_role() -> ClusterRole {
    let copies = [TRUST_BUNDLE, MESH];
    let rules = vec![
        // Workloads prove who they are by their tokens.
        rule("authentication.k8s.io", "tokenreviews", &[], &["create"]),
        // Which namespaces are injected, and what their annotations say.
        rule("", "namespaces", &[], &READ),
        // The copies that injected pods mount.
        rule("", "configmaps", &copies, &["get", "list", "watch", "update", "patch", "delete"]),
        rule("", "configmaps", &[], &["create"]),
        // The authority by which the API server knows the webhook.
        rule(
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations",
            &[INJECTOR],
            &["get", "list", "watch", "patch"],
        ),
    ];
    ClusterRole { metadata: cluster_metadata(CONTROL), rules: Some(rules), ..ClusterRole::default() }
}

fn role() -> Role {
    let rules = vec![
        rule("", "secrets", &[CA_SECRET, WEBHOOK_SECRET], &["get", "list", "watch", "update"]),
        rule("", "secrets", &[], &["create"]),
    ];
    Role { metadata: metadata(CONTROL), rules: Some(rules) }
}

fn rule(group: &str, resource: &str, names: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: (!names.is_empty()).then(|| owned(names)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

fn role_ref(kind: &str) -> RoleRef {
    RoleRef { api_group: "rbac.authorization.k8s.io".to_owned(), kind: kind.to_owned(), name: CONTROL.to_owned() }
}

fn subject() -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: CONTROL.to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
        ..Subject::default()
    }
}
