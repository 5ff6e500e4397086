//! The two containers, built from Kubernetes' types.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe,
    ResourceRequirements, SeccompProfile, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use remora_model::capture::{METRICS_PORT, PROXY_ID, Ports, READINESS_PORT};

use super::names::{CONFIG, INIT_CONTAINER, MESH_VOLUME, POD_VOLUME, PROXY_CONTAINER, TOKEN_VOLUME, TRUST_VOLUME};
use super::settings::{Networks, Options, Resources, Settings};
use super::values::Amount;

/// The ids the proxy runs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Where each volume is mounted.
const MOUNTS: [(&str, &str); 4] = [
    (MESH_VOLUME, "/etc/remora/mesh"),
    (TRUST_VOLUME, "/etc/remora/trust"),
    (TOKEN_VOLUME, "/var/run/secrets/remora"),
    (POD_VOLUME, "/etc/remora/pod"),
];

/// The container that redirects the pod's traffic and ends.
pub(crate) fn init(settings: &Settings, options: &Options, ids: Ids) -> Container {
    Container {
        name: INIT_CONTAINER.to_owned(),
        image: Some(options.init_image.clone().unwrap_or_else(|| settings.image("init"))),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["/remora-init".to_owned()]),
        args: Some(arguments(options, ids)).filter(|arguments| !arguments.is_empty()),
        resources: Some(requirements([("cpu", "10m"), ("memory", "16Mi")], [("cpu", "1"), ("memory", "64Mi")])),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(capabilities(&["NET_ADMIN", "NET_RAW"])),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            run_as_user: Some(0),
            seccomp_profile: Some(runtime_default()),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// `remora-init`'s flags; only what differs from its defaults, each rendered from the typed value.
pub(crate) fn arguments(options: &Options, ids: Ids) -> Vec<String> {
    fn list<T: ToString>(items: &[T]) -> Option<String> {
        (!items.is_empty()).then(|| joined(items))
    }
    let networks = |networks: &Networks| match networks {
        Networks::All => "*".to_owned(),
        Networks::Only(networks) => joined(networks),
    };
    let flags = [
        ("inbound-mode", options.tproxy.then(|| "tproxy".to_owned())),
        ("include-inbound-ports", Some(&options.include_inbound_ports).filter(|p| **p != Ports::All).map(choice)),
        ("exclude-inbound-ports", list(&options.exclude_inbound_ports)),
        ("exclude-inbound-cidrs", list(&options.exclude_inbound_cidrs)),
        ("include-outbound-ports", options.include_outbound_ports.as_ref().map(choice)),
        ("exclude-outbound-ports", list(&options.exclude_outbound_ports)),
        ("include-outbound-cidrs", options.include_outbound_cidrs.as_ref().map(networks)),
        ("exclude-outbound-cidrs", list(&options.exclude_outbound_cidrs)),
        // With TPROXY the proxy is root, as an application may be; its group tells them apart.
        ("proxy-uid", (ids.uid != PROXY_ID).then(|| if ids.uid == 0 { String::new() } else { ids.uid.to_string() })),
        ("proxy-gid", (ids.gid != PROXY_ID).then(|| ids.gid.to_string())),
        ("exclude-uids", list(&options.exclude_outbound_uids)),
        ("exclude-interfaces", list(&options.exclude_interfaces)),
    ];
    flags.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?))).collect()
}

