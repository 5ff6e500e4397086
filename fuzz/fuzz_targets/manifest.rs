//! Manifests: any bytes give documents or one problem on one line; what is not changed comes back byte for byte, and what is
//! changed means what was asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remora_control::manifest::{Limits, Manifest};
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let manifest = match Manifest::read(bytes, &limits) {
        Ok(manifest) => manifest,
        Err(problem) => {
            assert!(!problem.to_string().contains(char::is_control), "{problem:?}");
            return;
        }
    };
    let same: Vec<Option<Value>> = manifest.documents.iter().map(|document| document.value.clone()).collect();
    assert_eq!(manifest.with(&same).text.as_bytes(), bytes);
    let mut changed = same.clone();
    for value in changed.iter_mut().flatten() {
        edit(value, 0);
    }
    let written = manifest.with(&changed);
    match Manifest::read(written.text.as_bytes(), &Limits { bytes: usize::MAX, values: usize::MAX, ..limits }) {
        Ok(again) => {
            let again: Vec<Value> = again.documents.into_iter().filter_map(|document| document.value).collect();
            let expected: Vec<Value> = changed.into_iter().flatten().collect();
            assert_eq!(again, expected, "{:?}", written.text);
        }
        // What was written may be nested deeper than what was read, by the edit alone.
        Err(problem) => assert!(problem.message.contains("nested deeper"), "{problem}: {:?}", written.text),
    }
});

/// Adds to every list and mapping, at both ends.
fn edit(value: &mut Value, depth: usize) {
    match value {
        Value::Object(fields) if depth < 40 => {
            fields.values_mut().for_each(|value| edit(value, depth + 1));
            fields.insert("added".to_owned(), json!({"a": ["yes", 1]}));
        }
        Value::Array(items) if depth < 40 => {
            items.iter_mut().for_each(|value| edit(value, depth + 1));
            items.insert(0, json!({"name": "first"}));
            items.push(json!({"name": "last"}));
        }
        _ => {}
    }
}
