//! A pod from inside: a sidecar as `remora inject` makes one, with its authority and its collector in pods of their own.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use remora_test::authority::join_token;
use remora_test::binaries::binary;
use remora_test::collector::Collector;
use remora_test::eventually;
use remora_test::forge::{Forgery, forge};
use remora_test::mesh::{Mesh, TRUST_DOMAIN};
use remora_test::netns::{run, tool};
use remora_test::pod::{PROXY, Pod};
use remora_test::process::Process;
use remora_test::sidecar::Sidecar;

use crate::answer::{Answer, later};
use crate::relay;

const PORT: u16 = 15_012;

struct World {
    sidecar: Sidecar,
    _authority: Process,
    pod: Pod,
    room: Pod,
    store: Pod,
    mesh: Mesh,
}

fn authority(mesh: &Mesh, room: &Pod) -> Process {
    let mut command = room.command(binary("remora-certs"));
    command.arg("serve").arg("--dir").arg(mesh.authority()).arg("--join-tokens");
    command.args(["--listen", &room.at(PORT).to_string(), "--admin", "127.0.0.1:15013"]);
    command.args(["--dns-name", &room.v4().to_string()]);
    room.app(PORT, &mut command)
}

/// One configuration for every pod of the mesh.
fn config(store: &Pod, more: &str) -> String {
    format!("mtls: {{}}\ninbound: {{mtls: strict}}\ntracing: {{endpoint: \"http://{}\"}}\n{more}", store.at(4317))
}

impl World {
    fn new() -> Self {
        let mesh = Mesh::new();
        let (pod, room, store) = (mesh.pod("web"), mesh.pod("authority"), mesh.pod("store"));
        let _collector = Collector::start(&store, store.at(4317));
        let authority = authority(&mesh, &room);
        let (roots, token) = (pod.folder().join("roots.pem"), pod.folder().join("token"));
        std::fs::copy(mesh.authority().join("bundle.pem"), &roots).unwrap();
        // As in a container: others do not see the proxy's files.
        std::fs::set_permissions(&roots, PermissionsExt::from_mode(0o600)).unwrap();
        chown(&roots, Some(PROXY), Some(PROXY)).unwrap();
        std::fs::write(&token, join_token(mesh.authority(), &pod.id(), "1h")).unwrap();
        pod.redirect();
        let address = room.at(PORT).to_string();
        let sidecar = pod.proxy_with(
            &config(&store, ""),
            &[
                ("OTEL_SERVICE_NAME", "web"),
                ("REMORA_TRUST_DOMAIN", TRUST_DOMAIN),
                ("REMORA_CA_ADDRESS", &address),
                ("REMORA_CA_ROOTS", roots.to_str().unwrap()),
                ("REMORA_CA_TOKEN", token.to_str().unwrap()),
                ("REMORA_LAME_DUCK", "5m"),
                ("REMORA_DRAIN_TIMEOUT", "10m"),
            ],
        );
        sidecar.ready();
        Self { sidecar, _authority: authority, pod, room, store, mesh }
    }

    fn check(&self, arguments: &[&str]) -> Answer {
        check(&self.pod, &[], arguments)
    }

    /// A configuration of the test's own, always by the same name.
    fn named(&self, text: &str) -> PathBuf {
        let file = self.mesh.folder().join("named.yaml");
        std::fs::write(&file, text).unwrap();
        file
    }

    fn check_with(&self, file: &Path) -> Answer {
        self.check(&["--config", file.to_str().unwrap()])
    }
}

/// As a process of a pod, it has Kubernetes' variables.
fn check(pod: &Pod, prefix: &[String], arguments: &[&str]) -> Answer {
    let mut command = pod.command("/usr/bin/env");
    command.arg("KUBERNETES_SERVICE_HOST=10.96.0.1").args(prefix).arg(binary("remora"));
    Answer::of(command.args(["check", "-o", "json"]).args(arguments))
}

#[test]
fn each_line_tells_of_one_thing() {
    let world = World::new();
    // That this is a pod is found out.
    let well = world.check(&[]);
    well.is_well();
    assert!(well.lines.iter().all(|line| line["place"] == "pod"));
    let names = [
        "proxy",
        "version",
        "redirection",
        "configuration",
        "identity",
        "certificate-life",
        "authority",
        "collector",
        "clock",
    ];
    assert_eq!(well.names(), names);
    assert_eq!(well.says("identity"), world.pod.id());
    assert_eq!(world.check(&["pod"]), well);

    run(world.pod.command(tool("ip6tables-nft")).args(["-t", "nat", "-D", "REMORA_INBOUND", "1"])).unwrap();
    world.check(&[]).differs_in(&well, "redirection", "failure", "IPv6 nat: missing rule");
    run(world.pod.command(binary("remora-init")).arg("cleanup")).unwrap();
    world.check(&[]).differs_in(&well, "redirection", "failure", "nothing is redirected here");
    world.pod.redirect();
    let nowhere = world.pod.folder().join("nowhere");
    let without = world.check(&["pod", "--", "--iptables-path", nowhere.to_str().unwrap()]);
    without.differs_in(&well, "redirection", "warning", "where nobody is, was answered by the proxy");

    world.sidecar.configure(&config(&world.store, "clusters: {a: {endpoints: [nowhere]}}\n"));
    world.check(&[]).differs_in(&well, "configuration", "failure", "clusters.a.endpoints");
    world.sidecar.configure(&config(&world.store, ""));
    eventually("the former configuration", || (world.check(&[]) == well).then_some(()));

    check(&world.pod, &later("+60s"), &[]).differs_in(&well, "clock", "warning", "ahead of");

    world.store.link(false).unwrap();
    world.check(&[]).differs_in(&well, "collector", "failure", &world.store.at(4317).to_string());
    world.store.link(true).unwrap();
    eventually("the collector's return", || (world.check(&[]) == well).then_some(()));

    world.room.kill_all();
    world.check(&[]).differs_in(&well, "authority", "failure", &world.room.at(PORT).to_string());
    let _authority = authority(&world.mesh, &world.room);
    assert_eq!(world.check(&[]), well, "what was broken is whole again");

    // It goes on serving who comes late, for long.
    world.sidecar.terminate();
    eventually("the end's beginning", || (!world.sidecar.is_ready()).then_some(()));
    world.check(&[]).differs_in(&well, "proxy", "failure", "draining");
}

