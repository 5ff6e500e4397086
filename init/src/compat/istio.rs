//! `istio-iptables`: its flags, its environment variables, their meaning.
//!
//! What Remora does differently whatever the flags: excluded ports apply to TCP only (nothing else is captured); the pod's call
//! to itself obeys the inbound port lists. What it has not (DNS capture, dropping invalid packets) is refused, not ignored.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use remora_model::capture::{
    CaptureSpec, Destinations, INBOUND_PORT, InboundCapture, OUTBOUND_PORT, OutboundCapture, Ports, TPROXY_MARK,
    TPROXY_TABLE,
};

use crate::cli::{Action, Invocation, Reach, cidrs, interception, interfaces, list, numbers, ports, some_ports};
use crate::{Error, Ipv6};

/// Redirects a pod's traffic to the sidecar proxy, with the flags of istio-iptables
#[derive(Debug, Parser)]
#[command(name = "remora-init", version)]
struct Istio {
    #[command(flatten)]
    reach: Reach,
    /// The proxy's outbound port
    #[arg(short = 'p', long, env = "ENVOY_PORT", default_value_t = OUTBOUND_PORT)]
    envoy_port: u16,
    /// The proxy's inbound port
    #[arg(short = 'z', long, env = "INBOUND_CAPTURE_PORT", default_value_t = INBOUND_PORT)]
    inbound_capture_port: u16,
    /// A tunnel port that is never captured inbound
    #[arg(short = 'e', long, env = "INBOUND_TUNNEL_PORT", default_value = "15008")]
    inbound_tunnel_port: String,
    /// The proxy's uids
    #[arg(short = 'u', long, env = "PROXY_UID", default_value = "1337")]
    proxy_uid: String,
    /// The proxy's gids [default: as the uids]
    #[arg(short = 'g', long, env = "PROXY_GID", default_value = "")]
    proxy_gid: String,
    /// REDIRECT or TPROXY
    #[arg(short = 'm', long, env = "ISTIO_INBOUND_INTERCEPTION_MODE", default_value = "")]
    istio_inbound_interception_mode: String,
    /// Inbound ports to capture; * is all, empty is none
    #[arg(short = 'b', long, env = "ISTIO_INBOUND_PORTS", default_value = "")]
    istio_inbound_ports: String,
    /// Inbound ports not to capture, with -b '*'
    #[arg(short = 'd', long, env = "ISTIO_LOCAL_EXCLUDE_PORTS", default_value = "")]
    istio_local_exclude_ports: String,
    /// Interfaces left alone
    #[arg(short = 'c', long, env = "ISTIO_EXCLUDE_INTERFACES", default_value = "")]
    istio_exclude_interfaces: String,
    /// Destination networks to capture; * is all, empty is none
    #[arg(short = 'i', long, env = "ISTIO_SERVICE_CIDR", default_value = "")]
    istio_service_cidr: String,
    /// Destination networks not to capture
    #[arg(short = 'x', long, env = "ISTIO_SERVICE_EXCLUDE_CIDR", default_value = "")]
    istio_service_exclude_cidr: String,
    /// Outbound ports to capture beside -i
    #[arg(short = 'q', long, env = "ISTIO_OUTBOUND_PORTS", default_value = "")]
    istio_outbound_ports: String,
    /// Outbound ports not to capture
    #[arg(short = 'o', long, env = "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", default_value = "")]
    istio_local_outbound_ports_exclude: String,
    /// Interfaces of virtual machines
    #[arg(short = 'k', long, env = "KUBE_VIRT_INTERFACES", default_value = "")]
    kube_virt_interfaces: String,
    /// The packet mark of TPROXY
    #[arg(short = 't', long, env = "ISTIO_INBOUND_TPROXY_MARK", default_value_t = TPROXY_MARK)]
    istio_inbound_tproxy_mark: u32,
    /// The routing table of TPROXY
    #[arg(short = 'r', long, env = "ISTIO_INBOUND_TPROXY_ROUTE_TABLE", default_value_t = TPROXY_TABLE)]
    istio_inbound_tproxy_route_table: u32,
    /// The network namespace to work in
    #[arg(long, env = "NETWORK_NAMESPACE", default_value = "")]
    network_namespace: String,
    /// Groups whose connections are captured; only * is known here
    #[arg(long, env = "ISTIO_OUTBOUND_OWNER_GROUPS", default_value = "*", hide = true)]
    owner_groups: String,
    /// Groups whose connections are not captured
    #[arg(long, env = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", default_value = "", hide = true)]
    owner_groups_exclude: String,
    #[command(flatten)]
    switches: Switches,
}

