//! What the kernel says of this process, under the names every Prometheus client uses.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::exposition::{Family, Kind, Value};

/// Adds what can be read; what cannot is left out.
pub(crate) fn gather(families: &mut Vec<Family>) {
    let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    if let Some(stat) = stat {
        let cpu = (stat.user_ticks + stat.system_ticks) as f64 / ticks;
        families.push(Family::single(
            "process_cpu_seconds_total",
            "User and system CPU time spent.",
            Kind::Counter,
            Value::Measure(cpu),
        ));
        families.push(Family::single(
            "process_threads",
            "Threads of this process.",
            Kind::Gauge,
            Value::Count(stat.threads),
        ));
        if let Some(boot) = boot_time() {
            let start = boot as f64 + stat.start_ticks as f64 / ticks;
            families.push(Family::single(
                "process_start_time_seconds",
                "When this process started, since the epoch.",
                Kind::Gauge,
                Value::Measure(start),
            ));
        }
    }
    if let Some(kib) = resident_kib() {
        families.push(Family::single(
            "process_resident_memory_bytes",
            "Resident memory.",
            Kind::Gauge,
            Value::Count(kib * 1024),
        ));
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The directory being read is one of them.
        let open = (open.count() as u64).saturating_sub(1);
        families.push(Family::single("process_open_fds", "Open file descriptors.", Kind::Gauge, Value::Count(open)));
    }
    if let Ok((soft, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        families.push(Family::single(
            "process_max_fds",
            "Limit of open file descriptors.",
            Kind::Gauge,
            Value::Count(soft),
        ));
    }
    if let Some(segments) = fs::read_to_string("/proc/self/net/snmp").ok().and_then(|text| retransmitted(&text)) {
        families.push(Family::single(
            "remora_tcp_retransmitted_segments_total",
            "Segments that TCP retransmitted in this network namespace, the application's included.",
            Kind::Counter,
            Value::Count(segments),
        ));
    }
}

/// RetransSegs (RFC 4022) in what the kernel says of a network namespace: a line of names, and one of their values.
fn retransmitted(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let (_, value) = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RetransSegs")?;
    value.parse().ok()
}

struct Stat {
    user_ticks: u64,
    system_ticks: u64,
    threads: u64,
    start_ticks: u64,
}

impl Stat {
    /// Reads proc(5)'s /proc/PID/stat. The command in parentheses may hold anything, so fields count from the last one.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The state is field 3 of the manual page.
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self { user_ticks: field(14)?, system_ticks: field(15)?, threads: field(20)?, start_ticks: field(22)? })
    }
}

fn resident_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// When the machine booted, in seconds since the epoch.
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    // A clock that was set wrongly at boot must not put the start into the future.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(std::cmp::min(boot, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_moves_no_field() {
        let text = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.user_ticks, stat.system_ticks, stat.threads, stat.start_ticks), (11, 12, 17, 19));
    }

    #[test]
    fn segments_that_were_sent_again_are_found_by_their_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: MaxConn InSegs OutSegs RetransSegs InErrs\nTcp: -1 10 20 30 40\n";
        assert_eq!(retransmitted(text), Some(30));
        assert_eq!(["", "Tcp: RetransSegs\n", "Tcp: InSegs\nTcp: 1\n"].map(retransmitted), [None; 3]);
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let mut families = Vec::new();
        gather(&mut families);
        assert_eq!(families.len(), 7);
    }
}
