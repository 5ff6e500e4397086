//! Ports of a run on the host, and of the host in a run.

use remora_test::binaries::binary;
use remora_test::collector::Collector;
use remora_test::eventually;

use crate::host::{Host, path, printed};

#[test]
fn a_published_port_answers_on_the_hosts_loopback() {
    let host = Host::new();
    let _web = host.serve("web", &["--publish", "9000:8080"]);
    assert_eq!(host.get(([127, 0, 0, 1], 9000).into(), "/name").unwrap().body, "web");
    assert!(host.get(host.pod.at(9000), "/name").is_none(), "and nowhere else");
    // It came by way of the sidecar.
    assert_eq!(host.metrics("web").sum("remora_requests_total", &[("direction", "inbound")]), 1.0);
}

#[test]
fn a_port_published_at_every_address_answers_the_world_under_strict_too() {
    let host = Host::new();
    let outside = host.mesh.pod("outside");
    let _web = host.serve("web", &["-p", "0.0.0.0:9000:8080", "--mtls", "strict"]);
    let output = outside.run("curl", &["-sS", &format!("http://{}/name", host.pod.at(9000))]);
    assert_eq!(printed(&output), "web");
}

#[test]
fn a_port_of_the_hosts_loopback_is_reached_inside() {
    let host = Host::new();
    let mut peer = host.command(binary("remora-peer"));
    let _peer = host.pod.app(7000, peer.args(["http", "--listen", "127.0.0.1:7000", "--name", "database"]));
    let curl = [path("curl"), "-sS".to_owned(), "http://127.0.0.1:7000/name".to_owned()];
    let curl: Vec<&str> = curl.iter().map(String::as_str).collect();
    assert_eq!(printed(&host.run(&["--host-port", "7000"], &curl)), "database");
    assert!(!host.run(&[], &curl).status.success(), "only where it was asked for");
}

#[test]
fn spans_reach_a_collector_on_the_hosts_loopback() {
    let host = Host::new();
    let collector = Collector::start(&host.pod, ([127, 0, 0, 1], 4317).into());
    let _api = host.serve("api", &["--port", "8080"]);
    let curl = path("curl");
    let flags = ["--name", "caller", "--tracing", "http://localhost:4317"];
    assert_eq!(printed(&host.run(&flags, &[&curl, "-sS", "http://api:8080/name"])), "api");
    let span =
        eventually("a span of the caller's", || collector.spans().into_iter().find(|span| span.service == "caller"));
    assert_eq!(span.resource["service.namespace"], "local");
}
