//! The one table of annotations: what they are called, what they hold, what they set, and other meshes' names for them.
//!
//! Parsing, suggestions for misspelt names and the table in the documentation are all made from it.

mod table;

use std::collections::BTreeMap;

use super::refusal::Refusal;
use super::settings::{Compat, Options, Settings};
use super::values::{bounded, quoted};
pub(crate) use super::values::{host_and_port, image, mtls};
pub(crate) use table::{ANNOTATIONS, Annotation, Foreign};

/// What all of ours begin with.
pub const PREFIX: &str = "remora.dev/";
/// Whether a pod is injected.
pub const INJECT: &str = "remora.dev/inject";
/// The marker that injection writes.
pub const INJECTED: &str = "remora.dev/injected";

/// Annotations or labels.
pub type Map = BTreeMap<String, String>;

impl Annotation {
    /// The whole name.
    pub(crate) fn full(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    fn foreign(&self, compat: Compat) -> &'static [Foreign] {
        match compat {
            Compat::Istio => self.istio,
            Compat::Linkerd => self.linkerd,
        }
    }
}

/// The mesh's settings, changed by the namespace's annotations, then by the pod's.
pub(crate) fn effective(settings: &Settings, namespace: &Map, pod: &Map, refusals: &mut Vec<Refusal>) -> Options {
    let mut options = settings.defaults.clone();
    for (source, annotations) in [("namespace metadata.annotations", namespace), ("metadata.annotations", pod)] {
        if let Some(compat) = settings.compat {
            take_foreign(&mut options, compat, source, annotations, refusals);
        }
        take_own(&mut options, source, annotations, refusals);
    }
    options
}

fn take_own(options: &mut Options, source: &str, annotations: &Map, refusals: &mut Vec<Refusal>) {
    for (name, value) in annotations {
        let Some(short) = name.strip_prefix(PREFIX) else { continue };
        if name == INJECTED {
            continue;
        }
        let path = || format!("{source}[{}]", quoted(name));
        match ANNOTATIONS.iter().find(|annotation| annotation.name == short) {
            Some(annotation) => {
                if let Err(why) = bounded(value).and_then(|value| (annotation.set)(options, value)) {
                    refusals.push(Refusal::new(path(), why));
                }
            }
            None => refusals.push(Refusal::new(path(), unknown(short))),
        }
    }
}

/// "No such annotation", with what was probably meant.
fn unknown(short: &str) -> String {
    match remora_config::nearest(short, ANNOTATIONS.iter().map(|annotation| annotation.name)) {
        Some(meant) => format!("there is no such annotation (did you mean {:?}?)", format!("{PREFIX}{meant}")),
        None => "there is no such annotation".to_owned(),
    }
}

fn take_foreign(options: &mut Options, compat: Compat, source: &str, annotations: &Map, refusals: &mut Vec<Refusal>) {
    for annotation in ANNOTATIONS {
        for foreign in annotation.foreign(compat) {
            let Some(value) = annotations.get(foreign.name) else { continue };
            let told = bounded(value).and_then(|value| (foreign.read)(annotations, value));
            let set = told.and_then(|value| value.map_or(Ok(()), |value| (annotation.set)(options, &value)));
            if let Err(why) = set {
                refusals.push(Refusal::new(format!("{source}[{}]", quoted(foreign.name)), why));
            }
        }
    }
}

/// Whether these labels or annotations of a pod decide for (`true`) or against (`false`) injection; [`None`]: they say nothing,
/// or something that [`effective`] refuses.
pub(crate) fn wanted(compat: Option<Compat>, of: &Map) -> Option<bool> {
    let own = of.get(INJECT).and_then(|value| table::inject_word(value.trim()).ok());
    let foreign = || {
        let names = ANNOTATIONS.iter().find(|annotation| annotation.name == "inject")?.foreign(compat?);
        let read = |foreign: &Foreign| (foreign.read)(of, of.get(foreign.name)?.trim()).ok().flatten();
        names.iter().find_map(read).and_then(|value| table::inject_word(&value).ok())
    };
    own.or_else(foreign)
}

/// The whole names of every annotation that is understood: ours, then other meshes'.
#[must_use]
pub fn names() -> Vec<String> {
    let foreign =
        |annotation: &Annotation| annotation.istio.iter().chain(annotation.linkerd).map(|f| f.name.to_owned());
    ANNOTATIONS.iter().map(Annotation::full).chain(ANNOTATIONS.iter().flat_map(foreign)).collect()
}

/// The documentation's table, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut text =
        String::from("| annotation | value | default | sets | Istio's | Linkerd's |\n|---|---|---|---|---|---|\n");
    for annotation in ANNOTATIONS {
        let names = |of: &[Foreign]| of.iter().map(|f| format!("`{}`", f.name)).collect::<Vec<_>>().join(", ");
        let (full, kind, default, doc) = (annotation.full(), annotation.kind, annotation.default, annotation.doc);
        let (istio, linkerd) = (names(annotation.istio), names(annotation.linkerd));
        text.push_str(&format!("| `{full}` | {kind} | {default} | {doc} | {istio} | {linkerd} |\n"));
    }
    text
}
