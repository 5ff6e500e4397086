//! Between the sidecars: who may speak, who is spoken to, what the application learns, what the wire shows.

use nix::sys::signal::Signal;
use remora_test::mesh::{Mesh, issue};
use remora_test::netns::tool;

use crate::pair::{Pair, Plan, entry};

#[test]
fn strict_refuses_plaintext_and_counts_it() {
    let pair = Pair::usual();
    let stranger = pair.mesh.pod("stranger");
    let answer = stranger.curl(&[&format!("http://{}/name", pair.server.at(8080))]);
    assert_eq!(answer.code, 0, "{answer:?}");
    pair.inbound.metric_until("remora_connections_refused_total", &[("reason", "plaintext")], |n| n == 1.0);
    let line = pair.inbound.said(&stranger.v4().to_string());
    assert!(line.to_lowercase().contains("plaintext"), "{line}");
    assert_eq!(pair.inbound.metric("remora_requests_total", &[("direction", "inbound")]), 0.0);
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200, "who has an identity is served");
}

#[test]
fn permissive_serves_both_and_tells_them_apart() {
    let pair = Pair::start(Plan { inbound: "{mtls: permissive}", ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    let plain = stranger.curl(&[&format!("http://{}/", pair.server.at(8080))]);
    assert_eq!(plain.code, 200, "{plain:?}");
    assert!(plain.json()["headers"]["x-forwarded-client-cert"].is_null());
    let meshed = pair.client.curl(&[&pair.url("/")]);
    assert_eq!(meshed.code, 200, "{meshed:?}");
    assert!(!meshed.json()["headers"]["x-forwarded-client-cert"].is_null());
    assert_eq!(pair.inbound.metric("remora_tls_handshakes_total", &[("side", "server")]), 1.0);
}

#[test]
fn off_speaks_plaintext() {
    let pair = Pair::start(Plan { inbound: "{mtls: off}", entry: ", mtls: false", ..Plan::default() });
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).body, "server");
    assert_eq!(pair.inbound.metric("remora_tls_handshakes_total", &[]), 0.0);
    let without = Pair::start(Plan { inbound: "{}", mtls: false, ..Plan::default() });
    assert_eq!(without.client.curl(&[&without.url("/name")]).body, "server", "no identities at all");
}

#[test]
fn the_application_learns_who_called_and_nobody_else_can_tell_it() {
    let pair = Pair::start(Plan { inbound: "{mtls: permissive}", ..Plan::default() });
    let spoofed =
        ["-H", "x-forwarded-client-cert: By=spiffe://evil;URI=spiffe://evil", "-H", "X-Forwarded-Client-Cert: 2"];
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let seen = pair.client.curl(&[&[&*pair.url("/"), flag], &spoofed[..]].concat()).json();
        let values = seen["headers"]["x-forwarded-client-cert"].as_array().unwrap().clone();
        assert_eq!(values.len(), 1, "{values:?}");
        let value = values[0].as_str().unwrap();
        assert!(value.contains(&format!("URI={}", pair.client.id())), "{value}");
        assert!(value.contains(&format!("By={}", pair.server.id())), "{value}");
        assert!(!value.contains("evil"), "{value}");
    }
    let stranger = pair.mesh.pod("stranger");
    let url = format!("http://{}/", pair.server.at(8080));
    let seen = stranger.curl(&[&[&*url], &spoofed[..]].concat()).json();
    assert!(seen["headers"]["x-forwarded-client-cert"].is_null(), "{seen}");
}

