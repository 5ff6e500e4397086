//! A host for runs: a network namespace with an uplink, the programs in a folder, a state folder.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use remora_test::binaries::{binary, copy};
use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::metrics::Metrics;
use remora_test::netns::{Netns, tool};
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::{Answer, ask};

pub(crate) struct Host {
    pub(crate) mesh: Mesh,
    pub(crate) pod: Pod,
    /// `remora`, `remora-init` and `remora-proxy`, beside each other.
    pub(crate) programs: PathBuf,
    pub(crate) state: PathBuf,
}

impl Host {
    pub(crate) fn new() -> Self {
        let mesh = Mesh::new();
        let pod = mesh.pod("host");
        let (programs, state) = (mesh.folder().join("bin"), mesh.folder().join("state"));
        std::fs::create_dir(&programs).unwrap();
        let host = Self { mesh, pod, programs, state };
        ["remora", "remora-init", "remora-proxy"].iter().for_each(|name| host.install(name));
        host
    }

    /// Puts a program into the folder.
    pub(crate) fn install(&self, name: &str) {
        copy(&binary(name), &self.programs.join(name));
    }

    /// A command on the host as root.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.pod.command(program);
        command.env("REMORA_RUN_STATE", &self.state);
        command
    }

    /// `remora run` with these flags and this command line.
    pub(crate) fn remora(&self, flags: &[&str], command: &[&str]) -> Command {
        let mut remora = self.command(self.programs.join("remora"));
        remora.arg("run").args(flags).arg("--").args(command);
        remora
    }

    /// Runs it to its end, with nothing to read.
    pub(crate) fn run(&self, flags: &[&str], command: &[&str]) -> Output {
        self.remora(flags, command).stdin(Stdio::null()).output().unwrap()
    }

    /// Starts it.
    pub(crate) fn start(&self, flags: &[&str], command: &[&str]) -> Process {
        self.pod.process("run", &mut self.remora(flags, command))
    }

    /// Starts a run named `name` that serves HTTP on 8080, and waits until it does.
    pub(crate) fn serve(&self, name: &str, flags: &[&str]) -> Process {
        let peer = binary("remora-peer");
        let flags = [&["--name", name], flags].concat();
        let mut process =
            self.start(&flags, &[peer.to_str().unwrap(), "http", "--listen", "0.0.0.0:8080", "--name", name]);
        eventually(&format!("{name} serves"), || {
            assert!(process.ended().is_none(), "{name} ended: {}", process.stderr());
            let listens = std::fs::read_to_string(format!("/proc/{}/net/tcp", self.first_process(name)?)).ok()?;
            listens.contains(":1F90 00000000:0000 0A").then_some(())
        });
        process
    }

    /// Ends a run, and waits until it has.
    pub(crate) fn end(&self, mut run: Process) {
        run.signal(Signal::SIGTERM);
        run.wait();
    }

    /// A process in a run's network namespace: its sidecar.
    fn first_process(&self, name: &str) -> Option<u32> {
        let pid = self.record(name)?["pid"].as_u64()?;
        self.sidecars().into_iter().find(|sidecar| parent(*sidecar) == Some(pid))
    }

    /// What a run says of itself to others.
    pub(crate) fn record(&self, name: &str) -> Option<serde_json::Value> {
        serde_json::from_slice(&std::fs::read(self.state.join("runs").join(name).join("record.json")).ok()?).ok()
    }

    /// A run's address.
    pub(crate) fn address(&self, name: &str) -> Ipv4Addr {
        self.record(name).unwrap()["address"].as_str().unwrap().parse().unwrap()
    }

    /// One GET from the host.
    pub(crate) fn get(&self, to: SocketAddr, path: &str) -> Option<Answer> {
        ask(&self.pod, to, "GET", path)
    }

    /// The metrics of a run's sidecar.
    pub(crate) fn metrics(&self, name: &str) -> Metrics {
        let answer = self.get((self.address(name), 15_020).into(), "/metrics").unwrap();
        Metrics::parse(&answer.body)
    }

    /// The host's /etc/resolv.conf.
    pub(crate) fn resolv_conf(&self, text: &str) {
        std::fs::write(Path::new("/etc/netns").join(Netns::name(&self.pod)).join("resolv.conf"), text).unwrap();
    }

    /// The processes of this host's runs: those that name its folder.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let folder = self.mesh.folder().to_string_lossy().into_owned();
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let named = pids.filter_map(|pid| {
            let read = |what| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let said =
                [read("cmdline"), read("environ")].map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
            said.iter().any(|text| text.contains(&folder)).then(|| (pid, said[0].clone()))
        });
        named.collect()
    }

    /// The proxies among them.
    pub(crate) fn sidecars(&self) -> Vec<u32> {
        let proxy = |line: &str| line.split(' ').next().is_some_and(|program| program.ends_with("remora-proxy"));
        self.processes().into_iter().filter(|(_, line)| proxy(line)).map(|(pid, _)| pid).collect()
    }

    /// All that a run may leave behind: interfaces, rules, forwarding, records, processes.
    pub(crate) fn left(&self) -> Vec<String> {
        let lines = |program: &str, arguments: &[&str]| {
            let output = self.pod.output(program, arguments).unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut left = lines("ip", &["-br", "link"]);
        // -S: the rules without their counters.
        for table in ["filter", "nat"] {
            left.extend(lines("iptables", &["-t", table, "-S"]));
        }
        left.extend(lines("sh", &["-c", "cd /proc/sys/net/ipv4 && grep . ip_forward conf/*/forwarding"]));
        left.extend(
            std::fs::read_dir(self.state.join("runs")).into_iter().flatten().flatten().map(|e| format!("{e:?}")),
        );
        left.extend(self.state.join("network.json").exists().then(|| "network.json".to_owned()));
        left.extend(self.processes().into_iter().map(|(_, line)| line));
        left
    }
}

fn parent(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

/// A program's path, as text.
pub(crate) fn path(name: &str) -> String {
    tool(name).to_string_lossy().into_owned()
}

/// What a program printed, which must have succeeded.
pub(crate) fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a program said on standard error.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
