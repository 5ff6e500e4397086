//! A cluster: a real API server, with a control plane that runs beside it and pods that no node runs.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use remora_test::api_server::ApiServer;
use remora_test::binaries::binary;
use remora_test::eventually;
use remora_test::mesh::make_authority;
use remora_test::netns::run;
use remora_test::process::Process;
use serde_json::{Value, json};

use crate::answer::{Answer, later};
use crate::relay::{self, Replaced};

struct World {
    control: Process,
    _proxy: Process,
    /// By way of the relay.
    kubeconfig: PathBuf,
    replaced: Replaced,
    webhook: String,
    server: ApiServer,
}

impl World {
    /// None where there is no API server.
    fn new() -> Option<Self> {
        let server = ApiServer::start()?;
        for namespace in ["remora-system", "shop"] {
            server.kubectl(&["create", "namespace", namespace]);
        }
        // No controller makes them.
        for namespace in ["default", "shop"] {
            server.kubectl(&["-n", namespace, "create", "serviceaccount", "default"]);
        }
        let (control, webhook) = control(&server);
        let (proxy, kubeconfig, replaced) = relayed(&server);
        let world = Self { control, _proxy: proxy, kubeconfig, replaced, webhook, server };
        world.install();
        world.available(2);
        world.kubectl(&["label", "namespace", "shop", "remora.dev/inject=enabled"]);
        world.pod("web", &json!({}));
        Some(world)
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.server.kubectl(arguments)
    }

    fn install(&self) {
        let mut command = Command::new(binary("remora"));
        command.args(["install", "--wait=false", "--webhook-url", &self.webhook, "--kubeconfig"]);
        run(command.arg(self.server.kubeconfig())).unwrap();
    }

    /// What the Deployment's controller would say.
    fn available(&self, replicas: u32) {
        let status = json!({"status": {"observedGeneration": 100, "replicas": 2, "updatedReplicas": 2,
            "readyReplicas": replicas, "availableReplicas": replicas}});
        self.patch("deployment/remora-control", "merge", &status, &["--subresource=status"]);
    }

    /// Patches something, in remora-system if it is in a namespace.
    fn patch(&self, what: &str, kind: &str, patch: &Value, more: &[&str]) {
        let (patch, kind) = (patch.to_string(), format!("--type={kind}"));
        self.kubectl(&[&["-n", "remora-system", "patch", what, &kind, "-p", &patch], more].concat());
    }

    /// Makes a pod in `shop` as soon as it is injected, unless it declines.
    fn pod(&self, name: &str, labels: &Value) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "app", "image": "app"}]}});
        let file = self.server.folder().join("pod.json");
        std::fs::write(&file, pod.to_string()).unwrap();
        eventually("the webhook's answer", || {
            let output = self.server.command(&["-n", "shop", "create", "-f", file.to_str().unwrap()]).output().unwrap();
            output.status.success().then_some(())
        });
    }

    fn check(&self) -> Answer {
        self.check_as(&[])
    }

    fn check_as(&self, prefix: &[String]) -> Answer {
        let mut command = Command::new("/usr/bin/env");
        command.args(prefix).arg(binary("remora")).args(["check", "cluster", "-o", "json", "--kubeconfig"]);
        Answer::of(command.arg(&self.kubeconfig))
    }

    /// Waits until the control plane has followed a change.
    fn until(&self, expected: &Answer) {
        eventually("the former answer", || (self.check() == *expected).then_some(()));
    }
}

/// A control plane outside of the cluster, and its webhook's URL.
fn control(server: &ApiServer) -> (Process, String) {
    let addresses = server.folder().join("addresses");
    let mut command = Command::new(binary("remora"));
    command.arg("control").arg("--kubeconfig").arg(server.kubeconfig()).args(["--dns-name", "127.0.0.1"]);
    for listen in ["--ca-listen", "--webhook-listen", "--admin-listen"] {
        command.args([listen, "127.0.0.1:0"]);
    }
    command.arg("--address-file").arg(&addresses);
    let mut control = Process::start("control", &server.folder().join("control"), &mut command);
    let text = eventually("the control plane's addresses", || {
        assert!(control.ended().is_none(), "{}", control.stderr());
        std::fs::read_to_string(&addresses).ok()
    });
    let webhook = text.lines().find_map(|line| line.strip_prefix("webhook ")).unwrap();
    (control, format!("https://{webhook}/inject"))
}

