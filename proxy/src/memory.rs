//! How near the process is to the memory it may have. Whoever reaches that is killed by the kernel, with every connection: so
//! before it comes to that, few are taken in, then few requests too.
//!
//! The control thread asks the kernel and tells the workers; no request does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::telemetry::Registry;

/// The limit in bytes, for where the control group's files cannot be seen.
const VARIABLE: &str = "REMORA_MEMORY_LIMIT";
/// How long it is until the kernel is asked again, while the limit is far.
const FAR: Duration = Duration::from_millis(100);
/// And where it is near, or passed.
const NEAR: Duration = Duration::from_millis(10);
/// How long what is merely cached is believed, while the limit is far: that is the dearer question. Where it is near, for [`FAR`].
const CACHED: Duration = Duration::from_secs(1);
/// By how many percent of the limit less must be in use than made it short, for it to be so no longer.
const SLACK: u64 = 5;
/// The share of what is used that must be the proxy's own, its sockets aside, for it to do anything: an application in the same
/// control group that fills it is nothing that shedding helps against.
const OWN_SHARE: u64 = 4;
/// Version 1 calls no limit a number that no machine has.
const NO_LIMIT: u64 = 1 << 60;

/// Percent of the limit from which few connections are taken in.
const CONNECTIONS_FROM: u64 = 80;
/// Percent of the limit from which few requests are served.
const REQUESTS_FROM: u64 = 95;

/// How near the limit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// Far.
    #[default]
    None,
    /// From [`CONNECTIONS_FROM`] percent: few new connections, and none that wait for work.
    Connections,
    /// From [`REQUESTS_FROM`] percent: few new requests either.
    Requests,
}

/// What the kernel says of the process and its limit.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    used: Used,
    /// Bytes of the control group that the kernel can take back, as last seen, and when.
    cached: Option<(u64, Instant)>,
}

/// Where to learn how much is used.
#[derive(Debug)]
enum Used {
    /// The control group's folder and the file in it: what the kernel judges by, sockets included.
    Group(PathBuf, &'static str),
    /// The process alone.
    Process,
}

impl Memory {
    /// By the environment's limit, or else by the control group's; `None` where there is none.
    pub(crate) fn bounded() -> Option<Self> {
        if let Ok(text) = std::env::var(VARIABLE) {
            let Some(limit) = text.parse().ok().filter(|limit| *limit > 0) else {
                tracing::warn!("{VARIABLE}: \"{text}\" is not a number of bytes; memory is not watched");
                return None;
            };
            return Some(Self { limit, used: Used::Process, cached: None });
        }
        group(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
    }

    /// Bytes in use that the kernel cannot take back, of which `own` are the process's; `None` where it does not say.
    fn used(&mut self, own: u64) -> Option<u64> {
        let Used::Group(folder, file) = &self.used else { return Some(own) };
        let all = number(&folder.join(file))?;
        let believed = if self.is_beyond(all, CONNECTIONS_FROM - SLACK) { FAR } else { CACHED };
        let fresh = self.cached.filter(|(_, looked)| looked.elapsed() < believed);
        let (cached, _) = *self.cached.insert(fresh.unwrap_or_else(|| (cached(folder), Instant::now())));
        Some(all.saturating_sub(cached))
    }

    /// How long it is until so much could become too much, and enough of it the proxy's: clients next to it make it take a byte in a
    /// nanosecond.
    fn pause(&self, used: u64, own: u64) -> Duration {
        let enough = (self.limit / 100 * CONNECTIONS_FROM).saturating_sub(used);
        let ours = used.saturating_sub(own.saturating_mul(OWN_SHARE)) / (OWN_SHARE - 1);
        Duration::from_nanos(enough.max(ours)).clamp(NEAR, FAR)
    }

    fn is_beyond(&self, used: u64, percent: u64) -> bool {
        used.saturating_mul(100) / self.limit >= percent
    }

    /// What to do about so much, of which so much is the process's own, after what was done `before`.
    fn judge(&self, used: u64, own: u64, before: Pressure) -> Pressure {
        let reaches =
            |pressure, percent| self.is_beyond(used, if before >= pressure { percent - SLACK } else { percent });
        if own < used / OWN_SHARE {
            Pressure::None
        } else if reaches(Pressure::Requests, REQUESTS_FROM) {
            Pressure::Requests
        } else if reaches(Pressure::Connections, CONNECTIONS_FROM) {
            Pressure::Connections
        } else {
            Pressure::None
        }
    }
}

/// Bytes of files that a control group holds. Version 1 counts those of the groups below in fields of their own.
fn cached(folder: &Path) -> u64 {
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let of = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let files = |kind: &str| of(&format!("total_{kind}_file ")).or_else(|| of(&format!("{kind}_file ")));
    files("inactive").unwrap_or(0) + files("active").unwrap_or(0)
}

/// Bytes of the process that are in memory.
fn resident() -> Option<u64> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten()?;
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * u64::try_from(page).ok()?)
}

