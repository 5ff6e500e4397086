//! What a request costs in instructions, as valgrind's callgrind counts them: unlike time, this repeats on a noisy machine.
//!
//! Both sidecars of a chain run under callgrind, with one worker, and serve one connection with one request at a time. Two
//! runs that differ only in the number of requests are subtracted, so that start-up and end cancel out. Where there is tracing, all
//! requests are sampled or none: which they are otherwise is chance.

use std::collections::BTreeMap;
use std::os::unix::fs::chown;

use nix::sys::signal::Signal;

use super::scenario::{Protocol, Scenario};
use crate::collector::Collector;
use crate::mesh::Mesh;
use crate::pod::{PROXY, Pod};
use crate::sidecar::Sidecar;

/// Instructions of both sidecars together by scenario: for a request that is answered with 128 bytes, or for a MiB of bytes.
pub type Counts = BTreeMap<String, u64>;

/// The server's port.
const PORT: u16 = 8080;
/// Requests of the two runs.
const REQUESTS: [u64; 2] = [1_000, 3_000];
/// MiB of the two runs.
const MEBIBYTES: [u64; 2] = [8, 40];

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

    /// Instructions of both sidecars per request, or per MiB. `None` where the shorter run took more than the longer, as happens where
    /// chance rules.
    ///
    /// # Panics
    /// When the chain does not come up, a request fails, or callgrind reports nothing.
    #[must_use]
    pub fn instructions(self, tracing: Tracing) -> Option<u64> {
        let [few, many] = if self.is_tcp() { MEBIBYTES } else { REQUESTS };
        Some(self.total(many, tracing).checked_sub(self.total(few, tracing))? / (many - few))
    }

    fn is_tcp(self) -> bool {
        self.protocol() == Protocol::Tcp
    }

    /// Instructions of both sidecars from their start to their end, with `amount` requests or MiB between.
    fn total(self, amount: u64, tracing: Tracing) -> u64 {
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
        let sidecars =
            [(&client, entry), (&server, inbound)].map(|(pod, rest)| self.sidecar(pod, &format!("{tracing}{rest}")));
        let base = format!("http://{}/bytes", server.at(PORT));
        if self.is_tcp() {
            let answer = client.run("curl", &["-sSf", "-o", "/dev/null", &format!("{base}/{}", amount << 20)]);
            assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        } else {
            let version: &[&str] = if self.protocol() == Protocol::Http1 { &["--h1"] } else { &[] };
            let rest = ["-c", "1", "-m", "1", "-n", &amount.to_string(), &format!("{base}/128")];
            client.h2load(&[version, &rest].concat()).assert_clean(amount);
        }
        sidecars.into_iter().map(instructions).sum()
    }

    fn sidecar(self, pod: &Pod, rest: &str) -> Sidecar {
        pod.redirect();
        // Where callgrind, who is the proxy, may write.
        let folder = counted(pod);
        std::fs::create_dir(&folder).unwrap();
        chown(&folder, Some(PROXY), Some(PROXY)).unwrap();
        let valgrind = [
            "valgrind".to_owned(),
            "--tool=callgrind".to_owned(),
            format!("--callgrind-out-file={}/out", folder.display()),
        ];
        // Ends at once: nobody else has to learn that it leaves.
        let rest = format!("workers: 1\ndrain_timeout: 0\n{rest}");
        let config = if self.is_mtls() {
            pod.identity();
            pod.config(&rest)
        } else {
            format!("service: {}\n{rest}\n", pod.name())
        };
        let sidecar = pod.proxy_under(&config, &valgrind);
        sidecar.ready();
        sidecar
    }
}

fn counted(pod: &Pod) -> std::path::PathBuf {
    pod.folder().join("callgrind")
}

/// Ends a sidecar, and reads what callgrind counted.
fn instructions(mut sidecar: Sidecar) -> u64 {
    let file = counted(sidecar.pod()).join("out");
    sidecar.signal(Signal::SIGTERM);
    sidecar.wait();
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    total(&text).unwrap_or_else(|| panic!("no total in {}: {}", file.display(), sidecar.stderr()))
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
