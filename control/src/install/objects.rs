//! Every object of the control plane, from Kubernetes' types.

mod rbac;
mod webhook;
mod workload;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::ApiResource;
use remora_model::{MtlsMode, TrustDomain};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::{CONTROL, MESH, MESH_KEY, NAMESPACE, labels};
use crate::inject::Compat;

pub use self::workload::{ADMIN_PORT, CA_PORT, WEBHOOK_PORT};

/// The label by which the control plane's own pods are found.
pub const APP: (&str, &str) = ("app.kubernetes.io/name", CONTROL);

/// What is installed.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// The images' prefix.
    pub image_registry: String,
    /// The images' tag.
    pub version: String,
    /// The mesh whose annotations the webhook understands beside ours.
    pub compat: Option<Compat>,
    /// How many control planes run.
    pub replicas: u16,
    /// The proxies' configuration; [`None`] keeps the one that is there.
    pub mesh: Option<String>,
    /// Where the webhook is, for a control plane outside the cluster; without one it is the Service.
    pub webhook_url: Option<String>,
}

/// An object to be applied.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its kind and how it is addressed.
    pub resource: ApiResource,
    /// Its namespace, where it has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// All of it.
    pub value: Value,
}

impl Object {
    fn of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        let metadata = object.meta();
        Self {
            resource: ApiResource::erase::<K>(&()),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone().unwrap_or_default(),
            // Kubernetes' types always serialise.
            value: serde_json::to_value(object).unwrap_or_default(),
        }
    }

    /// How a person calls it.
    pub fn title(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.resource.kind, self.name),
            None => format!("{} {}", self.resource.kind, self.name),
        }
    }
}

/// Kinds that we make, in the order in which they are taken away. Whatever of them carries our labels is ours.
pub fn kinds() -> Vec<ApiResource> {
    use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{Secret, Service};
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
    vec![
        ApiResource::erase::<MutatingWebhookConfiguration>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Secret>(&()),
        ApiResource::erase::<RoleBinding>(&()),
        ApiResource::erase::<Role>(&()),
        ApiResource::erase::<ClusterRoleBinding>(&()),
        ApiResource::erase::<ClusterRole>(&()),
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Namespace>(&()),
    ]
}

/// All objects, in the order in which they are applied; the webhook's configuration is the last.
pub fn objects(options: &Options) -> Vec<Object> {
    let mut objects = vec![Object::of(&namespace()), Object::of(&account())];
    objects.extend(rbac::objects());
    objects.extend(options.mesh.as_ref().map(|mesh| Object::of(&mesh_config(mesh))));
    objects.extend([
        Object::of(&workload::service()),
        Object::of(&workload::deployment(options)),
        Object::of(&workload::disruption_budget(options)),
        Object::of(&webhook::configuration(options.webhook_url.as_deref())),
    ]);
    objects
}

/// The proxies' configuration where nobody wrote one: identities from the authority, and this rule for inbound.
pub fn default_mesh(mtls: MtlsMode) -> String {
    let mode = match mtls {
        MtlsMode::Strict => "strict",
        MtlsMode::Permissive => "permissive",
        MtlsMode::Off => "off",
    };
    format!(
        "# The configuration of every sidecar in the mesh. Changes take effect within a minute or two, without a restart.\n\
         mtls: {{}}         # identities come from the mesh's certificate authority\n\
         inbound:\n  mtls: {mode}\n"
    )
}

/// Ours, in our namespace.
fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(NAMESPACE.to_owned()), ..cluster_metadata(name) }
}

/// Ours, in no namespace.
fn cluster_metadata(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels()), ..ObjectMeta::default() }
}

fn namespace() -> Namespace {
    let mut metadata = cluster_metadata(NAMESPACE);
    let restricted = ("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
    metadata.labels.get_or_insert_default().extend([restricted]);
    Namespace { metadata, ..Namespace::default() }
}

fn account() -> ServiceAccount {
    ServiceAccount { metadata: metadata(CONTROL), ..ServiceAccount::default() }
}

fn mesh_config(mesh: &str) -> ConfigMap {
    let data = BTreeMap::from([(MESH_KEY.to_owned(), mesh.to_owned())]);
    ConfigMap { metadata: metadata(MESH), data: Some(data), ..ConfigMap::default() }
}

#[cfg(test)]
mod tests;