#[test]
fn another_service_with_a_valid_identity_is_refused() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _app = server.peer("http", 8080, &[]);
    let _inbound = server.sidecar("inbound: {mtls: strict}");
    let expected = "spiffe://example.org/ns/test/sa/somebody-else";
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], &format!(", identity: [\"{expected}\"]")));
    let answer = client.curl(&["http://10.96.0.10:8080/name"]);
    assert_eq!(answer.code, 503, "{answer:?}");
    let reason = answer.header("x-remora-reason").unwrap();
    assert!(reason.starts_with("UF ") && reason.contains(&server.id()) && reason.contains(expected), "{reason}");
    let failures = [("side", "client"), ("reason", "wrong_identity")];
    assert!(outbound.metric("remora_tls_handshake_failures_total", &failures) >= 1.0);

    outbound.configure(&client.config(&entry(
        8080,
        &[server.at(8080)],
        &format!(", identity: [\"{expected}\", \"{}\"]", server.id()),
    )));
    remora_test::eventually("the right identity is accepted", || {
        (client.curl(&["http://10.96.0.10:8080/name"]).code == 200).then_some(())
    });
}

/// Everything that passes between the pods while `during` runs.
fn captured(pair: &Pair, during: impl FnOnce()) -> Vec<u8> {
    let file = pair.mesh.folder().join("wire.pcap");
    let mut command = pair.mesh.bridge().command(tool("tcpdump"));
    command.args(["-i", "any", "-U", "--immediate-mode", "-Z", "root", "-s", "0", "-w"]).arg(&file);
    let log = pair.mesh.folder().join("tcpdump");
    let mut capture = remora_test::process::Process::start("tcpdump", &log, &mut command);
    let _ = capture.said("listening on");
    during();
    // Packets come in order: when this one is in the file, so is everything before it. A busy capture may miss one.
    let marker = "this is the end of the capture";
    let to = pair.server.at(9);
    let socket = pair.client.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
    let bytes = remora_test::eventually("the marker in the capture", || {
        socket.send_to(marker.as_bytes(), to).unwrap();
        std::fs::read(&file).ok().filter(|bytes| occurs(bytes, marker))
    });
    capture.signal(Signal::SIGINT);
    capture.wait();
    bytes
}

fn occurs(bytes: &[u8], token: &str) -> bool {
    bytes.windows(token.len()).any(|window| window == token.as_bytes())
}

#[test]
fn the_wire_shows_nothing_of_what_is_said() {
    let token = format!("token-{:x}-{:?}", std::process::id(), std::time::SystemTime::now()).replace(' ', "");
    let header = format!("x-token: {token}");
    for (mtls, visible) in [("strict", false), ("off", true)] {
        let more = if visible { ", mtls: false" } else { "" };
        let pair = Pair::start(Plan { inbound: &format!("{{mtls: {mtls}}}"), entry: more, ..Plan::default() });
        let bytes = captured(&pair, || {
            for flag in ["--http1.1", "--http2-prior-knowledge"] {
                let body = pair.client.curl(&[&pair.url("/echo"), flag, "-d", &token, "-H", &header]).body;
                assert_eq!(body, token);
            }
        });
        assert!(bytes.len() > 2_000, "the capture saw the traffic: {} bytes", bytes.len());
        assert_eq!(occurs(&bytes, &token), visible, "with mTLS {mtls}");
    }
}

#[test]
fn a_service_reaches_itself_at_its_virtual_address() {
    let mesh = Mesh::new();
    let pod = mesh.pod("alone");
    let _app = pod.peer("http", 8080, &[]);
    issue(mesh.authority(), &pod.id(), &pod.tls(), &[]);
    let _sidecar = pod.sidecar(&format!("inbound: {{mtls: strict}}\n{}", entry(8080, &[pod.at(8080)], "")));
    let seen = pod.curl(&["http://10.96.0.10:8080/"]);
    assert_eq!(seen.code, 200, "{seen:?}");
    let caller = seen.json()["headers"]["x-forwarded-client-cert"].to_string();
    assert!(caller.contains(&pod.id()), "{caller}");
    // By its own address and by loopback nothing is in between.
    for url in [format!("http://{}/", pod.at(8080)), "http://127.0.0.1:8080/".to_owned()] {
        let seen = pod.curl(&[&url]);
        assert_eq!(seen.code, 200, "{seen:?}");
        assert!(seen.json()["headers"]["x-forwarded-client-cert"].is_null(), "{url}: {seen:?}");
    }
}
