//! What makes a pod unfit for injection; everything is reported at once.

use std::collections::BTreeSet;

use remora_model::capture::OWN_PORTS;
use serde_json::Value;

use super::PodContext;
use super::containers::Ids;
use super::names::{CONTAINERS, INIT_CONTAINER, PROXY_CONTAINER, VOLUMES};
use super::refusal::Refusal;
use super::settings::{Options, Resources};
use super::values::{Amount, quoted};

/// Sidecars of other meshes.
const OTHERS: [(&str, &str); 3] = [("istio-proxy", "Istio"), ("linkerd-proxy", "Linkerd"), ("envoy-sidecar", "Consul")];

/// Whether everything that injection looks at has the shape it must have; nothing else is looked at before.
pub(crate) fn shape(pod: &Value, refusals: &mut Vec<Refusal>) {
    let mut expect = |pointer: &str, sound: fn(&Value) -> bool, what: &str| {
        if pod.pointer(pointer).is_some_and(|value| !value.is_null() && !sound(value)) {
            let path = pointer.trim_start_matches('/').replace('/', ".");
            refusals.push(Refusal::new(path, format!("must be {what}")));
        }
    };
    expect("/metadata", Value::is_object, "a mapping");
    for map in ["/metadata/annotations", "/metadata/labels"] {
        expect(map, Value::is_object, "a mapping");
    }
    if !pod.get("spec").is_some_and(Value::is_object) {
        refusals.push(Refusal::new("spec", "must be a mapping"));
        return;
    }
    for list in ["/spec/volumes", "/spec/containers", "/spec/initContainers"] {
        expect(list, Value::is_array, "a list");
    }
    texts(pod, refusals);
    containers(pod, refusals);
}

/// Annotations and labels hold texts; YAML makes other things of `true` and `1` without quotes.
fn texts(pod: &Value, refusals: &mut Vec<Refusal>) {
    for map in ["annotations", "labels"] {
        let fields = pod.pointer(&format!("/metadata/{map}")).and_then(Value::as_object);
        for (name, value) in fields.into_iter().flatten().filter(|(_, value)| !value.is_string()) {
            let path = format!("metadata.{map}[{}]", quoted(name));
            let shown = quoted(&value.to_string());
            refusals.push(Refusal::new(path, format!("must be a text, not {value}; write {shown} in quotes")));
        }
    }
}

fn containers(pod: &Value, refusals: &mut Vec<Refusal>) {
    if pod.pointer("/spec/containers").is_none_or(|list| list.as_array().is_none_or(Vec::is_empty)) {
        refusals.push(Refusal::new("spec.containers", "there is no container to inject beside"));
    }
    for (path, container) in every(pod) {
        if !container.get("name").is_some_and(Value::is_string) {
            refusals.push(Refusal::new(format!("{path}.name"), "must be a name"));
        }
        for field in ["securityContext", "lifecycle", "startupProbe", "readinessProbe", "livenessProbe"] {
            if container.get(field).is_some_and(|value| !value.is_object() && !value.is_null()) {
                refusals.push(Refusal::new(format!("{path}.{field}"), "must be a mapping"));
            }
        }
        if container.get("ports").is_some_and(|ports| !ports.is_array() && !ports.is_null()) {
            refusals.push(Refusal::new(format!("{path}.ports"), "must be a list"));
        }
    }
}

/// Every container with its path.
pub(crate) fn every(pod: &Value) -> impl Iterator<Item = (String, &Value)> {
    CONTAINERS.into_iter().flat_map(move |list| {
        let items = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array).into_iter().flatten();
        items.enumerate().map(move |(index, container)| (format!("spec.{list}[{index}]"), container))
    })
}

