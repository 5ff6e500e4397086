//! What a request costs in instructions, as valgrind's callgrind counts them: unlike time, this repeats on a noisy machine.
//!
//! Both sidecars of a chain run under callgrind, with one worker, and serve one connection with one request at a time. When they are warm,
//! what they counted is taken twice, after few requests and after many more, each on a connection of its own: their difference has
//! neither the start, which takes as much randomness as chance wills, nor the connection. Where there is tracing, all requests are sampled or
//! none: which they are otherwise is chance.

use std::collections::BTreeMap;
use std::os::unix::fs::chown;
use std::path::PathBuf;

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

    /// Instructions of both sidecars per request, or per MiB. `None` where the shorter part took more than the longer, as happens where
    /// chance rules.
    ///
    /// # Panics
    /// When the chain does not come up, a request fails, or callgrind reports nothing.
    #[must_use]
    pub fn instructions(self, tracing: Tracing) -> Option<u64> {
        let amounts @ [_, few, many] = if self.is_tcp() { MEBIBYTES } else { REQUESTS };
        let [_, less, more] = self.parts(amounts, tracing);
        Some(more.checked_sub(less)? / (many - few))
    }

    fn is_tcp(self) -> bool {
        self.protocol() == Protocol::Tcp
    }

    /// Instructions of both sidecars while each of `amounts` is carried, requests or MiB; the first from their start.
    fn parts<const N: usize>(self, amounts: [u64; N], tracing: Tracing) -> [u64; N] {
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
        let tracing = match tracing {
            Tracing::Off => String::new(),
            Tracing::Unsampled => format!("tracing: {{endpoint: \"http://{collector}\", sampling: 0.0}}\n"),
            Tracing::Sampled => format!("tracing: {{endpoint: \"http://{collector}\", sampling: 1.0}}\n"),
        };
        let mut sidecars =
            [(&client, entry), (&server, inbound)].map(|(pod, rest)| self.sidecar(pod, &format!("{tracing}{rest}")));
        let base = format!("http://{}/bytes", server.at(PORT));
        // The first handshake may take longer under callgrind than one may, on a busy machine.
        let mut warm = false;
        amounts.map(|amount| {
            if self.is_tcp() {
                let answer = client.run("curl", &["-sSf", "-o", "/dev/null", &format!("{base}/{}", amount << 20)]);
                assert!(answer.status.success() || !warm, "{}", String::from_utf8_lossy(&answer.stderr));
            } else {
                let version: &[&str] = if self.protocol() == Protocol::Http1 { &["--h1"] } else { &[] };
                let rest = ["-c", "1", "-m", "1", "-n", &amount.to_string(), &format!("{base}/128")];
                let load = client.h2load(&[version, &rest].concat());
                if warm {
                    load.assert_clean(amount);
                }
            }
            warm = true;
            sidecars.iter_mut().map(Counter::take).sum()
        })
    }

    fn sidecar(self, pod: &Pod, rest: &str) -> Counter {
        pod.redirect();
        // Where callgrind, who is the proxy, may write.
        let folder = pod.folder().join("callgrind");
        std::fs::create_dir(&folder).unwrap();
        chown(&folder, Some(PROXY), Some(PROXY)).unwrap();
        let valgrind = [
            "valgrind".to_owned(),
            "--tool=callgrind".to_owned(),
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
        Counter { sidecar, folder, taken: 0 }
    }
}

/// What callgrind writes, and where it listens, in a sidecar's folder.
const OUT: &str = "out";
const VGDB: &str = "vgdb";

/// A sidecar under callgrind.
struct Counter {
    sidecar: Sidecar,
    folder: PathBuf,
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
        let file = self.folder.join(format!("{OUT}.{}", self.taken));
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        total(&text).unwrap_or_else(|| panic!("no total in {}: {told:?} {}", file.display(), self.sidecar.stderr()))
    }
}

/// The sum that a callgrind file gives (its `totals:` or `summary:` line).
fn total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sum_of_a_callgrind_file_is_read() {
        assert_eq!(super::total("events: Ir\nfn=(1) main\n3 100\n\ntotals: 12345\n"), Some(12_345));
        assert_eq!(super::total("events: Ir\nsummary: 7\n"), Some(7));
        assert_eq!(super::total("events: Ir\n"), None);
    }
}
