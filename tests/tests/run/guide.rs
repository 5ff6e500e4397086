//! docs/run.md: every command in it is run, its configuration and services too.

use std::path::Path;
use std::process::{Command, Stdio};

use remora_test::pod::PROXY;

use crate::host::{Host, printed};

/// The document's code blocks of one kind, before or after the heading of the second part.
fn blocks(kind: &str, second: bool) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/run.md")).unwrap();
    let (one, two) = text.split_once("\n## A host that stays\n").unwrap();
    let fences = if second { two } else { one }.split("```");
    // Every second piece is within a fence.
    let within = fences.skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    within.filter(|(of, _)| *of == kind).map(|(_, block)| block.to_owned()).collect()
}

/// A host with all programs, and a `sudo` that has nothing to do.
fn host() -> Host {
    let host = Host::new();
    host.install("remora-certs");
    let sudo = host.programs.join("sudo");
    std::fs::write(&sudo, "#!/bin/sh\nexec \"$@\"\n").unwrap();
    std::fs::set_permissions(&sudo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    host
}

fn bash(host: &Host, script: &str) -> Command {
    let path = format!("{}:{}", host.programs.display(), std::env::var("PATH").unwrap());
    let mut command = host.command("/bin/bash");
    command.args(["-exc", script]).env("PATH", path).env("USER", "daemon").stdin(Stdio::null());
    command
}

#[test]
fn the_commands_of_a_laptop_work_as_they_stand() {
    let host = host();
    let before = host.left();
    let blocks = blocks("sh", false);
    assert_eq!(blocks.len(), 6, "{blocks:#?}");
    let output = bash(&host, &blocks.concat()).output().unwrap();
    let told = printed(&output);
    assert_eq!(told.matches("<title>Directory listing for /</title>").count(), 3, "{told}");
    assert!(told.contains("\ndaemon\n"), "{told}");
    let counted = told.lines().filter_map(|line| line.strip_prefix("remora_tls_handshakes_total{")?.split(' ').nth(1));
    assert!(counted.filter_map(|count| count.parse::<u32>().ok()).sum::<u32>() > 0, "{told}");
    assert_eq!(host.left(), before);
}

#[test]
fn the_services_of_a_host_that_stays_work_as_they_stand() {
    let host = host();
    let etc = host.mesh.folder().join("etc");
    std::fs::create_dir(&etc).unwrap();
    let here = |text: &str| {
        let text = text.replace("/etc/remora", etc.to_str().unwrap());
        text.replace("/usr/local/bin", host.programs.to_str().unwrap())
    };
    let [yaml] = &blocks("yaml", true)[..] else { panic!("one configuration was expected") };
    std::fs::write(etc.join("remora.yaml"), here(yaml)).unwrap();
    let commands = blocks("sh", true);
    let [identity, validate, verify] = &commands[..] else { panic!("{commands:#?}") };
    printed(&bash(&host, &here(identity)).output().unwrap());
    assert!(printed(&bash(&host, &here(validate)).output().unwrap()).contains("remora.yaml is valid"));

    let units = blocks("ini", true);
    let [proxy, init] = &units[..] else { panic!("{units:#?}") };
    let value = |unit: &str, name: &str| {
        let lines: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect();
        let [value] = lines[..] else { panic!("{name} in {unit}") };
        here(value)
    };
    assert_eq!((value(proxy, "User"), value(proxy, "Group")), (PROXY.to_string(), PROXY.to_string()));
    let start = value(proxy, "ExecStart");
    let mut words = start.split(' ');
    let mut command = host.pod.command_as(PROXY, PROXY, words.next().unwrap());
    let _proxy = host.pod.process("proxy", command.args(words));
    let run = |line: String| printed(&bash(&host, &line).output().unwrap());
    run(value(proxy, "ExecStartPost"));
    run(value(init, "ExecStart"));
    run(here(verify));

    // A client elsewhere comes by way of the sidecar.
    let _web = host.pod.peer("http", 8080, &[]);
    let outside = host.mesh.pod("outside");
    let client = outside.run("curl", &["-sS", &format!("http://{}/name", host.pod.at(8080))]);
    assert_eq!(printed(&client), "host");
    let metrics = host.get(host.pod.at(15_020), "/metrics").unwrap().body;
    let metrics = remora_test::metrics::Metrics::parse(&metrics);
    assert_eq!(metrics.sum("remora_requests_total", &[("direction", "inbound")]), 1.0);

    run(value(init, "ExecStop"));
    let rules = printed(&host.pod.output("iptables-save", &[]).unwrap());
    assert!(!rules.contains("REMORA"), "{rules}");
}
