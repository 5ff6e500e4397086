//! A running `remora-proxy`, and what a person asks one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::metrics::Metrics;
use crate::pod::Pod;
use crate::process::Process;
use crate::{PATIENCE, eventually};

/// A running proxy; a [`Process`] and more.
#[derive(Debug)]
pub struct Sidecar {
    // First in the order of their ends, so that its logs are still there.
    process: Process,
    file: PathBuf,
    pod: Pod,
}

impl Deref for Sidecar {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Sidecar {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// What an HTTP server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub code: u16,
    /// The head, as it stood on the wire.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A header's value, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }
}

impl Sidecar {
    pub(crate) fn new(pod: Pod, file: PathBuf, process: Process) -> Self {
        Self { pod, file, process }
    }

    /// Only the process.
    #[must_use]
    pub fn into_process(self) -> Process {
        self.process
    }

    /// The pod it serves.
    #[must_use]
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The configuration file that it watches.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Replaces the configuration file.
    pub fn configure(&self, config: &str) {
        self.pod.write(&self.file, config);
    }

    /// One request from inside the pod, on a connection of its own; `None` when it is refused or cut.
    #[must_use]
    pub fn ask(&self, method: &str, port: u16, path: &str) -> Option<Answer> {
        ask(&self.pod, SocketAddr::from(([127, 0, 0, 1], port)), method, path)
    }

    /// GET from the admin listener.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn admin(&self, path: &str) -> Answer {
        self.ask("GET", 15_000, path).unwrap_or_else(|| panic!("no answer from admin {path}"))
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// When it ends instead, or after [`PATIENCE`].
    pub fn ready(&self) {
        eventually("readiness", || {
            let pid = self.process.pid();
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(!state.contains(") Z "), "the proxy ended: {}", self.process.stderr());
            self.is_ready().then_some(())
        });
    }

    /// Whether the readiness endpoint answers 200.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ask("GET", 15_021, "/healthz/ready").is_some_and(|answer| answer.code == 200)
    }

    /// One scrape.
    ///
    /// # Panics
    /// When there is no answer, or what comes is not Prometheus' format.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let answer = self.ask("GET", 15_020, "/metrics").expect("an answer from the metrics listener");
        assert_eq!(answer.code, 200, "{}", answer.body);
        Metrics::parse(&answer.body)
    }

    /// The sum of a metric over the samples that carry all these labels.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// Waits until a metric's sum pleases, and returns it.
    ///
    /// # Panics
    /// After [`PATIENCE`], with the last value.
    pub fn metric_until(&self, name: &str, labels: &[(&str, &str)], pleases: impl Fn(f64) -> bool) -> f64 {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics();
            let value = metrics.sum(name, labels);
            if pleases(value) {
                return value;
            }
            let all: Vec<_> = metrics.matching(name, &[]).collect();
            assert!(std::time::Instant::now() < deadline, "{name}{labels:?} stays {value}: {all:#?}");
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.process.signal(Signal::SIGTERM);
    }
}

/// One request with `connection: close` from inside a pod, as root; `None` when it is refused or cut.
#[must_use]
pub fn ask(pod: &Pod, to: SocketAddr, method: &str, path: &str) -> Option<Answer> {
    pod.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        // In one piece: who answers after the first may have closed before the second.
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let code = head.split_whitespace().nth(1)?.parse().ok()?;
        let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            dechunked(body)?
        } else {
            body.to_owned()
        };
        Some(Answer { code, head: head.to_owned(), body })
    })
}

fn dechunked(mut text: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(rest.get(..size)?);
        text = rest.get(size + 2..)?;
    }
}