/// The limit of the process's control group, of either version. Those around it hold others' memory, which no care here gives back.
fn group(groups: &str, root: &Path) -> Option<Memory> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, limit, used) = match controllers {
            "" => (root.to_owned(), "memory.max", "memory.current"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => return None,
        };
        // In a container the group is the root of what can be seen, and its path that of the machine.
        let own = root.join(path.trim_start_matches('/'));
        let folder = if own.is_dir() { own } else { root };
        let limit = number(&folder.join(limit)).filter(|limit| (1..NO_LIMIT).contains(limit))?;
        Some(Memory { limit, used: Used::Group(folder, used), cached: None })
    })
}

/// A file that holds nothing but a number.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Tells the workers of each change, for ever.
pub(crate) async fn watch(memory: Option<Memory>, registry: Arc<Registry>, told: watch::Sender<Pressure>) {
    let Some(mut memory) = memory else { return std::future::pending().await };
    tracing::info!(limit = memory.limit, "memory is limited");
    let mut pause = NEAR;
    loop {
        sleep(std::mem::replace(&mut pause, FAR)).await;
        let Some(own) = resident() else { continue };
        let Some(used) = memory.used(own) else { continue };
        pause = memory.pause(used, own);
        let before = *told.borrow();
        let now = memory.judge(used, own, before);
        registry.memory(memory.limit, used, now > before);
        if now != before {
            tracing::warn!(limit = memory.limit, used, pressure = ?now, "memory is short, or no longer");
            told.send_replace(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(limit: u64) -> Memory {
        Memory { limit, used: Used::Process, cached: None }
    }

    #[test]
    fn connections_are_shed_before_requests_and_both_before_the_limit() {
        let judge = |used| process(1000).judge(used, used / 2, Pressure::None);
        assert_eq!(judge(799), Pressure::None);
        assert_eq!((judge(800), judge(949)), (Pressure::Connections, Pressure::Connections));
        assert_eq!((judge(950), judge(2000)), (Pressure::Requests, Pressure::Requests));
        assert_eq!(process(1000).judge(990, 240, Pressure::Requests), Pressure::None, "others hold it");
    }

    #[test]
    fn what_is_shed_stays_so_until_there_is_some_room() {
        let judge = |used, before| process(1000).judge(used, used, before);
        assert_eq!(
            (judge(750, Pressure::Connections), judge(749, Pressure::Connections)),
            (Pressure::Connections, Pressure::None)
        );
        assert_eq!(
            (judge(900, Pressure::Requests), judge(899, Pressure::Requests)),
            (Pressure::Requests, Pressure::Connections)
        );
        assert_eq!(judge(900, Pressure::Connections), Pressure::Connections);
    }

    #[test]
    fn it_is_looked_at_before_it_can_be_short() {
        let pause = |used: u64| process(100 << 20).pause(used << 20, used << 20).as_millis();
        assert_eq!((pause(0), pause(60), pause(79), pause(100)), (83, 20, 10, 10));
        assert_eq!(process(256 << 20).pause(10 << 20, 10 << 20), FAR);
        let beside = |own: u64| process(1000 << 20).pause(900 << 20, own << 20).as_millis();
        assert_eq!((beside(10), beside(200), beside(225)), (100, 34, 10), "others hold it, the proxy soon a quarter");
    }

    #[test]
    fn the_process_uses_memory() {
        assert!(resident().unwrap() > 1 << 20);
    }

    /// Files of a control group.
    fn files(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("remora-memory-{}-{name}", std::process::id()));
        for (file, text) in files {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    #[test]
    fn version_2_has_a_limit_of_its_own() {
        let root = files(
            "v2",
            &[
                ("pod/memory.max", "1000\n"),
                ("pod/memory.current", "900\n"),
                ("pod/memory.stat", "anon 5\ninactive_file 150\nactive_file 50\n"),
                ("pod/free/memory.max", "max\n"),
                ("pod/free/memory.current", "1\n"),
            ],
        );
        let mut memory = group("0::/pod\n", &root).unwrap();
        assert_eq!((memory.limit, memory.used(0)), (1000, Some(700)), "what is merely cached is not in the way");
        assert!(group("0::/pod/free\n", &root).is_none(), "another's limit");
        assert!(group("0::/other\n", &root).is_none());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn version_1_has_a_number_for_no_limit() {
        let limit = "memory/memory.limit_in_bytes";
        let root = files("v1", &[(limit, "9223372036854771712\n"), ("memory/memory.usage_in_bytes", "7\n")]);
        let groups = "5:cpu,cpuacct:/\n4:memory:/of/the/machine\n0::/\n";
        assert!(group(groups, &root).is_none());
        fs::write(root.join(limit), "70\n").unwrap();
        let mut memory = group(groups, &root).unwrap();
        assert_eq!((memory.limit, memory.used(0)), (70, Some(7)), "in a container it is the root of what is seen");
        fs::remove_dir_all(root).unwrap();
    }
}
