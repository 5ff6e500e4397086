//! Identity over time: the wait for the first one, an end that nobody renews, and live connections whose trust ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use remora_test::eventually;
use remora_test::forge::{Forgery, forge, revoke};
use remora_test::mesh::{Mesh, issue, make_authority};
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;

use crate::pair::{entry, service};

/// Client and server with an echo and an HTTP server, and `more` in the `mtls` part of both.
struct Two {
    outbound: Sidecar,
    inbound: Sidecar,
    client: Pod,
    server: Pod,
    mesh: Mesh,
}

/// A configuration with more lines in its `mtls` part.
pub(crate) fn with_mtls(config: &str, more: &str) -> String {
    config.replace("mtls:\n", &format!("mtls:\n  {more}\n"))
}

impl Two {
    fn start(at_client: &str, at_server: &str) -> Self {
        let mesh = Mesh::new();
        let (client, server) = (mesh.pod("client"), mesh.pod("server"));
        let (http, echo) = (server.peer("http", 8080, &[]), server.peer("echo", 7000, &[]));
        // They end with their pod's namespace.
        std::mem::forget((http, echo));
        let entries = format!(
            "drain_timeout: 1s\n{}\n{}",
            entry(8080, &[server.at(8080)], ""),
            entry(7000, &[server.at(7000)], "").trim_start_matches("outbound:\n")
        );
        let start = |pod: &Pod, rest: &str, more: &str| {
            pod.identity();
            pod.redirect();
            let sidecar = pod.proxy(&with_mtls(&pod.config(rest), more));
            sidecar.ready();
            sidecar
        };
        let inbound = start(&server, "drain_timeout: 1s\ninbound: {mtls: strict}", at_server);
        let outbound = start(&client, &entries, at_client);
        Self { outbound, inbound, client, server, mesh }
    }

    /// A TCP connection through both sidecars that has proved to work.
    fn tunnel(&self) -> TcpStream {
        let mut stream = self.client.enter(|| TcpStream::connect(service(7000))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"\x01ping").unwrap();
        let mut echoed = [0; 5];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"\x01ping");
        stream
    }

    fn get(&self) -> i32 {
        i32::from(self.client.curl(&["http://10.96.0.10:8080/name"]).code)
    }
}

/// Waits for the end of a connection on which nothing more comes; how long that took.
fn ends(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the connection was left open");
    }
    started.elapsed()
}

fn drained(sidecar: &Sidecar, reason: &str, least: f64) {
    sidecar.metric_until("remora_connections_drained_total", &[("reason", reason)], |n| n >= least);
}

/// The roots in a bundle file's PEM, as one text.
fn root(authority: &Path) -> String {
    std::fs::read_to_string(authority.join("root.pem")).unwrap()
}

#[test]
fn start_up_waits_for_the_identity_and_says_what_is_missing() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let mut sidecar = pod.proxy(&pod.config("inbound: {mtls: strict}"));
    let missing = format!("waiting for identity: {}/cert.pem", pod.tls().display());
    let waiting = eventually("readiness that says why", || {
        sidecar.ask("GET", 15_021, "/ready").filter(|answer| answer.body.contains(&missing))
    });
    assert_eq!(waiting.code, 503, "{}", waiting.body);
    assert!(waiting.body.contains("No such file"), "{}", waiting.body);
    assert!(sidecar.said("waiting for identity").contains("cert.pem"));
    // What needs no identity is there.
    assert!(sidecar.metrics().sum("remora_build_info", &[]) > 0.0);
    assert!(sidecar.admin("/certs").json()["source"]["last_error"].as_str().unwrap().contains("cert.pem"));
    assert!(sidecar.ended().is_none());
    pod.identity();
    sidecar.ready();
    let own = sidecar.admin("/certs").json();
    let anchor = own["identity"]["trust_anchors"][0]["sha256"].as_str().unwrap().to_owned();
    let serial = own["identity"]["serial"].as_str().unwrap();
    assert_eq!(sidecar.metric("remora_identity_anchor", &[("anchor", &anchor), ("serial", serial)]), 1.0);
}

