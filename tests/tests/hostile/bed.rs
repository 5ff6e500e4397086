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

use crate::cost::{Cost, memory};
use crate::frames::H2;
use crate::origin::Origin;
use crate::peer::{self, Peer, Stream};

/// Memory an allocator may keep besides the fifth: what it holds back differs from run to run.
pub(crate) const NOISE: f64 = 16e6;
/// Open files that come and go by themselves: pooled connections, scrapes.
const FILES: usize = 8;
/// The bound of the good client's 99th percentile. Each row prints what it measured, less than 0.1 s.
const P99: Duration = Duration::from_secs(1);
/// How often a row may run until it keeps that: a machine that others use stalls by chance, a worker that is blocked each time.
const TRIES: usize = 3;

/// The address of the service where clients have a sidecar: no pod has it.
const VIRTUAL: &str = "10.96.0.10";

/// One bed; rows lie in it one after another.
pub(crate) struct Bed {
    // In the order of their ends.
    /// The one that attackers meet, and that counts the event.
    pub(crate) proxy: Sidecar,
    /// Another sidecar on the way, of which all the rest must hold, too.
    other: Option<Sidecar>,
    pub(crate) origin: Origin,
    pub(crate) gateway: Pod,
    pub(crate) server: Pod,
    pub(crate) attacker: Pod,
    pub(crate) good: Pod,
    pub(crate) mesh: Mesh,
    /// Where attackers go.
    pub(crate) to: SocketAddr,
    /// Where the good client goes.
    good_to: SocketAddr,
    /// Within TLS, where the attacker is a peer of the mesh.
    peer: Option<Peer>,
}

/// What the kernel counts, for a whole pod.
pub(crate) const SENT_AGAIN: &str = "remora_tcp_retransmitted_segments_total";

/// What is counted for a row: a metric and labels.
pub(crate) type Counter = (&'static str, &'static [(&'static str, &'static str)]);

