//! The command line: flags to [`CaptureSpec`], results to lines for people.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program's own output

mod values;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, ValueEnum};
use remora_model::capture::{
    CaptureSpec, Destinations, INBOUND_PORT, InboundCapture, Interception, OUTBOUND_PORT, OutboundCapture, PROXY_ID,
    TPROXY_LEG_MARK, TPROXY_MARK, TPROXY_TABLE,
};

use crate::backend::{Backend, default_search};
use crate::plan::{Family, plan};
use crate::{Error, Ipv6, Options, apply, cleanup, compat, verify};
pub(crate) use values::{cidrs, interfaces, list, numbers, ports, some_ports};

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Redirect this network namespace; changes nothing where it is redirected already
    #[default]
    Apply,
    /// Prove by connecting that redirection works, and name what is missing
    Verify,
    /// Remove every rule that apply made, and nothing else
    Cleanup,
}

/// Everything a command line says.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What to do.
    pub action: Action,
    /// What to capture.
    pub spec: CaptureSpec,
    /// How to reach iptables.
    pub options: Options,
    /// Print the rules and change nothing.
    pub dry_run: bool,
    /// The network namespace to enter first.
    pub netns: Option<PathBuf>,
    /// `nf_conntrack_tcp_timeout_close_wait` to set, in seconds.
    pub close_wait: Option<u32>,
}

/// The flags that all front ends share.
#[derive(Args, Clone, Debug)]
pub(crate) struct Reach {
    /// What to do
    #[arg(value_enum, default_value_t)]
    pub(crate) action: Action,
    /// The variant of iptables: nft, legacy or auto (the one that accepts a transaction and holds rules already)
    #[arg(long, env = "REMORA_INIT_BACKEND", default_value = "auto", value_name = "BACKEND")]
    backend: String,
    /// How long to wait for the xtables lock or another initialiser, in seconds
    #[arg(long = "wait", env = "REMORA_INIT_WAIT", default_value_t = 5, value_name = "SECONDS")]
    wait: u32,
    /// The only folders in which iptables is looked for, separated by colons [default: PATH, then /usr/sbin:/sbin:/usr/local/sbin]
    #[arg(long, env = "REMORA_INIT_IPTABLES_PATH", value_name = "FOLDERS")]
    iptables_path: Option<OsString>,
    /// Accept another tool's flags, with their meaning: istio (istio-iptables) or linkerd (proxy-init)
    #[arg(long, env = "REMORA_INIT_COMPAT", value_name = "TOOL")]
    compat: Option<String>,
}

impl Reach {
    pub(crate) fn options(&self, ipv6: Ipv6) -> Result<Options, Error> {
        let backend = match self.backend.as_str() {
            "auto" => None,
            name => Some(name.parse::<Backend>().map_err(|why| Error::Arguments(format!("--backend {name}: {why}")))?),
        };
        let search = match &self.iptables_path {
            Some(folders) => std::env::split_paths(folders).collect(),
            None => default_search(),
        };
        Ok(Options { backend, search, wait: self.wait, ipv6 })
    }
}

