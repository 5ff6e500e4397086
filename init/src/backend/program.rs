//! One program of iptables, wherever and under whatever name it is installed.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Backend;

/// A program and the word that makes a multi-call binary act as it.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    applet: Option<String>,
}

/// How a program failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) program: String,
    /// The first line it said that tells something.
    pub(super) message: String,
}

impl Program {
    /// `iptables-nft-save` by that name, as an applet of `xtables-nft-multi`, or as a plain `iptables-save` of that backend.
    pub(super) fn find(backend: Backend, stem: &str, verb: &str, search: &[PathBuf]) -> Option<Self> {
        let name = backend.name();
        if let Some(path) = executable(&format!("{stem}-{name}-{verb}"), search) {
            return Some(Self { path, applet: None });
        }
        if let Some(path) = executable(&format!("xtables-{name}-multi"), search) {
            return Some(Self { path, applet: Some(format!("{stem}-{verb}")) });
        }
        let plain = Self { path: executable(&format!("{stem}-{verb}"), search)?, applet: None };
        let version = plain.run(&["--version"], "").ok()?;
        let is_nft = version.contains("nf_tables");
        (is_nft == (backend == Backend::Nft)).then_some(plain)
    }

    /// Runs it to its end and gives what it printed.
    pub(super) fn run(&self, arguments: &[&str], input: &str) -> Result<String, Failure> {
        let failed = |message: String| Failure { program: self.name(), message };
        let mut command = Command::new(&self.path);
        command.args(&self.applet).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Messages are read below: not in the user's language.
        command.env("LC_ALL", "C");
        if std::env::var_os("XTABLES_LOCKFILE").is_none() && !lockable("/run/xtables.lock") {
            // A read-only root or another uid: the lock of the host cannot be taken, ours covers this namespace.
            command.env("XTABLES_LOCKFILE", "/dev/null");
        }
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        if let Some(mut pipe) = child.stdin.take() {
            // A program that ends without reading says why on standard error.
            let _ = pipe.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let told = lines().find(|line| !line.starts_with("Error occurred at") && !line.starts_with("Try `"));
        let mut message = told.or_else(|| lines().next()).unwrap_or("no message").to_owned();
        if let Some(line) = stderr.lines().find_map(|line| line.trim().strip_prefix("Error occurred at line:")) {
            let number = line.trim().parse::<usize>().unwrap_or_default();
            if let Some(rule) = input.lines().nth(number.saturating_sub(1)) {
                message = format!("{message} (at `{rule}`)");
            }
        }
        Err(failed(format!("{message} ({})", output.status)))
    }

    fn name(&self) -> String {
        match &self.applet {
            Some(applet) => format!("{} {applet}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }
}

fn executable(name: &str, search: &[PathBuf]) -> Option<PathBuf> {
    search.iter().map(|folder| folder.join(name)).find(|path| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// Whether iptables can open its lock file, which it creates.
fn lockable(path: &str) -> bool {
    let mut options = OpenOptions::new();
    options.read(true);
    if Path::new(path).exists() {
        return options.open(path).is_ok();
    }
    options.write(true).create(true).mode(0o600).open(path).is_ok()
}
