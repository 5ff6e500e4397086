//! gRPC: the interoperability cases of its own implementations in Go, Java and Python, in each other's company.

use std::path::Path;
use std::process::Command;

use remora_test::binaries::readable;
use remora_test::pod::Pod;

use crate::course::{Course, Way};
use crate::peers::{OURS, peers, version};
use crate::report::Report;

/// What every implementation is expected to hold.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];
/// Many calls on one channel, and many channels.
const SOAKS: [&str; 2] = ["rpc_soak", "channel_soak"];
const PORT: u16 = 50_051;

fn go_server(go: &Path, pod: &Pod) -> Command {
    let mut command = pod.command(readable(&go.join("server")));
    command.arg(format!("--port={PORT}"));
    command
}

fn go_client(go: &Path, course: &Course, case: &str) -> Command {
    let mut command = course.client.command(readable(&go.join("client")));
    command.args(asked(case));
    command
}

/// What the clients in Go and Java are told.
fn asked(case: &str) -> [String; 6] {
    [
        "--server_host=server".into(),
        format!("--server_port={PORT}"),
        format!("--test_case={case}"),
        "--soak_iterations=200".into(),
        // How long a call may take says nothing on a shared machine.
        "--soak_per_iteration_max_acceptable_latency_ms=60000".into(),
        "--soak_overall_timeout_seconds=120".into(),
    ]
}

fn java(folder: &Path, pod: &Pod, class: &str) -> Command {
    let mut command = pod.command("java");
    // A client lives for a second: do not compile for a long life.
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]).arg(format!("{}/lib/*", folder.display()));
    command.arg(format!("io.grpc.testing.integration.{class}")).arg("--use_tls=false");
    command
}

/// Runs every case, each as a process of its own.
fn run(suite: &'static str, version: String, cases: &[&str], way: Way, client: impl Fn(&str) -> Command) {
    let mut report = Report::new(suite, version, way);
    for case in cases {
        let output = client(case).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let end: String = said.lines().rev().take(6).collect::<Vec<_>>().join(" < ");
        report.case(*case, if output.status.success() { Ok(()) } else { Err(format!("{}: {end}", output.status)) });
    }
    report.conclude();
}

#[test]
fn go_to_go() {
    let Some([go]) = peers("grpc-go", ["go"]) else { return };
    Way::both(|way| {
        let course = Course::start(way, PORT, |pod| go_server(&go, pod));
        let version = version("google.golang.org/grpc v").to_owned();
        run("grpc-go to grpc-go", version, &[&CASES[..], &SOAKS].concat(), way, |case| go_client(&go, &course, case));
    });
}

#[test]
fn python_to_go() {
    let Some([python, go]) = peers("grpcio", ["python", "go"]) else { return };
    Way::both(|way| {
        let course = Course::start(way, PORT, |pod| go_server(&go, pod));
        run("grpcio to grpc-go", version("grpcio=").to_owned(), &CASES, way, |case| {
            let mut command = course.client.command(python.join("bin/python"));
            command.args([&format!("{OURS}/apps/interop.py"), &format!("server:{PORT}"), case]);
            command
        });
    });
}

#[test]
fn java_to_go_and_back() {
    let Some([java_folder, go]) = peers("grpc-java", ["java", "go"]) else { return };
    let version = || version("grpc-interop-testing").to_owned();
    let cases = [&CASES[..], &SOAKS].concat();
    Way::both(|way| {
        let course = Course::start(way, PORT, |pod| go_server(&go, pod));
        run("grpc-java to grpc-go", version(), &cases, way, |case| {
            let mut command = java(&java_folder, &course.client, "TestServiceClient");
            command.args(asked(case));
            command
        });
        drop(course);
        let course = Course::start(way, PORT, |pod| {
            let mut command = java(&java_folder, pod, "TestServiceServer");
            command.arg(format!("--port={PORT}"));
            command
        });
        run("grpc-go to grpc-java", version(), &cases, way, |case| go_client(&go, &course, case));
    });
}
