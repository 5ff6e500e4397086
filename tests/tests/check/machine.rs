//! A machine: a network namespace with a redirected sidecar in it, which a collector tells the time.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use remora_test::binaries::binary;
use remora_test::collector::Collector;
use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::netns::{run, tool};
use remora_test::pod::{PROXY, Pod};
use remora_test::process::Process;
use remora_test::sidecar::ask;

use crate::answer::{Answer, later};
use crate::relay;

const ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 15_000);
const RELAY: ([u8; 4], u16) = ([127, 0, 0, 1], 15_900);

struct Machine {
    proxy: Process,
    file: PathBuf,
    pod: Pod,
    store: Pod,
    mesh: Mesh,
}

/// A ready proxy that may open so many files.
fn proxy(pod: &Pod, file: &Path, files: u32) -> Process {
    let mut command = pod.command_as(PROXY, PROXY, tool("prlimit"));
    command.arg(format!("--nofile={files}:")).arg(binary("remora-proxy")).arg("--config").arg(file);
    let mut process = pod.process("proxy", &mut command);
    eventually("readiness", || {
        assert!(process.ended().is_none(), "{}", process.stderr());
        ask(pod, ([127, 0, 0, 1], 15_021).into(), "GET", "/ready").filter(|answer| answer.code == 200)
    });
    process
}

impl Machine {
    fn new() -> Self {
        let mesh = Mesh::new();
        let (pod, store) = (mesh.pod("machine"), mesh.pod("store"));
        let _collector = Collector::start(&store, store.at(4317));
        pod.identity();
        pod.redirect();
        let file = pod.folder().join("remora.yaml");
        pod.write(&file, &pod.config(&format!("tracing: {{endpoint: \"http://{}\"}}", store.at(4317))));
        Self { proxy: proxy(&pod, &file, 16_384), file, pod, store, mesh }
    }

    /// `remora check machine` behind a prefix, with more arguments.
    fn check_as(&self, prefix: &[String], arguments: &[&str]) -> Answer {
        let remora = binary("remora").to_str().unwrap().to_owned();
        let words: Vec<_> = prefix.iter().chain([&remora]).collect();
        let mut command = self.pod.command(words[0]);
        Answer::of(command.args(&words[1..]).args(["check", "machine", "-o", "json"]).args(arguments))
    }

    fn check(&self, arguments: &[&str]) -> Answer {
        self.check_as(&[], arguments)
    }

    /// Runs iptables in it.
    fn iptables(&self, program: &str, arguments: &[&str]) {
        run(self.pod.command(tool(program)).args(arguments)).unwrap();
    }

    /// A folder with every program of iptables, but for what `change` does to it.
    fn programs(&self, name: &str, change: impl Fn(&Path)) -> String {
        let folder: PathBuf = self.mesh.folder().join(name);
        std::fs::create_dir(&folder).unwrap();
        for stem in ["iptables", "ip6tables"] {
            for part in ["nft-save", "nft-restore", "legacy-save", "legacy-restore"] {
                let program = format!("{stem}-{part}");
                symlink(tool(&program), folder.join(program)).unwrap();
            }
        }
        change(&folder);
        folder.to_str().unwrap().to_owned()
    }

    /// A folder in which iptables-nft-restore takes no rules that hold `word`, unless they hold `unless`: a kernel without the module.
    fn without_module(&self, name: &str, word: &str, unless: &str) -> String {
        self.programs(name, |folder| {
            let program = folder.join("iptables-nft-restore");
            std::fs::remove_file(&program).unwrap();
            let real = tool("iptables-nft-restore");
            let text = format!(
                "#!/bin/sh\nrules=$(cat)\ncase $rules in {unless}) ;; *{word}*) echo 'Extension {word} revision 0 not supported, missing kernel module?' >&2; exit 1 ;; esac\n\
                 printf '%s\\n' \"$rules\" | exec {} \"$@\"\n",
                real.display()
            );
            std::fs::write(&program, text).unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        })
    }
}