/// Redirects a pod's traffic to the sidecar proxy
///
/// Every flag can be given by the environment variable named with it. Lists are separated by commas, ports may be ranges
/// (8000-8099), an empty list is none. What is excluded wins over what is included.
#[derive(Debug, Parser)]
#[command(name = "remora-init", version)]
struct Native {
    #[command(flatten)]
    reach: Reach,
    /// How inbound connections reach the proxy: redirect, or tproxy (keeps addresses; the proxy then needs NET_ADMIN)
    #[arg(long, env = "REMORA_INIT_INBOUND_MODE", default_value = "redirect", value_name = "MODE")]
    inbound_mode: String,
    /// The proxy's inbound port
    #[arg(long, env = "REMORA_INIT_INBOUND_PORT", default_value_t = INBOUND_PORT, value_name = "PORT")]
    inbound_port: u16,
    /// The proxy's outbound port
    #[arg(long, env = "REMORA_INIT_OUTBOUND_PORT", default_value_t = OUTBOUND_PORT, value_name = "PORT")]
    outbound_port: u16,
    /// Inbound ports to capture; * is all
    #[arg(long, env = "REMORA_INIT_INCLUDE_INBOUND_PORTS", default_value = "*", value_name = "PORTS")]
    include_inbound_ports: String,
    /// Inbound ports not to capture
    #[arg(
        long,
        env = "REMORA_INIT_EXCLUDE_INBOUND_PORTS",
        default_value = "",
        value_name = "PORTS",
        hide_default_value = true
    )]
    exclude_inbound_ports: String,
    /// Networks whose clients are not captured
    #[arg(
        long,
        env = "REMORA_INIT_EXCLUDE_INBOUND_CIDRS",
        default_value = "",
        value_name = "CIDRS",
        hide_default_value = true
    )]
    exclude_inbound_cidrs: String,
    /// Outbound ports to capture, wherever they are [default: all, unless --include-outbound-cidrs is given]
    #[arg(long, env = "REMORA_INIT_INCLUDE_OUTBOUND_PORTS", value_name = "PORTS")]
    include_outbound_ports: Option<String>,
    /// Outbound ports not to capture
    #[arg(
        long,
        env = "REMORA_INIT_EXCLUDE_OUTBOUND_PORTS",
        default_value = "",
        value_name = "PORTS",
        hide_default_value = true
    )]
    exclude_outbound_ports: String,
    /// Destination networks to capture; * is all [default: all, unless --include-outbound-ports is given]
    #[arg(long, env = "REMORA_INIT_INCLUDE_OUTBOUND_CIDRS", value_name = "CIDRS")]
    include_outbound_cidrs: Option<String>,
    /// Destination networks not to capture
    #[arg(
        long,
        env = "REMORA_INIT_EXCLUDE_OUTBOUND_CIDRS",
        default_value = "",
        value_name = "CIDRS",
        hide_default_value = true
    )]
    exclude_outbound_cidrs: String,
    /// The proxy's uids, never captured
    #[arg(long, env = "REMORA_INIT_PROXY_UID", default_value_t = PROXY_ID.to_string(), value_name = "UIDS")]
    proxy_uid: String,
    /// The proxy's gids, never captured
    #[arg(long, env = "REMORA_INIT_PROXY_GID", default_value_t = PROXY_ID.to_string(), value_name = "GIDS")]
    proxy_gid: String,
    /// Other uids whose outbound connections are not captured
    #[arg(long, env = "REMORA_INIT_EXCLUDE_UIDS", default_value = "", value_name = "UIDS", hide_default_value = true)]
    exclude_uids: String,
    /// Other gids whose outbound connections are not captured
    #[arg(long, env = "REMORA_INIT_EXCLUDE_GIDS", default_value = "", value_name = "GIDS", hide_default_value = true)]
    exclude_gids: String,
    /// Interfaces left alone in both directions
    #[arg(
        long,
        env = "REMORA_INIT_EXCLUDE_INTERFACES",
        default_value = "",
        value_name = "NAMES",
        hide_default_value = true
    )]
    exclude_interfaces: String,
    /// Interfaces of virtual machines in the pod, whose traffic is outbound
    #[arg(
        long,
        env = "REMORA_INIT_VIRTUAL_INTERFACES",
        default_value = "",
        value_name = "NAMES",
        hide_default_value = true
    )]
    virtual_interfaces: String,
    /// The packet mark of TPROXY; the next higher one is used too
    #[arg(long, env = "REMORA_INIT_TPROXY_MARK", default_value_t = TPROXY_MARK, value_name = "MARK")]
    tproxy_mark: u32,
    /// The routing table of TPROXY
    #[arg(long, env = "REMORA_INIT_TPROXY_TABLE", default_value_t = TPROXY_TABLE, value_name = "TABLE")]
    tproxy_table: u32,
    /// IPv6: auto (redirect it; fail only if it could pass the proxy by), on (redirect or fail), off (leave it alone)
    #[arg(long, env = "REMORA_INIT_IPV6", default_value = "auto", value_name = "WHEN")]
    ipv6: String,
    /// The network namespace to work in, as a path (/run/netns/NAME) [default: the current one]
    #[arg(long, env = "REMORA_INIT_NETNS", value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Print the rules for iptables-restore and change nothing
    #[arg(long, env = "REMORA_INIT_DRY_RUN", action = ArgAction::SetTrue)]
    dry_run: bool,
}

