//! A real SPIRE server and agent: two sidecars with identities from the Workload API, streamed anew every few seconds and
//! across a change of SPIRE's authority, under load. Skipped where no SPIRE is (`make test-spire` builds it).
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use remora_test::authority::script;
use remora_test::eventually;
use remora_test::mesh::{Mesh, issue};
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::Sidecar;

const ID: &str = "spiffe://example.org/ns/test/sa/web";
/// What SPIRE calls whoever runs the tests.
const ROOT: &str = "spiffe://example.org/ns/test/sa/root";
const VIRTUAL: &str = "10.96.0.10";

/// Where `tests/spire/build.sh` puts it.
fn spire() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let folder = cache.join("remora/spire");
    (folder.join("spire-server").exists() && folder.join("spire-agent").exists()).then_some(folder)
}

/// A server and an agent in a folder of their own.
struct Spire {
    _agent: Process,
    _server: Process,
    binaries: PathBuf,
    folder: PathBuf,
}

impl Spire {
    fn start(binaries: PathBuf, mesh: &Mesh) -> Self {
        let folder = mesh.folder().join("spire");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        let port = {
            let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            probe.local_addr().unwrap().port().to_string()
        };
        for name in ["server.conf", "agent.conf"] {
            let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("spire").join(name);
            let text = std::fs::read_to_string(template).unwrap();
            let text = text.replace("DIR", folder.to_str().unwrap()).replace("PORT", &port);
            std::fs::write(folder.join(name), text).unwrap();
        }
        std::fs::create_dir(folder.join("server")).unwrap();
        let mut command = Command::new(binaries.join("spire-server"));
        command.arg("run").arg("-config").arg(folder.join("server.conf"));
        let server = Process::start("spire-server", &folder.join("server-log"), &mut command);
        let control = |arguments: &[&str]| run(&binaries, &folder, arguments);
        eventually("a healthy SPIRE server", || control(&["healthcheck"]).status.success().then_some(()));
        std::fs::write(folder.join("bundle.pem"), text(&control(&["bundle", "show"]))).unwrap();
        let token = text(&control(&["token", "generate", "-spiffeID", "spiffe://example.org/node"]));
        let token = token.trim().strip_prefix("Token: ").unwrap().to_owned();
        for (id, selector) in [(ID, "unix:uid:1337"), (ROOT, "unix:uid:0")] {
            let entry = ["-parentID", "spiffe://example.org/node", "-spiffeID", id, "-selector", selector];
            text(&control(&[&["entry", "create"][..], &entry].concat()));
        }
        let mut command = Command::new(binaries.join("spire-agent"));
        command.arg("run").arg("-config").arg(folder.join("agent.conf")).args(["-joinToken", &token]);
        let agent = Process::start("spire-agent", &folder.join("agent-log"), &mut command);
        eventually("the agent's socket", || folder.join("agent.sock").exists().then_some(()));
        Self { _agent: agent, _server: server, binaries, folder }
    }

    fn control(&self, arguments: &[&str]) -> String {
        text(&run(&self.binaries, &self.folder, arguments))
    }

    /// Makes the next X.509 authority; it signs nothing yet. Its name.
    fn prepare(&self) -> String {
        let prepared = self.control(&["localauthority", "x509", "prepare", "-output", "json"]);
        let prepared: serde_json::Value = serde_json::from_str(&prepared).unwrap();
        prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned()
    }

    /// Signs with it from now on.
    fn activate(&self, authority: &str) {
        self.control(&["localauthority", "x509", "activate", "-authorityID", authority]);
    }
}

fn run(binaries: &Path, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binaries.join("spire-server"));
    command.args(arguments).arg("-socketPath").arg(folder.join("server.sock")).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn sidecar(pod: &Pod, spire: &Spire, rest: &str) -> Sidecar {
    pod.redirect();
    let socket = spire.folder.join("agent.sock");
    let sidecar = pod.proxy(&format!(
        "service: {{name: {}, namespace: test}}\nmtls: {{trust_domain: example.org, workload_api: \"unix://{}\"}}\n{rest}\n",
        pod.name(),
        socket.display()
    ));
    sidecar.ready();
    sidecar
}

/// The serial number in use, as the admin interface has it.
fn serial(sidecar: &Sidecar) -> String {
    let certs = sidecar.admin("/certs").json();
    find(&certs, "serial").unwrap_or_else(|| panic!("no serial in {certs}"))
}