#[test]
fn an_identity_that_nobody_renews_gets_loud_and_recovers_alone() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let id = pod.id();
    forge(mesh.authority(), &pod.tls(), &Forgery { ids: &[&id], from: -60, until: 6 });
    let sidecar = pod.proxy(&pod.config("inbound: {mtls: strict}"));
    sidecar.ready();
    let _ = sidecar.said("nears its end and was not renewed");
    let _ = sidecar.said("is about to expire and was not renewed");
    let expired = eventually("readiness that ends with the SVID", || {
        sidecar.ask("GET", 15_021, "/ready").filter(|answer| answer.code == 503)
    });
    assert!(expired.body.contains("the SVID expired at "), "{}", expired.body);
    assert!(expired.body.contains("cannot be renewed"), "{}", expired.body);
    pod.identity();
    sidecar.ready();
}

#[test]
fn connections_whose_anchor_was_removed_are_drained_and_ended() {
    let two = Two::start("", "");
    let other = two.mesh.folder().join("other-ca");
    make_authority(&other, "example.org");
    let mut tunnel = two.tunnel();
    assert_eq!(two.get(), 200);
    let old = two.inbound.admin("/certs").json()["identity"]["trust_anchors"][0]["sha256"].as_str().unwrap().to_owned();
    let seen = |sidecar: &Sidecar| sidecar.metric("remora_tls_peer_anchor_last_seen_seconds", &[("anchor", &old)]);
    let first = seen(&two.inbound);
    assert!(first > 1_600_000_000.0 && seen(&two.outbound) > 1_600_000_000.0, "{first}");
    // A live connection counts as seen, second by second.
    two.inbound.metric_until("remora_tls_peer_anchor_last_seen_seconds", &[("anchor", &old)], |n| n >= first + 2.0);

    let old_and_new = format!("{}{}", root(two.mesh.authority()), root(&other));
    two.server.write(&two.server.tls().join("bundle.pem"), &old_and_new);
    two.inbound.metric_until("remora_identity_reloads_total", &[("result", "bundle")], |n| n >= 1.0);
    assert_eq!(two.get(), 200);
    assert_eq!(two.inbound.metric("remora_connections_drained_total", &[]), 0.0, "an anchor more is no reason");

    two.server.write(&two.server.tls().join("bundle.pem"), &root(&other));
    // The tunnel and the pooled HTTP connection.
    drained(&two.inbound, "anchor_removed", 2.0);
    let _ = two.inbound.said("mesh connections drain");
    ends(&mut tunnel);
    eventually("refusal of the client", || (two.get() == 503).then_some(()));
}

#[test]
fn connections_that_are_too_old_are_replaced_without_a_failed_request() {
    for (at_client, at_server) in [("max_connection_age: 1s", ""), ("", "max_connection_age: 1s")] {
        let two = Two::start(at_client, at_server);
        let aged = if at_client.is_empty() { &two.inbound } else { &two.outbound };
        let mut tunnel = two.tunnel();
        let mut load = two.client.start_h2load(&["--h1", "-c", "8", "-D", "600", "http://10.96.0.10:8080/name"]);
        drained(aged, "age", 4.0);
        ends(&mut tunnel);
        let handshakes = two.inbound.metric("remora_tls_handshakes_total", &[("side", "server")]);
        assert!(handshakes >= 4.0, "{handshakes}");
        assert!(load.running(), "the load lasted");
        load.stop();
        let all = two.outbound.metric("remora_requests_total", &[("direction", "outbound")]);
        let good = two.outbound.metric("remora_requests_total", &[("direction", "outbound"), ("code", "200")]);
        assert!(
            good > 100.0 && all - good <= 8.0,
            "{good} of {all} good, h2load stopped in the middle of its last eight"
        );
        assert_eq!(two.outbound.metric("remora_requests_total", &[("code", "503")]), 0.0);
    }
}