#[derive(clap::Args, Debug)]
struct Switches {
    /// Print the rules and change nothing
    #[arg(short = 'n', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    dry_run: bool,
    /// Only verify
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    skip_rule_apply: bool,
    /// Accepted; verifying is `remora-init verify`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    run_validation: bool,
    /// Remove the rules
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    cleanup_only: bool,
    /// Not known here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    redirect_dns: bool,
    /// Not known here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    capture_all_dns: bool,
    /// Not known here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    drop_invalid: bool,
    /// Accepted: the output has that form anyway
    #[arg(short = 'f', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    restore_format: bool,
    /// Accepted: both families are always redirected
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    dual_stack: bool,
    /// Accepted: differing rules are always repaired
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    reconcile: bool,
    /// Accepted: differing rules are always repaired
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    force_apply: bool,
    /// Accepted: probes choose their own ports
    #[arg(long, default_value = "")]
    iptables_probe_port: String,
    /// Accepted: probes have a bound of their own
    #[arg(long, default_value = "")]
    probe_timeout: String,
}

/// Reads istio-iptables' flags.
pub(crate) fn istio(arguments: &[OsString]) -> Result<Result<Invocation, Error>, clap::Error> {
    Ok(Istio::try_parse_from(arguments)?.invocation())
}

impl Istio {
    fn invocation(self) -> Result<Invocation, Error> {
        self.refuse_unknown()?;
        let inbound = self.inbound()?;
        let outbound = self.outbound()?;
        let proxy_uids: Vec<u32> = numbers("-u", &self.proxy_uid)?;
        let proxy_gids = if self.proxy_gid.is_empty() { proxy_uids.clone() } else { numbers("-g", &self.proxy_gid)? };
        let spec = CaptureSpec {
            inbound,
            outbound,
            proxy_uids,
            proxy_gids,
            exclude_interfaces: interfaces("-c", &self.istio_exclude_interfaces)?,
            virtual_interfaces: interfaces("-k", &self.kube_virt_interfaces)?,
        };
        let action = match (self.switches.cleanup_only, self.switches.skip_rule_apply) {
            (true, _) => Action::Cleanup,
            (false, true) => Action::Verify,
            (false, false) => self.reach.action,
        };
        let netns = Some(self.network_namespace).filter(|path| !path.is_empty()).map(PathBuf::from);
        let options = self.reach.options(Ipv6::Auto)?;
        Ok(Invocation { action, spec, options, dry_run: self.switches.dry_run, netns, close_wait: None })
    }

    fn refuse_unknown(&self) -> Result<(), Error> {
        let refused = [
            (self.switches.redirect_dns, "--redirect-dns"),
            (self.switches.capture_all_dns, "--capture-all-dns"),
            (self.switches.drop_invalid, "--drop-invalid"),
            (self.owner_groups != "*", "ISTIO_OUTBOUND_OWNER_GROUPS other than *"),
        ];
        match refused.iter().find(|(given, _)| *given) {
            Some((_, what)) => Err(Error::Arguments(format!("{what} is not supported"))),
            None => Ok(()),
        }
    }

    fn inbound(&self) -> Result<InboundCapture, Error> {
        let include_ports = ports("-b", &self.istio_inbound_ports)?;
        let mut exclude_ports = some_ports("-e", &self.inbound_tunnel_port)?;
        // Their exclusions count only when everything is included.
        if include_ports == Ports::All {
            exclude_ports.extend(some_ports("-d", &self.istio_local_exclude_ports)?);
        }
        let (mark, table) = (self.istio_inbound_tproxy_mark, self.istio_inbound_tproxy_route_table);
        Ok(InboundCapture {
            mode: interception(&self.istio_inbound_interception_mode, mark, table, "-m")?,
            proxy_port: self.inbound_capture_port,
            include_ports,
            exclude_ports,
            exclude_sources: Vec::new(),
        })
    }

    fn outbound(&self) -> Result<OutboundCapture, Error> {
        let include = match self.istio_service_cidr.trim() {
            "*" => Destinations::All,
            networks => Destinations::Only {
                cidrs: cidrs("-i", networks)?,
                ports: some_ports("-q", &self.istio_outbound_ports)?,
            },
        };
        Ok(OutboundCapture {
            proxy_port: self.envoy_port,
            include,
            exclude_ports: some_ports("-o", &self.istio_local_outbound_ports_exclude)?,
            exclude_cidrs: cidrs("-x", &self.istio_service_exclude_cidr)?,
            exclude_uids: Vec::new(),
            exclude_gids: list("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", &self.owner_groups_exclude)?,
        })
    }
}
