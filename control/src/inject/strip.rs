//! Takes an injection out again: what is ours is known by its name, the marker and the proxy's list of probes.

use serde_json::Value;

use super::annotations::INJECTED;
use super::marker::{DEFAULT_CONTAINER, Marker};
use super::names::{CONTAINERS, INIT_CONTAINER, PROXY_CONTAINER, VOLUMES};
use super::{environment, probes};

/// The marker of an injected pod.
pub(crate) fn marker(pod: &Value) -> Option<Marker> {
    let annotations = pod.pointer("/metadata/annotations")?;
    Some(Marker::parse(annotations.get(INJECTED)?.as_str()?))
}

/// The pod without its injection; a pod that bears no marker is handed back as it is.
pub(crate) fn strip(pod: &Value) -> Value {
    let mut bare = pod.clone();
    let Some(marker) = marker(pod) else { return bare };
    if let Some(text) = proxy(pod).and_then(environment::probes_of) {
        probes::restore(&mut bare, &text);
    }
    for list in CONTAINERS {
        remove_named(&mut bare, list, &[INIT_CONTAINER, PROXY_CONTAINER]);
    }
    remove_named(&mut bare, "volumes", &VOLUMES);
    let first = first_application(&bare).map(str::to_owned);
    if let Some(annotations) = bare.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(INJECTED);
        // Somebody who names another container meant it.
        let ours = annotations.get(DEFAULT_CONTAINER).and_then(Value::as_str) == first.as_deref();
        if marker.default_container() && ours {
            annotations.remove(DEFAULT_CONTAINER);
        }
    }
    marker.restore(&mut bare);
    bare
}

/// The application's first container, whom kubectl talks to.
pub(crate) fn first_application(pod: &Value) -> Option<&str> {
    let containers = pod.pointer("/spec/containers")?.as_array()?;
    containers.first()?.get("name")?.as_str()
}

fn proxy(pod: &Value) -> Option<&Value> {
    let lists = CONTAINERS.iter().filter_map(|list| pod.pointer(&format!("/spec/{list}"))?.as_array());
    lists.flatten().find(|container| container.get("name").and_then(Value::as_str) == Some(PROXY_CONTAINER))
}

fn remove_named(pod: &mut Value, list: &str, names: &[&str]) {
    if let Some(items) = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut) {
        items.retain(|item| !item.get("name").and_then(Value::as_str).is_some_and(|name| names.contains(&name)));
    }
}
