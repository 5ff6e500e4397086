//! The proxy's environment.
//!
//! The kubelet expands `$(NAME)` in values, so every `$` that is not ours is doubled.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};
use serde_json::Value;

use super::names::{PROBES_VARIABLE, REDIRECTION_VARIABLE};
use super::settings::{Options, Settings};
use super::values::mtls_word;
use super::{Owner, PodContext};

/// What the pod knows of itself only at run time.
const DOWNWARD: [(&str, &str, &str); 4] = [
    ("REMORA_POD_NAMESPACE", "metadata.namespace", "k8s.namespace.name"),
    ("REMORA_POD_NAME", "metadata.name", "k8s.pod.name"),
    ("REMORA_POD_UID", "metadata.uid", "k8s.pod.uid"),
    ("REMORA_NODE_NAME", "spec.nodeName", "k8s.node.name"),
];

/// The proxy's variables.
pub(crate) fn environment(
    context: &PodContext<'_>,
    settings: &Settings,
    options: &Options,
    redirection: &[String],
    probes: Option<&str>,
    exit_with_application: bool,
) -> Vec<EnvVar> {
    let mut variables: Vec<EnvVar> = DOWNWARD.iter().map(|(name, field, _)| downward(name, field)).collect();
    let mut set = |name: &str, value: Option<String>| variables.extend(value.map(|value| plain(name, &value)));
    set("REMORA_LOG", Some(options.log_level.clone()));
    set("REMORA_TRUST_DOMAIN", Some(options.trust_domain.to_string()));
    set("REMORA_CA_ADDRESS", Some(settings.ca_address.clone()));
    set("REMORA_CA_ROOTS", Some("/etc/remora/trust/bundle.pem".to_owned()));
    set("REMORA_CA_TOKEN", Some("/var/run/secrets/remora/token".to_owned()));
    set("REMORA_INBOUND_MTLS", options.mtls.map(|mode| mtls_word(mode).to_owned()));
    set("REMORA_INTERCEPTION", options.tproxy.then(|| "tproxy".to_owned()));
    set("REMORA_DRAIN_TIMEOUT", options.drain_timeout.clone());
    // A native sidecar is told to end when the application is gone: there is nobody to accept late callers for.
    let at_once = options.native_sidecar.then(|| "0".to_owned());
    set("REMORA_LAME_DUCK", options.lame_duck.clone().or(at_once));
    set("REMORA_EXIT_WITH_APPLICATION", exit_with_application.then(|| "true".to_owned()));
    set(REDIRECTION_VARIABLE, (!redirection.is_empty()).then(|| escape(&redirection.join(" "))));
    set(PROBES_VARIABLE, probes.map(escape));
    set("OTEL_SERVICE_NAME", service_name(context, options));
    set("OTEL_EXPORTER_OTLP_ENDPOINT", options.tracing_endpoint.clone());
    set("OTEL_TRACES_SAMPLER", options.tracing_sampling.map(|_| "parentbased_traceidratio".to_owned()));
    set("OTEL_TRACES_SAMPLER_ARG", options.tracing_sampling.map(|share| share.to_string()));
    set("OTEL_RESOURCE_ATTRIBUTES", Some(attributes(context.owner.as_ref())));
    variables
}

/// The probes' text in an injected proxy's environment.
pub(crate) fn probes_of(proxy: &Value) -> Option<String> {
    let variables = proxy.get("env")?.as_array()?;
    let ours = |variable: &&Value| variable.get("name").and_then(Value::as_str) == Some(PROBES_VARIABLE);
    let text = variables.iter().find(ours)?.get("value")?.as_str()?;
    Some(text.replace("$$", "$"))
}

fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn downward(name: &str, field: &str) -> EnvVar {
    let field = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: field.to_owned() };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

/// The workload's name; without one the labels that name an application, then its container.
fn service_name(context: &PodContext<'_>, options: &Options) -> Option<String> {
    let label = |name: &str| context.pod.pointer("/metadata/labels")?.get(name)?.as_str();
    let owner = context.owner.as_ref().map(|owner| owner.name.as_str());
    let name = options.service_name.as_deref().or(owner);
    let name = name.or_else(|| label("app.kubernetes.io/name")).or_else(|| label("app"));
    let name = name.or_else(|| super::strip::first_application(context.pod))?;
    super::values::service_name(name).ok()
}

/// OpenTelemetry's resource attributes; the names in them need no escaping, since Kubernetes allows nothing that would.
fn attributes(owner: Option<&Owner>) -> String {
    let known = DOWNWARD.iter().map(|(variable, _, attribute)| format!("{attribute}=$({variable})"));
    let workload = owner.and_then(|owner| {
        let kind = owner.kind.to_ascii_lowercase();
        let plain = super::values::service_name(&owner.name).is_ok() && !owner.name.contains('/');
        let known = ["deployment", "statefulset", "daemonset", "replicaset", "job", "cronjob"].contains(&kind.as_str());
        (plain && known).then(|| format!("k8s.{kind}.name={}", owner.name))
    });
    known.chain(workload).collect::<Vec<_>>().join(",")
}
