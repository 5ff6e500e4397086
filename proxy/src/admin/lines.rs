//! The process's log on its way to standard error, by a thread of its own: whoever stops reading it stops nothing else.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing_subscriber::fmt::MakeWriter;

/// Lines on their way at most.
const LINES: usize = 4096;
/// How long the end of the process waits for its last lines.
const LAST: Duration = Duration::from_secs(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);
static LOG: OnceLock<Lines> = OnceLock::new();

enum Entry {
    Line(Vec<u8>),
    /// Told when all before it is written.
    Mark(SyncSender<()>),
}

/// Where log lines go in.
#[derive(Clone)]
pub(super) struct Lines {
    entries: Sender<Entry>,
    dropped: &'static AtomicU64,
}

impl Lines {
    /// Starts the writer.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start() -> io::Result<Self> {
        // Takes memory for the lines that are on their way; the standard library's takes it for all that may be.
        let (sender, receiver) = channel(LINES);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(receiver, io::stderr()))?;
        Ok(LOG.get_or_init(|| Self { entries: sender, dropped: &DROPPED }).clone())
    }
}

fn write(mut entries: Receiver<Entry>, mut output: impl Write) {
    while let Some(entry) = entries.blocking_recv() {
        match entry {
            Entry::Line(line) => {
                if output.write_all(&line).is_err() {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                }
            }
            Entry::Mark(written) => {
                let _ = written.try_send(());
            }
        }
    }
}

/// Lines of the log that were lost so far.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits a moment until what was logged is written. For the end of the process.
pub fn flush_log() {
    let (written, all) = sync_channel(1);
    if LOG.get().is_some_and(|log| log.entries.try_send(Entry::Mark(written)).is_ok()) {
        let _ = all.recv_timeout(LAST);
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// One call, one line: so `tracing_subscriber` writes.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(Entry::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_takes_are_counted_and_hold_nobody_up() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let (sender, receiver) = channel(2);
        let lines = Lines { entries: sender, dropped: &LOST };
        for line in ["one\n", "two\n", "three\n"] {
            assert_eq!((&lines).write(line.as_bytes()).unwrap(), line.len());
        }
        assert_eq!(LOST.load(Ordering::Relaxed), 1);
        drop(lines);
        let mut text = Vec::new();
        write(receiver, &mut text);
        assert_eq!(text, b"one\ntwo\n");
    }
}
