//! One chain: the load, the client's sidecar, the hop, the server's sidecar, the application; and one round through it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::latency::{milliseconds, quantile};
use super::report::Round;
use super::scenario::{Kind, Protocol, Scenario};
use super::sidecars::{Counted, Pair, Place};
use super::{Resumed, Shape, bulk, grpc, handshakes};
use crate::collector::Collector;
use crate::eventually;
use crate::load::Load;
use crate::mesh::Mesh;
use crate::netns::tool;
use crate::pod::Pod;
use crate::process::Process;

/// Requests per second at which latency is compared: far below what any chain can carry.
const FIXED_RATE: f64 = 1_000.0;
/// Clients of the fixed rate. Each asks in the same moment as the others.
const BURST: f64 = 32.0;

/// Two pods with an application in one; sidecars are started for each round.
#[derive(Debug)]
pub struct Chain {
    kind: Kind,
    place: Place,
    pair: Option<Pair>,
    /// Has an identity and no sidecar.
    stranger: Pod,
    _app: Process,
    _store: Pod,
    _mesh: Mesh,
}

impl Chain {
    /// Makes the pods, their identities and redirection, and starts the application.
    ///
    /// # Panics
    /// When any of it does not come up.
    #[must_use]
    pub fn start(kind: Kind, scenario: Scenario, envoy: &Path) -> Self {
        Self::shaped(kind, scenario, envoy, Shape::default())
    }

    /// As [`Chain::start`], with more of something.
    ///
    /// # Panics
    /// When any of it does not come up.
    #[must_use]
    pub fn shaped(kind: Kind, scenario: Scenario, envoy: &Path, shape: Shape) -> Self {
        let mesh = Mesh::new();
        let [client, server, store, stranger] = ["client", "server", "store", "stranger"].map(|name| mesh.pod(name));
        let collector = store.at(4317);
        let _ = Collector::start(&store, collector);
        let port = scenario.port();
        let app = if scenario.protocol() == Protocol::Tcp {
            server.app(port, server.user(tool("iperf3")).args(["-s", "-p", &port.to_string()]))
        } else {
            server.peer("http", port, &[])
        };
        for pod in [&client, &server] {
            if scenario.is_mtls() {
                pod.identity();
            }
            if kind != Kind::Direct {
                pod.redirect();
            }
        }
        if scenario.is_mtls() {
            stranger.identity();
        }
        let place = Place { scenario, client, server, collector, envoy: envoy.to_owned(), shape };
        place.more_endpoints();
        Self { kind, place, pair: None, stranger, _app: app, _store: store, _mesh: mesh }
    }

    /// Starts both sidecars anew, carries one round of about `seconds`, and measures it.
    ///
    /// # Panics
    /// When one request fails, or a sidecar did not carry what it should have.
    #[must_use]
    pub fn round(&mut self, seconds: f64) -> Round {
        let mut round = Round::new();
        // The old ones first: their ports are the new ones'.
        self.pair = None;
        if self.kind != Kind::Direct {
            let pair = Pair::start(self.kind, &self.place);
            round.insert("start_ms".to_owned(), pair.ready_ms());
            round.insert("rss_idle_mib".to_owned(), pair.rss_mib());
            self.pair = Some(pair);
        }
        self.load(seconds, &mut round);
        round
    }

    /// Carries the load of a round once more, through the sidecars that the last one left up.
    ///
    /// # Panics
    /// As [`Chain::round`].
    #[must_use]
    pub fn again(&self, seconds: f64) -> Round {
        let mut round = Round::new();
        self.load(seconds, &mut round);
        round
    }

    /// Starts both sidecars, lets every endpoint be asked, and measures HTTP under full load alone.
    ///
    /// # Panics
    /// As [`Chain::round`].
    #[must_use]
    pub fn steady(&mut self, seconds: f64) -> Round {
        let mut round = Round::new();
        self.pair = Some(Pair::start(self.kind, &self.place));
        let Shape { connections, endpoints, .. } = self.place.shape;
        let warm = 1_000.max(endpoints * 10).max(connections).to_string();
        let _ = self.h2load(&["-n", &warm]);
        // Many connections take their time to be made.
        self.full(seconds + f64::from(connections) / 1_000.0, &mut round);
        round
    }

    /// Ends the sidecars that the last round left up, in good order: what they write at their end is written.
    ///
    /// # Panics
    /// When one does not end well.
    pub fn end(mut self) {
        if let Some(pair) = self.pair.take() {
            pair.end();
        }
    }