/// The API server by way of a relay, in plaintext: kubectl's proxy shows the credentials.
fn relayed(server: &ApiServer) -> (Process, PathBuf, Replaced) {
    let proxy = Process::start("proxy", &server.folder().join("proxy"), &mut server.command(&["proxy", "--port=0"]));
    let said = proxy.printed("Starting to serve on ");
    let address = said.rsplit(' ').next().unwrap().parse().unwrap();
    let (relay, replaced) = relay::start(None, ([127, 0, 0, 1], 0).into(), address);
    let kubeconfig = server.folder().join("relayed.kubeconfig");
    (proxy, config(kubeconfig, &relay.to_string()), replaced)
}

fn config(file: PathBuf, server: &str) -> PathBuf {
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}], "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]});
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

#[test]
fn each_line_tells_of_one_thing() {
    let Some(world) = World::new() else { return };
    let well = eventually("a cluster in which all is well", || {
        let answer = world.check();
        answer.lines.iter().all(|line| line["result"] == "ok").then_some(answer)
    });
    assert!(well.lines.iter().all(|line| line["place"] == "cluster"));
    server_and_control_plane(&world, &well);
    authority_and_bundle(&world, &well);
    mesh(&world, &well);
    webhook(&world, &well);
    pods(&world, &well);
    world.check_as(&later("+60s")).differs_in(&well, "clock", "warning", "ahead of the API server's");
    assert_eq!(world.check(), well, "what was broken is whole again");
    assert_eq!(
        well.names(),
        [
            "api-server",
            "control-plane",
            "version",
            "authority",
            "trust-bundle",
            "mesh-configuration",
            "webhook",
            "webhook-certificate",
            "injection",
            "copies",
            "pods-without-sidecar",
            "sidecar-versions",
            "clock"
        ]
    );
}

fn server_and_control_plane(world: &World, well: &Answer) {
    let version: Value = serde_json::from_str(&world.kubectl(&["get", "--raw", "/version"])).unwrap();
    let minor = |minor: &str| format!("\"minor\": \"{minor}\"");
    let is = version["minor"].as_str().unwrap();
    world.replaced.lock().unwrap().push((minor(is), minor("28")));
    world.check().differs_in(well, "api-server", "failure", "has no native sidecars");
    world.replaced.lock().unwrap().clear();

    world.available(1);
    world.check().differs_in(well, "control-plane", "failure", "is not available: 0 of its pods are there");
    world.available(2);

    let image = |tag: &str| format!("remora-control=localhost/remora/control:{tag}");
    let set =
        |tag: &str| world.kubectl(&["-n", "remora-system", "set", "image", "deployment/remora-control", &image(tag)]);
    set("0.0.1");
    world.check().differs_in(well, "version", "warning", "the control plane is 0.0.1");
    set(env!("CARGO_PKG_VERSION"));
}

fn authority_and_bundle(world: &World, well: &Answer) {
    let ours = ["-n", "remora-system"];
    let kept = world.kubectl(&[&ours[..], &["get", "secret", "remora-ca", "-o", "json"]].concat());
    world.kubectl(&[&ours[..], &["delete", "secret", "remora-ca"]].concat());
    world.check().differs_in(well, "authority", "failure", "is not there");
    let mut kept: Value = serde_json::from_str(&kept).unwrap();
    for field in ["resourceVersion", "uid", "creationTimestamp"] {
        kept["metadata"].as_object_mut().unwrap().remove(field);
    }
    let file = world.server.folder().join("secret.json");
    std::fs::write(&file, kept.to_string()).unwrap();
    world.kubectl(&["create", "-f", file.to_str().unwrap()]);

    // Without its labels the control plane leaves it alone.
    let foreign = world.server.folder().join("foreign");
    make_authority(&foreign, "cluster.local");
    let foreign =
        json!({"data": {"bundle.pem": std::fs::read_to_string(foreign.join("bundle.pem")).unwrap()}}).to_string();
    for (namespace, check, says) in [
        ("remora-system", "trust-bundle", "has other roots than the authority"),
        ("shop", "copies", "shop/remora-trust-bundle is another"),
    ] {
        let on = |arguments: &[&str]| world.kubectl(&[&["-n", namespace], arguments].concat());
        on(&["label", "configmap", "remora-trust-bundle", "app.kubernetes.io/part-of-"]);
        on(&["patch", "configmap", "remora-trust-bundle", "-p", &foreign]);
        world.check().differs_in(well, check, "failure", says);
        on(&["delete", "configmap", "remora-trust-bundle"]);
        world.until(well);
    }
}

