//! Native YAML: any bytes give a snapshot whose references are valid, or problems, each on one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remora_config::{Environment, Snapshot, parse};

fuzz_target!(|text: &[u8]| {
    match parse("fuzz.yaml", text, &Environment::default()) {
        Ok(snapshot) => assert_references_are_valid(&snapshot),
        Err(errors) => {
            assert!(errors.lines().count() > 0, "refused without a reason");
            for line in errors.lines() {
                assert!(line.starts_with("fuzz.yaml") && !line.contains(char::is_control), "{line:?}");
            }
        }
    }
});

/// Following a reference panics where it leads nowhere.
fn assert_references_are_valid(snapshot: &Snapshot) {
    for listener in &snapshot.listeners {
        for chain in listener.chains.iter().chain([&listener.default_chain]) {
            for route in chain.routes.virtual_hosts.iter().flat_map(|host| &host.routes) {
                assert!(!route.clusters.is_empty(), "a route leads nowhere");
                assert!(route.clusters.iter().any(|target| target.weight > 0), "a route leads nowhere");
                for target in &route.clusters {
                    snapshot.cluster(target.cluster);
                }
            }
            if let Some(cluster) = chain.tcp {
                snapshot.cluster(cluster);
            }
            if let Some(host) = chain.destination.resolved {
                snapshot.resolved_host(host);
            }
        }
        for chain in &listener.chains {
            assert!(!chain.destination.ports.is_empty(), "a declared chain takes every port");
        }
    }
}
