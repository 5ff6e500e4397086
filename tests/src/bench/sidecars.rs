//! Starts two sidecars of a kind, and asks them what they carried.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::counters::{counted, stats};
use super::scale::Shape;
use super::scenario::{Kind, Protocol, Scenario};
use super::template::fill;
use crate::binaries::{binary, readable};
use crate::eventually;
use crate::netns::{run, tool};
use crate::pod::{PROXY, Pod};
use crate::process::Process;
use crate::sidecar::ask;

/// Where the sidecars stand.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) scenario: Scenario,
    pub(super) client: Pod,
    pub(super) server: Pod,
    pub(super) collector: SocketAddr,
    /// Envoy's binary.
    pub(super) envoy: PathBuf,
    pub(super) shape: Shape,
}

impl Place {
    /// Gives the server's pod an address for each endpoint beyond the first, to which the client's pod knows the way.
    ///
    /// # Panics
    /// When `ip` refuses.
    pub(super) fn more_endpoints(&self) {
        let addresses: Vec<_> =
            more(self.shape.endpoints).map(|address| format!("addr add {address}/32 dev lo\n")).collect();
        if addresses.is_empty() {
            return;
        }
        let file = self.server.folder().join("addresses");
        self.server.write(&file, &addresses.concat());
        run(self.server.command(tool("ip")).arg("-batch").arg(&file)).unwrap();
        let server = self.server.v4().to_string();
        run(self.client.command(tool("ip")).args(["route", "add", "10.78.0.0/16", "via", &server])).unwrap();
    }
}

/// Addresses of endpoints beyond the first.
fn more(endpoints: u32) -> impl Iterator<Item = Ipv4Addr> {
    (1..endpoints).map(|n| Ipv4Addr::from_bits(Ipv4Addr::new(10, 78, 0, 0).to_bits() + n))
}

/// Two that are ready.
#[derive(Debug)]
pub(super) struct Pair {
    kind: Kind,
    scenario: Scenario,
    /// The client's, then the server's.
    both: [One; 2],
}

#[derive(Debug)]
struct One {
    process: Process,
    pod: Pod,
    ready_ms: f64,
}

/// What both have carried so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    /// Requests, or connections of bytes: the client's sidecar, the server's.
    pub(super) carried: [u64; 2],
    /// TLS handshakes that the server's accepted.
    pub(super) handshakes: u64,
}

impl Pair {
    /// Starts one after the other, and waits until each is ready.
    ///
    /// # Panics
    /// When one does not become ready.
    pub(super) fn start(kind: Kind, place: &Place) -> Self {
        let both = [(&place.client, true), (&place.server, false)].map(|(pod, outbound)| {
            let mut command = command(kind, place, pod, outbound);
            let began = Instant::now();
            let mut process = pod.process(kind.name(), &mut command);
            eventually(&format!("readiness of {kind:?}"), || {
                assert!(process.ended().is_none(), "{kind:?} ended: {}", process.stderr());
                is_ready(kind, pod).then_some(())
            });
            One { process, pod: pod.clone(), ready_ms: began.elapsed().as_secs_f64() * 1e3 }
        });
        Self { kind, scenario: place.scenario, both }
    }

    /// The slower one's time from its start to its readiness.
    pub(super) fn ready_ms(&self) -> f64 {
        self.both[0].ready_ms.max(self.both[1].ready_ms)
    }

