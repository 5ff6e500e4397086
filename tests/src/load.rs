//! curl and h2load inside a pod, with what they say made comparable.

use std::process::Stdio;

use crate::netns::tool;
use crate::pod::Pod;
use crate::process::Process;
use crate::sidecar::Answer;

impl Pod {
    /// Runs curl as the application user and splits its answer; the code is 0 when there was none.
    ///
    /// # Panics
    /// When curl cannot be started.
    #[must_use]
    pub fn curl(&self, arguments: &[&str]) -> Answer {
        let mut command = self.user(tool("curl"));
        command.args(["-sS", "-i", "--max-time", "30"]).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Interim answers (100-continue) come first, each with a head of its own.
        let mut rest = text.as_str();
        while let Some((head, after)) = rest.split_once("\r\n\r\n") {
            let code = head.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
            if code >= 200 {
                return Answer { code, head: head.to_owned(), body: after.to_owned() };
            }
            rest = after;
        }
        Answer { code: 0, head: String::new(), body: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// Runs h2load to its end.
    ///
    /// # Panics
    /// When it fails to run at all.
    #[must_use]
    pub fn h2load(&self, arguments: &[&str]) -> Load {
        self.start_h2load(arguments).finish()
    }

    /// Starts h2load.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_h2load(&self, arguments: &[&str]) -> RunningLoad {
        let mut command = self.user(tool("h2load"));
        RunningLoad(self.process("h2load", command.args(arguments)))
    }
}

/// An h2load that runs.
#[derive(Debug)]
pub struct RunningLoad(Process);

impl RunningLoad {
    /// Waits for its end.
    ///
    /// # Panics
    /// When it did not report totals.
    #[must_use]
    pub fn finish(mut self) -> Load {
        self.0.wait();
        let text = self.0.stdout();
        Load::parse(&text).unwrap_or_else(|| panic!("h2load: {text}\n{}", self.0.stderr()))
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.0.ended().is_none()
    }

    /// Ends it before its time.
    pub fn stop(mut self) {
        if self.running() {
            self.0.signal(nix::sys::signal::Signal::SIGTERM);
        }
        self.0.wait();
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }
}

/// h2load's totals.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests per second.
    pub rate: f64,
    /// Requests that were to be sent.
    pub total: u64,
    /// Answers that came to their end.
    pub done: u64,
    /// Answers with a status below 400.
    pub succeeded: u64,
    /// All others.
    pub failed: u64,
    /// Of the failed, those without an answer.
    pub errored: u64,
    /// Answers by class of status: 2xx, 3xx, 4xx, 5xx.
    pub status: [u64; 4],
}

impl Load {
    fn parse(text: &str) -> Option<Self> {
        let numbers = |label: &str| -> Option<Vec<f64>> {
            let line = text.lines().find_map(|line| line.strip_prefix(label))?;
            let words = line.split(|letter: char| !(letter.is_ascii_digit() || letter == '.'));
            Some(words.filter_map(|word| word.parse().ok()).collect())
        };
        let finished = numbers("finished in ")?;
        let requests: Vec<u64> = numbers("requests: ")?.into_iter().map(|value| value as u64).collect();
        // "2000 2xx, 0 3xx": every second number is the count's label.
        let status: Vec<u64> = numbers("status codes: ")?.into_iter().map(|value| value as u64).collect();
        Some(Self {
            rate: *finished.get(1)?,
            total: *requests.first()?,
            done: *requests.get(2)?,
            succeeded: *requests.get(3)?,
            failed: *requests.get(4)?,
            errored: *requests.get(5)?,
            status: [0, 2, 4, 6].map(|at| status.get(at).copied().unwrap_or(0)),
        })
    }

    /// Asserts that every request got a good answer.
    ///
    /// # Panics
    /// When one did not.
    pub fn assert_clean(&self, total: u64) {
        assert_eq!((self.total, self.succeeded, self.failed), (total, total, 0), "{self:?}");
        assert_eq!(self.status, [total, 0, 0, 0], "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::Load;

    #[test]
    fn totals_are_read() {
        let text = "finished in 1.03s, 1934.98 req/s, 320.45KB/s\n\
                    requests: 2000 total, 2000 started, 1999 done, 1998 succeeded, 2 failed, 1 errored, 0 timeout\n\
                    status codes: 1998 2xx, 0 3xx, 0 4xx, 1 5xx\n";
        let load = Load::parse(text).unwrap();
        assert_eq!((load.total, load.done, load.succeeded, load.failed, load.errored), (2000, 1999, 1998, 2, 1));
        assert_eq!(load.status, [1998, 0, 0, 1]);
        assert!((load.rate - 1934.98).abs() < 1e-9);
    }
}
