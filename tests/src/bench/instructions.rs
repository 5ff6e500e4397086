//! What a request costs in instructions, as valgrind's callgrind counts them: unlike time, this repeats on a noisy machine.
//!
//! Both sidecars of a chain run under callgrind, and serve one connection with one request at a time; their one worker is counted. When they are warm,
//! what they counted is taken twice, after few requests and after many more, each on a connection of its own: their difference has
//! neither the start, which takes as much randomness as chance wills, nor the connection. What their timers take meanwhile is chance, too, since it
//! goes with time: it is counted while nothing is asked, and left out. Where there is tracing, all requests are sampled or
//! none: which they are otherwise is chance. Where they are, the control thread's part of it, the export, is counted too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::scenario::{Protocol, Scenario};
use crate::collector::Collector;
use crate::mesh::Mesh;
use crate::pod::{PROXY, Pod};
use crate::sidecar::Sidecar;

/// Instructions of both sidecars together by scenario: for a request that is answered with 128 bytes, or for a MiB of bytes.
pub type Counts = BTreeMap<String, u64>;

/// The server's port.
const PORT: u16 = 8080;
/// Requests until a sidecar is warm, and of the two parts that are counted.
const REQUESTS: [u64; 3] = [1_000, 1_000, 3_000];
/// The same of MiB.
const MEBIBYTES: [u64; 3] = [8, 8, 40];
/// How long nothing is asked, for what timers take.
const IDLE: Duration = Duration::from_secs(4);
/// More than spans wait until they are exported.
const EXPORTED: Duration = Duration::from_secs(3);

/// What both sidecars counted together, in so much time.
#[derive(Clone, Copy, Debug)]
struct Taken {
    instructions: u64,
    seconds: f64,
}

/// What `units` take of the difference between two parts, without what goes with the time: as much of it as in `idle`. `None` where that
/// leaves nothing, as happens where chance rules.
fn each(units: u64, [few, many, idle]: [Taken; 3]) -> Option<u64> {
    let asleep = idle.instructions as f64 / idle.seconds * (many.seconds - few.seconds);
    let each = (many.instructions as f64 - few.instructions as f64 - asleep) / units as f64;
    (each >= 1.0).then_some(each.round() as u64)
}

/// What a sidecar does about the traces of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    /// Nothing.
    Off,
    /// Says of each that it is not sampled.
    Unsampled,
    /// Makes and exports spans of each.
    Sampled,
}

impl Scenario {
    /// Those whose instructions are counted.
    pub const COUNTED: [Self; 6] =
        [Self::H1Plain, Self::H1Mtls, Self::H2Plain, Self::H2Mtls, Self::TcpPlain, Self::TcpMtls];

    /// Whether its count says more than how often the kernel woke a splice, which is chance.
    #[must_use]
    pub fn is_compared(self) -> bool {
        self != Self::TcpPlain
    }

    /// Instructions of both sidecars per request, or per MiB. `None` where the shorter part took as much as the longer, as happens where
    /// chance rules.
    ///
    /// # Panics
    /// When the chain does not come up, a request fails, or callgrind reports nothing.
    #[must_use]
    pub fn instructions(self, tracing: Tracing) -> Option<u64> {
        let amounts @ [_, few, many] = if self.is_tcp() { MEBIBYTES } else { REQUESTS };
        let ([_, less, more], idle) = self.parts(amounts, tracing);
        each(many - few, [less, more, idle])
    }

    fn is_tcp(self) -> bool {
        self.protocol() == Protocol::Tcp
    }

    /// What both sidecars count while each of `amounts` is carried, requests or MiB, the first from their start; and then while nothing is.
    fn parts<const N: usize>(self, amounts: [u64; N], tracing: Tracing) -> ([Taken; N], Taken) {
        let mesh = Mesh::new();
        let [client, server, store] = ["client", "server", "store"].map(|name| mesh.pod(name));
        let _app = server.peer("http", PORT, &[]);
        let address = server.v4();
        let protocol = if self.is_tcp() { "tcp" } else { "auto" };
        let entry = format!(
            "outbound:\n  - {{host: \"server:{PORT}\", addresses: [{address}], endpoints: [\"{address}:{PORT}\"], protocol: {protocol}}}"
        );
        let mode = if self.is_mtls() { "strict" } else { "off" };
        let inbound = format!("inbound: {{mtls: {mode}, ports: [{{port: {PORT}, protocol: {protocol}}}]}}");
        let collector = store.at(4317);
        let _ = (tracing != Tracing::Off).then(|| Collector::start(&store, collector));
        let all_threads = tracing == Tracing::Sampled;
        let tracing = match tracing {
            Tracing::Off => String::new(),
            Tracing::Unsampled => format!("tracing: {{endpoint: \"http://{collector}\", sampling: 0.0}}\n"),
            Tracing::Sampled => format!("tracing: {{endpoint: \"http://{collector}\", sampling: 1.0}}\n"),
        };
        let mut sidecars = [(&client, entry), (&server, inbound)]
            .map(|(pod, rest)| self.sidecar(pod, &format!("{tracing}{rest}"), all_threads));
        let at = server.at(PORT);
        // The first handshake may take longer under callgrind than one may, on a busy machine.
        let mut warm = false;
        let mut since = Instant::now();
        let mut take = || {
            let instructions = sidecars.iter_mut().map(Counter::take).sum();
            let seconds = std::mem::replace(&mut since, Instant::now()).elapsed().as_secs_f64();
            Taken { instructions, seconds }
        };
        let parts = amounts.map(|amount| {
            self.carry(&client, at, amount, warm);
            warm = true;
            take()
        });
        // Time is what is measured here, when spans that wait have left.
        if all_threads {
            std::thread::sleep(EXPORTED);
            take();
        }
        std::thread::sleep(IDLE);
        (parts, take())
    }

