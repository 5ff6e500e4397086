//! The host's side of the network that the runs share: a bridge, rules of our own around it, and forwarding. The first run makes it,
//! the last one removes it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::programs::{Programs, output};
use super::state::Record;
use super::{Error, State};

const BRIDGE: &str = "remora0";
const COMMENT: &str = "remora run";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// What has been made, written down before it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Network {
    subnet: Ipv4Net,
    /// Nothing was forwarded before; so it shall be again.
    was_off: bool,
}

impl Network {
    /// The network of the runs that are `alive`, or a new one where there are none. The state's lock must be held.
    pub(super) fn join(
        state: &State,
        programs: &Programs,
        wanted: Option<Ipv4Net>,
        alive: &[Record],
    ) -> Result<Self, Error> {
        let file = file(state);
        let before: Option<Self> = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        match (before, wanted) {
            (Some(network), Some(wanted)) if !alive.is_empty() && wanted != network.subnet => {
                return Err(Error::OtherSubnet { used: network.subnet });
            }
            (Some(network), _) if !alive.is_empty() => return Ok(network),
            // Of runs that were killed.
            (Some(network), _) => network.remove(state, programs),
            (None, _) => {}
        }
        let subnet = wanted.unwrap_or(super::SUBNET);
        check_free(programs, subnet)?;
        let forwarding = std::fs::read_to_string(FORWARDING).map_err(Error::file(FORWARDING))?;
        let network = Self { subnet, was_off: forwarding.trim() == "0" };
        let text = serde_json::to_vec(&network).unwrap_or_default();
        std::fs::write(&file, text).map_err(Error::file(&file))?;
        // A bridge of that name may be somebody's: then nothing is ours to remove.
        network.add_bridge(programs).inspect_err(|_| drop(std::fs::remove_file(&file)))?;
        network.raise(programs).inspect_err(|_| network.remove(state, programs))?;
        Ok(network)
    }

    fn add_bridge(&self, programs: &Programs) -> Result<(), Error> {
        // Without a forward delay a new port carries traffic at once; without an address of its own it would have that of one of its ports.
        let hardware = hardware(self.gateway());
        let bridge = format!("link add {BRIDGE} address {hardware} type bridge forward_delay 0 mcast_snooping 0\n");
        programs.ip_batch(None, &bridge)
    }

    fn raise(&self, programs: &Programs) -> Result<(), Error> {
        let (gateway, length) = (self.gateway(), self.subnet.prefix_len());
        let address = format!("addr add {gateway}/{length} dev {BRIDGE}\nlink set {BRIDGE} up\n");
        programs.ip_batch(None, &address)?;
        // Each goes before the last, and all before what else is there: a firewall's own refusals come after.
        for rule in self.rules().iter().rev() {
            output(&mut rule.command(programs, "-I"))?;
        }
        if self.was_off {
            std::fs::write(FORWARDING, "1").map_err(Error::file(FORWARDING))?;
        }
        Ok(())
    }

    /// Removes all of it, whatever part of it is there. The state's lock must be held.
    pub(super) fn remove(&self, state: &State, programs: &Programs) {
        if self.was_off {
            let _ = std::fs::write(FORWARDING, "0");
        }
        for rule in self.rules() {
            quietly(&mut rule.command(programs, "-D"));
        }
        quietly(Command::new(&programs.ip).args(["link", "del", BRIDGE]));
        let _ = std::fs::remove_file(file(state));
    }

    /// The lowest address that nobody has.
    pub(super) fn free_address(&self, alive: &[Record]) -> Result<Ipv4Addr, Error> {
        let gateway = self.gateway();
        let mut hosts = self.subnet.hosts();
        let free = |ip: &Ipv4Addr| *ip != gateway && !alive.iter().any(|record| record.address == *ip);
        hosts.find(free).ok_or(Error::Full(self.subnet))
    }

