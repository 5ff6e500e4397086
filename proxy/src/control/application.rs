//! Whether the application is still there, where all processes of the pod can be seen (shareProcessNamespace): a classic sidecar must end
//! when a Job's containers have, or the Job never completes.
//!
//! Looks at /proc once a second, and all the time until it has begun: what is done in a moment must be seen, too; after a minute less often.
//! (Its first process is there longer than it runs: the container's runtime makes it, and then starts it.) Of the application is every
//! process but our own user's (redirection reserves it for the proxy, and its hooks run as it too), the first of the namespace (the
//! sandbox's, which only waits), and those that have ended.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks while it has not begun.
const LOOK_OUT: Duration = Duration::from_millis(10);
/// How long it is looked out for so closely.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks when it is late: an image is pulled, or an init container works.
const LATE: Duration = Duration::from_millis(100);
/// How long nobody must have been there: a pod's containers do not begin at once, and one may follow another.
const GONE_FOR: Duration = Duration::from_secs(3);
/// The process that holds the namespace.
const FIRST: u32 = 1;

/// The processes around this one.
#[derive(Clone, Debug)]
pub(super) struct Application {
    proc: PathBuf,
    uid: u32,
}

impl Application {
    /// The pod's, as this process sees it.
    pub(super) fn of_the_pod() -> Self {
        if std::process::id() == FIRST {
            tracing::warn!(
                "REMORA_EXIT_WITH_APPLICATION needs a shared process namespace; here the proxy is alone, and will not end by itself"
            );
        }
        Self { proc: "/proc".into(), uid: nix::unistd::Uid::effective().as_raw() }
    }

    /// Completes when the application has been there and is gone.
    pub(super) async fn gone(&self) {
        let begun = Instant::now();
        let (mut seen, mut last) = (false, begun);
        loop {
            match self.is_there() {
                Ok(true) => {
                    if !seen {
                        tracing::info!("the application is there; the proxy ends with it");
                    }
                    (seen, last) = (true, Instant::now());
                }
                Ok(false) if seen && last.elapsed() >= GONE_FOR => return,
                Ok(false) => {}
                // Not knowing is no reason to end.
                Err(error) => {
                    tracing::warn!(%error, "cannot look for the application");
                    last = Instant::now();
                }
            }
            sleep(until_next_look(seen, begun.elapsed())).await;
        }
    }

    fn is_there(&self) -> io::Result<bool> {
        for entry in std::fs::read_dir(&self.proc)? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid != FIRST && pid != std::process::id() && self.is_of_the_application(&entry.path()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What has ended meanwhile is not.
    fn is_of_the_application(&self, process: &Path) -> bool {
        let Ok(owner) = process.metadata() else { return false };
        owner.uid() != self.uid && std::fs::read(process.join("stat")).is_ok_and(|stat| runs(&stat))
    }
}

/// How long not to look, `waited` after the first look.
fn until_next_look(seen: bool, waited: Duration) -> Duration {
    match seen {
        true => LOOK,
        false if waited < SOON => LOOK_OUT,
        false => LATE,
    }
}

/// Whether a process has not ended: `PID (NAME) STATE …`, in which the name may hold anything.
fn runs(stat: &[u8]) -> bool {
    let after = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    after.is_some_and(|state| !matches!(state, b'Z' | b'X' | b'x'))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A view of /proc.
    struct Proc(PathBuf);

    impl Proc {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("remora-application-test-{}-{count}", std::process::id()));
            std::fs::create_dir(&folder).unwrap();
            std::fs::create_dir(folder.join("sys")).unwrap();
            Self(folder)
        }

        fn put(&self, pid: u32, stat: &str) {
            let folder = self.0.join(pid.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("stat"), stat).unwrap();
        }

        fn remove(&self, pid: u32) {
            std::fs::remove_dir_all(self.0.join(pid.to_string())).unwrap();
        }

        /// As the proxy of another user sees it.
        fn application(&self) -> Application {
            let own = std::fs::metadata(&self.0).unwrap().uid();
            Application { proc: self.0.clone(), uid: own + 1 }
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_sandbox_the_dead_and_our_own_are_not_the_application() {
        let proc = Proc::new();
        let application = proc.application();
        assert!(!application.is_there().unwrap());
        proc.put(1, "1 (pause) S 0 1");
        proc.put(7, "7 (batch) Z 1 7");
        proc.put(8, "8 (odd) S) X 1 8");
        std::fs::create_dir(proc.0.join("9")).unwrap();
        assert!(!application.is_there().unwrap());
        proc.put(10, "10 (a) Z ) name) S 1 10");
        assert!(application.is_there().unwrap());
        let ours = Application { uid: application.uid - 1, ..application };
        assert!(!ours.is_there().unwrap(), "our own user's");
    }

    #[test]
    fn who_is_late_is_looked_out_for_less_closely() {
        let looks = [(false, Duration::ZERO), (false, SOON), (true, Duration::ZERO), (true, SOON)];
        assert_eq!(looks.map(|(seen, waited)| until_next_look(seen, waited)), [LOOK_OUT, LATE, LOOK, LOOK]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_gone_only_after_it_was_there_and_for_a_while() {
        let proc = Proc::new();
        let application = proc.application();
        proc.put(1, "1 (pause) S 0 1");
        let still = |seconds| tokio::time::timeout(Duration::from_secs(seconds), application.gone());
        still(600).await.expect_err("it has not begun");
        let gone = application.gone();
        tokio::pin!(gone);
        proc.put(5, "5 (first) S 1 5");
        tokio::time::timeout(Duration::from_secs(60), &mut gone).await.expect_err("it runs");
        proc.remove(5);
        tokio::time::timeout(GONE_FOR - LOOK, &mut gone).await.expect_err("another may follow");
        proc.put(6, "6 (second) R 1 6");
        tokio::time::timeout(Duration::from_secs(60), &mut gone).await.expect_err("it did");
        proc.remove(6);
        tokio::time::timeout(GONE_FOR + LOOK * 2, &mut gone).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_seen_is_not_taken_for_gone() {
        let proc = Proc::new();
        let application = proc.application();
        proc.put(5, "5 (first) S 1 5");
        let gone = application.gone();
        tokio::pin!(gone);
        tokio::time::timeout(LOOK, &mut gone).await.expect_err("it runs");
        std::fs::remove_dir_all(&proc.0).unwrap();
        tokio::time::timeout(Duration::from_secs(60), &mut gone).await.expect_err("/proc is away");
    }
}