/// Everything else; `pod` is bare and its shape is sound.
pub(crate) fn fitness(context: &PodContext<'_>, pod: &Value, options: &Options, ids: Ids, refusals: &mut Vec<Refusal>) {
    let spec = |field: &str| pod.get("spec").and_then(|spec| spec.get(field));
    if spec("hostNetwork") == Some(&Value::Bool(true)) {
        refusals.push(Refusal::new(
            "spec.hostNetwork",
            "the pod uses the node's network, whose traffic is not a sidecar's",
        ));
    }
    if pod.pointer("/spec/os/name").and_then(Value::as_str) == Some("windows") {
        refusals.push(Refusal::new("spec.os.name", "there is no sidecar for Windows"));
    }
    let ends = spec("restartPolicy").and_then(Value::as_str).is_some_and(|policy| policy != "Always");
    let job = context.owner.as_ref().is_some_and(|owner| matches!(owner.kind.as_str(), "Job" | "CronJob"));
    let shared = spec("shareProcessNamespace") == Some(&Value::Bool(true));
    if !options.native_sidecar && (job || ends) && !shared {
        refusals.push(Refusal::new(
            "spec.shareProcessNamespace",
            "an ordinary sidecar container must see when the application ends, or the pod never completes: \
             set this to true, or use a native sidecar (remora.dev/native-sidecar: \"true\")",
        ));
    }
    users(pod, ids, refusals);
    names(pod, refusals);
    ports(pod, refusals);
    amounts(&options.resources, refusals);
}

/// What runs under the proxy's ids is never captured: it would be in no mesh without a word.
fn users(pod: &Value, ids: Ids, refusals: &mut Vec<Refusal>) {
    let mut check = |path: &str, context: Option<&Value>| {
        for (field, id) in [("runAsUser", ids.uid), ("runAsGroup", ids.gid)] {
            let same = context.and_then(|context| context.get(field)).and_then(Value::as_u64) == Some(u64::from(id));
            if same && id != 0 {
                let path = format!("{path}.{field}");
                let reason = format!(
                    "{id} is the proxy's own, whose traffic is not captured; use another here or set remora.dev/proxy-uid"
                );
                refusals.push(Refusal::new(path, reason));
            }
        }
    };
    check("spec.securityContext", pod.pointer("/spec/securityContext"));
    for (path, container) in every(pod) {
        check(&format!("{path}.securityContext"), container.get("securityContext"));
    }
}

fn names(pod: &Value, refusals: &mut Vec<Refusal>) {
    for (path, container) in every(pod) {
        let Some(name) = container.get("name").and_then(Value::as_str) else { continue };
        if [INIT_CONTAINER, PROXY_CONTAINER].contains(&name) {
            let reason = format!("a container is already called {name}, and not by injection");
            refusals.push(Refusal::new(format!("{path}.name"), reason));
        }
        if let Some((_, mesh)) = OTHERS.iter().find(|(sidecar, _)| *sidecar == name) {
            refusals.push(Refusal::new(format!("{path}.name"), format!("the pod already has {mesh}'s sidecar")));
        }
    }
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    for (index, volume) in volumes.enumerate() {
        if let Some(name) = volume.get("name").and_then(Value::as_str).filter(|name| VOLUMES.contains(name)) {
            let reason = format!("a volume is already called {name}, and not by injection");
            refusals.push(Refusal::new(format!("spec.volumes[{index}].name"), reason));
        }
    }
}

fn ports(pod: &Value, refusals: &mut Vec<Refusal>) {
    let own: BTreeSet<u64> = OWN_PORTS.iter().map(|port| u64::from(*port)).collect();
    for (path, container) in every(pod) {
        let listed = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        for (index, port) in listed.enumerate() {
            let number = port.get("containerPort").and_then(Value::as_u64).filter(|number| own.contains(number));
            // UDP of the same number is another port, and never captured.
            let tcp = port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP");
            if let Some(number) = number.filter(|_| tcp) {
                let path = format!("{path}.ports[{index}].containerPort");
                refusals.push(Refusal::new(path, format!("{number} is one of the proxy's own ports")));
            }
        }
    }
}

fn amounts(resources: &Resources, refusals: &mut Vec<Refusal>) {
    let pairs: [(&str, &Option<Amount>, &Option<Amount>); 2] = [
        ("cpu", &resources.cpu_request, &resources.cpu_limit),
        ("memory", &resources.memory_request, &resources.memory_limit),
    ];
    for (what, request, limit) in pairs {
        let (Some(request), Some(limit)) = (request, limit) else { continue };
        if request.exceeds(limit) {
            let path = format!("metadata.annotations[\"remora.dev/proxy-{what}-request\"]");
            refusals
                .push(Refusal::new(path, format!("{} is more than the limit, {}", request.as_str(), limit.as_str())));
        }
    }
}
