//! The proxy beside the command: started without any privilege in the run's namespaces, awaited, given new configurations, ended.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_model::capture::{METRICS_PORT, PROXY_ID, READINESS_PORT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::programs::{Programs, with};
use super::{Error, inside, readable};

/// Until it is ready; far more than it takes.
const START: Duration = Duration::from_secs(60);
/// Until it has taken a new configuration.
const RELOAD: Duration = Duration::from_secs(5);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(20);
/// Of one question.
const ANSWER: Duration = Duration::from_secs(5);
/// Lines of its log in an error.
const LAST_WORDS: usize = 10;

/// What it is started with.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) programs: &'a Programs,
    pub(super) network: PathBuf,
    pub(super) mounts: PathBuf,
    /// The run's state folder as it is seen inside: binary, configuration and identity.
    pub(super) inside: &'a Path,
    pub(super) log: PathBuf,
    pub(super) tracing: Option<&'a str>,
}

/// A running proxy. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Sidecar {
    child: Child,
    log: PathBuf,
}

impl Sidecar {
    pub(super) fn start(start: &Start<'_>) -> Result<Self, Error> {
        let log = File::options().create(true).append(true).open(&start.log).map_err(Error::file(&start.log))?;
        let errors = log.try_clone().map_err(Error::file(&start.log))?;
        let Programs { nsenter, setpriv, .. } = start.programs;
        let mut command = inside::heeding()?;
        command
            .arg(nsenter)
            .arg(with("--net=", &start.network))
            .arg(with("--mount=", &start.mounts))
            .arg("--")
            .arg(setpriv);
        let id = PROXY_ID.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
        command.args(["--no-new-privs", "--pdeathsig", "KILL", "--"]).arg(start.inside.join("remora-proxy"));
        command.arg("--config").arg(start.inside.join(CONFIG));
        environment(&mut command, start.tracing);
        // A group of its own: what is typed at the terminal is for the command, which may need its sidecar to end well.
        command.process_group(0).current_dir("/").stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().map_err(Error::file(nsenter))?;
        Ok(Self { child, log: start.log.clone() })
    }

    /// Waits until it is ready for traffic.
    pub(super) async fn ready(&self, address: Ipv4Addr) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        loop {
            let reason = match get(address, READINESS_PORT, "/ready").await {
                Ok((200, _)) => return Ok(()),
                Ok((_, reasons)) => reasons.trim().replace('\n', ", "),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(Error::NotReady { reason, log: self.last_words() });
            }
            sleep(AGAIN).await;
        }
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Tells it to end.
    pub(super) fn terminate(&self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The name of its configuration file.
pub(super) const CONFIG: &str = "remora.yaml";

/// Puts a new configuration into `folder` and waits until the sidecar has looked at it, for a few seconds at most.
pub(super) async fn configure(folder: &Path, text: &str, address: Ipv4Addr) -> Result<(), Error> {
    let before = reloads(address).await;
    write(folder, text)?;
    let looked = async {
        while reloads(address).await == before {
            sleep(AGAIN).await;
        }
    };
    // Out of time: it will take it all the same.
    let _ = timeout(RELOAD, looked).await;
    Ok(())
}

/// Puts a configuration into `folder`, at once.
pub(super) fn write(folder: &Path, text: &str) -> Result<(), Error> {
    let (path, fresh) = (folder.join(CONFIG), folder.join(".remora.yaml.fresh"));
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        readable(&file)?;
        std::fs::rename(&fresh, &path)
    };
    write().map_err(Error::file(&path))
}

/// How often it has looked at a new configuration, whatever it thought of it.
async fn reloads(address: Ipv4Addr) -> Option<u64> {
    let (_, text) = get(address, METRICS_PORT, "/metrics").await.ok()?;
    let counts = text.lines().filter_map(|line| line.strip_prefix("remora_config_reloads_total{")?.split(' ').nth(1));
    Some(counts.filter_map(|count| count.parse::<u64>().ok()).sum())
}

/// Only what concerns it: it is started by root.
fn environment(command: &mut Command, tracing: Option<&str>) {
    let passes = |name: &str| name.starts_with("OTEL_") || name.starts_with("REMORA_LOG") || name == "RUST_LOG";
    command.env_clear();
    if tracing.is_some() {
        // On one's own machine every request is of interest.
        command.env("OTEL_TRACES_SAMPLER", "parentbased_always_on");
    }
    command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(passes)));
    command.envs(tracing.map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT", url)));
}

/// Status and body of a GET at one of its ports.
async fn get(address: Ipv4Addr, port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(SocketAddr::from((address, port))).await?;
        // HTTP/1.0: the body ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = timeout(ANSWER, ask).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (status, body) = status.zip(answer.split_once("\r\n\r\n")).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((status, body.1.to_owned()))
}
