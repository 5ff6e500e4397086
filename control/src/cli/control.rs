//! `remora control`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use remora_model::TrustDomain;
use tracing_subscriber::EnvFilter;

use crate::cluster::{Access, NAMESPACE};
use crate::control_plane::{self, Settings};
use crate::inject::{self, Compat};
use crate::install::objects::{ADMIN_PORT, CA_PORT, WEBHOOK_PORT};
use crate::webhook::issue::Lives;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Runs the control plane: certificate authority, injector, and what injected namespaces need.
#[derive(Debug, Args)]
pub(super) struct Control {
    #[command(flatten)]
    access: Access,
    /// The namespace with the control plane's Secrets and ConfigMaps.
    #[arg(long, value_name = "NAMESPACE", default_value = NAMESPACE)]
    namespace: String,
    /// The mesh's trust domain: the first part of every identity.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Where injected pods' images come from: REGISTRY/init, REGISTRY/proxy.
    #[arg(long, value_name = "REGISTRY", default_value = "localhost/remora")]
    image_registry: String,
    /// Understand another mesh's annotations, too.
    #[arg(long, value_name = "MESH", value_enum)]
    compat: Option<Compat>,
    /// Where injected pods reach the certificate authority; otherwise at the Service remora-control.
    #[arg(long, value_name = "HOST:PORT")]
    ca_address: Option<String>,
    /// Where the certificate authority serves gRPC; otherwise port 15012 on every address.
    #[arg(long, value_name = "ADDRESS:PORT")]
    ca_listen: Option<SocketAddr>,
    /// Where the webhook serves HTTPS; otherwise port 15017 on every address.
    #[arg(long, value_name = "ADDRESS:PORT")]
    webhook_listen: Option<SocketAddr>,
    /// Where /metrics, /ready and /healthz are served; otherwise port 15014 on every address.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin_listen: Option<SocketAddr>,
    /// A DNS name or IP address that webhook and authority are reached by, besides the Service's; repeat for more.
    #[arg(long = "dns-name", value_name = "NAME", value_parser = name)]
    dns_names: Vec<String>,
    /// How long the webhook's serving certificate lives; it is replaced at two thirds of that.
    #[arg(long, value_name = "DURATION", default_value = "168h", value_parser = life)]
    webhook_certificate_life: Duration,
    /// How long the webhook's own authority lives; it is replaced at two thirds of that.
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = life)]
    webhook_authority_life: Duration,
    /// Write the addresses listened on to this file once they are.
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,
}

fn life(text: &str) -> Result<Duration, String> {
    let life = remora_config::parse_duration(text)?;
    match life >= Duration::from_secs(3) && life <= HOUR * 24 * 3650 {
        true => Ok(life),
        false => Err("from 3s to ten years".to_owned()),
    }
}

fn name(text: &str) -> Result<String, String> {
    let is_name = text.parse::<IpAddr>().is_ok() || rustls_pki_types::DnsName::try_from(text).is_ok();
    if is_name { Ok(text.to_owned()) } else { Err("neither a DNS name nor an IP address".to_owned()) }
}

impl Control {
    /// Runs until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// Why it cannot start.
    pub(super) fn run(self) -> Result<(), control_plane::Error> {
        log();
        control_plane::run(self.settings())
    }

    fn settings(self) -> Settings {
        let everywhere = everywhere();
        let at = |listen: Option<SocketAddr>, port| listen.unwrap_or(SocketAddr::new(everywhere, port));
        let mut injection = inject::Settings::new(self.trust_domain);
        injection.image_registry = self.image_registry;
        injection.compat = self.compat;
        if let Some(address) = self.ca_address {
            injection.ca_address = address;
        }
        Settings {
            access: self.access,
            namespace: self.namespace,
            authority: at(self.ca_listen, CA_PORT),
            webhook: at(self.webhook_listen, WEBHOOK_PORT),
            admin: at(self.admin_listen, ADMIN_PORT),
            names: self.dns_names,
            lives: Lives { leaf: self.webhook_certificate_life, authority: self.webhook_authority_life },
            injection,
            address_file: self.address_file,
        }
    }
}

/// Both families' every address; IPv4's where there is no IPv6.
fn everywhere() -> IpAddr {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Log and audit lines go to standard error, as JSON; RUST_LOG chooses them, `info` by default.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, in a test, leaves the first one's.
    let _ = builder.json().flatten_event(true).try_init();
}
