//! The host's side of the network that the runs share: a bridge, rules of our own around it, and forwarding. The first run makes it,
//! the last one removes it.
//!
//! Where forwarding was off, it is switched on for each interface, and nothing is forwarded but from and to the runs: a rule of ours
//! drops the rest. The host's own switch, `net.ipv4.ip_forward`, stays off all the while. So whoever comes to need it, Docker, say,
//! finds it off, and switches it on with all the care of its own; and where that was done, the last run leaves forwarding alone.

use std::io::ErrorKind;
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
/// The host's switch. Written to, it also sets that of every interface.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// A folder for each interface, and one for those to come.
const INTERFACES: &str = "/proc/sys/net/ipv4/conf";
/// Whether iptables sees what a bridge carries; not there where no bridge can have it so.
const BRIDGED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// What has been made, written down before it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Network {
    subnet: Ipv4Net,
    /// Where the host did not forward: how it shall be again.
    before: Option<Before>,
}

/// A host that does not forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    /// Interfaces that do all the same.
    forward: Vec<String>,
    /// iptables sees what bridges carry.
    bridged: bool,
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
        let before = is_off(FORWARDING)?.then(Before::look).transpose()?;
        let network = Self { subnet, before };
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
        self.before.as_ref().map_or(Ok(()), |before| before.switch("1"))
    }

    /// Removes all of it, whatever part of it is there. The state's lock must be held.
    pub(super) fn remove(&self, state: &State, programs: &Programs) {
        if let Some(before) = self.before.as_ref().filter(|_| is_off(FORWARDING).unwrap_or_default()) {
            let _ = before.switch("0");
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
    fn rules(&self) -> Vec<Rule> {
        let subnet = self.subnet.to_string();
        let rule = |table, chain, words: &[&str]| Rule {
            table,
            chain,
            words: words.iter().map(|w| (*w).to_owned()).collect(),
        };
        let answers = ["-o", BRIDGE, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"];
        let mut rules = vec![
            // From the runs, to each other too where bridged packets pass iptables.
            rule("filter", "FORWARD", &["-i", BRIDGE, "-j", "ACCEPT"]),
            rule("filter", "FORWARD", &answers),
            // Forwarding is on now, but the runs are this host's own: no other host gets to them.
            rule("filter", "FORWARD", &["-o", BRIDGE, "-j", "REJECT"]),
            // The command reaches the host as it would without a namespace.
            rule("filter", "INPUT", &["-i", BRIDGE, "-j", "ACCEPT"]),
            rule("nat", "POSTROUTING", &["-s", &subnet, "!", "-o", BRIDGE, "-j", "MASQUERADE"]),
        ];
        if let Some(before) = &self.before {
            let others = ["!", "-i", BRIDGE, "!", "-o", BRIDGE];
            // What another bridge carries is not forwarded.
            let routed: &[&str] = if before.bridged { &["-m", "physdev", "!", "--physdev-is-bridged"] } else { &[] };
            rules.push(rule("filter", "FORWARD", &[&others, routed, &["-j", "DROP"]].concat()));
        }
        rules
    }
}

impl Before {
    fn look() -> Result<Self, Error> {
        let forwards = |name: &String| !is_off(switch(name)).unwrap_or(true);
        let forward = interfaces()?.into_iter().filter(forwards).collect();
        Ok(Self { forward, bridged: !is_off(BRIDGED).unwrap_or(true) })
    }

    /// Writes to the switches of all other interfaces that there are, and of those to come.
    fn switch(&self, value: &str) -> Result<(), Error> {
        for name in interfaces()?.into_iter().filter(|name| !self.forward.contains(name)) {
            match std::fs::write(switch(&name), value) {
                // Gone meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                written => written.map_err(Error::file(switch(&name)))?,
            }
        }
        Ok(())
    }
}

/// All interfaces, and `default`, which those to come begin with.
fn interfaces() -> Result<Vec<String>, Error> {
    let listed = std::fs::read_dir(INTERFACES).map_err(Error::file(INTERFACES))?.flatten();
    let names = listed.filter_map(|entry| entry.file_name().into_string().ok());
    // That one is the host's switch.
    Ok(names.filter(|name| name != "all").collect())
}

fn switch(interface: &str) -> PathBuf {
    [INTERFACES, interface, "forwarding"].iter().collect()
}

fn is_off(switch: impl Into<PathBuf>) -> Result<bool, Error> {
    let switch = switch.into();
    let value = std::fs::read_to_string(&switch).map_err(Error::file(&switch))?;
    Ok(value.trim() == "0")
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
