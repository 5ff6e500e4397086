//! Annotations and a pod: whatever they are, injecting twice is injecting once, and without its injection the pod is the pod.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remora_control::inject::{Compat, PodContext, Settings, annotations, inject, uninject};
use serde_json::{Map, Value, json};

fuzz_target!(|text: &str| {
    let names = annotations::names();
    let mut given = Map::new();
    for (index, line) in text.split('\n').take(8).enumerate() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let known = name.parse::<usize>().ok().map(|number| names[number % names.len()].clone());
        given.insert(known.unwrap_or_else(|| format!("remora.dev/{name}{index}")), json!(value));
    }
    given.remove("remora.dev/injected");
    let pod = json!({
        "metadata": {"name": "p", "annotations": given},
        "spec": {"containers": [{"name": "a", "image": "i", "livenessProbe": {"httpGet": {"path": text, "port": 80}}}]},
    });
    for compat in [None, Some(Compat::Istio), Some(Compat::Linkerd)] {
        let Ok(domain) = "cluster.local".parse() else { return };
        let mut settings = Settings::new(domain);
        settings.compat = compat;
        let Ok(patch) = inject(&PodContext::new(&pod), &settings) else { continue };
        let injected = patched(&pod, &patch);
        assert!(inject(&PodContext::new(&injected), &settings).is_ok_and(|patch| patch.0.is_empty()), "not idempotent");
        assert_eq!(patched(&injected, &uninject(&injected)), pod);
    }
});

fn patched(pod: &Value, patch: &json_patch::Patch) -> Value {
    let mut result = pod.clone();
    assert!(json_patch::patch(&mut result, patch).is_ok(), "the patch does not fit its pod");
    result
}
