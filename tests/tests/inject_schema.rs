//! Every golden result of `remora inject` is valid by Kubernetes' own schemas, in which no unknown field passes.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use remora_test::authority::script;

/// The schemas' version: that of the cluster the other tests run.
const KUBERNETES: &str = "1.35";

fn validate(text: &str) -> Output {
    let mut child = script("validate.py", &[KUBERNETES])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn goldens() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/tests/inject");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "injected")).collect()
}

#[test]
fn injected_manifests_are_valid() {
    let goldens = goldens();
    assert!(goldens.len() >= 40, "only {} goldens", goldens.len());
    // One interpreter for all of them; each golden is a stream of documents.
    let texts = goldens.iter().map(|path| std::fs::read_to_string(path).unwrap().replace("VERSION", "0.1.0"));
    let stream: Vec<String> = texts.map(|text| text.trim_start_matches("%YAML 1.2\n").to_owned()).collect();
    let output = validate(&stream.join("\n---\n"));
    let (valid, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert!(valid.trim().parse::<usize>().unwrap() >= goldens.len(), "only {valid} objects were validated: {told}");
}

#[test]
fn a_field_that_does_not_exist_is_found() {
    let output =
        validate("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, imagee: b}]}\n");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("Pod/a: spec.containers.0") && told.contains("imagee"), "{told}");
}
