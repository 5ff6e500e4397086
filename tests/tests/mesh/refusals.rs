//! OpenSSL's client at a strict port: each wrong certificate is refused, counted by its reason and named in the log.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use remora_test::forge::{Forgery, forge};
use remora_test::mesh::{issue, make_authority};
use remora_test::netns::tool;
use remora_test::pod::Pod;

use crate::pair::Pair;

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

struct Case {
    name: &'static str,
    identity: Option<PathBuf>,
    reason: &'static str,
}

fn cases(pair: &Pair) -> Vec<Case> {
    let folder = pair.mesh.folder().join("strangers");
    std::fs::create_dir(&folder).unwrap();
    let forged = |name: &'static str, reason: &'static str, forgery: Forgery<'_>| {
        let out = folder.join(name.replace(' ', "-"));
        forge(pair.mesh.authority(), &out, &forgery);
        Case { name, identity: Some(out), reason }
    };
    let id = "spiffe://example.org/ns/test/sa/openssl";
    let foreign = folder.join("foreign-ca");
    make_authority(&foreign, "example.org");
    let wrong = folder.join("wrong-ca");
    issue(&foreign, id, &wrong, &[]);
    vec![
        Case { name: "no certificate", identity: None, reason: "no_certificate" },
        Case { name: "wrong authority", identity: Some(wrong), reason: "unknown_ca" },
        forged("expired", "expired", Forgery { ids: &[id], from: -7_200, until: -3_600 }),
        forged("not yet valid", "not_yet_valid", Forgery { ids: &[id], from: 3_600, until: 7_200 }),
        forged(
            "wrong trust domain",
            "wrong_trust_domain",
            Forgery { ids: &["spiffe://other.example/ns/test/sa/openssl"], ..Forgery::default() },
        ),
        forged("no SPIFFE ID", "invalid_spiffe_id", Forgery { ids: &["https://example.org/a"], ..Forgery::default() }),
        forged(
            "two names",
            "invalid_spiffe_id",
            Forgery { ids: &[id, "spiffe://example.org/b"], ..Forgery::default() },
        ),
    ]
}

#[test]
fn each_wrong_certificate_is_refused_for_its_reason() {
    let pair = Pair::usual();
    let stranger = pair.mesh.pod("stranger");
    let to = pair.server.at(8080).to_string();
    for case in cases(&pair) {
        let output = s_client(&stranger, &to, case.identity.as_deref(), &[]);
        assert!(!answered(&output), "{} was served: {output:?}", case.name);
        let labels = [("side", "server"), ("reason", case.reason)];
        let before = if case.name == "two names" { 2.0 } else { 1.0 };
        pair.inbound.metric_until("remora_tls_handshake_failures_total", &labels, |n| n >= before);
        let log = pair.inbound.stderr();
        let named = log.lines().any(|line| line.contains(case.reason) && line.contains(&stranger.v4().to_string()));
        assert!(named, "no line names {} and the peer:\n{log}", case.reason);
    }
    assert_eq!(pair.inbound.metric("remora_requests_total", &[("direction", "inbound")]), 0.0, "none got through");
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
