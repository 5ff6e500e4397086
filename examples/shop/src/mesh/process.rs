//! A process in a pod, under a user of its own, with its words in a file.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pods::Pod;
use crate::state;

/// How long a process may take to become ready. A machine that builds something else meanwhile is slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions whether it is.
const PAUSE: Duration = Duration::from_millis(50);

/// A running process.
pub struct Process {
    /// Pod and program, for people.
    pub name: String,
    /// Where its words are.
    pub log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program` of the demo's binaries in `pod` as `uid`, without any capability.
    pub fn start(
        pod: Pod,
        uid: u32,
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let log = log_path(pod, program);
        let words = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let uid = uid.to_string();
        // Each of the three replaces itself by the next: the child's process id is the program's.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &pod.namespace()]);
        command.args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", "--no-new-privs"]);
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
        command.arg(state::path("bin").join(program)).args(arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(environment.iter().copied());
        command.current_dir("/").stdin(Stdio::null()).stdout(words.try_clone()?).stderr(words);
        // A Ctrl-C in the terminal is for the demo, which then ends its processes in order.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {program} in {}", pod.name))?;
        Ok(Self { name: format!("{} in {}", program, pod.name), log, child })
    }

    /// Asks `ready` again and again until it says yes.
    pub async fn wait_until<F: Future<Output = bool>>(&mut self, ready: impl Fn() -> F) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !ready().await {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once ({status}): {}", self.name, self.last_words(3).join(" | "));
            }
            if tokio::time::Instant::now() > deadline {
                let said = self.last_words(3).join(" | ");
                bail!("{} is not ready after {} s: {said}", self.name, PATIENCE.as_secs());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot end {}", self.name))?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if tokio::time::Instant::now() > deadline {
                bail!("{} does not end", self.name);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// The last `count` lines that it wrote.
    pub fn last_words(&self, count: usize) -> Vec<String> {
        last_lines(&self.log, count, |_| true)
    }

    /// The last `count` lines that warn of something.
    pub fn last_warnings(&self, count: usize) -> Vec<String> {
        last_lines(&self.log, count, |line| {
            line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked")
        })
    }
}

/// Where a program in a pod writes what it has to say.
pub fn log_path(pod: Pod, program: &str) -> PathBuf {
    state::path(pod.name).join(format!("{program}.log"))
}

fn last_lines(file: &Path, count: usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let text = std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty() && wanted(line)).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(ToString::to_string).collect()
}
