//! How near the process is to the memory it may have. Whoever reaches that is killed by the kernel, with every connection: so
//! before it comes to that, few are taken in, then few requests too.
//!
//! The control thread asks the kernel ten times a second and tells the workers; no request does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::telemetry::Registry;

/// The limit in bytes, for where the control group's files cannot be seen.
const VARIABLE: &str = "REMORA_MEMORY_LIMIT";
/// How often the kernel is asked.
const EVERY: Duration = Duration::from_millis(100);
/// The share of what is used that must be the proxy's own, its sockets aside, for it to do anything: an application in the same
/// control group that fills it is nothing that shedding helps against.
const OWN_SHARE: u64 = 4;
/// Version 1 calls no limit a number that no machine has.
const NO_LIMIT: u64 = 1 << 60;

/// How near the limit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// Far.
    #[default]
    None,
    /// From 80 %: few new connections, and none that wait for work.
    Connections,
    /// From 95 %: few new requests either.
    Requests,
}

/// What the kernel says of the process and its limit.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    used: Used,
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
            return Some(Self { limit, used: Used::Process });
        }
        group(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
    }

    /// Bytes in use that the kernel cannot take back; `None` where it does not say.
    fn used(&self) -> Option<u64> {
        match &self.used {
            Used::Group(folder, file) => {
                let all = number(&folder.join(file))?;
                let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
                let of = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
                // Version 1 counts those below in fields of their own.
                let files = |kind: &str| of(&format!("total_{kind}_file ")).or_else(|| of(&format!("{kind}_file ")));
                let cached = files("inactive").unwrap_or(0) + files("active").unwrap_or(0);
                Some(all.saturating_sub(cached))
            }
            Used::Process => resident(),
        }
    }

    /// What to do about so much, of which so much is the process's own.
    fn judge(&self, used: u64, own: u64) -> Pressure {
        match used.saturating_mul(100) / self.limit {
            _ if own < used / OWN_SHARE => Pressure::None,
            ..80 => Pressure::None,
            80..95 => Pressure::Connections,
            95.. => Pressure::Requests,
        }
    }
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
        Some(Memory { limit, used: Used::Group(folder, used) })
    })
}

/// A file that holds nothing but a number.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Tells the workers of each change, for ever.
pub(crate) async fn watch(memory: Option<Memory>, registry: Arc<Registry>, told: watch::Sender<Pressure>) {
    let Some(memory) = memory else { return std::future::pending().await };
    tracing::info!(limit = memory.limit, "memory is limited");
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (Some(used), Some(own)) = (memory.used(), resident()) else { continue };
        let (before, now) = (*told.borrow(), memory.judge(used, own));
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

    #[test]
    fn connections_are_shed_before_requests_and_both_before_the_limit() {
        let memory = Memory { limit: 1000, used: Used::Process };
        let judge = |used| memory.judge(used, used / 2);
        assert_eq!(judge(799), Pressure::None);
        assert_eq!((judge(800), judge(949)), (Pressure::Connections, Pressure::Connections));
        assert_eq!((judge(950), judge(2000)), (Pressure::Requests, Pressure::Requests));
        assert_eq!(memory.judge(990, 240), Pressure::None, "others hold it");
    }

    #[test]
    fn the_process_uses_memory() {
        assert!(Memory { limit: 1, used: Used::Process }.used().unwrap() > 1 << 20);
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
        let memory = group("0::/pod\n", &root).unwrap();
        assert_eq!((memory.limit, memory.used()), (1000, Some(700)), "what is merely cached is not in the way");
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
        let memory = group(groups, &root).unwrap();
        assert_eq!((memory.limit, memory.used()), (70, Some(7)), "in a container it is the root of what is seen");
        fs::remove_dir_all(root).unwrap();
    }
}