/// As in a debugging container that shares the proxy's processes, but not its rights.
#[test]
fn whoever_may_see_less_says_so_and_fails_nothing() {
    let world = World::new();
    let well = world.check(&["pod"]);
    well.is_well();
    let as_user = |uid| {
        let mut command = world.pod.command_as(uid, uid, binary("remora"));
        Answer::of(command.args(["check", "pod", "-o", "json"]))
    };
    // The proxy's own user sees its environment and files, and can try the pod's call to itself.
    as_user(PROXY).differs_in(&well, "redirection", "warning", "IPv4 call to itself: a connection to");
    let other = as_user(2_000);
    let unwell: Vec<_> = other.lines.iter().filter(|line| line["result"] != "ok").map(|line| &line["check"]).collect();
    assert_eq!(unwell, ["redirection", "authority"], "{other:#?}");
    assert!(other.says("redirection").contains("where nobody is, was answered by the proxy"), "{other:#?}");
    assert_eq!(other.code, Some(0), "warnings alone are no failure");
}

#[test]
fn what_runs_is_compared_with_what_should_run() {
    let world = World::new();
    let listen = ([127, 0, 0, 1], 15_900).into();
    let (_, replaced) = relay::start(Some(&world.pod), listen, ([127, 0, 0, 1], 15_000).into());
    let relayed = config(&world.store, "admin: {address: 127.0.0.1:15900}\n");
    let well = world.check_with(&world.named(&relayed));
    well.is_well();
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    let other = version.replace(|c: char| c.is_ascii_digit(), "9");
    replaced.lock().unwrap().push((version, other));
    world.check_with(&world.named(&relayed)).differs_in(&well, "version", "warning", "the proxy is 9.9.9");
    replaced.lock().unwrap().clear();
    let other = relayed.replace("mtls: {}", "mtls: {trust_domain: elsewhere.example}");
    world.check_with(&world.named(&other)).differs_in(
        &well,
        "identity",
        "failure",
        "not in the trust domain elsewhere.example",
    );
}

#[test]
fn what_init_was_told_is_known_by_the_proxy_whoever_said_so() {
    let mesh = Mesh::new();
    let pod = mesh.pod("web");
    pod.redirect_with(&["--exclude-inbound-ports=9090"]);
    let sidecar = pod.proxy_with("service: web\n", &[("REMORA_REDIRECTION", "--exclude-inbound-ports=9090")]);
    sidecar.ready();
    let redirection = |arguments: &[&str]| {
        let found = check(&pod, &[], arguments);
        found.lines.into_iter().find(|line| line["check"] == "redirection").unwrap()["result"].clone()
    };
    assert_eq!(redirection(&["pod"]), "ok");
    // What is said here comes before.
    assert_eq!(redirection(&["pod", "--", "--exclude-inbound-ports=9091"]), "failure");
}

#[test]
fn a_certificate_that_nobody_renews_is_told_before_it_ends() {
    let mesh = Mesh::new();
    let (pod, store) = (mesh.pod("web"), mesh.pod("store"));
    let _collector = Collector::start(&store, store.at(4317));
    let forged = |from, until| forge(mesh.authority(), &pod.tls(), &Forgery { ids: &[&pod.id()], from, until });
    forged(-60, 90_000);
    pod.redirect();
    let sidecar = pod.proxy(&pod.config(&format!("tracing: {{endpoint: \"http://{}\"}}", store.at(4317))));
    sidecar.ready();
    let well = check(&pod, &[], &[]);
    well.is_well();
    assert!(well.says("authority").contains("from elsewhere"), "{well:#?}");
    let serial = || sidecar.admin("/certs").json()["identity"]["serial"].to_string();
    let first = serial();
    forged(-80_000, 3_600);
    eventually("the other certificate", || (serial() != first).then_some(()));
    check(&pod, &[], &[]).differs_in(&well, "certificate-life", "warning", "less than a fifth");
    assert_eq!(check(&pod, &[], &[]).code, Some(0), "warnings alone are no failure");
}

#[test]
fn a_pod_without_a_proxy_is_a_failure() {
    let mesh = Mesh::new();
    let pod = mesh.pod("bare");
    let bare = check(&pod, &[], &["pod"]);
    let failed =
        bare.lines.iter().filter(|line| line["result"] == "failure").map(|line| line["check"].as_str().unwrap());
    assert_eq!(failed.collect::<Vec<_>>(), ["proxy", "redirection"], "{bare:#?}");
    assert_eq!(bare.code, Some(1));
}
