//! What a run leaves on the machine while it lasts, and how all of it goes away again: the folder, the namespaces, their
//! processes, the interface on this machine.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace;
use crate::pods::{self, HOST_INTERFACE, WIRE};

/// Binaries, configuration, certificates and logs: readable for the pods' users, which root's home is not, and not on a
/// file system that forbids execution, which /run often is.
pub const FOLDER: &str = "/var/lib/remora-demo";
const LOCK: &str = "/run/remora-demo.lock";
/// How long processes have to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// The right to be the only demo on this machine, and the duty to leave nothing behind: dropping it cleans up.
pub struct State {
    /// Unlocked when the process ends, however it ends.
    _lock: File,
    /// Nothing is to be cleaned up any more.
    settled: bool,
}

/// A path in [`FOLDER`].
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn kept() -> PathBuf {
    path("kept")
}

fn relay_pid() -> PathBuf {
    path("relay.pid")
}

/// Takes the lock, clears what a killed run left, and makes the folder.
///
/// Waits up to `patience` while another one runs. Refuses while a kept one is up, and where names or addresses belong to somebody else.
pub fn begin(patience: Duration) -> anyhow::Result<State> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo makes network namespaces and changes their iptables: it needs root");
    }
    let lock = lock_within(patience)?;
    if kept().exists() {
        bail!("a demo is still up from `make demo KEEP=1`; take it down with `make demo-down`");
    }
    if Path::new(FOLDER).exists() {
        remove_everything()?;
    }
    if let Some(taken) = namespaces().find(|name| Path::new("/run/netns").join(name).exists()) {
        bail!("the network namespace {taken} exists and is not this demo's; remove it with `ip netns del {taken}`");
    }
    let routes = output("ip", &["-4", "route", "show", "root", "10.77.0.0/24"])?;
    if let Some(route) = routes.lines().next() {
        bail!("this machine uses 10.77.0.0/24 itself ({}), which the demo needs", route.trim());
    }
    let state = State { _lock: lock, settled: false };
    fs::create_dir_all(FOLDER).and_then(|()| fs::set_permissions(FOLDER, fs::Permissions::from_mode(0o755)))?;
    Ok(state)
}

/// The lock, waited for: what runs ends, and a test that came second is no failure.
fn lock_within(patience: Duration) -> anyhow::Result<File> {
    let deadline = Instant::now() + patience;
    loop {
        match lock() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
            outcome => return outcome,
        }
    }
}

fn lock() -> anyhow::Result<File> {
    let lock = File::options().create(true).truncate(false).write(true).open(LOCK);
    let lock = lock.with_context(|| format!("cannot open {LOCK}"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!("another demo is running on this machine; it cleans up when it ends"),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {LOCK}")),
    }
}

impl State {
    /// The mesh stays up after this process.
    pub fn keep(mut self) -> anyhow::Result<()> {
        fs::write(kept(), "").context("cannot note that the demo stays up")?;
        self.settled = true;
        Ok(())
    }

    /// Removes everything, and says if that failed.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.settled = true;
        remove_everything()?;
        // Last of all: whoever finds the lock gone may begin.
        fs::remove_file(LOCK).with_context(|| format!("cannot remove {LOCK}"))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Only a panic comes here unsettled; it has been reported, and this is all that can be done.
        if !self.settled {
            drop(remove_everything());
        }
    }
}

/// Remembers a process that lives outside the namespaces.
pub fn remember_relay(pid: u32) -> anyhow::Result<()> {
    File::create(relay_pid())?.write_all(pid.to_string().as_bytes())?;
    Ok(())
}

/// Takes down a kept demo; whether there was one.
pub fn take_down() -> anyhow::Result<bool> {
    let _lock = lock()?;
    let there = Path::new(FOLDER).exists();
    if there {
        remove_everything()?;
    }
    drop(fs::remove_file(LOCK));
    Ok(there)
}

/// Ends every process of the demo and removes every namespace and file of it. What is not there is no error.
pub fn remove_everything() -> anyhow::Result<()> {
    end_processes();
    for name in namespaces().filter(|name| Path::new("/run/netns").join(name).exists()) {
        output("ip", &["netns", "del", &name])?;
    }
    // The pair's other end went with its namespace; a run that was killed early may not have moved it there.
    if Path::new("/sys/class/net").join(HOST_INTERFACE).exists() {
        drop(output("ip", &["link", "del", HOST_INTERFACE]));
    }
    for etc in namespaces().map(|name| namespace::etc(&name)) {
        remove_folder(&etc)?;
    }
    // Fails where somebody else has entries there, which is right.
    drop(fs::remove_dir("/etc/netns"));
    remove_folder(Path::new(FOLDER))
}

fn namespaces() -> impl Iterator<Item = String> {
    pods::EVERY.into_iter().map(|pod| pod.namespace()).chain([WIRE.to_owned()])
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// SIGTERM to every process in the namespaces, and SIGKILL to those that stay.
pub fn end_processes() {
    let deadline = Instant::now() + GRACE;
    let mut signal = Signal::SIGTERM;
    loop {
        let living = processes();
        if living.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            signal = Signal::SIGKILL;
        }
        for pid in living {
            // One that ended meanwhile needs no signal.
            let _ = kill(pid, signal);
        }
        reap();
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Children that ended stay visible until somebody asks for their exit code.
fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

fn processes() -> Vec<Pid> {
    let listed = namespaces().filter(|name| Path::new("/run/netns").join(name).exists()).filter_map(|name| {
        // A namespace that is gone has no processes.
        output("ip", &["netns", "pids", &name]).ok()
    });
    let mut pids: Vec<Pid> = listed
        .flat_map(|pids| pids.lines().filter_map(|pid| pid.trim().parse().ok()).collect::<Vec<i32>>())
        .map(Pid::from_raw)
        .filter(|pid| *pid != Pid::this())
        .collect();
    pids.extend(relay());
    pids
}

/// The relay, if it still is the one that was remembered.
fn relay() -> Option<Pid> {
    let pid: i32 = fs::read_to_string(relay_pid()).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_ours = command.split(|byte| *byte == 0).any(|word| word == b"relay");
    is_ours.then(|| Pid::from_raw(pid))
}

fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run `{}`", shown()))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