    /// Makes `amount` requests one after the other, or has as many MiB sent; all must be answered by who is `warm`.
    fn carry(self, client: &Pod, at: SocketAddr, amount: u64, warm: bool) {
        if self.is_tcp() {
            let url = format!("http://{at}/bytes/{}", amount << 20);
            let answer = client.run("curl", &["-sSf", "-o", "/dev/null", &url]);
            assert!(answer.status.success() || !warm, "{}", String::from_utf8_lossy(&answer.stderr));
            return;
        }
        let version: &[&str] = if self.protocol() == Protocol::Http1 { &["--h1"] } else { &[] };
        // A name in the request: an address is longer in one mesh than in another.
        let (to, url) = (format!("--connect-to={at}"), format!("http://server:{PORT}/bytes/128"));
        let rest = [&to, "-c", "1", "-m", "1", "-n", &amount.to_string(), &url];
        let load = client.h2load(&[version, &rest].concat());
        if warm {
            load.assert_clean(amount);
        }
    }

    fn sidecar(self, pod: &Pod, rest: &str, all_threads: bool) -> Counter {
        pod.redirect();
        // Where callgrind, who is the proxy, may write.
        let folder = pod.folder().join("callgrind");
        std::fs::create_dir(&folder).unwrap();
        chown(&folder, Some(PROXY), Some(PROXY)).unwrap();
        let valgrind = [
            "valgrind".to_owned(),
            "--tool=callgrind".to_owned(),
            "--separate-threads=yes".to_owned(),
            format!("--callgrind-out-file={}/{OUT}", folder.display()),
            format!("--vgdb-prefix={}/{VGDB}", folder.display()),
        ];
        let rest = format!("workers: 1\n{rest}");
        let config = if self.is_mtls() {
            pod.identity();
            pod.config(&rest)
        } else {
            format!("service: {}\n{rest}\n", pod.name())
        };
        let sidecar = pod.proxy_under(&config, &valgrind);
        sidecar.ready();
        Counter { sidecar, folder, all_threads, worker: None, taken: 0 }
    }
}

/// What callgrind writes, and where it listens, in a sidecar's folder.
const OUT: &str = "out";
const VGDB: &str = "vgdb";

/// A sidecar under callgrind.
struct Counter {
    sidecar: Sidecar,
    folder: PathBuf,
    /// Not the worker's alone.
    all_threads: bool,
    /// How the files of the worker's thread end.
    worker: Option<String>,
    taken: u32,
}

impl Counter {
    /// Takes what was counted since the last time, or since the start.
    fn take(&mut self) -> u64 {
        self.taken += 1;
        let prefix = format!("--vgdb-prefix={}/{VGDB}", self.folder.display());
        // As the proxy's user: callgrind looks whether who asks still runs.
        let mut vgdb = self.sidecar.pod().command_as(PROXY, PROXY, "/usr/bin/env");
        let told = vgdb.args(["vgdb", &prefix, "dump"]).output().unwrap();
        let begin = format!("{OUT}.{}-", self.taken);
        let mut threads = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).unwrap().map(Result::unwrap) {
            if let Some(thread) = entry.file_name().to_string_lossy().strip_prefix(&begin)
                && let Some(total) = total(&std::fs::read_to_string(entry.path()).unwrap())
            {
                threads.insert(thread.to_owned(), total);
            }
        }
        let Some((busiest, _)) = threads.iter().max_by_key(|(_, total)| **total) else {
            panic!("no total in {}/{begin}*: {told:?} {}", self.folder.display(), self.sidecar.stderr());
        };
        // From the start other threads had more to do.
        if self.taken > 1 && self.worker.is_none() {
            self.worker = Some(busiest.clone());
        }
        match &self.worker {
            Some(worker) if !self.all_threads => threads.get(worker).copied().unwrap_or_default(),
            _ => threads.values().sum(),
        }
    }
}

/// The sum that a thread's callgrind file gives (its `totals:` or `summary:` line).
fn total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Taken, each};

    #[test]
    fn the_sum_of_a_callgrind_file_is_read() {
        assert_eq!(super::total("events: Ir\nfn=(1) main\n3 100\n\ntotals: 12345\n"), Some(12_345));
        assert_eq!(super::total("events: Ir\nsummary: 7\n"), Some(7));
        assert_eq!(super::total("events: Ir\n"), None);
    }

    #[test]
    fn what_goes_with_the_time_is_no_requests_cost() {
        let taken = |instructions, seconds| Taken { instructions, seconds };
        let idle = taken(400, 4.0);
        assert_eq!(each(10, [taken(1_000, 1.0), taken(3_200, 3.0), idle]), Some(200));
        // On a slower machine.
        assert_eq!(each(10, [taken(1_100, 2.0), taken(3_900, 10.0), idle]), Some(200));
        assert_eq!(each(10, [taken(1_000, 1.0), taken(1_000, 1.0), idle]), None);
    }
}