fn choice(ports: &Ports) -> String {
    match ports {
        Ports::All => "*".to_owned(),
        Ports::Only(ranges) => joined(ranges),
    }
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// The sidecar.
pub(crate) fn proxy(settings: &Settings, options: &Options, ids: Ids, env: Vec<EnvVar>) -> Container {
    let native = options.native_sidecar;
    let mount = |(name, path): (&str, &str)| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    Container {
        name: PROXY_CONTAINER.to_owned(),
        image: Some(options.proxy_image.clone().unwrap_or_else(|| settings.image("proxy"))),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["/remora-proxy".to_owned()]),
        args: Some(vec!["--config".to_owned(), CONFIG.to_owned()]),
        env: Some(env),
        lifecycle: Some(if native { leave() } else { wait_until_ready() }),
        ports: Some(vec![ContainerPort {
            name: Some("remora-metrics".to_owned()),
            container_port: i32::from(METRICS_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        readiness_probe: Some(ready(2, 3)),
        resources: Some(resources(&options.resources)),
        restart_policy: native.then(|| "Always".to_owned()),
        security_context: Some(security(options, ids)),
        startup_probe: Some(ready(1, 120)),
        volume_mounts: Some(MOUNTS.into_iter().map(mount).collect()),
        ..Container::default()
    }
}

/// An ordinary container placed first: the next one is started once this hook has ended.
fn wait_until_ready() -> Lifecycle {
    Lifecycle { post_start: Some(exec(&["/remora-proxy", "wait", "--timeout", "60s"])), ..Lifecycle::default() }
}

/// Kubernetes runs this at once when the pod is deleted; that the sidecar is to end, it says when the application has. An ordinary container
/// is told both together.
fn leave() -> Lifecycle {
    Lifecycle { pre_stop: Some(exec(&["/remora-proxy", "leave", "--config", CONFIG])), ..Lifecycle::default() }
}

fn exec(command: &[&str]) -> LifecycleHandler {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    LifecycleHandler { exec: Some(ExecAction { command: Some(command) }), ..LifecycleHandler::default() }
}

fn ready(period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/ready".to_owned()),
            port: IntOrString::Int(i32::from(READINESS_PORT)),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

fn security(options: &Options, ids: Ids) -> SecurityContext {
    SecurityContext {
        // The kernel lets only root keep the one capability TPROXY needs.
        allow_privilege_escalation: Some(false),
        capabilities: Some(capabilities(if options.tproxy { &["NET_ADMIN"] } else { &[] })),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_group: Some(i64::from(ids.gid)),
        run_as_non_root: Some(!options.tproxy),
        run_as_user: Some(i64::from(ids.uid)),
        seccomp_profile: Some(runtime_default()),
        ..SecurityContext::default()
    }
}

fn capabilities(add: &[&str]) -> Capabilities {
    let add: Vec<String> = add.iter().map(|name| (*name).to_owned()).collect();
    Capabilities { add: Some(add).filter(|add| !add.is_empty()), drop: Some(vec!["ALL".to_owned()]) }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

/// What the proxy's container has where nothing is said: requests, then limits.
const DEFAULTS: [[&str; 2]; 2] = [["50m", "64Mi"], ["2", "256Mi"]];

fn resources(given: &Resources) -> ResourceRequirements {
    let [cpu, memory] = [(&given.cpu_request, &given.cpu_limit), (&given.memory_request, &given.memory_limit)];
    let cpu = bounds(cpu, [DEFAULTS[0][0], DEFAULTS[1][0]]);
    let memory = bounds(memory, [DEFAULTS[0][1], DEFAULTS[1][1]]);
    requirements([("cpu", &cpu.0), ("memory", &memory.0)], [("cpu", &cpu.1), ("memory", &memory.1)])
}

/// A default gives way to what is set beside it: a request is never above its limit.
fn bounds(given: (&Option<Amount>, &Option<Amount>), defaults: [&str; 2]) -> (String, String) {
    let crossed = |request: &str, limit: &str| match (request.parse::<Amount>(), limit.parse::<Amount>()) {
        (Ok(request), Ok(limit)) => request.exceeds(&limit),
        _ => false,
    };
    let text = |amount: &Amount| amount.as_str().to_owned();
    match given {
        (Some(request), Some(limit)) => (text(request), text(limit)),
        (Some(request), None) if crossed(request.as_str(), defaults[1]) => (text(request), text(request)),
        (Some(request), None) => (text(request), defaults[1].to_owned()),
        (None, Some(limit)) if crossed(defaults[0], limit.as_str()) => (text(limit), text(limit)),
        (None, Some(limit)) => (defaults[0].to_owned(), text(limit)),
        (None, None) => (defaults[0].to_owned(), defaults[1].to_owned()),
    }
}

fn requirements(requests: [(&str, &str); 2], limits: [(&str, &str); 2]) -> ResourceRequirements {
    let map = |amounts: [(&str, &str); 2]| -> BTreeMap<String, Quantity> {
        amounts.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).collect()
    };
    ResourceRequirements { requests: Some(map(requests)), limits: Some(map(limits)), ..ResourceRequirements::default() }
}
