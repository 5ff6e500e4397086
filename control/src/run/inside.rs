//! The first process in a run's process namespace: starts the command, hands signals on to it, and ends with it. The kernel then
//! kills whatever the command has left running, which no process group could promise.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Instant;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::orders::Orders;
use super::signals::{Event, Signals};
use super::{Error, namespace, signals};

/// What it is told.
#[derive(Debug)]
pub struct Inside {
    /// The network namespace to enter.
    pub network: PathBuf,
    /// The mount namespace to enter.
    pub mounts: PathBuf,
    /// The pipe that tells of signals sent to `remora run`, a byte each.
    pub orders: PathBuf,
    /// The command line; never empty.
    pub command: Vec<OsString>,
}

/// Runs the command to its end and returns its exit code: 128 and the signal where one ended it, as a shell has it.
///
/// # Errors
/// The namespaces cannot be entered.
pub fn run(inside: &Inside) -> Result<u8, Error> {
    // Before the namespaces are opened: they are files of the parent's, so while there is one to open, it lives.
    set_pdeathsig(Signal::SIGKILL).map_err(Error::kernel("end with the parent"))?;
    // Who sends to `remora` by name means the one outside.
    set_name(c"remora-inside").map_err(Error::kernel("take a name"))?;
    let told = File::open(&inside.orders).map_err(Error::file(&inside.orders))?;
    enter(inside)?;
    let signals = Signals::take()?;
    let mut command = heeding()?;
    let child = command.args(&inside.command).spawn().map_err(Error::file(command.get_program()))?;
    attend(Pid::from_raw(child.id().cast_signed()), &signals, &told)
}

fn attend(command: Pid, signals: &Signals, mut told: &File) -> Result<u8, Error> {
    let mut orders = Orders::default();
    loop {
        // Our own first: they say which of the others the command has already.
        match wait(signals, told, orders.next())? {
            (true, _) => match signals.next()? {
                Event::Child => {
                    if let Some(code) = reap(command)? {
                        return Ok(code);
                    }
                }
                Event::Sent(signal) => orders.reached(signal, Instant::now()),
            },
            (false, true) => {
                let mut number = [0];
                told.read_exact(&mut number).map_err(Error::file("signals"))?;
                if let Ok(signal) = Signal::try_from(i32::from(number[0])) {
                    orders.told(signal, Instant::now());
                }
            }
            (false, false) => {
                for signal in orders.take(Instant::now()) {
                    // Gone between its end and our looking.
                    let _ = kill(command, signal);
                }
            }
        }
    }
}

/// Waits until one of them has something to read, or it is time: which of them has.
fn wait(signals: &Signals, told: &File, until: Option<Instant>) -> Result<(bool, bool), Error> {
    let mut both = [signals.as_fd(), told.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let left = until.map(|until| until.saturating_duration_since(Instant::now()).as_millis() + 1);
    let timeout = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    match poll(&mut both, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok((both[0].any() == Some(true), both[1].any() == Some(true))),
        Err(error) => Err(Error::kernel("wait for signals")(error)),
    }
}

/// A command that does not ignore, as it would inherit, the signals we have taken: this program again, see [`become_command`].
pub(super) fn heeding() -> Result<Command, Error> {
    let program = std::env::current_exe().map_err(Error::file("/proc/self/exe"))?;
    let mut command = Command::new(program);
    command.args(["run-command", "--"]);
    Ok(command)
}

/// Lets signals through again and becomes the command. Where that fails, the code a shell gives: 127 where there is no such
/// command, 126 where it cannot be run.
///
/// # Errors
/// Signals cannot be let through.
pub fn become_command(command: &[OsString]) -> Result<u8, Error> {
    signals::let_through()?;
    let Some((program, arguments)) = command.split_first() else { return Ok(127) };
    let error = Command::new(program).args(arguments).exec();
    super::say(&format!("{}: {error}", program.to_string_lossy()));
    Ok(if error.kind() == ErrorKind::NotFound { 127 } else { 126 })
}

fn enter(inside: &Inside) -> Result<(), Error> {
    let folder = std::env::current_dir().map_err(Error::file("."))?;
    for (path, kind) in [(&inside.network, CloneFlags::CLONE_NEWNET), (&inside.mounts, CloneFlags::CLONE_NEWNS)] {
        let file = File::open(path).map_err(Error::file(path))?;
        setns(file, kind).map_err(Error::kernel(format!("enter {}", path.display())))?;
    }
    // The sidecar stays in the run's mount namespace, where /proc is the host's.
    unshare(CloneFlags::CLONE_NEWNS).map_err(Error::kernel("make a mount namespace"))?;
    namespace::receive_only()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&Path>).map_err(Error::kernel("mount /proc"))?;
    // Entering a mount namespace leads to its root.
    std::env::set_current_dir(&folder).map_err(Error::file(folder))
}

/// Takes the ends of all children: as the first process ours are the orphans, too. The code, if the command is among them.
fn reap(command: Pid) -> Result<Option<u8>, Error> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => return Ok(Some(code as u8)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => return Ok(Some(128 + signal as u8)),
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(Error::kernel("wait for the command")(error)),
        }
    }
}

/// A process's exit code as a shell gives it.
pub(super) fn code(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(255);
    u8::try_from(number).unwrap_or(255)
}
