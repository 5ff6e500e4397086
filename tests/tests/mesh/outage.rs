//! The certificate authority away for longer than the certificates last.

use std::path::PathBuf;
use std::time::Instant;

use remora_test::authority::script;
use remora_test::binaries::binary;
use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::netns::run;
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::Sidecar;

use crate::pair::entry;

const PORT: u16 = 15_012;

/// A pod for the authority, and what its callers need to know.
struct Room {
    mesh: Mesh,
    pod: Pod,
    roots: PathBuf,
    tokens: serde_json::Value,
}

impl Room {
    fn new() -> Self {
        let mesh = Mesh::new();
        let pod = mesh.pod("authority");
        let roots = mesh.folder().join("roots.pem");
        std::fs::copy(mesh.authority().join("bundle.pem"), &roots).unwrap();
        let output = run(&mut script("tokens.py", &[pod.folder().to_str().unwrap()])).unwrap();
        Self { tokens: serde_json::from_slice(&output.stdout).unwrap(), mesh, pod, roots }
    }

    /// Starts the authority and waits until it listens.
    fn authority(&self) -> Process {
        let mut command = self.pod.command(binary("remora-certs"));
        command.arg("serve").arg("--dir").arg(self.mesh.authority());
        command.args(["--listen", &self.pod.at(PORT).to_string(), "--admin", "127.0.0.1:15013"]);
        command.args(["--dns-name", &self.pod.v4().to_string(), "--oidc-issuer", "https://issuer.example"]);
        command.arg("--oidc-jwks").arg(self.pod.folder().join("jwks.json"));
        self.pod.app(PORT, &mut command)
    }

    /// A sidecar whose identity comes from the authority and lasts half a minute.
    fn sidecar(&self, pod: &Pod, token: &str, rest: &str) -> Sidecar {
        let file = pod.folder().join("token");
        pod.write(&file, self.tokens[token].as_str().unwrap());
        let (address, roots, token) = (self.pod.at(PORT), self.roots.display(), file.display());
        let config = format!(
            "service: {}\nmtls:\n  trust_domain: example.org\n  \
             ca: {{address: \"{address}\", roots: {roots}, token: {token}, ttl: 30s}}\n{rest}\n",
            pod.name()
        );
        pod.redirect();
        let sidecar = pod.proxy(&config);
        sidecar.ready();
        sidecar
    }
}

fn renewals(sidecar: &Sidecar, result: &str) -> f64 {
    sidecar.metric("remora_identity_renewals_total", &[("result", result)])
}

#[test]
fn an_authority_that_is_away_is_not_missed_before_the_end_and_its_return_is_enough() {
    let room = Room::new();
    let (client, server) = (room.mesh.pod("client"), room.mesh.pod("server"));
    let _app = server.peer("http", 8080, &[]);
    let authority = room.authority();
    let inbound = room.sidecar(&server, "es256", "inbound: {mtls: strict}");
    let outbound = room.sidecar(&client, "kubernetes", &entry(8080, &[server.at(8080)], ""));
    let both = [&inbound, &outbound];
    let get = || client.curl(&["http://10.96.0.10:8080/name"]).code;
    assert_eq!(get(), 200);
    let first = outbound.admin("/certs").json()["identity"]["serial"].as_str().unwrap().to_owned();
    eventually("a renewal of each", || both.iter().all(|s| renewals(s, "succeeded") >= 1.0).then_some(()));
    assert_ne!(outbound.admin("/certs").json()["identity"]["serial"], first.as_str());
    assert_eq!(both.map(|sidecar| renewals(sidecar, "failed")), [0.0; 2]);

    drop(authority);
    let gone = Instant::now();
    // Half of the life is left when the first attempt fails.
    eventually("failed renewals", || both.iter().any(|s| renewals(s, "failed") >= 2.0).then_some(()));
    assert_eq!(get(), 200, "the certificates in use are good until they end");
    assert!(both.iter().all(|sidecar| sidecar.is_ready()));
    let _ = outbound.said("the certificate in use stays");

    for sidecar in both {
        let expired = eventually("readiness that ends with the SVID", || {
            sidecar.ask("GET", 15_021, "/ready").filter(|answer| answer.code == 503)
        });
        assert!(expired.body.contains("the SVID expired at "), "{}", expired.body);
        assert!(expired.body.contains("cannot be renewed"), "{}", expired.body);
        assert!(expired.body.contains(&room.pod.at(PORT).to_string()), "it says who was asked: {}", expired.body);
        let failed = renewals(sidecar, "failed");
        assert!(failed <= gone.elapsed().as_secs_f64() + 1.0, "{failed} attempts, with at least a second between two");
    }

    let _authority = room.authority();
    for sidecar in both {
        sidecar.ready();
        assert!(sidecar.admin("/certs").json()["source"]["last_error"].is_null());
    }
    eventually("service", || (get() == 200).then_some(()));
}
