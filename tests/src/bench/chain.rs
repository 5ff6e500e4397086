//! One chain: h2load, the client's sidecar, mTLS, the server's sidecar, the application.

use std::path::Path;

use crate::collector::Collector;
use crate::load::Load;
use crate::mesh::Mesh;
use crate::pod::{PROXY, Pod};
use crate::process::Process;
use crate::{binaries, eventually};

use super::{Handshakes, Resumed, Round, handshakes};

/// Whose sidecars carry the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Remora,
    /// The peer.
    Envoy,
}

impl Kind {
    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Remora => "remora",
            Self::Envoy => "envoy",
        }
    }
}

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// HTTP/1.1 at both ends, mTLS between.
    H1Mtls,
    /// HTTP/2 at both ends, mTLS between.
    H2Mtls,
}

impl Scenario {
    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::H1Mtls => "h1-mtls",
            Self::H2Mtls => "h2-mtls",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::H1Mtls => &["--h1", "-c", "32"],
            Self::H2Mtls => &["-c", "32", "-m", "4"],
        }
    }
}

/// A chain that is up. Idle, it costs nothing.
#[derive(Debug)]
pub struct Chain {
    scenario: Scenario,
    client: Pod,
    /// Has an identity and no sidecar.
    stranger: Pod,
    /// The client's sidecar, then the server's.
    sidecars: [Process; 2],
    _server: Pod,
    _app: Process,
    _store: Pod,
    _mesh: Mesh,
}

impl Chain {
    /// Starts everything; metrics on, traces at 1 % to a collector that takes them.
    ///
    /// # Panics
    /// When any of it does not come up.
    #[must_use]
    pub fn start(kind: Kind, scenario: Scenario, envoy: &Path) -> Self {
        let mesh = Mesh::new();
        let [client, server, store, stranger] = ["client", "server", "store", "stranger"].map(|name| mesh.pod(name));
        let _ = Collector::start(&store, store.at(4317));
        let app = server.peer("http", 8080, &[]);
        stranger.identity();
        for pod in [&client, &server] {
            pod.identity();
            pod.redirect();
        }
        let places = |pod: &Pod, template: &str| {
            let version = match scenario {
                Scenario::H1Mtls => "http_protocol_options",
                Scenario::H2Mtls => "http2_protocol_options",
            };
            template
                .replace("@SERVER@", &server.v4().to_string())
                .replace("@COLLECTOR@", &store.v4().to_string())
                .replace("@TLS@", &pod.tls().display().to_string())
                .replace("@VERSION@", version)
        };
        let sidecars = match kind {
            Kind::Remora => {
                let tracing = format!("tracing: {{endpoint: \"http://{}\", sampling: 0.01}}", store.at(4317));
                let entry =
                    format!("{{host: \"server:8080\", addresses: [{0}], endpoints: [\"{0}:8080\"]}}", server.v4());
                [
                    start_remora(&client, &format!("workers: 2\noutbound:\n  - {entry}\n{tracing}")),
                    start_remora(&server, &format!("workers: 2\ninbound: {{mtls: strict}}\n{tracing}")),
                ]
            }
            Kind::Envoy => [
                start_envoy(&client, envoy, &places(&client, include_str!("../../../bench/envoy-outbound.yaml"))),
                start_envoy(&server, envoy, &places(&server, include_str!("../../../bench/envoy-inbound.yaml"))),
            ],
        };
        let url = format!("http://{}/bytes/128", server.at(8080));
        let answer = client.curl(&[&url]);
        assert_eq!(answer.code, 200, "{kind:?}: {answer:?}");
        Self { scenario, client, stranger, sidecars, _server: server, _app: app, _store: store, _mesh: mesh }
    }

    /// Carries one round of requests for 128 bytes each, and measures it.
    ///
    /// # Panics
    /// When one request fails.
    #[must_use]
    pub fn round(&self, requests: u64) -> Round {
        let url = format!("http://{}/bytes/128", self._server.at(8080));
        let count = requests.to_string();
        let before: f64 = self.sidecars.iter().map(cpu_seconds).sum();
        let load: Load = self.client.h2load(&[self.scenario.arguments(), &["-n", &count, &url]].concat());
        let after: f64 = self.sidecars.iter().map(cpu_seconds).sum();
        load.assert_clean(requests);
        Round {
            rate: load.rate,
            cpu_us: (after - before) * 1e6 / requests as f64,
            rss_mib: [rss_mib(&self.sidecars[0]), rss_mib(&self.sidecars[1])],
        }
    }

    /// Makes one round of handshakes with the server's sidecar, and measures it.
    ///
    /// # Panics
    /// When one fails.
    #[must_use]
    pub fn handshakes(&self, resumed: Resumed, count: u64) -> Handshakes {
        let server = self._server.at(8080);
        let before = cpu_seconds(&self.sidecars[1]);
        let tls = self.stranger.tls();
        let (took, taken) = self.stranger.enter(|| handshakes::run(server, &tls, resumed, count)).unwrap();
        let after = cpu_seconds(&self.sidecars[1]);
        let share = taken as f64 / count as f64;
        Handshakes {
            rate: count as f64 / took.as_secs_f64(),
            cpu_us: (after - before) * 1e6 / count as f64,
            resumed: share,
        }
    }
}

fn start_remora(pod: &Pod, rest: &str) -> Process {
    let sidecar = pod.proxy(&pod.config(rest));
    sidecar.ready();
    sidecar.into_process()
}

fn start_envoy(pod: &Pod, envoy: &Path, config: &str) -> Process {
    let file = pod.folder().join("envoy.yaml");
    pod.write(&file, config);
    let mut command = pod.command_as(PROXY, PROXY, binaries::readable(envoy));
    command.arg("-c").arg(&file).args(["--concurrency", "2", "--log-level", "warn", "--disable-hot-restart"]);
    let process = pod.process("envoy", &mut command);
    eventually("Envoy is ready", || {
        let answer = crate::sidecar::ask(pod, ([127, 0, 0, 1], 15_000).into(), "GET", "/ready")?;
        (answer.code == 200).then_some(())
    });
    process
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
