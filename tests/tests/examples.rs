//! Every configuration under `examples/` compiles: what a reader copies must work.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use remora_config::{Environment, Snapshot, parse};
use remora_model::PathMatch;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// The YAML files below `folder`.
fn configurations(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .flat_map(|path| if path.is_dir() { configurations(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml"))
        .collect();
    found.sort();
    found
}

/// Compiled without this process's variables.
fn compile(text: &str) -> Result<Snapshot, remora_config::Errors> {
    parse("example", text.as_bytes(), &Environment::default())
}

/// Compiled with the variables of a pod: what many pods share leaves to each what is its own.
fn compile_in_a_pod(text: &str) -> Result<Snapshot, remora_config::Errors> {
    let variables = [
        ("OTEL_SERVICE_NAME", "storefront"),
        ("REMORA_TRUST_DOMAIN", "cluster.local"),
        ("REMORA_CA_ADDRESS", "remora-control.remora-system.svc:15012"),
        ("REMORA_CA_ROOTS", "/etc/remora/trust/bundle.pem"),
        ("REMORA_CA_TOKEN", "/var/run/secrets/remora/token"),
    ];
    parse("example", text.as_bytes(), &Environment::new(variables))
}

#[test]
fn every_example_compiles() {
    let files = configurations(&examples());
    assert!(files.len() >= 5, "only {files:?} were found");
    let refused: Vec<String> = files
        .iter()
        .filter_map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            if text.contains("\napiVersion:") {
                return None; // a manifest for Kubernetes
            }
            let compile = if path.parent()?.ends_with("kubernetes") { compile_in_a_pod } else { compile };
            compile(&text).err().map(|errors| format!("{}\n{errors}", path.display()))
        })
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Path and cluster of each of the gateway's routes, in the order in which they are asked.
fn routes(snapshot: &Snapshot) -> Vec<(PathMatch, String)> {
    let [gateway] = &snapshot.listeners[..] else { panic!("a gateway alone has one listener") };
    let [everything] = &gateway.default_chain.routes.virtual_hosts[..] else { panic!("one virtual host was expected") };
    let cluster = |route: &remora_model::Route| snapshot.cluster(route.clusters[0].cluster).name.to_string();
    everything.routes.iter().map(|route| (route.matcher.path.clone(), cluster(route))).collect()
}

#[test]
fn the_gateway_is_short_and_the_order_of_its_routes_does_not_matter() {
    let text = std::fs::read_to_string(examples().join("gateway/gateway.yaml")).unwrap();
    assert!(text.lines().count() <= 15, "the gateway has {} lines", text.lines().count());

    let lines: Vec<&str> = text.lines().collect();
    let start = lines.iter().position(|line| line.trim() == "routes:").unwrap() + 1;
    let (head, written) = lines.split_at(start);
    let (first, second) = written.split_at(written.len() / 2);
    let swapped = [head, second, first].concat().join("\n");
    assert_ne!(swapped, text);

    let expected = vec![
        (PathMatch::Prefix("/api".into()), "127.0.0.1:9002".to_owned()),
        (PathMatch::Prefix("/".into()), "127.0.0.1:9001".to_owned()),
    ];
    assert_eq!(routes(&compile(&text).unwrap()), expected);
    assert_eq!(routes(&compile(&swapped).unwrap()), expected);
}