    /// User and system time of both so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> f64 {
        self.both.iter().map(|one| cpu_seconds(&one.process)).sum()
    }

    /// As [`Pair::cpu_seconds`], of the server's alone.
    pub(super) fn server_cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.both[1].process)
    }

    /// Resident memory of the larger one.
    pub(super) fn rss_mib(&self) -> f64 {
        self.both.iter().map(|one| rss_mib(&one.process)).fold(0.0, f64::max)
    }

    /// Process ids: the client's, the server's.
    pub(super) fn pids(&self) -> [u32; 2] {
        self.both.each_ref().map(|one| one.process.pid())
    }

    /// Lets both end as a pod's end lets them, with what a program does then.
    ///
    /// # Panics
    /// When one does not end well.
    pub(super) fn end(self) {
        for One { mut process, .. } in self.both {
            process.signal(Signal::SIGTERM);
            assert!(process.wait().success(), "{:?}: {}", self.kind, process.stderr());
        }
    }

    /// What they have carried so far, as they tell it themselves.
    ///
    /// # Panics
    /// When one gives no answer.
    pub(super) fn counted(&self) -> Counted {
        let [client, server] = [(&self.both[0].pod, "outbound"), (&self.both[1].pod, "inbound")]
            .map(|(pod, direction)| counted(self.kind, self.scenario, pod, direction));
        Counted { carried: [client.0, server.0], handshakes: server.1 }
    }
}

/// What starts one, its configuration written.
fn command(kind: Kind, place: &Place, pod: &Pod, outbound: bool) -> Command {
    match kind {
        Kind::Remora => {
            let file = pod.folder().join("remora.yaml");
            pod.write(&file, &remora(place, pod, outbound));
            let mut command = pod.command_as(PROXY, PROXY, binary("remora-proxy"));
            command.arg("--config").arg(file);
            command
        }
        Kind::Envoy => {
            let file = pod.folder().join("envoy.yaml");
            let templates =
                [include_str!("../../../bench/envoy/inbound.yaml"), include_str!("../../../bench/envoy/outbound.yaml")];
            pod.write(&file, &filled(templates[usize::from(outbound)], place, pod));
            let mut command = pod.command_as(PROXY, PROXY, readable(&place.envoy));
            command.arg("-c").arg(file).args(["--concurrency", "2", "--log-level", "warn", "--disable-hot-restart"]);
            command
        }
        Kind::Haproxy => {
            let (file, folder) = (pod.folder().join("haproxy.cfg"), owned(pod));
            if place.scenario.is_mtls() {
                let parts = ["cert.pem", "key.pem"].map(|name| std::fs::read_to_string(pod.tls().join(name)).unwrap());
                let both = folder.join("both.pem");
                std::fs::write(&both, parts.concat()).unwrap();
                chown(&both, Some(PROXY), Some(PROXY)).unwrap();
            }
            let templates = [
                include_str!("../../../bench/haproxy/inbound.cfg"),
                include_str!("../../../bench/haproxy/outbound.cfg"),
            ];
            pod.write(&file, &filled(templates[usize::from(outbound)], place, pod));
            let mut command = pod.command_as(PROXY, PROXY, tool("haproxy"));
            command.arg("-db").arg("-f").arg(file);
            command
        }
        Kind::Relay => {
            let mut command = pod.command_as(PROXY, PROXY, binary("remora-relay"));
            command.args(relay(place, pod, outbound)).arg(pod.tls());
            command
        }
        Kind::Direct => unreachable!("there is no sidecar"),
    }
}

/// Metrics on, the access log for failures (both are defaults), traces at 1 % to a collector that takes them.
/// Ends when it is told to: no other sidecar has to learn that it leaves.
fn remora(place: &Place, pod: &Pod, outbound: bool) -> String {
    let Place { scenario, shape, .. } = place;
    let (address, port) = (place.server.v4(), scenario.port());
    let protocol = if scenario.protocol() == Protocol::Tcp { "tcp" } else { "auto" };
    let traffic = if outbound {
        let endpoints: Vec<_> =
            std::iter::once(address).chain(more(shape.endpoints)).map(|one| format!("\"{one}:{port}\"")).collect();
        // The one that is used comes last.
        let others = (1..shape.entries).map(|n| {
            let other = Ipv4Addr::from_bits(Ipv4Addr::new(10, 79, 0, 0).to_bits() + n);
            format!("  - {{host: \"other-{n}:{port}\", addresses: [{other}], endpoints: [\"{other}:{port}\"]}}\n")
        });
        format!(
            "outbound:\n{}  - {{host: \"server:{port}\", addresses: [{address}], endpoints: [{}], protocol: {protocol}}}",
            others.collect::<String>(),
            endpoints.join(", ")
        )
    } else {
        let mode = if scenario.is_mtls() { "strict" } else { "off" };
        format!("inbound: {{mtls: {mode}, ports: [{{port: {port}, protocol: {protocol}}}]}}")
    };
    let rest = format!(
        "workers: {}\ndrain_timeout: 0\n{traffic}\ntracing: {{endpoint: \"http://{}\", sampling: 0.01}}",
        shape.workers, place.collector
    );
    if scenario.is_mtls() { pod.config(&rest) } else { format!("service: {}\n{rest}\n", pod.name()) }
}

