//! Linkerd's `proxy-init`: its flags and their meaning.
//!
//! `--subnets-to-ignore` names clients, not destinations; loopback is never captured, except that the proxy's calls to its own
//! pod are inbound traffic, which Remora's proxy relies on.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use remora_model::capture::{CaptureSpec, Destinations, InboundCapture, Interception, OutboundCapture, Ports};

use crate::backend::Backend;
use crate::cli::{Invocation, Reach, cidrs, list, some_ports};
use crate::{Error, Ipv6, Options};

/// Redirects a pod's traffic to the sidecar proxy, with the flags of Linkerd's proxy-init
#[derive(Debug, Parser)]
#[command(name = "remora-init", version)]
struct Linkerd {
    #[command(flatten)]
    reach: Reach,
    /// The proxy's inbound port
    #[arg(short = 'p', long)]
    incoming_proxy_port: u16,
    /// The proxy's outbound port
    #[arg(short = 'o', long)]
    outgoing_proxy_port: u16,
    /// The proxy's uid; without it no uid is exempt
    #[arg(short = 'u', long, default_value_t = -1, allow_negative_numbers = true)]
    proxy_uid: i64,
    /// The proxy's gid; without it no gid is exempt
    #[arg(short = 'g', long, default_value_t = -1, allow_negative_numbers = true)]
    proxy_gid: i64,
    /// Inbound ports to capture; without it all
    #[arg(short = 'r', long)]
    ports_to_redirect: Vec<String>,
    /// Inbound ports and ranges not to capture
    #[arg(long)]
    inbound_ports_to_ignore: Vec<String>,
    /// Outbound ports and ranges not to capture
    #[arg(long)]
    outbound_ports_to_ignore: Vec<String>,
    /// Networks whose clients are not captured
    #[arg(long)]
    subnets_to_ignore: Vec<String>,
    /// The network namespace to work in
    #[arg(long, default_value = "")]
    netns: String,
    /// Sets nf_conntrack_tcp_timeout_close_wait
    #[arg(long, default_value_t = 0)]
    timeout_close_wait_secs: u32,
    /// legacy, nft or plain
    #[arg(long, default_value = "")]
    iptables_mode: String,
    /// The path or name of iptables, of which only nft or legacy matters
    #[arg(long, default_value = "")]
    firewall_bin_path: String,
    /// Accepted: found beside iptables
    #[arg(long, default_value = "")]
    firewall_save_bin_path: String,
    /// Accepted
    #[arg(long, default_value = "plain")]
    log_format: String,
    /// Accepted
    #[arg(long, default_value = "info")]
    log_level: String,
    /// Print the rules and change nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    simulate: bool,
    /// Wait for the xtables lock
    #[arg(short = 'w', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    use_wait_flag: bool,
    /// Redirect IPv6 too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    ipv6: bool,
}

/// Reads proxy-init's flags.
pub(crate) fn linkerd(arguments: &[OsString]) -> Result<Result<Invocation, Error>, clap::Error> {
    Ok(Linkerd::try_parse_from(arguments)?.invocation())
}

impl Linkerd {
    fn invocation(self) -> Result<Invocation, Error> {
        let include_ports = match &self.ports_to_redirect[..] {
            [] => Ports::All,
            given => Ports::Only(list("--ports-to-redirect", &given.join(","))?),
        };
        let spec = CaptureSpec {
            inbound: InboundCapture {
                mode: Interception::Redirect,
                proxy_port: self.incoming_proxy_port,
                include_ports,
                exclude_ports: some_ports("--inbound-ports-to-ignore", &self.inbound_ports_to_ignore.join(","))?,
                exclude_sources: cidrs("--subnets-to-ignore", &self.subnets_to_ignore.join(","))?,
            },
            outbound: OutboundCapture {
                proxy_port: self.outgoing_proxy_port,
                include: Destinations::All,
                exclude_ports: some_ports("--outbound-ports-to-ignore", &self.outbound_ports_to_ignore.join(","))?,
                exclude_cidrs: Vec::new(),
                exclude_uids: Vec::new(),
                exclude_gids: Vec::new(),
            },
            proxy_uids: owner(self.proxy_uid),
            proxy_gids: owner(self.proxy_gid),
            exclude_interfaces: Vec::new(),
            virtual_interfaces: Vec::new(),
        };
        let options = self.options()?;
        Ok(Invocation {
            action: self.reach.action,
            spec,
            options,
            dry_run: self.simulate,
            netns: Some(self.netns).filter(|path| !path.is_empty()).map(PathBuf::from),
            close_wait: Some(self.timeout_close_wait_secs).filter(|seconds| *seconds > 0),
        })
    }

    fn options(&self) -> Result<Options, Error> {
        let mut options = self.reach.options(if self.ipv6 { Ipv6::Auto } else { Ipv6::Off })?;
        let told = match self.iptables_mode.as_str() {
            "nft" => Some(Backend::Nft),
            "legacy" => Some(Backend::Legacy),
            "" if self.firewall_bin_path.contains("nft") => Some(Backend::Nft),
            "" if self.firewall_bin_path.contains("legacy") => Some(Backend::Legacy),
            "" | "plain" => None,
            other => return Err(Error::Arguments(format!("--iptables-mode {other}: expected nft, legacy or plain"))),
        };
        options.backend = options.backend.or(told);
        Ok(options)
    }
}

/// Their tool exempts only ids above 0.
fn owner(id: i64) -> Vec<u32> {
    u32::try_from(id).ok().filter(|id| *id > 0).into_iter().collect()
}
