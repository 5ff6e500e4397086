//! Balancing, seen from one gRPC connection of one client.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use remora_test::client;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::Sidecar;

use crate::pair::service;

/// A client and replicas `a`, `b`, `c` whose applications answer after so many milliseconds.
struct Replicas {
    client: Pod,
    outbound: Sidecar,
    _others: Vec<(Process, Sidecar)>,
}

fn replicas(delays: [u32; 3], weights: [u32; 3], balance: &str) -> Replicas {
    let mesh = Mesh::new();
    let mut endpoints = Vec::new();
    let mut others = Vec::new();
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        let pod = mesh.pod(name);
        let app = pod.peer("http", 8080, &["--delay", &delays[at].to_string()]);
        others.push((app, pod.sidecar("inbound: {mtls: strict}")));
        endpoints.push(format!("{{address: \"{}\", weight: {}}}", pod.at(8080), weights[at]));
    }
    let client = mesh.pod("client");
    let outbound = client.sidecar(&format!(
        "outbound:\n  - {{host: \"server:8080\", addresses: [10.96.0.10], balance: {balance}, endpoints: [{}]}}",
        endpoints.join(", ")
    ));
    Replicas { client, outbound, _others: others }
}

/// Sends unary calls over one connection, `width` at a time, and returns each replica's share.
fn shares(client: &Pod, to: SocketAddr, calls: usize, width: usize) -> BTreeMap<String, f64> {
    let counts = client.block_on(|| async move {
        let h2 = client::h2(to).await.unwrap();
        let mut tasks = Vec::new();
        for task in 0..width {
            let mut h2 = h2.clone();
            tasks.push(tokio::spawn(async move {
                let mut counts = BTreeMap::<String, usize>::new();
                for _ in (task..calls).step_by(width) {
                    let call = client::unary(&mut h2, "server:8080", "/test.Echo/Unary", &[]).await.unwrap();
                    assert_eq!((call.status, call.trailers), (Some(0), true), "{call:?}");
                    *counts.entry(call.reply).or_default() += 1;
                }
                counts
            }));
        }
        let mut counts = BTreeMap::<String, usize>::new();
        for task in tasks {
            for (name, count) in task.await.unwrap() {
                *counts.entry(name).or_default() += count;
            }
        }
        counts
    });
    assert_eq!(counts.values().sum::<usize>(), calls);
    counts.into_iter().map(|(name, count)| (name, count as f64 / calls as f64)).collect()
}

#[test]
fn one_connection_is_spread_by_weight() {
    // Least request also goes by who answers first, which on a busy machine is not by weight.
    for (balance, tolerance) in [("round_robin", None), ("least_request", Some(0.15))] {
        let replicas = replicas([0, 0, 0], [1, 2, 5], balance);
        let shares = shares(&replicas.client, service(8080), 2_400, 6);
        for (name, wanted) in [("a", 0.125), ("b", 0.25), ("c", 0.625)] {
            let share = shares.get(name).copied().unwrap_or_default();
            assert!(
                (share - wanted).abs() <= tolerance.unwrap_or(0.05 * wanted),
                "{balance}: {name} got {share} instead of {wanted}: {shares:?}"
            );
        }
        let connections = replicas.outbound.metric("remora_downstream_connections_total", &[("direction", "outbound")]);
        assert_eq!(connections, 1.0, "one client connection");
    }
}

#[test]
fn round_robin_gives_a_slow_replica_its_third() {
    let replicas = replicas([5, 5, 50], [1, 1, 1], "round_robin");
    let shares = shares(&replicas.client, service(8080), 600, 30);
    for name in ["a", "b", "c"] {
        let share = shares.get(name).copied().unwrap_or_default();
        assert!((share - 1.0 / 3.0).abs() <= 0.05 / 3.0, "{shares:?}");
    }
}

#[test]
fn least_request_spares_a_slow_replica() {
    // Slower by far more than a busy machine makes the others.
    let replicas = replicas([20, 20, 400], [1, 1, 1], "least_request");
    let shares = shares(&replicas.client, service(8080), 900, 30);
    let slow = shares.get("c").copied().unwrap_or_default();
    assert!(slow < 0.15, "{shares:?}");
    assert!(slow > 0.0, "it is still used: {shares:?}");
}

#[test]
fn tcp_is_balanced_by_connection_and_http_by_request() {
    let replicas = replicas([0, 0, 0], [1, 1, 1], "round_robin");
    // One HTTP/1.1 connection, nine requests.
    let url = "http://10.96.0.10:8080/name";
    let output = replicas.client.run("curl", &["-sS", "-w", "\n", url, url, url, url, url, url, url, url, url]);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut counts = BTreeMap::<&str, usize>::new();
    for name in text.lines() {
        *counts.entry(name).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([("a", 3), ("b", 3), ("c", 3)]));
}
