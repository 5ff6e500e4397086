//! A running `remora-certs serve` on loopback, on ports of its own choice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::Signal;

use crate::binaries::binary;
use crate::eventually;
use crate::mesh::{Folder, make_authority};
use crate::metrics::Metrics;
use crate::netns::run;
use crate::process::Process;

/// The trust domain of every authority made here.
pub const TRUST_DOMAIN: &str = "example.org";

/// The interpreter of the environment that `tests/python/venv.sh` makes.
///
/// # Panics
/// When it cannot be made.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/python/venv.sh")).output().unwrap();
        assert!(output.status.success(), "python/venv.sh: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().into()
    })
}

/// One of the scripts in `tests/python`.
#[must_use]
pub fn script(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.arg(format!("{}/python/{name}", env!("CARGO_MANIFEST_DIR"))).args(arguments);
    command
}

/// A running authority. Dropping it kills it.
#[derive(Debug)]
pub struct Authority {
    /// The process.
    pub process: Process,
    /// Where it serves gRPC.
    pub grpc: SocketAddr,
    /// Where it serves /metrics and /ready.
    pub admin: SocketAddr,
}

impl Authority {
    /// Starts one on the CA in `ca`, with its log as JSON in `folder`, and waits until it serves.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(folder: &Path, ca: &Path, arguments: &[&str]) -> Self {
        let (mut process, addresses) = Self::launch(folder, ca, arguments);
        let text = eventually("the authority's addresses", || {
            assert!(process.ended().is_none(), "the authority ended: {}", process.stderr());
            std::fs::read_to_string(&addresses).ok()
        });
        let address = |what: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(what)).unwrap();
            line.trim().parse().unwrap()
        };
        Self { grpc: address("grpc"), admin: address("admin"), process }
    }

    /// Starts one that need not come up; its addresses will be in the file returned.
    #[must_use]
    pub fn launch(folder: &Path, ca: &Path, arguments: &[&str]) -> (Process, PathBuf) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let addresses = folder.join(format!("addresses-{n}"));
        let mut command = Command::new(binary("remora-certs"));
        command.arg("serve").arg("--dir").arg(ca).args(["--log-format", "json"]).args(arguments);
        for port in ["--listen", "--admin"] {
            if !arguments.contains(&port) {
                command.args([port, "127.0.0.1:0"]);
            }
        }
        command.arg("--address-file").arg(&addresses);
        (Process::start("authority", &folder.join(format!("authority-{n}")), &mut command), addresses)
    }

    /// Asks the admin interface; status and body.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn ask(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(crate::PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Its metrics.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.ask("/metrics").1)
    }

    /// The audit lines so far.
    ///
    /// # Panics
    /// When a line of the log is no JSON.
    #[must_use]
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let log = self.process.stderr();
        // The last line may be half written.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let lines = whole.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line));
        lines.filter(|line| line["target"] == "audit").collect()
    }

    /// Ends it as an orchestrator does, and waits.
    ///
    /// # Panics
    /// When it does not end, or ends badly.
    pub fn stop(&mut self) {
        self.process.signal(Signal::SIGTERM);
        assert!(self.process.wait().success(), "{}", self.process.stderr());
    }
}

/// A folder with a CA in it.
#[must_use]
pub fn with_ca() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let ca = folder.path().join("ca");
    make_authority(&ca, TRUST_DOMAIN);
    (folder, ca)
}

/// Makes a join token for `id`.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn join_token(ca: &Path, id: &str, ttl: &str) -> String {
    let mut command = Command::new(binary("remora-certs"));
    command.arg("token").arg("--dir").arg(ca).args(["--id", id, "--ttl", ttl]);
    let output = run(&mut command).unwrap();
    String::from_utf8(output.stdout).unwrap().lines().next().unwrap().trim().to_owned()
}
