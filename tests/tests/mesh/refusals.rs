//! OpenSSL's client at a strict port: each wrong certificate is refused, counted by its reason and named in the log.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use remora_test::forge::{Forgery, forge};
use remora_test::mesh::{Mesh, issue, make_authority};
use remora_test::netns::tool;
use remora_test::pod::Pod;

use crate::pair::{Pair, entry};

/// Connects with `openssl s_client`, sends a request and returns what came.
fn s_client(pod: &Pod, to: &str, identity: Option<&Path>, more: &[&str]) -> Output {
    let mut command = pod.command(tool("openssl"));
    command.args(["s_client", "-connect", to, "-alpn", "istio-http/1.1", "-ign_eof", "-showcerts"]).args(more);
    if let Some(folder) = identity {
        command.arg("-cert").arg(folder.join("cert.pem")).arg("-key").arg(folder.join("key.pem"));
        command.arg("-cert_chain").arg(folder.join("cert.pem"));
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // A refused client's pipe may be closed already.
    let _ = input.write_all(b"GET /name HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n");
    let output = child.wait_with_output().unwrap();
    drop(input);
    output
}

fn answered(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).contains("HTTP/1.1 200")
}

/// A stranger's certificate and what must be said of it.
struct Case {
    name: &'static str,
    identity: Option<PathBuf>,
    /// The label of the metric.
    reason: &'static str,
    /// Words of the log's line.
    words: &'static str,
}

/// Each wrong certificate once, with a reason that no other case has.
fn cases(mesh: &Mesh) -> Vec<Case> {
    let folder = mesh.folder().join("strangers");
    std::fs::create_dir(&folder).unwrap();
    let forged = |name: &'static str, reason, words, forgery: Forgery<'_>| {
        let out = folder.join(name.replace(' ', "-"));
        forge(mesh.authority(), &out, &forgery);
        Case { name, identity: Some(out), reason, words }
    };
    let id = "spiffe://example.org/ns/test/sa/openssl";
    let foreign = folder.join("foreign-ca");
    make_authority(&foreign, "example.org");
    let wrong = folder.join("wrong-ca");
    issue(&foreign, id, &wrong, &[]);
    let other = "spiffe://other.example/ns/test/sa/openssl";
    vec![
        Case { name: "wrong authority", identity: Some(wrong), reason: "unknown_ca", words: "not issued by a CA" },
        forged("expired", "expired", "expired", Forgery { ids: &[id], from: -7_200, until: -3_600 }),
        forged("not yet valid", "not_yet_valid", "not valid before", Forgery { ids: &[id], from: 3_600, until: 7_200 }),
        forged("wrong domain", "wrong_trust_domain", "other.example", Forgery { ids: &[other], ..Forgery::default() }),
        forged(
            "no SPIFFE ID",
            "invalid_spiffe_id",
            "https://example.org/a",
            Forgery { ids: &["https://example.org/a"], ..Forgery::default() },
        ),
    ]
}

#[test]
fn each_wrong_client_is_refused_for_its_reason() {
    let pair = Pair::usual();
    let stranger = pair.mesh.pod("stranger");
    let to = pair.server.at(8080).to_string();
    let mut cases = cases(&pair.mesh);
    cases.push(Case { name: "nothing", identity: None, reason: "no_certificate", words: "no certificate" });
    for case in &cases {
        let told = pair.inbound.stderr().len();
        let output = s_client(&stranger, &to, case.identity.as_deref(), &[]);
        assert!(!answered(&output), "{} was served: {output:?}", case.name);
        let labels = [("side", "server"), ("reason", case.reason)];
        pair.inbound.metric_until("remora_tls_handshake_failures_total", &labels, |n| n == 1.0);
        let log = pair.inbound.stderr()[told..].to_owned();
        let named = |line: &str| line.contains(case.words) && line.contains(&stranger.v4().to_string());
        assert!(log.lines().any(named), "no line has the peer and {:?}:\n{log}", case.words);
    }
    let failures = pair.inbound.metric("remora_tls_handshake_failures_total", &[]);
    assert_eq!(failures, cases.len() as f64, "each counted once");
    assert_eq!(pair.inbound.metric("remora_requests_total", &[("direction", "inbound")]), 0.0, "none got through");
}

#[test]
fn each_wrong_server_is_refused_for_its_reason() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], ""));
    for case in cases(&mesh) {
        let folder = case.identity.unwrap();
        let mut command = server.command(tool("openssl"));
        command.args(["s_server", "-accept", "8080", "-www", "-alpn", "istio-http/1.1", "-cert"]);
        command.arg(folder.join("cert.pem")).arg("-key").arg(folder.join("key.pem"));
        command.arg("-cert_chain").arg(folder.join("cert.pem"));
        let mut app = server.app(8080, &mut command);
        let answer = client.curl(&["http://10.96.0.10:8080/name"]);
        assert_eq!(answer.code, 503, "{}: {answer:?}", case.name);
        let reason = answer.header("x-remora-reason").unwrap_or_default();
        assert!(reason.starts_with("UF ") && reason.contains(case.words), "{}: {reason}", case.name);
        let labels = [("side", "client"), ("reason", case.reason)];
        assert!(outbound.metric("remora_tls_handshake_failures_total", &labels) >= 1.0, "{}", case.name);
        app.signal(nix::sys::signal::Signal::SIGKILL);
        app.wait();
    }
}

#[test]
fn a_right_certificate_is_served_and_shown_the_servers() {
    let pair = Pair::usual();
    let stranger = pair.mesh.pod("stranger");
    let identity = pair.mesh.folder().join("openssl");
    issue(pair.mesh.authority(), "spiffe://example.org/ns/test/sa/openssl", &identity, &[]);
    let root = pair.mesh.authority().join("root.pem");
    let verify = ["-CAfile", root.to_str().unwrap(), "-verify_return_error"];
    for alpn in ["istio-http/1.1", "istio", "http/1.1"] {
        // Strict terminates TLS whatever the ALPN.
        let output = s_client(
            &stranger,
            &pair.server.at(8080).to_string(),
            Some(&identity),
            &[&verify[..], &["-alpn", alpn]].concat(),
        );
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(answered(&output), "{alpn}: {output:?}");
        assert!(text.contains("TLSv1.3"), "{text}");
    }
    let output = s_client(&stranger, &pair.server.at(8080).to_string(), Some(&identity), &["-tls1_2"]);
    assert!(!answered(&output), "TLS 1.2 is not spoken between sidecars");
}