/// Declares beds. Each is a test, and `BEDS` lists it with its rows; the test runs the very rows of the list, since [`Rows::run`]
/// alone makes the [`Ran`] that it must return. It takes no attributes: a bed cannot be ignored.
macro_rules! beds {
    ($($(#[doc = $doc:literal])* $kind:ident $name:ident [$($row:literal),+ $(,)?] => $lay:expr;)+) => {
        pub(crate) const BEDS: &[$crate::bed::Declared] = &[$(
            $crate::bed::Declared { kind: stringify!($kind), name: stringify!($name), rows: &[$($row),+] }
        ),+];
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

/// A bed as it was declared.
#[derive(Clone)]
pub(crate) struct Declared {
    /// What stands in the row's line of the documentation: `gateway`, `sidecar`, `chain`, `peer`.
    pub(crate) kind: &'static str,
    pub(crate) name: &'static str,
    pub(crate) rows: &'static [&'static str],
}

/// The names of a bed's rows, to be run.
pub(crate) struct Rows(pub(crate) &'static [&'static str]);

/// That rows were run.
pub(crate) struct Ran(());

impl Rows {
    /// Runs each within the invariants.
    pub(crate) fn run(self, bed: &mut Bed) -> Ran {
        let all = crate::rows();
        let named =
            |name: &&str| all.iter().find(|row| row.name == *name).unwrap_or_else(|| panic!("no row is {name}"));
        let rows: Vec<&Row> = self.0.iter().map(named).collect();
        bed.warm_up(&rows);
        rows.into_iter().for_each(|row| bed.row(row));
        Ran(())
    }
}

/// One row of the table.
pub(crate) struct Row {
    /// Its name, in the order of [`crate::ROWS`].
    pub(crate) name: &'static str,
    /// What counts the event, and nothing that the good client does.
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
            "service: gateway\n{more}\nclusters: {{many: {{endpoints: [\"{0}\"], protocol: http}}}}\n\
             gateway:\n  listen: 0.0.0.0:8080\n  routes:\n    - {{path: /admin, endpoints: []}}\n    \
             - {{path: /many, cluster: many}}\n    - {{path: /, endpoints: [\"{}\"], protocol: http}}\n{}",
            server.at(8080),
            routes(&server)
        );
        let proxy = start(&gateway, &config);
        proxy.ready();
        let to = gateway.at(8080);
        Self { proxy, other: None, origin, gateway, server, attacker, good, mesh, to, good_to: to, peer: None }
    }

    /// A pod whose inbound traffic, in plaintext, passes a sidecar with this configuration.
    pub(crate) fn inbound(config: &str) -> Self {
        let mesh = Mesh::new();
        let [server, attacker, good] = ["server", "attacker", "good"].map(|name| mesh.pod(name));
        let origin = Origin::start(&server, server.at(8080));
        let proxy = server.plain_sidecar(config);
        let to = server.at(8080);
        let gateway = server.clone();
        Self { proxy, other: None, origin, gateway, server, attacker, good, mesh, to, good_to: to, peer: None }
    }

    /// An application whose requests go through its own sidecar, by mTLS, through the sidecar of an origin that speaks HTTP/1.1 only;
    /// the good client is in the same pod. `more` is of the outbound entry, `top` of the configuration. What is asked of `/unread` goes to
    /// another port of the pod.
    pub(crate) fn chain(more: &str, top: &str) -> Self {
        let mesh = Mesh::new();
        let [server, attacker] = ["server", "attacker"].map(|name| mesh.pod(name));
        let origin = Origin::start(&server, server.at(8080));
        let other = server.sidecar("inbound: {mtls: strict, ports: [{port: 8080, protocol: http}]}");
        let proxy = attacker.sidecar(&format!(
            "outbound:\n  - {{host: \"server:8080\", addresses: [{VIRTUAL}], endpoints: [], protocol: http{more}, \
             routes: [{{path: /admin, cluster: \"server:8080\"}}, {{path: /unread, cluster: unread}}, \
             {{path: /many, cluster: many}}, {{path: /, cluster: app}}]}}\n\
             clusters:\n  app: {{endpoints: [\"{0}\"], protocol: http}}\n  \
             many: {{endpoints: [\"{0}\"], protocol: http}}\n  \
             unread: {{endpoints: [\"{1}\"], protocol: http}}\n{top}",
            server.at(8080),
            server.at(9001)
        ));
        let to = virtual_address();
        let (gateway, good) = (attacker.clone(), attacker.clone());
        Self { proxy, other: Some(other), origin, gateway, server, attacker, good, mesh, to, good_to: to, peer: None }
    }

    /// A sidecar with strict mTLS before an origin, met by an attacker that has an identity of the mesh, no sidecar, and speaks HTTP/2
    /// by this ALPN value; the good client has both. `more` is of the `inbound` part, `top` of the configuration.
    pub(crate) fn peer(http2: &[u8], more: &str, top: &str) -> Self {
        let mesh = Mesh::new();
        let [server, attacker, good] = ["server", "attacker", "good"].map(|name| mesh.pod(name));
        let origin = Origin::start(&server, server.at(8080));
        let proxy =
            server.sidecar(&format!("inbound: {{mtls: strict, ports: [{{port: 8080, protocol: http}}]{more}}}\n{top}"));
        let to = server.at(8080);
        let other = good.sidecar(&format!(
            "outbound:\n  - {{host: \"server:8080\", addresses: [{VIRTUAL}], endpoints: [\"{to}\"]}}\n"
        ));
        let (gateway, good_to) = (server.clone(), virtual_address());
        let peer = Some(Peer::new(&attacker, http2));
        Self { proxy, other: Some(other), origin, gateway, server, attacker, good, mesh, to, good_to, peer }
    }

    /// Has good clients served, so that what is allocated once is there before the first measure. None of what counts these rows'
    /// events may count them: it would say nothing. TCP may send again by itself where the machine stands still, so that has some tries.
    fn warm_up(&self, rows: &[&Row]) {
        let sent_again = rows.iter().any(|row| row.counter.0 == SENT_AGAIN);
        let counted = || rows.iter().map(|row| self.counted(row)).collect::<Vec<_>>();
        let is_quiet = || {
            let before = counted();
            // When the second one is served, all of the first one is counted.
            for _ in 0..2 {
                let good = self.good_client();
                good.is_served("before the rows");
                good.stop("before the rows");
            }
            counted() == before
        };
        let quiet = (0..if sent_again { TRIES } else { 1 }).any(|_| is_quiet());
        let counters: Vec<_> = rows.iter().map(|row| (row.name, row.counter)).collect();
        assert!(quiet, "the good client alone is counted by one of {counters:?}");
    }

    fn counted(&self, row: &Row) -> f64 {
        let (metric, labels) = row.counter;
        self.proxy.metric(metric, labels)
    }

    fn row(&mut self, row: &Row) {
        // Of all its tries: what lasts for a while is not counted anew.
        let counted = self.counted(row);
        let waited: Vec<_> = (0..TRIES).map(|_| self.once(row, counted)).take_while(|p99| *p99 >= P99).collect();
        assert!(waited.len() < TRIES, "{}: the good client waited {waited:?}", row.name);
    }

    /// Runs a row of whose event there were so many within the invariants; the good client's 99th percentile.
    fn once(&mut self, row: &Row, counted: f64) -> Duration {
        let begun = Instant::now();
        let before: Vec<Held> = self.proxies().map(Held::by).collect();
        let good = self.good_client();
        good.is_served(row.name);
        let cost = Cost::of_now(self);
        (row.run)(self);
        for proxy in [Some(&mut self.proxy), self.other.as_mut()].into_iter().flatten() {
            assert!(proxy.ended().is_none(), "{}: a proxy ended", row.name);
        }
        let spent = cost.bounds(self, row.name);
        let (metric, labels) = row.counter;
        self.proxy.metric_until(metric, labels, |count| count > counted);
        let answers = good.stop(row.name);
        assert!(answers.count > 0, "{}: the good client got no answer", row.name);
        for (proxy, before) in self.proxies().zip(&before) {
            before.is_back(proxy, row.name);
        }
        self.origin.assert_strict(row.name);
        self.origin.forget();
        let megabytes = |held: &Held| format!("{:.1}", held.memory / 1e6);
        println!(
            "{}: {:.1} s, {} good answers, p99 {:?}, memory {} -> {} MB, {spent}",
            row.name,
            begun.elapsed().as_secs_f64(),
            answers.count,
            answers.p99,
            before.iter().map(megabytes).collect::<Vec<_>>().join(" and "),
            self.proxies().map(|proxy| megabytes(&Held::by(proxy))).collect::<Vec<_>>().join(" and ")
        );
        answers.p99
    }

    pub(crate) fn proxies(&self) -> impl Iterator<Item = &Sidecar> {
        [Some(&self.proxy), self.other.as_ref()].into_iter().flatten()
    }

    /// Bytes of an answer that the attacker does not read which the proxy may hold: buffers on either side, and where it comes over
    /// HTTP/2, from another sidecar or the origin, what may be sent before it is read, which is the default window of a stream.
    pub(crate) fn held_of_an_answer(&self) -> usize {
        96 * 1024 + if self.other.is_some() { 256 * 1024 } else { 0 }
    }

    /// Open files of the proxy now.
    pub(crate) fn open_files(&self) -> usize {
        Held::by(&self.proxy).files
    }

    /// Bytes of memory in which the proxy lies.
    pub(crate) fn memory(&self) -> f64 {
        Held::by(&self.proxy).memory
    }

    /// A connection of the attacker's that speaks HTTP/1; a peer's within TLS.
    fn http1(&self) -> Box<dyn Stream> {
        let stream = self.connect();
        match &self.peer {
            Some(peer) => peer::handshake(&peer.http1, stream),
            None => Box::new(stream),
        }
    }

    /// The same in HTTP/2.
    pub(crate) fn h2(&self) -> H2 {
        self.h2_with(&[])
    }

    /// As [`Bed::h2`], with settings.
    pub(crate) fn h2_with(&self, settings: &[(u16, u32)]) -> H2 {
        let stream = self.connect();
        // Who reads nothing back blocks before long: writing then fails instead of waiting.
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let stream = match &self.peer {
            Some(peer) => peer::handshake(&peer.http2, stream),
            None => Box::new(stream),
        };
        H2::begin(stream, settings)
    }

    /// A plain connection of the attacker's.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(&self.attacker, self.to)
    }

    /// Sends these bytes on a connection of their own, and reads to its end.
    pub(crate) fn answer_to(&self, bytes: &[u8]) -> String {
        let mut stream = self.http1();
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
        let (pod, to) = (self.good.clone(), self.good_to);
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

fn virtual_address() -> SocketAddr {
    SocketAddr::new(VIRTUAL.parse().unwrap(), 8080)
}

/// What a proxy holds of the machine.
struct Held {
    pid: u32,
    files: usize,
    /// Bytes.
    memory: f64,
}

impl Held {
    fn by(proxy: &Sidecar) -> Self {
        let pid = proxy.pid();
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { pid, files, memory: memory(proxy, "VmRSS") }
    }

    /// Waits until all is as it was before a row.
    fn is_back(&self, proxy: &Sidecar, row: &str) {
        assert_eq!(proxy.pid(), self.pid, "{row}");
        let name = proxy.pod().name();
        eventually(&format!("{row}: open files at {name} return to {}", self.files), || {
            (Self::by(proxy).files <= self.files + FILES).then_some(())
        });
        eventually(
            &format!("{row}: memory at {name} returns to {} from {}", self.memory, Self::by(proxy).memory),
            || (Self::by(proxy).memory <= self.memory * 1.2 + NOISE).then_some(()),
        );
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
