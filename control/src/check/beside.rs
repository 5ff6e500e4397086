//! The proxy that runs in this network namespace: its process, its files, what it tells of itself.
//!
//! A check need not run in the proxy's container: `kubectl debug --target` shares processes, and through the proxy's
//! process its environment and its files are found. Where that is not allowed, our own are taken.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use remora_config::Environment;
use serde::Deserialize;
use serde_json::Value;

use super::{ADMIN, ask};
use crate::inject::CONFIG;

/// Where Kubernetes puts a pod's credentials.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Whether this is the inside of a pod of Kubernetes: its credentials are here or, where a pod has none, its variables
/// and a proxy.
#[must_use]
pub fn is_pod() -> bool {
    let variables = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let proxy = || std::net::TcpStream::connect_timeout(&ADMIN, std::time::Duration::from_secs(1)).is_ok();
    Path::new(ACCOUNT).exists() || (variables && proxy())
}

/// The proxy's process, or what stands for it.
#[derive(Debug)]
pub(super) struct Proxy {
    /// The process; none where none was found.
    process: Option<PathBuf>,
    /// Its variables, or ours.
    variables: BTreeMap<String, String>,
    /// Its configuration file, as it calls it.
    pub(super) config: PathBuf,
}

impl Proxy {
    /// Looks for it among the processes in our network namespace.
    pub(super) fn find() -> Self {
        let found = processes().find_map(Self::of);
        found.unwrap_or_else(|| Self {
            process: None,
            variables: std::env::vars_os().map(|(key, value)| (lossy(&key), lossy(&value))).collect(),
            config: std::env::var_os("REMORA_CONFIG").map_or_else(|| CONFIG.into(), PathBuf::from),
        })
    }

    fn of(process: PathBuf) -> Option<Self> {
        let read = |name: &str| std::fs::read(process.join(name)).ok();
        let words = |bytes: Vec<u8>| -> Vec<String> {
            bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        let arguments = words(read("cmdline")?);
        let variables: BTreeMap<_, _> = words(read("environ")?)
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let said = |word: &String| word.strip_prefix("--config=").map(str::to_owned);
        let after = || arguments.iter().skip_while(|word| *word != "--config").nth(1).cloned();
        let config = arguments.iter().find_map(said).or_else(after).or_else(|| variables.get("REMORA_CONFIG").cloned());
        Some(Self { process: Some(process), variables, config: config.map_or_else(|| CONFIG.into(), PathBuf::from) })
    }

    /// Whether a process was found.
    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// One of its variables.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// How many files it may open.
    pub(super) fn open_files(&self) -> Option<u64> {
        let limits = std::fs::read_to_string(self.process.as_ref()?.join("limits")).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// What completes its configuration.
    pub(super) fn environment(&self) -> Environment {
        Environment::new(self.variables.clone())
    }

    /// One of its files, where it sees them.
    pub(super) fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let Some(process) = &self.process else { return std::fs::read(path) };
        match path.strip_prefix("/") {
            Ok(below) => std::fs::read(process.join("root").join(below)),
            Err(_) => std::fs::read(process.join("cwd").join(path)),
        }
    }
}

fn lossy(text: &std::ffi::OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// The processes called like the proxy that share our network namespace and that we may look into.
fn processes() -> impl Iterator<Item = PathBuf> {
    let own = std::fs::read_link("/proc/thread-self/ns/net").ok();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(move |process| {
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        name.starts_with("remora-proxy") && own.is_some() && std::fs::read_link(process.join("ns/net")).ok() == own
    })
}

/// What a running proxy's admin interface tells.
#[derive(Debug)]
pub(super) struct Told {
    /// Of `/server_info`.
    pub(super) info: Info,
    /// Of `/certs`.
    pub(super) certs: Certs,
}

/// `/server_info`.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub(super) version: String,
    pub(super) missing: Vec<String>,
    pub(super) configuration_rejected: Option<String>,
}

/// `/certs`.
#[derive(Debug, Deserialize)]
pub(super) struct Certs {
    pub(super) identity: Option<Svid>,
    /// None: the proxy wants no identity.
    pub(super) source: Option<Source>,
}

/// The certificate in use.
#[derive(Debug, Deserialize)]
pub(super) struct Svid {
    pub(super) spiffe_id: String,
    pub(super) not_before: String,
    pub(super) not_after: String,
    pub(super) trust_domain: String,
}

/// Where it comes from.
#[derive(Debug, Deserialize)]
pub(super) struct Source {
    pub(super) last_error: Option<String>,
}

/// Asks it.
pub(super) async fn told(admin: SocketAddr) -> Result<Told, String> {
    Ok(Told { info: page(admin, "/server_info").await?, certs: page(admin, "/certs").await? })
}

/// The configuration in force, of `/config_dump`; none where nobody tells.
pub(super) async fn in_force(admin: SocketAddr) -> Option<Value> {
    page(admin, "/config_dump").await.ok()
}

async fn page<T: for<'de> Deserialize<'de>>(admin: SocketAddr, path: &str) -> Result<T, String> {
    let answer = ask::get(admin, path).await.map_err(|error| error.to_string())?;
    let foreign = |error| format!("{admin}{path}: not a proxy of Remora ({}: {error})", answer.status);
    serde_json::from_slice(&answer.body).map_err(foreign)
}
