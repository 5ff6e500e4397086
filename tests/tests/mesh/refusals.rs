//! OpenSSL at both ends: each wrong certificate is refused, counted by its reason and named in the log. The numbers are the
//! classes of hostile input.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, SanType};
use remora_test::forge::{Forgery, constrain, forge, forge_as};
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

/// Makes the strangers' certificates, each in a folder of its own.
struct Forger<'a> {
    authority: &'a Path,
    folder: PathBuf,
}

impl<'a> Forger<'a> {
    fn new(mesh: &'a Mesh) -> Self {
        let folder = mesh.folder().join("strangers");
        std::fs::create_dir_all(&folder).unwrap();
        Self { authority: mesh.authority(), folder }
    }

    fn forged(&self, name: &'static str, (reason, words): Said, forgery: &Forgery<'_>) -> Case {
        self.amended(name, (reason, words), forgery, |_| {})
    }

    fn amended(
        &self,
        name: &'static str,
        (reason, words): Said,
        forgery: &Forgery<'_>,
        amend: impl FnOnce(&mut CertificateParams),
    ) -> Case {
        let out = self.folder.join(name.replace(' ', "-"));
        forge_as(self.authority, &out, forgery, amend);
        Case { name, identity: Some(out), reason, words }
    }

    /// Right but for `id`, which is no SPIFFE ID.
    fn named(&self, name: &'static str, id: &str) -> Case {
        self.forged(name, ("invalid_spiffe_id", "SPIFFE ID"), &Forgery { ids: &[id], ..Forgery::default() })
    }
}

/// A reason and words of the log's line.
type Said = (&'static str, &'static str);

const ID: &str = "spiffe://example.org/ns/test/sa/openssl";

/// A wrong authority, wrong times, a wrong domain under the right authority.
fn h59(mesh: &Mesh) -> Vec<Case> {
    let forger = Forger::new(mesh);
    let (foreign, wrong) = (forger.folder.join("foreign-ca"), forger.folder.join("wrong-ca"));
    make_authority(&foreign, "example.org");
    issue(&foreign, ID, &wrong, &[]);
    let other = "spiffe://other.example/ns/test/sa/openssl";
    let (expired, early) = (("expired", "; our clock says "), ("not_yet_valid", "; our clock says "));
    vec![
        Case { name: "wrong authority", identity: Some(wrong), reason: "unknown_ca", words: "not issued by a CA" },
        forger.forged("expired", expired, &Forgery { ids: &[ID], from: -7_200, until: -3_600 }),
        forger.forged("not yet valid", early, &Forgery { ids: &[ID], from: 3_600, until: 7_200 }),
        forger.forged(
            "wrong domain",
            ("wrong_trust_domain", "other.example"),
            &Forgery { ids: &[other], ..Forgery::default() },
        ),
    ]
}

/// Certificates of the right authority that are no SVIDs.
fn h60(mesh: &Mesh) -> Vec<Case> {
    let forger = Forger::new(mesh);
    let bad = |words| ("bad_certificate", words);
    let no_id = |words| ("invalid_spiffe_id", words);
    let right = Forgery { ids: &[ID], ..Forgery::default() };
    vec![
        forger.named("no SPIFFE ID", "https://example.org/a"),
        forger.named("dots", "spiffe://example.org/ns/test/../sa/openssl"),
        forger.named("upper case", "spiffe://EXAMPLE.org/ns/test/sa/openssl"),
        forger.named("query", "spiffe://example.org/ns/test/sa/openssl?a=b"),
        forger.named("port", "spiffe://example.org:8443/ns/test/sa/openssl"),
        forger.named("NUL", "spiffe://example.org/ns/test/sa/openssl\0.evil"),
        forger.forged(
            "two URIs",
            no_id("several URI names"),
            &Forgery { ids: &[ID, "spiffe://example.org/ns/test/sa/other"], ..Forgery::default() },
        ),
        forger.amended("DNS only", no_id("no URI name"), &Forgery::default(), |leaf| {
            leaf.subject_alt_names = vec![SanType::DnsName("server.test".try_into().unwrap())];
        }),
        forger.amended("a CA", bad("a CA's"), &right, |leaf| {
            leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }),
        forger.amended("no extended key usage", bad("extended key usage lacks"), &right, |leaf| {
            leaf.extended_key_usages.clear();
        }),
        forger.amended("may sign", bad("lets it sign"), &right, |leaf| {
            leaf.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }),
    ]
}

/// An intermediate of the right root that may not sign for our domain.
fn h62(mesh: &Mesh) -> Vec<Case> {
    let folder = Forger::new(mesh).folder;
    let (authority, out) = (folder.join("constrained-ca"), folder.join("constrained"));
    constrain(mesh.authority(), &authority, "other.example");
    forge(&authority, &out, &Forgery { ids: &[ID], ..Forgery::default() });
    vec![Case { name: "constrained", identity: Some(out), reason: "bad_certificate", words: "name constraints" }]
}