    fn load(&self, seconds: f64, round: &mut Round) {
        match self.place.scenario {
            Scenario::TcpPlain | Scenario::TcpMtls => self.bulk(seconds, round),
            Scenario::GrpcStream => self.stream(seconds, round),
            _ => self.requests(seconds, round),
        }
        if let Some(pair) = &self.pair {
            let handshakes = pair.counted().handshakes;
            assert_eq!(handshakes > 0, self.place.scenario.is_mtls(), "{:?}: {handshakes} TLS handshakes", self.kind);
        }
    }

    fn requests(&self, seconds: f64, round: &mut Round) {
        let (mut cold, _) = self.counting(0, |chain| {
            let (load, waited) = chain.h2load(&["-n", "32"]);
            (load.total, waited)
        });
        insert(round, [("cold_p99_ms", quantile(&mut cold, 0.99))]);
        let _ = self.h2load(&["-D", "1"]);
        self.full(seconds, round);
        if Scenario::REQUESTS.contains(&self.place.scenario) {
            let each = (FIXED_RATE / BURST).to_string();
            // Of a few seconds the worst of a hundred would be those of one burst, that another process of the machine came into.
            let time = format!("{:.0}", seconds * 2.0);
            let (mut waited, _) = self.counting(2 * self.at_once(), |chain| {
                let (load, waited) = chain.h2load(&["-m", "1", "--rps", &each, "-D", &time]);
                (load.total, waited)
            });
            let quantiles = [("p50_1k_ms", quantile(&mut waited, 0.5)), ("p99_1k_ms", quantile(&mut waited, 0.99))];
            insert(round, quantiles);
        }
    }

    /// As many requests as go through.
    fn full(&self, seconds: f64, round: &mut Round) {
        // The load before, too, was cut off with as many under way: their ends may be counted late.
        let ((rate, mut waited), spent) = self.counting(2 * self.at_once(), |chain| {
            let (load, waited) = chain.h2load(&["-D", &format!("{seconds:.0}")]);
            (load.total, (load.rate, waited))
        });
        let count = waited.len() as f64;
        insert(round, [("rps", rate), ("p50_ms", quantile(&mut waited, 0.5)), ("p99_ms", quantile(&mut waited, 0.99))]);
        spent.tell(round, "cpu_us_per_req", 1e6 / count);
    }

    fn at_once(&self) -> u64 {
        self.place.scenario.at_once().max(self.place.shape.connections.into())
    }

    fn stream(&self, seconds: f64, round: &mut Round) {
        let time = Duration::from_secs_f64((seconds / 2.0).max(1.0));
        let server = self.place.server.at(self.place.scenario.port());
        let (mut waited, spent) = self.counting(0, |chain| {
            let waited = chain.place.client.block_on(|| grpc::run(server, time)).unwrap();
            (grpc::TOTAL, waited)
        });
        let count = waited.len() as f64;
        let rate = count / time.as_secs_f64();
        insert(
            round,
            [("messages_s", rate), ("p50_ms", quantile(&mut waited, 0.5)), ("p99_ms", quantile(&mut waited, 0.99))],
        );
        spent.tell(round, "cpu_us_per_message", 1e6 / count);
    }

    fn bulk(&self, seconds: f64, round: &mut Round) {
        let Place { client, server, scenario, .. } = &self.place;
        let (bulk, spent) = self.counting(0, |_| {
            let bulk = bulk::run(client, server, scenario.port(), (seconds / 2.0).round() as u64);
            (bulk::CONNECTIONS, bulk)
        });
        insert(round, [("gbit_s", bulk.gbit_s)]);
        spent.tell(round, "cpu_s_per_gb", 1e9 / bulk.bytes);
    }

    /// Runs h2load in the client's pod; its totals, and the milliseconds of each request.
    fn h2load(&self, more: &[&str]) -> (Load, Vec<f64>) {
        let Place { client, server, scenario, .. } = &self.place;
        // In a folder of its own: sidecars watch that of their configuration, and would be woken by each line.
        let folder = client.folder().join("load");
        std::fs::create_dir_all(&folder).unwrap();
        let log = folder.join("requests.log");
        // Made here, where the load's user may not, and emptied.
        std::fs::write(&log, "").unwrap();
        std::fs::set_permissions(&log, PermissionsExt::from_mode(0o666)).unwrap();
        let url = format!("http://{}{}", server.at(scenario.port()), scenario.path());
        let place = log.display().to_string();
        let connections = self.place.shape.connections.to_string();
        let load =
            client.h2load(&[scenario.load(), &["-c", &connections], more, &["--log-file", &place, &url]].concat());
        // Heads of answers that the end of the time cuts off are counted, too, but only as good ones.
        let clean = load.total > 0 && (load.succeeded, load.failed) == (load.total, 0) && load.status[1..] == [0; 3];
        assert!(clean, "{:?} {}: {load:?}", self.kind, scenario.name());
        let waited = milliseconds(&std::fs::read_to_string(&log).unwrap());
        assert_eq!(waited.len() as u64, load.total, "{}", log.display());
        (load, waited)
    }

