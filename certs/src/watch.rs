//! Noticing that files changed, however they are changed: rewritten in place, renamed over, or swapped as a whole
//! directory behind a symlink, as Kubernetes does with `..data`.
//!
//! The kernel's notifications make it quick and a slow re-read makes it sure: what counts is the bytes of the files,
//! compared by hash, so a change is reported once, and none is lost to a race or a missed notification.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::Fingerprint;

/// How long things must be quiet before the files are looked at.
const QUIET: Duration = Duration::from_millis(50);
/// The longest a busy directory may put the look off.
const QUIET_AT_MOST: Duration = Duration::from_millis(500);
/// How often the files are looked at without any notification.
const FALLBACK: Duration = Duration::from_secs(10);
/// Symlinks followed in one path; Linux's own limit.
const MAX_LINKS: usize = 40;

/// A stream of "the bytes of these files are not what they were".
///
/// Made and used inside a tokio runtime of any flavour. Dropping it stops the watching.
#[derive(Debug)]
pub struct FileWatcher {
    paths: Vec<PathBuf>,
    seen: Vec<Content>,
    // None where the kernel gives no notifications; the fallback still works.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    // Each watched directory with its device and inode: a directory made anew under the old name needs a new watch.
    watched: HashMap<PathBuf, (u64, u64)>,
    // Both outlive a cancelled wait: a notification taken but not acted on, and the next look without one.
    notified: Option<Notified>,
    next_look: Instant,
    fallback: Duration,
}

/// A notification came: look when it is quiet, or when it has not been for too long.
#[derive(Debug)]
struct Notified {
    quiet: Instant,
    latest: Instant,
}

/// What a path holds, as far as a comparison needs it.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Bytes(Fingerprint),
    Unreadable(io::ErrorKind),
}

impl FileWatcher {
    /// Begins to watch `paths`, which need not exist yet; relative ones are taken from the current directory. What
    /// they hold now counts as seen: read the files after this, and no change is lost between.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self::with_fallback(paths, FALLBACK)
    }

    pub(crate) fn with_fallback(paths: impl IntoIterator<Item = PathBuf>, fallback: Duration) -> Self {
        let paths: Vec<_> = paths.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)).collect();
        // One waiting "look again" is as good as many.
        let (wake, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !is_only_reading(event.kind)) {
                // Full means that a look is due anyway.
                let _ = wake.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "no file notifications; files are read every 10 s instead"))
            .ok();
        let mut this = Self {
            seen: Vec::new(),
            paths,
            watcher,
            events,
            watched: HashMap::new(),
            notified: None,
            next_look: Instant::now() + fallback,
            fallback,
        };
        this.follow_links();
        this.seen = this.look();
        this
    }

    /// Waits until the bytes of any of the files differ from what they were when this last returned (or at the
    /// beginning). A file that appears, disappears or becomes unreadable has changed. Safe to cancel: a change not
    /// reported is reported by the next call.
    pub async fn changed(&mut self) {
        loop {
            self.time_to_look().await;
            self.notified = None;
            self.next_look = Instant::now() + self.fallback;
            self.follow_links();
            let now = self.look();
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    /// Waits for a notification and for quiet after it, or until the next look is due.
    async fn time_to_look(&mut self) {
        loop {
            let at = self.notified.as_ref().map_or(self.next_look, |notified| notified.quiet.min(notified.latest));
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(()) => {
                        let now = Instant::now();
                        let latest = self.notified.as_ref().map_or(now + QUIET_AT_MOST, |earlier| earlier.latest);
                        self.notified = Some(Notified { quiet: now + QUIET, latest });
                    }
                    // No watcher: only the clock is left.
                    None => return sleep_until(at).await,
                },
                () = sleep_until(at) => return,
            }
        }
    }

    fn look(&self) -> Vec<Content> {
        let content = |path: &PathBuf| match std::fs::read(path) {
            Ok(bytes) => Content::Bytes(Fingerprint::of(&bytes)),
            Err(error) => Content::Unreadable(error.kind()),
        };
        self.paths.iter().map(content).collect()
    }

    /// Watches the directories that matter now, and no others: a swapped symlink leads elsewhere.
    fn follow_links(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = BTreeSet::new();
        for path in &self.paths {
            directories_of(path, MAX_LINKS, &mut wanted);
        }
        self.watched.retain(|directory, inode| {
            let keep = wanted.contains(directory) && inode_of(directory) == Some(*inode);
            if !keep {
                // Fails where the directory is gone, and its watch with it.
                let _ = watcher.unwatch(directory);
            }
            keep
        });
        for directory in wanted {
            if self.watched.contains_key(&directory) {
                continue;
            }
            let Some(inode) = inode_of(&directory) else { continue };
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(directory, inode)),
                Err(error) => tracing::debug!(directory = %directory.display(), %error, "cannot watch"),
            }
        }
    }
}

/// Our own reading of the files must not wake us.
fn is_only_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn inode_of(directory: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Every directory in which a changed entry can change what `path` leads to: the file's own, and the one of each
/// symlink on the way. Where the way ends early, the last directory that exists.
fn directories_of(path: &Path, links_left: usize, found: &mut BTreeSet<PathBuf>) {
    let mut walked = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        let directory = walked.clone();
        walked.push(component);
        let Ok(metadata) = walked.symlink_metadata() else {
            found.insert(directory);
            return;
        };
        if metadata.is_symlink() {
            found.insert(directory.clone());
            if let (Ok(target), Some(links_left)) = (walked.read_link(), links_left.checked_sub(1)) {
                directories_of(&directory.join(target).join(components.as_path()), links_left, found);
            }
            return;
        }
        if components.as_path().as_os_str().is_empty() {
            found.insert(directory);
        }
    }
}

#[cfg(test)]
mod tests;
