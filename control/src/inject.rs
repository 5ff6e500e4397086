//! Injection: a pod in, an RFC 6902 patch out, or every reason why not.
//!
//! Pure: used by the command on a manifest's templates and by the webhook on pods. Owns what an injected pod looks like and
//! how it is told from the pod it was made of: an injected pod is first stripped of what is ours, then injected anew, and the
//! patch is what separates the two. So injecting twice is injecting once, and an older version is brought up to date.
//! Invariant: nothing of the pod changes but what injection owns, whatever its annotations say.

pub mod annotations;
mod checks;
mod containers;
pub(crate) mod diff;
mod environment;
mod ids;
mod marker;
mod names;
mod owner;
mod probes;
mod refusal;
mod settings;
mod strip;
mod values;
mod volumes;

use json_patch::Patch;
use serde::Serialize;
use serde_json::{Map, Value, json};

use annotations::{INJECTED, Map as Annotations, effective, wanted};
use containers::Ids;
use diff::Change;
use marker::DEFAULT_CONTAINER;
pub(crate) use marker::Marker;
pub(crate) use names::{CONFIG, PROXY_CONTAINER, REDIRECTION_VARIABLE};
pub use owner::Owner;
pub use refusal::Refusal;
pub use settings::{CA_ADDRESS, Compat, Networks, Options, Resources, Settings};
pub use values::Amount;

/// A pod, or a workload's template of one, and what is known about where it stands.
#[derive(Clone, Debug)]
pub struct PodContext<'a> {
    /// Its `metadata` and `spec`.
    pub pod: &'a Value,
    /// The annotations of its namespace.
    pub namespace_annotations: Annotations,
    /// The workload it belongs to; [`None`] for a pod of its own.
    pub owner: Option<Owner>,
}

impl<'a> PodContext<'a> {
    /// A pod of which nothing more is known.
    #[must_use]
    pub fn new(pod: &'a Value) -> Self {
        Self { pod, namespace_annotations: Annotations::new(), owner: None }
    }

    /// What the pod's own label or annotation says about injection: `Some(true)`, `Some(false)`, or nothing.
    #[must_use]
    pub fn wanted(&self, settings: &Settings) -> Option<bool> {
        let of = |map: &str| wanted(settings.compat, &texts(self.pod, map));
        of("annotations").or_else(|| of("labels"))
    }
}

/// The patch that injects the pod, or brings its injection up to date; empty where it is, and where the pod's own label or
/// annotation says no.
///
/// # Errors
/// Every reason why the pod cannot be injected.
pub fn inject(context: &PodContext<'_>, settings: &Settings) -> Result<Patch, Vec<Refusal>> {
    if context.wanted(settings) == Some(false) {
        return Ok(Patch::default());
    }
    let mut refusals = Vec::new();
    checks::shape(context.pod, &mut refusals);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let pod_annotations = texts(context.pod, "annotations");
    let options = effective(settings, &context.namespace_annotations, &pod_annotations, &mut refusals);
    let bare = strip::strip(context.pod);
    let ids = ids::ids(&bare, &context.namespace_annotations, &options, &mut refusals);
    checks::fitness(context, &bare, &options, ids, &mut refusals);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    Ok(Change::between(context.pod, &injected(bare, context, settings, &options, ids)).into_patch())
}

/// The patch that takes an injection out of a pod again; empty where there is none. What was edited since stays.
#[must_use]
pub fn uninject(pod: &Value) -> Patch {
    Change::between(pod, &strip::strip(pod)).into_patch()
}

/// The bare pod with everything that is ours.
fn injected(mut pod: Value, context: &PodContext<'_>, settings: &Settings, options: &Options, ids: Ids) -> Value {
    let default_container = default_container(&pod);
    let marker = Marker::of(&settings.version, &pod, default_container.is_some());
    let probes = if options.rewrite_probes { probes::rewrite(&mut pod) } else { None };
    let ends = pod.pointer("/spec/restartPolicy").and_then(Value::as_str).is_some_and(|policy| policy != "Always");
    let bare = PodContext { pod: &pod, namespace_annotations: Annotations::new(), owner: context.owner.clone() };
    let told = containers::arguments(options, ids);
    let exits = ends && !options.native_sidecar;
    let env = environment::environment(&bare, settings, options, &told, probes.as_deref(), exits);
    let init = typed(&containers::init(settings, options, ids));
    let proxy = typed(&containers::proxy(settings, options, ids, env));
    if options.native_sidecar {
        list(&mut pod, "initContainers").splice(0..0, [init, proxy]);
    } else {
        // The application's init containers run before the proxy does: they must not be redirected to where nobody listens.
        list(&mut pod, "initContainers").push(init);
        list(&mut pod, "containers").insert(0, proxy);
    }
    list(&mut pod, "volumes").extend(volumes::volumes().iter().map(typed));
    let annotations = map(map_of(&mut pod, "metadata"), "annotations");
    annotations.insert(INJECTED.to_owned(), json!(marker.to_string()));
    if let Some(name) = default_container {
        annotations.insert(DEFAULT_CONTAINER.to_owned(), json!(name));
    }
    pod
}

/// Whom kubectl shall talk to; [`None`]: somebody has said so already.
fn default_container(pod: &Value) -> Option<String> {
    let said =
        pod.pointer("/metadata/annotations").is_some_and(|annotations| annotations.get(DEFAULT_CONTAINER).is_some());
    if said { None } else { strip::first_application(pod).map(str::to_owned) }
}

/// Kubernetes' types always serialise.
fn typed<T: Serialize>(object: &T) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

fn map_of<'v>(value: &'v mut Value, name: &str) -> &'v mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(fields) => map(fields, name),
        _ => unreachable!("made an object above"),
    }
}

/// The mapping called `name`, made where there is none.
fn map<'v>(fields: &'v mut Map<String, Value>, name: &str) -> &'v mut Map<String, Value> {
    let slot = fields.entry(name).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(fields) => fields,
        _ => unreachable!("made an object above"),
    }
}

/// The list in the specification called `name`, made where there is none.
fn list<'v>(pod: &'v mut Value, name: &str) -> &'v mut Vec<Value> {
    let slot = map_of(pod, "spec").entry(name).or_insert_with(|| json!([]));
    if !slot.is_array() {
        *slot = json!([]);
    }
    match slot {
        Value::Array(items) => items,
        _ => unreachable!("made a list above"),
    }
}

/// The texts in `metadata.NAME`.
pub(crate) fn texts(pod: &Value, name: &str) -> Annotations {
    let fields = pod.pointer(&format!("/metadata/{name}")).and_then(Value::as_object).into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests;
