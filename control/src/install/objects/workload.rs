//! The control plane's pods, and how they are reached.

use std::collections::BTreeMap;

use clap::ValueEnum;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext, Service, ServicePort, ServiceSpec,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{APP, Options, metadata};
use crate::cluster::{CONTROL, INJECT, labels};

/// Where the webhook listens; the Service has it on 443.
pub const WEBHOOK_PORT: u16 = 15017;
/// Where the authority listens.
pub const CA_PORT: u16 = 15012;
/// Where /metrics, /ready and /healthz are.
pub const ADMIN_PORT: u16 = 15014;
/// Nobody in particular.
const UID: i64 = 65532;

fn app() -> BTreeMap<String, String> {
    BTreeMap::from([(APP.0.to_owned(), APP.1.to_owned())])
}

fn selector() -> LabelSelector {
    LabelSelector { match_labels: Some(app()), ..LabelSelector::default() }
}

pub(super) fn service() -> Service {
    let port = |name: &str, port: u16, target: &str| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(target.to_owned())),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        selector: Some(app()),
        ports: Some(vec![
            port("https-webhook", 443, "webhook"),
            port("grpc-ca", CA_PORT, "ca"),
            port("http-admin", ADMIN_PORT, "admin"),
        ]),
        ..ServiceSpec::default()
    };
    Service { metadata: metadata(CONTROL), spec: Some(spec), ..Service::default() }
}

pub(super) fn disruption_budget(options: &Options) -> PodDisruptionBudget {
    // With one replica a budget would keep its node from ever being drained.
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::Int(i32::from(options.replicas / 2).max(1))),
        selector: Some(selector()),
        ..PodDisruptionBudgetSpec::default()
    };
    PodDisruptionBudget { metadata: metadata(CONTROL), spec: Some(spec), ..PodDisruptionBudget::default() }
}

pub(super) fn deployment(options: &Options) -> Deployment {
    let mut pod_labels = labels();
    pod_labels.extend(app());
    pod_labels.insert(INJECT.to_owned(), "false".to_owned());
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(pod_labels), ..ObjectMeta::default() }),
        spec: Some(pod(options)),
    };
    let spec = DeploymentSpec {
        replicas: Some(i32::from(options.replicas)),
        selector: selector(),
        // One more before one less: the webhook must always be there.
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(1)),
                max_unavailable: Some(IntOrString::Int(0)),
            }),
        }),
        template,
        ..DeploymentSpec::default()
    };
    Deployment { metadata: metadata(CONTROL), spec: Some(spec), ..Deployment::default() }
}

fn pod(options: &Options) -> PodSpec {
    // The authority's files lie here, in memory, for as long as the pod lives.
    let memory =
        EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: Some(Quantity("16Mi".to_owned())) };
    PodSpec {
        service_account_name: Some(CONTROL.to_owned()),
        containers: vec![container(options)],
        volumes: Some(vec![Volume { name: "tmp".to_owned(), empty_dir: Some(memory), ..Volume::default() }]),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            fs_group: Some(UID),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector()),
            ..TopologySpreadConstraint::default()
        }]),
        termination_grace_period_seconds: Some(30),
        ..PodSpec::default()
    }
}

fn container(options: &Options) -> Container {
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let quantities = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
    };
    let mut arguments = vec![
        "control".to_owned(),
        format!("--trust-domain={}", options.trust_domain),
        format!("--image-registry={}", options.image_registry),
    ];
    // Called on the command line as here.
    let compat = options.compat.and_then(|compat| compat.to_possible_value());
    arguments.extend(compat.map(|compat| format!("--compat={}", compat.get_name())));
    Container {
        name: CONTROL.to_owned(),
        image: Some(format!("{}/control:{}", options.image_registry, options.version)),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["/remora".to_owned()]),
        args: Some(arguments),
        ports: Some(vec![port("webhook", WEBHOOK_PORT), port("ca", CA_PORT), port("admin", ADMIN_PORT)]),
        startup_probe: Some(Probe { failure_threshold: Some(60), period_seconds: Some(1), ..probe("/healthz") }),
        readiness_probe: Some(Probe { period_seconds: Some(5), ..probe("/ready") }),
        liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(3), ..probe("/healthz") }),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "50m"), ("memory", "64Mi")])),
            limits: Some(quantities(&[("memory", "512Mi")])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "tmp".to_owned(),
            mount_path: "/tmp".to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}
