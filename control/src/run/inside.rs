//! The first process in a run's process namespace: starts the command, hands signals on to it, and ends with it. The kernel then
//! kills whatever the command has left running, which no process group could promise.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::signals::{Event, Signals};
use super::{Error, namespace, signals};

/// What it is told.
#[derive(Debug)]
pub struct Inside {
    /// The network namespace to enter.
    pub network: PathBuf,
    /// The mount namespace to enter.
    pub mounts: PathBuf,
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
    enter(inside)?;
    let signals = Signals::take()?;
    let mut command = heeding()?;
    let child = command.args(&inside.command).spawn().map_err(Error::file(command.get_program()))?;
    let child = Pid::from_raw(child.id().cast_signed());
    loop {
        match signals.next()? {
            Event::Child => {
                if let Some(code) = reap(child)? {
                    return Ok(code);
                }
            }
            // Gone between its end and our looking.
            Event::Sent(signal) => drop(kill(child, signal)),
            Event::Typed(_) => {}
        }
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
