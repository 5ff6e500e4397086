//! `remora inject`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args};
use remora_model::{MtlsMode, TrustDomain};
use serde_json::Value;

use super::input::Input;
use super::output::{Outcome, Output, transform};
use super::workloads::Workload;
use crate::inject::{self, Compat, PodContext, Settings, annotations};

/// The flags of `remora inject`.
///
/// Exit code 0: done; 1: something is refused, cannot be read or is not valid, and nothing was written; 2: the command line is
/// wrong.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Files, folders, or - for standard input
    #[arg(default_value = "-", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
    /// The proxy as an init container that keeps running (Kubernetes 1.29); false: an ordinary container placed first
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    native_sidecar: bool,
    /// Understand another mesh's annotations beside our own
    #[arg(long, value_enum, value_name = "MESH")]
    compat: Option<Compat>,
    /// The images' prefix
    #[arg(long, default_value = "localhost/remora", value_name = "PREFIX", value_parser = registry)]
    image_registry: String,
    /// Which inbound connections are taken: strict, permissive or off [default: the mesh's configuration]
    #[arg(long, value_name = "MODE", value_parser = mtls)]
    mtls: Option<MtlsMode>,
    /// The mesh's trust domain
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    trust_domain: TrustDomain,
    /// Where pods reach the certificate authority
    #[arg(long, default_value = inject::CA_ADDRESS, value_name = "HOST:PORT", value_parser = address)]
    ca_address: String,
    /// The namespace of objects that name none: which of the given Namespaces' annotations count
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
}

fn registry(text: &str) -> Result<String, String> {
    annotations::image(text.trim_end_matches('/'))
}

fn mtls(text: &str) -> Result<MtlsMode, String> {
    annotations::mtls(text)
}

fn address(text: &str) -> Result<String, String> {
    annotations::host_and_port(text)
}

impl Arguments {
    fn settings(&self) -> Settings {
        let mut settings = Settings::new(self.trust_domain.clone());
        settings.image_registry.clone_from(&self.image_registry);
        settings.compat = self.compat;
        settings.ca_address.clone_from(&self.ca_address);
        settings.defaults.native_sidecar = self.native_sidecar;
        settings.defaults.mtls = self.mtls;
        settings
    }
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let inputs = match super::input::read(&arguments.files) {
        Ok(inputs) => inputs,
        Err(problems) => {
            problems.iter().for_each(|line| eprintln!("{line}"));
            return ExitCode::FAILURE;
        }
    };
    let (settings, namespaces) = (arguments.settings(), namespaces(&inputs));
    transform(&inputs, &arguments.output, "injected", |workload, pod| {
        let namespace = workload.namespace.as_ref().unwrap_or(&arguments.namespace);
        let annotations = namespaces.get(namespace).cloned().unwrap_or_default();
        one(workload, pod, annotations, &settings)
    })
}

fn one(workload: &Workload, pod: &Value, namespace_annotations: annotations::Map, settings: &Settings) -> Outcome {
    let context = PodContext { pod, namespace_annotations, owner: workload.owner.clone() };
    if context.wanted(settings) == Some(false) {
        return Outcome::Left("left alone, as its label or annotation says");
    }
    match inject::inject(&context, settings) {
        Ok(patch) => Outcome::Patched(patch),
        Err(refusals) => {
            Outcome::Refused(refusals.into_iter().map(|refusal| refusal.below(&workload.path).to_string()).collect())
        }
    }
}

/// The annotations of the Namespaces among the documents.
fn namespaces(inputs: &[Input]) -> BTreeMap<String, annotations::Map> {
    let documents = inputs.iter().flat_map(|input| &input.manifest.documents);
    let objects = documents.filter_map(|document| document.value.as_ref());
    let namespace = |object: &Value| {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        if text("/kind") != Some("Namespace") || text("/apiVersion") != Some("v1") {
            return None;
        }
        Some((text("/metadata/name")?.to_owned(), inject::texts(object, "annotations")))
    };
    objects.filter_map(namespace).collect()
}