fn mesh(world: &World, well: &Answer) {
    let kept = world.kubectl(&[
        "-n",
        "remora-system",
        "get",
        "configmap",
        "remora-mesh",
        "-o",
        "jsonpath={.data.mesh\\.yaml}",
    ]);
    let set = |text: &str| world.patch("configmap/remora-mesh", "merge", &json!({"data": {"mesh.yaml": text}}), &[]);
    set("mtls: {}\ninbuond: {}\n");
    // The copies follow.
    let broken = eventually("the copies of the broken configuration", || {
        let answer = world.check();
        (answer.says("copies") == well.says("copies")).then_some(answer)
    });
    broken.differs_in(well, "mesh-configuration", "failure", "inbuond: unknown field");
    set(&kept);
    world.until(well);
}

fn webhook(world: &World, well: &Answer) {
    let injector = "mutatingwebhookconfiguration/remora-injector";
    let set = |operation: Value| world.patch(injector, "json", &json!([operation]), &[]);
    set(json!({"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}));
    world.check().differs_in(well, "webhook", "warning", "namespaces.injector.remora.dev");
    set(json!({"op": "remove", "path": "/webhooks/0"}));
    world.check().differs_in(well, "webhook", "failure", "has no webhook namespaces.injector.remora.dev");
    world.install();
    world.until(well);

    set(json!({"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": "https://elsewhere.example/inject"}));
    world.check().differs_in(well, "webhook-certificate", "failure", "does not vouch");
    world.install();
    world.until(well);

    world.control.signal(Signal::SIGSTOP);
    world.check().differs_in(well, "injection", "failure", "gets none: ");
    world.control.signal(Signal::SIGCONT);
    world.until(well);
}

fn pods(world: &World, well: &Answer) {
    // What declines has none, as it should be; what then does not decline should have one.
    world.pod("late", &json!({"remora.dev/inject": "false"}));
    assert_eq!(world.check(), *well);
    world.kubectl(&["-n", "shop", "label", "pod", "late", "remora.dev/inject-"]);
    world.check().differs_in(well, "pods-without-sidecar", "warning", "shop/late have no sidecar");
    world.kubectl(&["-n", "shop", "delete", "pod", "late", "--grace-period=0", "--force"]);

    let marked = |version: &str| {
        let marker = format!("remora.dev/injected={version};default-container");
        world.kubectl(&["-n", "shop", "annotate", "--overwrite", "pod", "web", &marker]);
    };
    marked("0.0.1");
    world.check().differs_in(well, "sidecar-versions", "warning", "shop/web (0.0.1)");
    marked(env!("CARGO_PKG_VERSION"));
}

#[test]
fn without_an_api_server_there_is_one_line() {
    let folder = remora_test::mesh::Folder::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = config(folder.path().join("kubeconfig"), &nobody.to_string());
    for kubeconfig in [&unreachable, &folder.path().join("none")] {
        let mut command = Command::new(binary("remora"));
        let answer = Answer::of(command.args(["check", "cluster", "-o", "json", "--kubeconfig"]).arg(kubeconfig));
        assert_eq!((answer.code, answer.names()), (Some(1), vec!["api-server"]), "{answer:#?}");
    }
}