#[test]
fn live_connections_of_a_revoked_certificate_are_closed_after_the_grace() {
    let two = Two::start("", "");
    let crl = two.server.folder().join("crl.pem");
    two.server.write(&crl, &revoke(two.mesh.authority(), &["01"]));
    // `mtls` needs a restart.
    let config = std::fs::read_to_string(two.inbound.file()).unwrap();
    two.inbound.terminate();
    let Two { outbound, mut inbound, client, server, mesh } = two;
    inbound.wait();
    let inbound = server.proxy(&with_mtls(&config, &format!("crl: {}", crl.display())));
    inbound.ready();
    let two = Two { outbound, inbound, client, server, mesh };
    let mut tunnel = two.tunnel();
    assert_eq!(two.get(), 200);

    let serial = two.outbound.admin("/certs").json()["identity"]["serial"].as_str().unwrap().to_owned();
    two.server.write(&crl, &revoke(two.mesh.authority(), &[&serial]));
    drained(&two.inbound, "revoked", 2.0);
    // The grace is a second, and the list is swept once a second.
    let took = ends(&mut tunnel);
    assert!(took < Duration::from_secs(30), "closed after {took:?}");
    eventually("refusal of the revoked client", || (two.get() == 503).then_some(()));
    two.inbound.metric_until("remora_tls_handshake_failures_total", &[("reason", "revoked")], |n| n >= 1.0);
    // With another certificate it is served again.
    let fresh = two.mesh.folder().join("fresh");
    issue(two.mesh.authority(), &two.client.id(), &fresh, &[]);
    for name in ["key.pem", "cert.pem"] {
        std::fs::rename(fresh.join(name), two.client.tls().join(name)).unwrap();
    }
    eventually("service for the new certificate", || (two.get() == 200).then_some(()));
}

/// Debian's library that tells a process another time; it needs a folder that differs by architecture.
fn faketime() -> String {
    let folders = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let library = libraries.find(|library| library.exists()).expect("the Debian package faketime");
    library.to_str().unwrap().to_owned()
}

#[test]
fn a_clock_that_jumps_refuses_peers_keeps_calm_and_recovers() {
    let two = Two::start("", "");
    let (clock, library) = (two.server.folder().join("clock"), faketime());
    two.server.write(&clock, "+0");
    let environment = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let config = std::fs::read_to_string(two.inbound.file()).unwrap();
    two.inbound.terminate();
    let Two { outbound, mut inbound, client, server, mesh } = two;
    inbound.wait();
    let inbound = server.proxy_with(&config, &environment);
    inbound.ready();
    let two = Two { outbound, inbound, client, server, mesh };
    drop(two.tunnel());

    let refused = |reason: &str| {
        eventually(&format!("refusals because of {reason}"), || {
            // Each is a handshake of its own.
            let connected = two.client.enter(|| TcpStream::connect(service(7000)));
            let _ = connected.and_then(|mut stream| stream.write_all(b"\x01ping").and_then(|()| stream.read(&mut [0])));
            let labels = [("side", "server"), ("reason", reason)];
            (two.inbound.metric("remora_tls_handshake_failures_total", &labels) >= 3.0).then_some(())
        });
    };
    two.server.write(&clock, "+400d");
    let expired = eventually("readiness that ends with the SVID", || {
        two.inbound.ask("GET", 15_021, "/ready").filter(|answer| answer.code == 503)
    });
    assert!(expired.body.contains("the SVID expired at "), "{}", expired.body);
    refused("expired");
    let said = two.inbound.said("the certificate expired at");
    assert!(said.contains("our clock says"), "both clocks: {said}");

    let cpu = two.inbound.metric("process_cpu_seconds_total", &[]);
    two.server.write(&clock, "-1d");
    refused("not_yet_valid");
    two.server.write(&clock, "+0");
    two.inbound.ready();
    eventually("service", || (two.get() == 200).then_some(()));
    drop(two.tunnel());
    let spent = two.inbound.metric("process_cpu_seconds_total", &[]) - cpu;
    assert!(spent < 10.0, "{spent} s of CPU for a few refusals");
    let renewals = two.inbound.metric("remora_identity_renewals_total", &[]);
    assert!(renewals <= 3.0, "{renewals} attempts at a file that did not change");
}
