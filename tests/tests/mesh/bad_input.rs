//! Bad input at the start: one line that says what and where, and an exit code that is not 0.

use std::os::unix::fs::{PermissionsExt, chown};

use remora_test::binaries::binary;
use remora_test::forge::{Forgery, forge};
use remora_test::mesh::Mesh;
use remora_test::pod::{PROXY, Pod};

use crate::pair::Pair;

/// Starts a proxy that must end by itself: its code and what it said. It does not wait long for an identity.
fn refused(pod: &Pod, config: &str) -> (Option<i32>, String) {
    let mut proxy = pod.proxy(&config.replace("mtls:\n", "mtls:\n  startup_timeout: 1s\n"));
    let code = proxy.wait().code();
    (code, proxy.stderr())
}

/// A line of the text that has all these parts.
fn one_line(text: &str, parts: &[&str]) {
    let found = text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "no line with {parts:?} in:\n{text}");
}

#[test]
fn a_missing_certificate_file_is_named() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let (code, said) = refused(&pod, &pod.config(""));
    assert_eq!(code, Some(2), "{said}");
    one_line(&said, &[&format!("{}/cert.pem", pod.tls().display())]);
    assert!(said.contains("No such file"), "{said}");
}

#[test]
fn an_unreadable_key_is_named() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    pod.identity();
    let key = pod.tls().join("key.pem");
    chown(&key, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let (code, said) = refused(&pod, &pod.config(""));
    assert_eq!(code, Some(2), "{said}");
    one_line(&said, &[key.to_str().unwrap(), "ermission denied"]);
}

#[test]
fn a_key_of_another_certificate_is_named() {
    let mesh = Mesh::new();
    let (pod, other) = (mesh.pod("pod"), mesh.pod("other"));
    pod.identity();
    other.identity();
    std::fs::rename(other.tls().join("key.pem"), pod.tls().join("key.pem")).unwrap();
    let (code, said) = refused(&pod, &pod.config(""));
    assert_eq!(code, Some(2), "{said}");
    one_line(&said, &["key.pem"]);
}

#[test]
fn an_identity_of_another_trust_domain_is_not_taken() {
    let pair = Pair::usual();
    let foreign = pair.mesh.folder().join("foreign");
    let forgery = Forgery { ids: &["spiffe://other.example/ns/test/sa/server"], ..Forgery::default() };
    forge(pair.mesh.authority(), &foreign, &forgery);
    for name in ["key.pem", "cert.pem"] {
        std::fs::rename(foreign.join(name), pair.server.tls().join(name)).unwrap();
    }
    // While it runs, it keeps the one it has and says so.
    pair.inbound.metric_until("remora_identity_reloads_total", &[("result", "failed")], |n| n >= 1.0);
    let _ = pair.inbound.said("other.example");
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
    // It does not start with it.
    let config = std::fs::read_to_string(pair.inbound.file()).unwrap();
    pair.inbound.terminate();
    let mut inbound = pair.inbound;
    inbound.wait();
    let (code, said) = refused(&pair.server, &config);
    assert_eq!(code, Some(2), "{said}");
    one_line(&said, &["cert.pem", "other.example"]);
}

#[test]
fn all_errors_of_a_configuration_come_at_once() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let config = "service: pod\nworkres: 2\noutbound:\n  - {host: nowhere}\n  - {host: \"a:1\", balance: fastest}\n";
    let (code, said) = refused(&pod, config);
    assert_eq!(code, Some(2), "{said}");
    one_line(&said, &["remora.yaml:2:", "workres", "workers"]);
    one_line(&said, &["remora.yaml:4:", "outbound[0].host"]);
    one_line(&said, &["remora.yaml:5:", "outbound[1].balance", "fastest"]);

    let file = pod.folder().join("remora.yaml");
    let validate =
        || pod.command_as(PROXY, PROXY, binary("remora-proxy")).arg("--validate").arg(&file).output().unwrap();
    let output = validate();
    assert_eq!(output.status.code(), Some(2));
    one_line(&String::from_utf8_lossy(&output.stderr), &["workres"]);
    pod.write(&file, "service: pod\n");
    let output = validate();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = [output.stdout, output.stderr].concat();
    one_line(&String::from_utf8_lossy(&said), &[file.to_str().unwrap(), "is valid"]);
}

#[test]
fn a_missing_configuration_is_named() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let output =
        pod.command_as(PROXY, PROXY, binary("remora-proxy")).args(["--config", "/nowhere.yaml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    one_line(&String::from_utf8_lossy(&output.stderr), &["/nowhere.yaml", "No such file"]);
}

#[test]
fn a_second_instance_is_told_that_the_port_is_in_use() {
    let pair = Pair::usual();
    let config = std::fs::read_to_string(pair.inbound.file()).unwrap();
    let (code, said) = refused(&pair.server, &config);
    assert_eq!(code, Some(3), "{said}");
    one_line(&said, &["15000", "in use"]);
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200, "the first one is not disturbed");
}

#[test]
fn a_taken_listener_port_is_named() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let _squatter = pod.peer("echo", 15_006, &[]);
    let (code, said) = refused(&pod, "service: pod\n");
    assert_eq!(code, Some(3), "{said}");
    one_line(&said, &["15006", "in use"]);
}