fn relay(place: &Place, _pod: &Pod, outbound: bool) -> [String; 4] {
    let (scenario, port) = (place.scenario, place.scenario.port());
    let app = match scenario.protocol() {
        Protocol::Http1 => "h1",
        Protocol::Http2 => "h2",
        Protocol::Tcp => "tcp",
    };
    let hop = match (scenario.is_mtls(), scenario.protocol()) {
        (false, _) => app.to_owned(),
        (true, Protocol::Tcp) => "tcp+tls".to_owned(),
        (true, _) => "h2+tls".to_owned(),
    };
    if outbound {
        ["0.0.0.0:15001".to_owned(), place.server.at(port).to_string(), app.to_owned(), hop]
    } else {
        ["0.0.0.0:15006".to_owned(), format!("127.0.0.1:{port}"), hop, app.to_owned()]
    }
}

/// A peer's configuration for this scenario.
fn filled(template: &str, place: &Place, pod: &Pod) -> String {
    let scenario = place.scenario;
    let version = |http2: bool| if http2 { "http2_protocol_options" } else { "http_protocol_options" };
    let http2 = scenario.protocol() == Protocol::Http2;
    let is_tcp = scenario.protocol() == Protocol::Tcp;
    let folder = pod.folder().join("haproxy");
    let values = [
        ("SERVER", place.server.v4().to_string()),
        ("PORT", scenario.port().to_string()),
        ("TLS", pod.tls().display().to_string()),
        ("ALPN", if is_tcp { "istio" } else { "h2" }.to_owned()),
        ("APP", version(http2).to_owned()),
        ("HOP", version(http2 || scenario.is_mtls()).to_owned()),
        ("MODE", if is_tcp { "tcp" } else { "http" }.to_owned()),
        ("SOCKET", folder.join("stats").display().to_string()),
        ("PEM", folder.join("both.pem").display().to_string()),
    ];
    fill(template, &scenario.words(), &values)
}

/// A folder in which the proxy's user may make a socket.
fn owned(pod: &Pod) -> PathBuf {
    let folder = pod.folder().join("haproxy");
    std::fs::create_dir_all(&folder).unwrap();
    chown(&folder, Some(PROXY), Some(PROXY)).unwrap();
    folder
}

fn is_ready(kind: Kind, pod: &Pod) -> bool {
    let answers = |port: u16, path: &str| {
        ask(pod, SocketAddr::from(([127, 0, 0, 1], port)), "GET", path).is_some_and(|answer| answer.code == 200)
    };
    match kind {
        Kind::Remora => answers(15_021, "/healthz/ready"),
        Kind::Envoy => answers(15_000, "/ready"),
        Kind::Haproxy => stats(&pod.folder().join("haproxy/stats"), "show info").is_some(),
        Kind::Relay => answers(15_000, "/"),
        Kind::Direct => true,
    }
}

/// User and system time of a process, all threads, in seconds.
pub(super) fn cpu_seconds(process: &Process) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
    // The command's name, in parentheses, may hold anything; what follows is numbers.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn rss_mib(process: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}
