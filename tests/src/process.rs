//! A started process: its output in files, its end guarded.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually;

/// A child with its output in two files. Dropping kills it; while a test panics, its last words are printed first.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `LOG.out` and `LOG.err`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, log: &std::path::Path, command: &mut Command) -> Self {
        let (stdout, stderr) = (log.with_extension("out"), log.with_extension("err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    /// The process id; it stays the same through `ip netns exec` and `setpriv`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything on standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// Everything on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Panics
    /// When the kernel does not know it.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After [`crate::PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("the end of {name}"), || self.ended())
    }

    /// Waits until standard error has a line with `part` in it, and returns that line.
    ///
    /// # Panics
    /// After [`crate::PATIENCE`].
    #[must_use]
    pub fn said(&self, part: &str) -> String {
        eventually(&format!("{} says {part:?}", self.name), || line_with(&self.stderr(), part))
    }

    /// Waits until standard output has a line with `part` in it, and returns that line.
    ///
    /// # Panics
    /// After [`crate::PATIENCE`].
    #[must_use]
    pub fn printed(&self, part: &str) -> String {
        eventually(&format!("{} prints {part:?}", self.name), || line_with(&self.stdout(), part))
    }
}

/// The first line of `text` that contains `part`.
fn line_with(text: &str, part: &str) -> Option<String> {
    text.lines().find(|line| line.contains(part)).map(str::to_owned)
}

/// The end of a text, for a report.
fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(6_000);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let state = ended.map_or("still running".to_owned(), |status| status.to_string());
            eprintln!("--- {} ({state}), standard output:\n{}", self.name, tail(&self.stdout()));
            eprintln!("--- {}, standard error:\n{}", self.name, tail(&self.stderr()));
        }
    }
}