    /// Gives the network namespace at `netns` its cable, its address and its way out.
    pub(super) fn plug(&self, programs: &Programs, address: Ipv4Addr, netns: &Path) -> Result<(), Error> {
        let (host, hardware, netns_path) = (self.interface(address), hardware(address), netns.display());
        // A killed run's; the kernel takes its time with a namespace.
        self.unplug(programs, address);
        programs.ip_batch(
            None,
            &format!(
                "link add {host} type veth peer name eth0 address {hardware} netns {netns_path}\n\
                 link set {host} master {BRIDGE} up\n"
            ),
        )?;
        let (gateway, prefix) = (self.gateway(), self.subnet.prefix_len());
        programs.ip_batch(
            Some(netns),
            &format!(
                "link set lo up\nlink set eth0 up\naddr add {address}/{prefix} dev eth0\nroute add default via {gateway}\n"
            ),
        )
    }

    /// Removes an address's cable, both ends.
    pub(super) fn unplug(&self, programs: &Programs, address: Ipv4Addr) {
        quietly(Command::new(&programs.ip).args(["link", "del", &self.interface(address)]));
    }

    /// The host's end of an address's cable: at most 15 bytes, as the kernel wants.
    fn interface(&self, address: Ipv4Addr) -> String {
        format!("remora-{}", address.to_bits() - self.subnet.network().to_bits())
    }

    /// The host's address.
    fn gateway(&self) -> Ipv4Addr {
        self.subnet.hosts().next().unwrap_or(self.subnet.network())
    }

    /// The rules, in the order in which they are to stand.
    fn rules(&self) -> [Rule; 5] {
        let subnet = self.subnet.to_string();
        let rule = |table, chain, words: &[&str]| Rule {
            table,
            chain,
            words: words.iter().map(|w| (*w).to_owned()).collect(),
        };
        let answers = ["-o", BRIDGE, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"];
        [
            // From the runs, to each other too where bridged packets pass iptables.
            rule("filter", "FORWARD", &["-i", BRIDGE, "-j", "ACCEPT"]),
            rule("filter", "FORWARD", &answers),
            // Forwarding is on now, but the runs are this host's own: no other host gets to them.
            rule("filter", "FORWARD", &["-o", BRIDGE, "-j", "REJECT"]),
            // The command reaches the host as it would without a namespace.
            rule("filter", "INPUT", &["-i", BRIDGE, "-j", "ACCEPT"]),
            rule("nat", "POSTROUTING", &["-s", &subnet, "!", "-o", BRIDGE, "-j", "MASQUERADE"]),
        ]
    }
}

struct Rule {
    table: &'static str,
    chain: &'static str,
    words: Vec<String>,
}

impl Rule {
    fn command(&self, programs: &Programs, action: &str) -> Command {
        let mut command = Command::new(&programs.iptables);
        command.args(["-w", "5", "-t", self.table, action, self.chain]).args(&self.words);
        command.args(["-m", "comment", "--comment", COMMENT]);
        command
    }
}

/// A hardware address, locally administered, that is always the same for an address: whoever talked to the last run that had it
/// still knows where it is.
fn hardware(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:52:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn file(state: &State) -> PathBuf {
    state.folder().join("network.json")
}

/// Refuses a network that this host can reach already: its traffic would go astray.
fn check_free(programs: &Programs, subnet: Ipv4Net) -> Result<(), Error> {
    let routes = output(Command::new(&programs.ip).args(["-4", "route", "show", "table", "main"]))?;
    let overlaps = |route: &Ipv4Net| route.contains(&subnet) || subnet.contains(route);
    let of_line = |line: &str| {
        let word = line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        word.parse().ok().or_else(|| Some(Ipv4Net::from(word.parse::<Ipv4Addr>().ok()?)))
    };
    // The default route reaches everything, and is none of these.
    let routes = String::from_utf8_lossy(&routes.stdout).lines().filter_map(of_line).collect::<Vec<Ipv4Net>>();
    match routes.into_iter().find(overlaps) {
        Some(route) => Err(Error::SubnetInUse { subnet, route }),
        None => Ok(()),
    }
}

/// What may be gone already.
fn quietly(command: &mut Command) {
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
