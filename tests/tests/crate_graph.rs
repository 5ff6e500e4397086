//! Dependencies between the crates point one way: `model <- {config, certs, init} <- {proxy, control} <- tests`; the
//! examples and the bench's relay know nothing of the mesh. Development and build dependencies count too.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

/// Each crate, and those it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("remora-model", &[]),
    ("remora-config", &["remora-model"]),
    ("remora-certs", &["remora-model"]),
    ("remora-init", &["remora-model"]),
    ("remora-proxy", &["remora-model", "remora-config", "remora-certs", "remora-init"]),
    ("remora-control", &["remora-model", "remora-config", "remora-certs", "remora-init"]),
    (
        "remora-test",
        &["remora-model", "remora-config", "remora-certs", "remora-init", "remora-proxy", "remora-control"],
    ),
    ("remora-shop", &[]),
    ("remora-relay", &[]),
];

/// What `cargo metadata --no-deps` says that [`ALLOWED`] does not.
fn violations(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().expect("metadata has packages");
    let name = |value: &Value| value["name"].as_str().expect("a package has a name").to_owned();
    let workspace: BTreeSet<String> = packages.iter().map(name).collect();
    let mut violations = Vec::new();
    for package in packages {
        let from = name(package);
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == from) else {
            violations.push(format!("{from} is not in the design"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("a package has dependencies") {
            let to = name(dependency);
            // A path leads to a crate of ours even where the workspace does not list it.
            let ours = workspace.contains(&to) || dependency["path"].is_string();
            if ours && !allowed.contains(&to.as_str()) {
                let kind = dependency["kind"].as_str().unwrap_or("normal");
                violations.push(format!("{from} -> {to} ({kind})"));
            }
        }
    }
    violations
}

#[test]
fn dependencies_point_one_way() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("metadata has packages");
    assert!(packages.len() >= 7, "only {} packages were found", packages.len());
    assert_eq!(violations(&metadata), Vec::<String>::new());
}

/// A dependency as `cargo metadata` tells it: name, kind, path.
type Dependency = (&'static str, Value, Value);

/// A graph whose crates have these dependencies.
fn graph(packages: &[(&str, &[Dependency])]) -> Value {
    let packages = packages.iter().map(|(name, dependencies)| {
        let dependencies =
            dependencies.iter().map(|(name, kind, path)| json!({"name": name, "kind": kind, "path": path}));
        json!({"name": name, "dependencies": dependencies.collect::<Vec<_>>()})
    });
    json!({"packages": packages.collect::<Vec<_>>()})
}

#[test]
fn every_wrong_edge_is_found() {
    let path = || json!("/somewhere");
    let wrong = graph(&[
        ("remora-model", &[("serde", Value::Null, Value::Null)]),
        ("remora-config", &[("remora-model", Value::Null, path()), ("remora-certs", json!("dev"), path())]),
        ("remora-init", &[("remora-helpers", json!("build"), path())]),
        ("remora-proxy", &[("remora-config", Value::Null, path()), ("remora-test", json!("dev"), path())]),
        ("remora-shop", &[("remora-model", Value::Null, path())]),
        ("remora-certs", &[("remora-proxy", Value::Null, Value::Null)]),
        ("remora-common", &[]),
    ]);
    let expected = [
        "remora-config -> remora-certs (dev)",
        "remora-init -> remora-helpers (build)",
        "remora-proxy -> remora-test (dev)",
        "remora-shop -> remora-model (normal)",
        "remora-certs -> remora-proxy (normal)",
        "remora-common is not in the design",
    ];
    assert_eq!(violations(&wrong), expected);
}

#[test]
fn a_graph_as_designed_passes() {
    let path = || json!("/somewhere");
    let right = graph(&[
        ("remora-model", &[("serde", Value::Null, Value::Null)]),
        ("remora-config", &[("remora-model", Value::Null, path()), ("serde_json", json!("dev"), Value::Null)]),
        ("remora-proxy", &[("remora-config", Value::Null, path()), ("remora-model", Value::Null, path())]),
        ("remora-test", &[("remora-proxy", Value::Null, path())]),
    ]);
    assert_eq!(violations(&right), Vec::<String>::new());
}
