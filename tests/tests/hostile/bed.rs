//! Where hostile input lies: a proxy, an origin behind it, a good client that goes on all the while, and what must be as before afterwards.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;
use remora_test::{PATIENCE, eventually};

use crate::origin::Origin;

/// Memory an allocator may keep besides the fifth: what it holds back differs from run to run.
const NOISE: f64 = 16e6;
/// Open files that come and go by themselves: pooled connections, scrapes.
const FILES: usize = 8;
/// The bound of the good client's 99th percentile: ten times the second that is expected at most, as for every bound of time on a
/// machine that is shared. Each row prints what it measured, about 0.2 s.
const P99: Duration = Duration::from_secs(10);

/// One bed; rows lie in it one after another.
pub(crate) struct Bed {
    // In the order of their ends.
    pub(crate) proxy: Sidecar,
    pub(crate) origin: Origin,
    pub(crate) gateway: Pod,
    pub(crate) server: Pod,
    pub(crate) attacker: Pod,
    pub(crate) good: Pod,
    pub(crate) mesh: Mesh,
    /// Where clients go.
    pub(crate) to: SocketAddr,
}

/// What is counted for a row: a metric and labels.
pub(crate) type Counter = (&'static str, &'static [(&'static str, &'static str)]);

/// Declares beds. Each is a test, and `BEDS` lists it with its rows; the test runs the very rows of the list, since [`Rows::run`]
/// alone makes the [`Ran`] that it must return. It takes no attributes: a bed cannot be ignored.
macro_rules! beds {
    ($($(#[doc = $doc:literal])* $name:ident [$($row:literal),+ $(,)?] => $lay:expr;)+) => {
        pub(crate) const BEDS: &[(&str, &[&str])] = &[$((stringify!($name), &[$($row),+])),+];
        $(
            $(#[doc = $doc])*
            #[test]
            fn $name() {
                let lay: fn($crate::bed::Rows) -> $crate::bed::Ran = $lay;
                let _ran = lay($crate::bed::Rows(&[$($row),+]));
            }
        )+
    };
}
pub(crate) use beds;

/// The names of a bed's rows, to be run.
pub(crate) struct Rows(pub(crate) &'static [&'static str]);

/// That rows were run.
pub(crate) struct Ran(());

impl Rows {
    /// Runs each within the invariants.
    pub(crate) fn run(self, bed: &mut Bed) -> Ran {
        let all = crate::rows();
        // What is allocated once is there before the first measure.
        let warm = bed.good_client();
        warm.is_served("before the rows");
        warm.stop("before the rows");
        for name in self.0 {
            bed.row(all.iter().find(|row| row.name == *name).unwrap_or_else(|| panic!("no row is named {name}")));
        }
        Ran(())
    }
}

/// One row of the table.
pub(crate) struct Row {
    /// Its name, in the order of [`crate::ROWS`].
    pub(crate) name: &'static str,
    /// What counts the event.
    pub(crate) counter: Counter,
    /// Does the harm, and asserts what comes of it.
    pub(crate) run: fn(&Bed),
}

impl Bed {
    /// A gateway before an origin that speaks HTTP/1.1 only.
    pub(crate) fn gateway() -> Self {
        Self::gateway_with(|_| String::new(), "", &[])
    }

    /// As [`Bed::gateway`], with more routes, more of the configuration, and started by `env` with these arguments.
    pub(crate) fn gateway_with(routes: fn(&Pod) -> String, more: &str, arguments: &[String]) -> Self {
        Self::gateway_by(routes, more, |pod, config| pod.proxy_under(config, arguments))
    }

    /// As [`Bed::gateway_with`], started by `start`.
    pub(crate) fn gateway_by(
        routes: fn(&Pod) -> String,
        more: &str,
        start: impl FnOnce(&Pod, &str) -> Sidecar,
    ) -> Self {
        let mesh = Mesh::new();
        let [gateway, server, attacker, good] = ["gateway", "server", "attacker", "good"].map(|name| mesh.pod(name));
        let origin = Origin::start(&server, server.at(8080));
        let config = format!(
            "service: gateway\n{more}\ngateway:\n  listen: 0.0.0.0:8080\n  routes:\n    \
             - {{path: /admin, endpoints: []}}\n    - {{path: /, endpoints: [\"{}\"], protocol: http}}\n{}",
            server.at(8080),
            routes(&server)
        );
        let proxy = start(&gateway, &config);
        proxy.ready();
        let to = gateway.at(8080);
        Self { proxy, origin, gateway, server, attacker, good, mesh, to }
    }

    /// A pod whose inbound traffic, in plaintext, passes a sidecar with this configuration.
    pub(crate) fn inbound(config: &str) -> Self {
        let mesh = Mesh::new();
        let [server, attacker, good] = ["server", "attacker", "good"].map(|name| mesh.pod(name));
        let origin = Origin::start(&server, server.at(8080));
        let proxy = server.plain_sidecar(config);
        let to = server.at(8080);
        Self { proxy, origin, gateway: server.clone(), server, attacker, good, mesh, to }
    }

    fn row(&mut self, row: &Row) {
        let begun = Instant::now();
        let (pid, files, memory) = (self.proxy.pid(), self.open_files(), self.memory());
        let (metric, labels) = row.counter;
        let counted = self.proxy.metric(metric, labels);
        let good = self.good_client();
        good.is_served(row.name);
        (row.run)(self);
        self.proxy.metric_until(metric, labels, |count| count > counted);
        let answers = good.stop(row.name);
        assert!(answers.count > 0, "{}: the good client got no answer", row.name);
        assert!(answers.p99 < P99, "{}: the good client waited {:?}", row.name, answers.p99);
        assert!(self.proxy.ended().is_none(), "{}: the proxy ended", row.name);
        assert_eq!(self.proxy.pid(), pid, "{}", row.name);
        eventually(&format!("{}: open files return to {files}", row.name), || {
            (self.open_files() <= files + FILES).then_some(())
        });
        eventually(&format!("{}: memory returns to {memory} from {}", row.name, self.memory()), || {
            (self.memory() <= memory * 1.2 + NOISE).then_some(())
        });
        self.origin.assert_strict(row.name);
        self.origin.forget();
        println!(
            "{}: {:.1} s, {} good answers, p99 {:?}, memory {:.1} -> {:.1} MB",
            row.name,
            begun.elapsed().as_secs_f64(),
            answers.count,
            answers.p99,
            memory / 1e6,
            self.memory() / 1e6
        );
    }

    /// Open files of the proxy now.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.proxy.pid())).unwrap().count()
    }

    /// Bytes of memory in which the proxy lies.
    pub(crate) fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.proxy.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
    }

    /// A connection of the attacker's.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(&self.attacker, self.to)
    }

    /// Sends these bytes on a connection of their own, and reads to its end.
    pub(crate) fn answer_to(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The connection may end before all was said.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            let waited = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
            assert!(!waited, "no end to {}: {}", bytes.escape_ascii(), answer.escape_ascii());
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn good_client(&self) -> Good {
        let (pod, to) = (self.good.clone(), self.to);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let served = Arc::new(AtomicBool::new(false));
        let first = served.clone();
        let thread = std::thread::spawn(move || {
            let mut stream = connect(&pod, to);
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                stream
                    .write_all(b"GET /good HTTP/1.1\r\nhost: server:8080\r\n\r\n")
                    .map_err(|error| error.to_string())?;
                let mut answer = Vec::new();
                let mut buffer = [0; 1024];
                while !answer.ends_with(b"\r\n\r\nok") && (answer.is_empty() || answer.starts_with(b"HTTP/1.1 200 ")) {
                    match stream.read(&mut buffer) {
                        Ok(read @ 1..) => answer.extend_from_slice(&buffer[..read]),
                        other => return Err(format!("{other:?} after {}", answer.escape_ascii())),
                    }
                }
                if !answer.starts_with(b"HTTP/1.1 200 ") {
                    return Err(answer.escape_ascii().to_string());
                }
                times.push(begun.elapsed());
                first.store(true, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(5));
            }
            Ok(times)
        });
        Good { stop, served, thread }
    }
}

pub(crate) fn connect(pod: &Pod, to: SocketAddr) -> TcpStream {
    let stream = pod.enter(|| TcpStream::connect(to)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client that keeps to the rules, on one connection.
struct Good {
    stop: Arc<AtomicBool>,
    /// Whether it was answered once.
    served: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Duration>, String>>,
}

struct Answers {
    count: usize,
    p99: Duration,
}

impl Good {
    fn is_served(&self, before: &str) {
        eventually(&format!("{before}: the good client is answered"), || {
            (self.served.load(Ordering::Relaxed) || self.thread.is_finished()).then_some(())
        });
    }

    fn stop(self, during: &str) -> Answers {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.thread.join().unwrap();
        let mut times = times.unwrap_or_else(|error| panic!("{during}: the good client was not answered 200: {error}"));
        times.sort_unstable();
        Answers { count: times.len(), p99: times.get(times.len() * 99 / 100).copied().unwrap_or_default() }
    }
}