/// Each of the strangers is refused, counted by its reason and named in the log; then a right one is served by the same
/// process.
fn refuses_clients(cases: fn(&Mesh) -> Vec<Case>) {
    let pair = Pair::usual();
    let stranger = pair.mesh.pod("stranger");
    let to = pair.server.at(8080).to_string();
    let mut cases = cases(&pair.mesh);
    cases.push(Case { name: "nothing", identity: None, reason: "no_certificate", words: "no certificate" });
    let mut counted = std::collections::BTreeMap::new();
    for case in &cases {
        let told = pair.inbound.stderr().len();
        let output = s_client(&stranger, &to, case.identity.as_deref(), &[]);
        assert!(!answered(&output), "{} was served: {output:?}", case.name);
        let labels = [("side", "server"), ("reason", case.reason)];
        let count = counted.entry(case.reason).or_insert(0.0);
        *count += 1.0;
        pair.inbound.metric_until("remora_tls_handshake_failures_total", &labels, |n| n == *count);
        let named = |line: &str| line.contains(case.words) && line.contains(&stranger.v4().to_string());
        // The log has a thread of its own.
        let log = remora_test::eventually(&format!("{}: a line has the peer and {:?}", case.name, case.words), || {
            let log = pair.inbound.stderr()[told..].to_owned();
            log.lines().any(named).then_some(log)
        });
        assert!(!log.contains('\0'), "{}: {log:?}", case.name);
    }
    let failures = pair.inbound.metric("remora_tls_handshake_failures_total", &[]);
    assert_eq!(failures, cases.len() as f64, "each counted once");
    assert_eq!(pair.inbound.metric("remora_requests_total", &[("direction", "inbound")]), 0.0, "none got through");
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200, "who is right is served");
}

/// Each of the strangers is refused as a server: a 503 that says why, never a word of the request.
fn refuses_servers(cases: fn(&Mesh) -> Vec<Case>) {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], ""));
    let serve = |folder: &Path| {
        let mut command = server.command(tool("openssl"));
        command.args(["s_server", "-accept", "8080", "-www", "-alpn", "istio-http/1.1", "-cert"]);
        command.arg(folder.join("cert.pem")).arg("-key").arg(folder.join("key.pem"));
        command.arg("-cert_chain").arg(folder.join("cert.pem"));
        server.app(8080, &mut command)
    };
    for case in cases(&mesh) {
        let mut app = serve(&case.identity.unwrap());
        let labels = [("side", "client"), ("reason", case.reason)];
        let before = outbound.metric("remora_tls_handshake_failures_total", &labels);
        let answer = client.curl(&["http://10.96.0.10:8080/name"]);
        assert_eq!(answer.code, 503, "{}: {answer:?}", case.name);
        let reason = answer.header("x-remora-reason").unwrap_or_default();
        assert!(reason.starts_with("UF ") && reason.contains(case.words), "{}: {reason}", case.name);
        assert!(outbound.metric("remora_tls_handshake_failures_total", &labels) > before, "{}", case.name);
        app.signal(nix::sys::signal::Signal::SIGKILL);
        app.wait();
    }
    let right = mesh.folder().join("right");
    issue(mesh.authority(), ID, &right, &[]);
    let _app = serve(&right);
    remora_test::eventually("a right server is used", || {
        (client.curl(&["http://10.96.0.10:8080/name"]).code == 200).then_some(())
    });
}

#[test]
fn wrong_clients() {
    refuses_clients(h59);
}

#[test]
fn wrong_servers() {
    refuses_servers(h59);
}

#[test]
fn clients_that_show_no_svid() {
    refuses_clients(h60);
}

#[test]
fn servers_that_show_no_svid() {
    refuses_servers(h60);
}

#[test]
fn clients_outside_the_constraints_of_their_authority() {
    refuses_clients(h62);
}

#[test]
fn servers_outside_the_constraints_of_their_authority() {
    refuses_servers(h62);
}

#[test]
fn each_authority_vouches_for_its_own_domain_only() {
    let mesh = Mesh::new();
    let (server, stranger) = (mesh.pod("server"), mesh.pod("stranger"));
    let _app = server.peer("http", 8080, &[]);
    let foreign = mesh.folder().join("other-ca");
    make_authority(&foreign, "other.example");
    let theirs = "spiffe://other.example/ns/test/sa/openssl";
    let right = mesh.folder().join("right");
    issue(&foreign, theirs, &right, &[]);
    let roots = right.join("bundle.pem");
    let federated = format!("  federated: [{{trust_domain: other.example, roots: {}}}]", roots.display());
    let inbound = server.sidecar(&format!("{federated}\ninbound: {{mtls: strict}}"));
    let ask = |folder: &Path| s_client(&stranger, &server.at(8080).to_string(), Some(folder), &[]);
    assert!(answered(&ask(&right)), "a federated domain's own");
    for (count, (authority, id)) in (1..).zip([(foreign.as_path(), ID), (mesh.authority(), theirs)]) {
        let out = mesh.folder().join(format!("forged-{count}"));
        forge(authority, &out, &Forgery { ids: &[id], ..Forgery::default() });
        assert!(!answered(&ask(&out)), "{id} by the wrong authority");
        let labels = [("side", "server"), ("reason", "unknown_ca")];
        inbound.metric_until("remora_tls_handshake_failures_total", &labels, |n| n == f64::from(count));
    }
    assert!(answered(&ask(&right)));
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
