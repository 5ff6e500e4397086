//! gRPC's own Python implementation at both ends: every kind of call, deadlines, cancellation, trailers, errors.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::Sidecar;

use crate::delay;
use crate::pair::entry;

/// The interpreter of the environment that `tests/python/venv.sh` makes.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/python/venv.sh")).output().unwrap();
        assert!(output.status.success(), "python/venv.sh: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().into()
    })
}

/// One of the scripts, as root: it may read root's home, and is redirected like any user but the proxy's.
fn script(pod: &Pod, name: &str, arguments: &[&str]) -> Command {
    let mut command = pod.command(python());
    command.arg(format!("{}/python/{name}", env!("CARGO_MANIFEST_DIR"))).args(arguments);
    command
}

struct Grpc {
    client: Pod,
    app: Process,
    outbound: Sidecar,
    inbound: Sidecar,
}

fn grpc() -> Grpc {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let app = server.app(50_051, &mut script(&server, "server.py", &["[::]:50051"]));
    let inbound = server.sidecar("inbound: {mtls: strict}");
    let outbound = client.sidecar(&entry(50_051, &[server.at(50_051)], ""));
    Grpc { client, app, outbound, inbound }
}

fn case(pod: &Pod, name: &str) {
    let output = script(pod, "client.py", &["10.96.0.10:50051", name]).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_kind_of_call_works() {
    let grpc = grpc();
    for name in ["unary", "failing", "server_streaming", "client_streaming", "bidirectional"] {
        case(&grpc.client, name);
    }
    for (sidecar, direction) in [(&grpc.outbound, "outbound"), (&grpc.inbound, "inbound")] {
        let labels = [("direction", direction), ("protocol", "grpc")];
        assert_eq!(sidecar.metric("remora_requests_total", &labels), 6.0, "{direction}");
        let good = [("direction", direction), ("grpc_status", "0")];
        assert_eq!(sidecar.metric("remora_grpc_responses_total", &good), 5.0, "{direction}");
        let failed = [("direction", direction), ("grpc_status", "9")];
        assert_eq!(sidecar.metric("remora_grpc_responses_total", &failed), 1.0, "{direction}");
    }
}

#[test]
fn what_messages_carry_arrives_as_it_was_sent() {
    let grpc = grpc();
    for name in ["metadata", "large", "services"] {
        case(&grpc.client, name);
    }
}

#[test]
fn cancellation_and_deadlines_reach_the_server() {
    let grpc = grpc();
    case(&grpc.client, "cancel");
    let _ = grpc.app.printed("stream cancelled");
    case(&grpc.client, "deadline");
    let _ = grpc.app.printed("waiting");
    remora_test::eventually("the call that met its deadline is cancelled", || {
        grpc.app.stdout().lines().any(|line| line == "cancelled").then_some(())
    });
    for sidecar in [&grpc.outbound, &grpc.inbound] {
        sidecar.metric_until("remora_requests_active", &[], |n| n == 0.0);
    }
}

/// Every call takes as long as two delays; so the server knows of the cancellation before the fourth call behind it, and did not
/// learn of it by the caller's end.
#[test]
fn a_cancellation_overtakes_what_is_called_after_it_on_a_long_way() {
    let mesh = Mesh::new();
    let (client, server, way) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("way"));
    let app = server.app(50_051, &mut script(&server, "server.py", &["[::]:50051"]));
    let _inbound = server.sidecar("inbound: {mtls: strict}");
    delay::relay(&way, 50_051, server.at(50_051), Duration::from_millis(100));
    let _outbound = client.sidecar(&entry(50_051, &[way.at(50_051)], ""));
    case(&client, "cancel_then_note");
    let _ = app.printed("noted 3");
    let said = app.stdout();
    let at = |line: &str| said.lines().position(|one| one == line);
    assert!(at("stream cancelled").is_some_and(|cancelled| Some(cancelled) < at("noted 3")), "{said}");
}

#[test]
fn what_the_proxy_says_is_grpc_too() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _outbound = client.sidecar(&entry(50_051, &[server.at(50_051)], ""));
    case(&client, "unavailable");
}
