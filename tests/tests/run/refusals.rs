//! What is refused: clearly, and with nothing left behind.

use std::net::TcpListener;
use std::process::{Command, Output};

use remora_test::netns::tool;

use crate::host::{Host, printed, said};

#[track_caller]
fn refused(output: &Output, message: &str) {
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(said(output).contains(message), "{message:?} is not in {output:?}");
}

#[test]
fn whoever_is_not_root() {
    let host = Host::new();
    let remora = host.programs.join("remora");
    let output = host.pod.user(&remora).args(["run", "--", "true"]).output().unwrap();
    refused(&output, "error: needs root: run it with sudo");
}

#[test]
fn missing_programs_are_named_all_at_once() {
    let host = Host::new();
    for program in ["remora-init", "remora-proxy"] {
        std::fs::remove_file(host.programs.join(program)).unwrap();
    }
    let hidden = ["ip", "iptables"].map(|name| tool(name).canonicalize().unwrap());
    // In a mount namespace where the two are no programs.
    let script = "mount --bind /dev/null $1 && mount --bind /dev/null $2 && shift 2 && exec \"$@\"";
    let mut command = Command::new(tool("unshare"));
    command.args(["-m", "sh", "-c", script, "sh"]).args(&hidden).arg(host.programs.join("remora"));
    let output = command.args(["run", "--", "true"]).env("PATH", "/usr/bin:/bin").output().unwrap();
    refused(
        &output,
        "error: not found: ip (Debian's package iproute2); iptables (Debian's package iptables); remora-init (neither in ",
    );
    refused(&output, "remora-proxy (neither in ");
}

#[test]
fn a_name_that_is_taken() {
    let host = Host::new();
    let web = host.serve("web", &[]);
    let output = host.run(&["--name", "web"], &["true"]);
    refused(&output, &format!("the name web is taken by the run with process id {}", web.pid()));
}

#[test]
fn a_name_of_the_command_gets_a_number_instead() {
    let host = Host::new();
    let _first = host.serve("getent", &[]);
    let second = host.run(&[], &["getent", "hosts", "getent", "getent-2"]);
    let words: Vec<String> = printed(&second).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["10.213.13.2", "getent", "10.213.13.3", "getent-2"]);
}

#[test]
fn a_port_that_is_taken_on_the_host() {
    let host = Host::new();
    let before = host.left();
    let _taken = host.pod.enter(|| TcpListener::bind("127.0.0.1:9000").unwrap());
    let output = host.run(&["-p", "9000:80"], &["true"]);
    refused(&output, "error: cannot listen at 127.0.0.1:9000: Address already in use");
    assert_eq!(host.left(), before);
}

#[test]
fn a_network_that_is_there_already_or_is_not_the_others() {
    let host = Host::new();
    let uplink = host.pod.v4().octets();
    let output = host.run(&["--subnet", &format!("10.77.{}.128/25", uplink[2])], &["true"]);
    refused(&output, &format!("overlaps with 10.77.{}.0/24, which this host has a route to", uplink[2]));
    let _web = host.serve("web", &["--subnet", "10.99.0.0/28"]);
    assert_eq!(host.address("web").octets(), [10, 99, 0, 2]);
    refused(&host.run(&["--subnet", "10.98.0.0/28"], &["true"]), "the runs that are up share 10.99.0.0/28");
}

#[test]
fn a_configuration_that_is_wrong_says_where() {
    let host = Host::new();
    let before = host.left();
    let file = host.mesh.folder().join("more.yaml");
    std::fs::write(&file, "outbound:\n  - host: shop:80\n    endpoins: [\"10.0.0.1:80\"]\n").unwrap();
    let output = host.run(&["--config", file.to_str().unwrap()], &["true"]);
    refused(&output, "more.yaml:3:5: outbound[0].endpoins: unknown field");
    assert_eq!(host.left(), before);
}

#[test]
fn a_sidecar_that_does_not_start_says_why() {
    let host = Host::new();
    let before = host.left();
    let mut remora = host.remora(&["--tracing", "http://127.0.0.1:4317"], &["true"]);
    let output = remora.env("OTEL_TRACES_SAMPLER", "now-and-then").output().unwrap();
    refused(&output, "the sidecar is not ready: exit status: 2");
    refused(&output, "OTEL_TRACES_SAMPLER");
    assert_eq!(host.left(), before);
}
