//! The programs a run is made with: found before anything is made, so that what is missing is said at once and together.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::Error;

/// Where they are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) ip: PathBuf,
    pub(super) iptables: PathBuf,
    pub(super) nsenter: PathBuf,
    pub(super) setpriv: PathBuf,
    pub(super) init: PathBuf,
    pub(super) proxy: PathBuf,
}

impl Programs {
    /// System tools in PATH and the system folders (`su` without `-` leaves those out); ours beside this binary first, then in PATH.
    pub(super) fn find() -> Result<Self, Error> {
        let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
        let own: Vec<PathBuf> =
            std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())).into_iter().collect();
        let beside = own.iter().map(|own| format!("neither in {} nor in PATH", own.display())).collect::<String>();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut missing = Vec::new();
        let mut find = |name: &str, hint: &str, first: &[PathBuf], last: &[PathBuf]| {
            let folders = first.iter().cloned().chain(std::env::split_paths(&path)).chain(last.iter().cloned());
            // Root runs nothing from wherever it happens to stand.
            let mut files = folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(name));
            files.find(|path| path.is_file()).unwrap_or_else(|| {
                missing.push(format!("{name} ({hint})"));
                PathBuf::new()
            })
        };
        let programs = Self {
            ip: find("ip", "Debian's package iproute2", &[], &system),
            iptables: find("iptables", "Debian's package iptables", &[], &system),
            nsenter: find("nsenter", "Debian's package util-linux", &[], &system),
            setpriv: find("setpriv", "Debian's package util-linux", &[], &system),
            init: find("remora-init", &beside, &own, &[]),
            proxy: find("remora-proxy", &beside, &own, &[]),
        };
        if missing.is_empty() { Ok(programs) } else { Err(Error::Missing(missing)) }
    }

    /// `ip` commands, all in one process, in the network namespace at `netns` or in ours.
    pub(super) fn ip_batch(&self, netns: Option<&Path>, lines: &str) -> Result<(), Error> {
        let mut command = match netns {
            Some(netns) => {
                let mut command = Command::new(&self.nsenter);
                command.arg(with("--net=", netns)).arg(&self.ip);
                command
            }
            None => Command::new(&self.ip),
        };
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed = |source| Error::File { path: self.ip.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(lines.as_bytes()).map_err(failed)?;
        }
        checked(&command, child.wait_with_output().map_err(failed)?).map(drop)
    }
}

/// `prefix` and a path, as one argument.
pub(super) fn with(prefix: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(prefix);
    argument.push(path);
    argument
}

/// Runs a command to its end; a failure becomes an error with what it said.
pub(super) fn output(command: &mut Command) -> Result<Output, Error> {
    let output = command.stdin(Stdio::null()).output().map_err(Error::file(command.get_program()))?;
    checked(command, output)
}

fn checked(command: &Command, output: Output) -> Result<Output, Error> {
    if output.status.success() {
        return Ok(output);
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy);
    Err(Error::Command {
        command: words.collect::<Vec<_>>().join(" "),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