/// How many roots it trusts.
fn anchors(sidecar: &Sidecar) -> usize {
    sidecar.admin("/certs").json()["identity"]["trust_anchors"].as_array().map_or(0, Vec::len)
}

/// The root that its own leaf leads to.
fn anchor(sidecar: &Sidecar) -> Option<String> {
    let text = sidecar.ask("GET", 15_020, "/metrics")?.body;
    let line = text.lines().find(|line| line.starts_with("remora_identity_anchor{") && line.ends_with(" 1"))?;
    Some(line.split("anchor=\"").nth(1)?.split('"').next()?.to_owned())
}

/// The first text under `key`, wherever it is.
fn find(value: &serde_json::Value, key: &str) -> Option<String> {
    match value {
        serde_json::Value::Object(fields) => match fields.get(key) {
            Some(serde_json::Value::String(text)) => Some(text.clone()),
            _ => fields.values().find_map(|value| find(value, key)),
        },
        serde_json::Value::Array(values) => values.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

#[test]
fn spiffes_own_library_reads_what_remora_certs_issues() {
    let mesh = Mesh::new();
    let folder = mesh.folder().join("issued");
    issue(mesh.authority(), ID, &folder, &[]);
    let told = text(&script("workload.py", &["files", folder.to_str().unwrap(), "example.org"]).output().unwrap());
    assert_eq!(told.trim(), format!("{ID} 1"));
}

#[test]
fn spire_gives_two_sidecars_identities_that_change_under_load() {
    let Some(binaries) = spire() else {
        println!(
            "SKIPPED spire: neither spire-server nor spire-agent is in ~/.cache/remora/spire (make test-spire builds them)"
        );
        return;
    };
    let mesh = Mesh::new();
    let spire = Spire::start(binaries, &mesh);
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    client.hosts(&[(VIRTUAL.to_owned(), "server")]).unwrap();
    let _app = server.peer("http", 8080, &[]);
    let to: SocketAddr = server.at(8080);
    let inbound = sidecar(&server, &spire, "inbound: {mtls: strict}");
    let entry = format!(
        "outbound:\n  - {{host: \"server:8080\", addresses: [\"{VIRTUAL}\"], endpoints: [\"{to}\"], identity: [\"{ID}\"]}}"
    );
    let outbound = sidecar(&client, &spire, &entry);
    for sidecar in [&inbound, &outbound] {
        assert!(sidecar.admin("/certs").body.contains(ID), "{}", sidecar.admin("/certs").body);
    }

    // SPIFFE's own client library is given the same at the same socket.
    let socket = spire.folder.join("agent.sock");
    let told = text(&script("workload.py", &["agent", socket.to_str().unwrap()]).output().unwrap());
    assert_eq!(told.trim(), format!("{ROOT} 1"));

    let url = format!("http://{VIRTUAL}:8080/");
    let mut load = client.start_h2load(&["--h1", "-c", "8", "-t", "1", "-D", "40", &url]);
    let mut serials: [BTreeSet<String>; 2] = Default::default();
    let mut until_changed = |times: usize| {
        let wanted: Vec<_> = serials.iter().map(|seen| seen.len().max(1) + times).collect();
        eventually("new SVIDs", || {
            for (seen, sidecar) in serials.iter_mut().zip([&inbound, &outbound]) {
                seen.insert(serial(sidecar));
            }
            serials.iter().zip(&wanted).all(|(seen, wanted)| seen.len() >= *wanted).then_some(())
        });
    };
    until_changed(1);
    // SPIRE's own order: the new root is known everywhere before anything is signed under it.
    let old = [anchor(&inbound).unwrap(), anchor(&outbound).unwrap()];
    let prepared = spire.prepare();
    eventually("both roots at both sidecars", || {
        [&inbound, &outbound].iter().all(|sidecar| anchors(sidecar) == 2).then_some(())
    });
    spire.activate(&prepared);
    eventually("leaves of the new authority at both sidecars", || {
        let now = [anchor(&inbound)?, anchor(&outbound)?];
        (now[0] != old[0] && now[1] != old[1]).then_some(())
    });
    until_changed(1);
    assert!(load.running(), "the load was to outlast all of it");
    let load = load.finish();
    println!(
        "requests: {}, failed: {}, serials at the server's sidecar: {}, at the client's: {}",
        load.total,
        load.failed,
        serials[0].len(),
        serials[1].len()
    );
    assert!(load.succeeded > 1000, "{load:?}");
    assert_eq!((load.failed, load.status[1..].iter().sum::<u64>()), (0, 0), "{load:?}");
}