    /// Carries a load that tells how much it was, while both sidecars are watched; each must have counted as much as came
    /// through, and no more than was `under_way` at the end on top.
    fn counting<T>(&self, under_way: u64, load: impl FnOnce(&Self) -> (u64, T)) -> (T, Spent) {
        let Some(pair) = &self.pair else { return (load(self).1, Spent::default()) };
        let before = pair.counted();
        let cpu = pair.cpu_seconds();
        let ((carried, answer), rss_mib) = watched(pair, || load(self));
        let cpu = pair.cpu_seconds() - cpu;
        eventually(&format!("{:?} has counted {carried}", self.kind), || {
            let Counted { carried: after, .. } = pair.counted();
            let counted = [after[0] - before.carried[0], after[1] - before.carried[1]];
            assert!(counted.iter().all(|one| *one <= carried + under_way), "{counted:?} of {carried} + {under_way}");
            counted.iter().all(|one| *one >= carried).then_some(())
        });
        (answer, Spent(Some((cpu, rss_mib))))
    }

    /// Makes handshakes with the server's sidecar for some seconds, and measures them.
    ///
    /// # Panics
    /// When one fails, or no round was carried before.
    #[must_use]
    pub fn handshakes(&self, resumed: Resumed, seconds: f64) -> Round {
        let pair = self.pair.as_ref().expect("sidecars that are up");
        let server = self.place.server.at(self.place.scenario.port());
        let tls = self.stranger.tls();
        let before = pair.server_cpu_seconds();
        let time = Duration::from_secs_f64(seconds);
        let made = self.stranger.enter(|| handshakes::run(server, &tls, resumed, time)).unwrap();
        let cpu = pair.server_cpu_seconds() - before;
        let wanted = if resumed == Resumed::Yes { made.count } else { 0 };
        assert!(made.resumed == wanted, "{:?}: {} of {} handshakes were resumed", self.kind, made.resumed, made.count);
        let count = made.count as f64;
        let mut round = Round::new();
        insert(
            &mut round,
            [
                ("handshakes_s", count / made.took.as_secs_f64()),
                ("cpu_us_per_handshake", cpu * 1e6 / count),
                ("handshakes_per_cpu_s", count / cpu),
                ("resumed", made.resumed as f64 / count),
            ],
        );
        round
    }

    /// Process ids of both sidecars, while a round has left them up.
    #[must_use]
    pub fn pids(&self) -> Option<[u32; 2]> {
        self.pair.as_ref().map(Pair::pids)
    }
}

/// CPU seconds of both sidecars, and the most memory that one held meanwhile; nothing where there are none.
#[derive(Debug, Default)]
struct Spent(Option<(f64, f64)>);

impl Spent {
    fn tell(self, round: &mut Round, name: &str, factor: f64) {
        if let Some((cpu, rss_mib)) = self.0 {
            round.insert(name.to_owned(), cpu * factor);
            round.insert("rss_load_mib".to_owned(), rss_mib);
        }
    }
}

fn insert<const N: usize>(round: &mut Round, values: [(&str, f64); N]) {
    round.extend(values.map(|(name, value)| (name.to_owned(), value)));
}

/// Does something while the memory of both sidecars is looked at ten times a second; the most it was.
fn watched<T>(pair: &Pair, action: impl FnOnce() -> T) -> (T, f64) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0.0_f64;
            while !over.load(Ordering::Relaxed) {
                most = most.max(pair.rss_mib());
                std::thread::park_timeout(Duration::from_millis(100));
            }
            most.max(pair.rss_mib())
        });
        let stop = Stop(&over, watch.thread());
        let answer = action();
        drop(stop);
        (answer, watch.join().unwrap_or_default())
    })
}

/// Ends the watch, also while a failed load unwinds: the scope waits for it.
struct Stop<'a>(&'a AtomicBool, &'a std::thread::Thread);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.unpark();
    }
}