impl Native {
    fn invocation(self) -> Result<Invocation, Error> {
        let mode = interception(&self.inbound_mode, self.tproxy_mark, self.tproxy_table, "--inbound-mode")?;
        let ipv6 = match self.ipv6.as_str() {
            "auto" => Ipv6::Auto,
            "on" => Ipv6::On,
            "off" => Ipv6::Off,
            other => return Err(Error::Arguments(format!("--ipv6 {other}: expected auto, on or off"))),
        };
        let spec = CaptureSpec {
            inbound: InboundCapture {
                mode,
                proxy_port: self.inbound_port,
                include_ports: ports("--include-inbound-ports", &self.include_inbound_ports)?,
                exclude_ports: some_ports("--exclude-inbound-ports", &self.exclude_inbound_ports)?,
                exclude_sources: cidrs("--exclude-inbound-cidrs", &self.exclude_inbound_cidrs)?,
            },
            outbound: OutboundCapture {
                proxy_port: self.outbound_port,
                include: destinations(self.include_outbound_cidrs.as_deref(), self.include_outbound_ports.as_deref())?,
                exclude_ports: some_ports("--exclude-outbound-ports", &self.exclude_outbound_ports)?,
                exclude_cidrs: cidrs("--exclude-outbound-cidrs", &self.exclude_outbound_cidrs)?,
                exclude_uids: numbers("--exclude-uids", &self.exclude_uids)?,
                exclude_gids: numbers("--exclude-gids", &self.exclude_gids)?,
            },
            proxy_uids: numbers("--proxy-uid", &self.proxy_uid)?,
            proxy_gids: numbers("--proxy-gid", &self.proxy_gid)?,
            exclude_interfaces: interfaces("--exclude-interfaces", &self.exclude_interfaces)?,
            virtual_interfaces: interfaces("--virtual-interfaces", &self.virtual_interfaces)?,
        };
        let options = self.reach.options(ipv6)?;
        let action = self.reach.action;
        Ok(Invocation { action, spec, options, dry_run: self.dry_run, netns: self.netns, close_wait: None })
    }
}

/// Neither given: everything. One given: that. Both: either is enough.
fn destinations(networks: Option<&str>, outbound_ports: Option<&str>) -> Result<Destinations, Error> {
    let ports = some_ports("--include-outbound-ports", outbound_ports.unwrap_or_default())?;
    match (networks, outbound_ports) {
        (Some("*"), _) | (None, None) => Ok(Destinations::All),
        (None, Some("*")) => Ok(Destinations::All),
        (networks, _) => {
            let cidrs = cidrs("--include-outbound-cidrs", networks.unwrap_or_default())?;
            Ok(Destinations::Only { cidrs, ports })
        }
    }
}

/// The interception mode by name.
pub(crate) fn interception(mode: &str, mark: u32, table: u32, flag: &str) -> Result<Interception, Error> {
    match mode.to_ascii_lowercase().as_str() {
        "" | "redirect" => Ok(Interception::Redirect),
        "tproxy" if mark == 0 || mark == u32::MAX => {
            Err(Error::Arguments(format!("TPROXY mark {mark}: expected 1 to 4294967294")))
        }
        "tproxy" if [mark, mark + 1].contains(&TPROXY_LEG_MARK) => {
            Err(Error::Arguments(format!("TPROXY mark {mark}: the proxy itself uses {TPROXY_LEG_MARK}")))
        }
        "tproxy" if table == 0 => Err(Error::Arguments("TPROXY routing table 0 is not a table".to_owned())),
        "tproxy" => Ok(Interception::Tproxy { mark, table }),
        _ => Err(Error::Arguments(format!("{flag} {mode}: expected redirect or tproxy"))),
    }
}

/// Reads a command line, in Remora's words or, with `--compat`, another tool's.
///
/// # Errors
/// Whatever clap has to say (help and version too), or [`Error::Arguments`].
pub fn parse(arguments: &[OsString]) -> Result<Result<Invocation, Error>, clap::Error> {
    let invocation = match compat_mode(arguments).as_deref() {
        None => Native::try_parse_from(arguments)?.invocation(),
        Some("istio") => compat::istio(arguments)?,
        Some("linkerd") => compat::linkerd(arguments)?,
        Some(other) => Err(Error::Arguments(format!("--compat {other}: expected istio or linkerd"))),
    };
    Ok(invocation.and_then(checked))
}