#[test]
fn each_line_tells_of_one_thing() {
    let mut machine = Machine::new();
    let well = machine.check(&[]);
    well.is_well();
    assert_eq!(
        well.names(),
        [
            "iptables",
            "iptables-rules",
            "capabilities",
            "kernel",
            "kernel-tproxy",
            "redirection",
            "open-files",
            "configuration",
            "version",
            "clock"
        ]
    );
    assert!(well.lines.iter().all(|line| line["place"] == "machine"));

    let some = machine.programs("some", |folder| {
        for part in ["save", "restore"] {
            std::fs::remove_file(folder.join(format!("ip6tables-legacy-{part}"))).unwrap();
        }
    });
    let named = |folder: &str| machine.check(&["--", "--iptables-path", folder]);
    named(&some).differs_in(&well, "iptables", "warning", "IPv6: iptables-nft:");
    named(&machine.without_module("redirect", "REDIRECT", "*TPROXY*")).differs_in(
        &well,
        "kernel",
        "failure",
        "missing kernel module",
    );
    named(&machine.without_module("tproxy", "TPROXY", "'nothing'")).differs_in(
        &well,
        "kernel-tproxy",
        "warning",
        "missing kernel module",
    );

    machine.iptables("iptables-legacy", &["-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP"]);
    machine.check(&[]).differs_in(&well, "iptables-rules", "warning", "both");
    machine.iptables("iptables-legacy", &["-D", "INPUT", "-s", "192.0.2.9", "-j", "DROP"]);

    let setpriv =
        [tool("setpriv").to_str().unwrap(), "--bounding-set=-net_raw", "--inh-caps=-net_raw", "--"].map(str::to_owned);
    machine.check_as(&setpriv, &[]).differs_in(&well, "capabilities", "warning", "NET_RAW is missing");

    machine.iptables("ip6tables-nft", &["-t", "nat", "-D", "REMORA_INBOUND", "1"]);
    machine.check(&[]).differs_in(&well, "redirection", "failure", "IPv6 nat: missing rule");
    machine.pod.redirect();

    let text = std::fs::read_to_string(&machine.file).unwrap();
    machine.pod.write(&machine.file, &format!("{text}inbuond: {{}}\n"));
    machine.check(&[]).differs_in(
        &well,
        "configuration",
        "failure",
        "inbuond: unknown field (did you mean \"inbound\"?)",
    );
    machine.pod.write(&machine.file, &text);
    eventually("the former configuration", || (machine.check(&[]) == well).then_some(()));

    machine.check_as(&later("+60s"), &[]).differs_in(&well, "clock", "warning", "this clock is");
    machine.check_as(&later("+1h"), &[]).differs_in(&well, "clock", "failure", "ahead of");
    machine.store.link(false).unwrap();
    machine.check(&[]).differs_in(&well, "clock", "warning", "cannot be compared");
    machine.store.link(true).unwrap();
    eventually("what was broken to be whole again", || (machine.check(&[]) == well).then_some(()));

    machine.proxy.signal(Signal::SIGKILL);
    machine.proxy.wait();
    machine.proxy = proxy(&machine.pod, &machine.file, 1024);
    machine.check(&[]).differs_in(&well, "open-files", "warning", "only 1024");
}

#[test]
fn the_versions_of_program_and_proxy_are_compared() {
    let machine = Machine::new();
    let (_, replaced) = relay::start(Some(&machine.pod), RELAY.into(), ADMIN.into());
    let file = machine.mesh.folder().join("relayed.yaml");
    let text = std::fs::read_to_string(&machine.file).unwrap();
    std::fs::write(&file, format!("{text}admin: {{address: 127.0.0.1:15900}}\n")).unwrap();
    let check = || machine.check(&["--config", file.to_str().unwrap()]);
    let well = check();
    well.is_well();
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    let other = version.replace(|c: char| c.is_ascii_digit(), "9");
    replaced.lock().unwrap().push((version, other));
    check().differs_in(&well, "version", "warning", "the proxy is 9.9.9");
}

#[test]
fn without_anything_of_remora_a_machine_is_well_but_for_its_clock() {
    let mesh = Mesh::new();
    let pod = mesh.pod("bare");
    let mut command = pod.command(tool("prlimit"));
    command.arg("--nofile=16384:").arg(binary("remora")).args(["check", "-o", "json"]);
    let bare = Answer::of(&mut command);
    let unwell: Vec<_> = bare.lines.iter().filter(|line| line["result"] != "ok").map(|line| &line["check"]).collect();
    assert_eq!(unwell, ["clock"], "{bare:#?}");
    assert_eq!(bare.code, Some(0), "warnings alone are no failure");
    assert!(bare.says("redirection").contains("no rules of Remora"), "{bare:#?}");

    // The same for people.
    let output =
        pod.output("prlimit", &["--nofile=16384:", binary("remora").to_str().unwrap(), "check", "machine"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(0), bare.lines.len()), "{text}");
    assert!(text.starts_with("ok       iptables        IPv4: iptables-nft"), "{text}");
    let clock = text.lines().last().unwrap();
    assert!(clock.starts_with("warning  clock  ") && clock.contains("; to do: "), "{clock}");

    // Whoever may do nothing is told what it takes.
    let mut command = pod.user(tool("prlimit"));
    command.arg("--nofile=16384:").arg(binary("remora")).args(["check", "machine", "-o", "json"]);
    let user = Answer::of(&mut command);
    let results = user.lines.iter().filter(|line| line["result"] != "ok").map(|line| (&line["check"], &line["result"]));
    let results: Vec<_> = results.map(|(check, result)| (check.as_str().unwrap(), result.as_str().unwrap())).collect();
    let untried = ["kernel", "kernel-tproxy", "redirection", "clock"].map(|check| (check, "warning"));
    assert_eq!(
        results,
        [&[("iptables-rules", "warning"), ("capabilities", "failure")][..], &untried].concat(),
        "{user:#?}"
    );

    // Nothing is left of what was tried.
    let rules = pod.output("iptables-nft-save", &[]).unwrap();
    assert!(!String::from_utf8_lossy(&rules.stdout).contains("REMORA"), "{rules:?}");
}
