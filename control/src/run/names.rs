//! What names mean inside a run: the other runs' by /etc/hosts, all others as on the host.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::state::Record;
use super::{Error, readable};

/// The run's /etc/hosts: the runs first, since the first line that has a name decides, then the host's own.
pub(super) fn hosts(runs: &[Record], host: &str) -> String {
    let lines = runs.iter().map(|run| format!("{} {}\n", run.address, run.name));
    lines.chain([host.to_owned()]).collect()
}

/// The name servers of a resolv.conf that are on the host's loopback, which a run has to be led to.
pub(super) fn loopback_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let words = resolv_conf.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let servers: Vec<&str> =
        words.filter_map(|words| (words.first()? == &"nameserver").then(|| words.get(1).copied())?).collect();
    if servers.is_empty() {
        return vec![Ipv4Addr::LOCALHOST.into()]; // resolv.conf(5): the one on the local machine
    }
    servers.into_iter().filter_map(|server| server.parse().ok()).filter(IpAddr::is_loopback).collect()
}

/// Gives a file new content in place: it is mounted over others, which a rename would leave with the old. One write, then what is left of
/// a longer text goes, so that a reader in between meets no half line of the new.
pub(super) fn rewrite(path: &Path, text: &str) -> Result<(), Error> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.write_all(text.as_bytes())?;
        readable(&file)?;
        file.set_len(text.len() as u64)
    };
    write().map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_servers_are_led_to() {
        let loopback = |text| loopback_servers(text).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(loopback("# nameserver 127.0.0.9\nnameserver 127.0.0.53\noptions edns0\n"), ["127.0.0.53"]);
        assert_eq!(loopback("nameserver 10.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\n"), ["::1"]);
        assert_eq!(loopback("search example.org\n"), ["127.0.0.1"]);
        assert_eq!(loopback("nameserver 192.0.2.1\n"), [""; 0]);
    }

    #[test]
    fn a_run_wins_over_the_hosts_own_name() {
        let run = Record {
            name: "web".to_owned(),
            address: Ipv4Addr::new(10, 0, 0, 2),
            ports: [8080].into(),
            id: String::new(),
            pid: 1,
        };
        assert_eq!(hosts(&[run], "127.0.0.1 localhost web\n"), "10.0.0.2 web\n127.0.0.1 localhost web\n");
    }
}