fn checked(invocation: Invocation) -> Result<Invocation, Error> {
    let (inbound, outbound) = (invocation.spec.inbound.proxy_port, invocation.spec.outbound.proxy_port);
    if inbound == 0 || outbound == 0 {
        return Err(Error::Arguments("0 is not a port".to_owned()));
    }
    if inbound == outbound {
        return Err(Error::Arguments(format!("the proxy cannot use port {inbound} for both directions")));
    }
    Ok(invocation)
}

/// Whose flags these are has to be known before they can be read.
fn compat_mode(arguments: &[OsString]) -> Option<String> {
    let words = || arguments.iter().map(|word| word.to_string_lossy());
    let joined = words().find_map(|word| word.strip_prefix("--compat=").map(str::to_owned));
    let apart = || words().skip_while(|word| word != "--compat").nth(1).map(std::borrow::Cow::into_owned);
    let variable = || std::env::var("REMORA_INIT_COMPAT").ok().filter(|name| !name.is_empty());
    joined.or_else(apart).or_else(variable)
}

/// Does what the command line says and prints what happened.
///
/// # Errors
/// See [`Error`].
pub fn run(invocation: &Invocation) -> Result<(), Error> {
    if let Some(path) = &invocation.netns {
        enter(path)?;
    }
    if invocation.dry_run {
        dry_run(invocation);
        return Ok(());
    }
    match invocation.action {
        Action::Apply => {
            if let Some(seconds) = invocation.close_wait {
                set_close_wait(seconds)?;
            }
            let report = apply::apply(&invocation.spec, &invocation.options)?;
            for (family, outcome) in &report.families {
                println!("{family}: {outcome} ({})", report.backend);
            }
            if report.moved {
                println!("rules of the other backend removed");
            }
        }
        Action::Verify => {
            let report = verify::verify(&invocation.spec, &invocation.options)?;
            report.findings().iter().for_each(|line| println!("{line}"));
            report.into_result()?;
        }
        Action::Cleanup => {
            let removed = cleanup::cleanup(&invocation.options)?;
            if removed.is_empty() {
                println!("nothing to remove");
            }
            removed.iter().for_each(|what| println!("removed: {what}"));
        }
    }
    Ok(())
}

fn dry_run(invocation: &Invocation) {
    if invocation.action == Action::Cleanup {
        println!("# cleanup removes every chain that begins with REMORA_ and every rule that leads to one");
        return;
    }
    for (family, program) in [(Family::V4, "iptables-restore"), (Family::V6, "ip6tables-restore")] {
        if family == Family::V4 || invocation.options.ipv6 != Ipv6::Off {
            print!("# {family}: {program} --noflush\n{}", plan(&invocation.spec, family));
        }
    }
}

fn enter(path: &std::path::Path) -> Result<(), Error> {
    let action = || format!("enter the network namespace {}", path.display());
    let file = File::open(path).map_err(|source| Error::io(action(), source))?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        nix::errno::Errno::EPERM => Error::Capability("SYS_ADMIN"),
        errno => Error::io(action(), errno.into()),
    })
}

fn set_close_wait(seconds: u32) -> Result<(), Error> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
    std::fs::write(path, seconds.to_string()).map_err(|source| Error::io(format!("write {path}"), source))
}

/// Parses, runs and reports; the process's exit code.
#[must_use]
pub fn main(arguments: &[OsString]) -> u8 {
    let outcome = match parse(arguments) {
        Ok(invocation) => invocation.and_then(|invocation| run(&invocation)),
        Err(told) => {
            let _ = told.print();
            return u8::try_from(told.exit_code()).unwrap_or(2);
        }
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            let name = arguments.first().map(OsString::as_os_str).unwrap_or(OsStr::new("remora-init"));
            let name = std::path::Path::new(name).file_name().unwrap_or(name);
            eprintln!("{}: {error}", name.display());
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests;
