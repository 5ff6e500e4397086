//! What a mesh gives every pod, and what one pod gets: the mesh's settings completed by annotations.

use ipnet::IpNet;
use remora_model::capture::{InterfaceName, Ports};
use remora_model::{MtlsMode, PortRange, TrustDomain};

use super::values::Amount;

/// Where `remora install` puts the certificate authority.
pub const CA_ADDRESS: &str = "remora-control.remora-system.svc:15012";

/// The mesh's defaults, the same for the command and the webhook.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The images' prefix: `REGISTRY/proxy:VERSION`.
    pub image_registry: String,
    /// The images' tag, and what the marker on an injected pod says.
    pub version: String,
    /// The certificate authority's gRPC address.
    pub ca_address: String,
    /// Whose annotations are understood beside our own.
    pub compat: Option<Compat>,
    /// What annotations may change.
    pub defaults: Options,
}

/// Another mesh whose annotations are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Compat {
    /// `sidecar.istio.io`, `traffic.sidecar.istio.io`.
    Istio,
    /// `linkerd.io`, `config.linkerd.io`.
    Linkerd,
}

/// Everything that an annotation can set.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The proxy's inbound mTLS; [`None`] leaves it to the mesh's configuration.
    pub mtls: Option<MtlsMode>,
    /// The proxy's log filter.
    pub log_level: String,
    /// The proxy's image, instead of the mesh's.
    pub proxy_image: Option<String>,
    /// The initialiser's image, instead of the mesh's.
    pub init_image: Option<String>,
    /// What the proxy's container asks for and may use.
    pub resources: Resources,
    /// Inbound ports that are captured.
    pub include_inbound_ports: Ports,
    /// Inbound ports that are not.
    pub exclude_inbound_ports: Vec<PortRange>,
    /// Clients that are not captured.
    pub exclude_inbound_cidrs: Vec<IpNet>,
    /// Outbound ports that are captured wherever they are; [`None`]: all, unless networks are given.
    pub include_outbound_ports: Option<Ports>,
    /// Outbound ports that are not.
    pub exclude_outbound_ports: Vec<PortRange>,
    /// Destination networks that are captured; [`None`]: all, unless ports are given.
    pub include_outbound_cidrs: Option<Networks>,
    /// Destination networks that are not.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Interfaces left alone.
    pub exclude_interfaces: Vec<InterfaceName>,
    /// Users whose outbound connections are not captured.
    pub exclude_outbound_uids: Vec<u32>,
    /// How inbound connections reach the proxy.
    pub tproxy: bool,
    /// Where spans go.
    pub tracing_endpoint: Option<String>,
    /// The share of traces that is taken.
    pub tracing_sampling: Option<f64>,
    /// What the service is called in traces.
    pub service_name: Option<String>,
    /// Whether the proxy is an init container that keeps running, or an ordinary container.
    pub native_sidecar: bool,
    /// How long the proxy drains.
    pub drain_timeout: Option<String>,
    /// How long the proxy takes new connections after it was told to end.
    pub lame_duck: Option<String>,
    /// Whether probes go by way of the proxy.
    pub rewrite_probes: bool,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The proxy's uid; [`None`]: 1337, or what an OpenShift namespace allows.
    pub proxy_uid: Option<u32>,
}

/// A choice of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Networks {
    /// Every one.
    All,
    /// These.
    Only(Vec<IpNet>),
}

/// What the proxy's container asks for and may use; what is set by hand is never quietly changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// CPU asked for.
    pub cpu_request: Option<Amount>,
    /// CPU allowed.
    pub cpu_limit: Option<Amount>,
    /// Memory asked for.
    pub memory_request: Option<Amount>,
    /// Memory allowed.
    pub memory_limit: Option<Amount>,
}

impl Settings {
    /// The settings of a mesh whose trust domain is `trust_domain`, everything else as it is by default.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            image_registry: "localhost/remora".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ca_address: CA_ADDRESS.to_owned(),
            compat: None,
            defaults: Options::new(trust_domain),
        }
    }

    /// The image of `part` (`init` or `proxy`).
    #[must_use]
    pub fn image(&self, part: &str) -> String {
        format!("{}/{part}:{}", self.image_registry, self.version)
    }
}

impl Options {
    fn new(trust_domain: TrustDomain) -> Self {
        Self {
            mtls: None,
            log_level: "info".to_owned(),
            proxy_image: None,
            init_image: None,
            resources: Resources::default(),
            include_inbound_ports: Ports::All,
            exclude_inbound_ports: Vec::new(),
            exclude_inbound_cidrs: Vec::new(),
            include_outbound_ports: None,
            exclude_outbound_ports: Vec::new(),
            include_outbound_cidrs: None,
            exclude_outbound_cidrs: Vec::new(),
            exclude_interfaces: Vec::new(),
            exclude_outbound_uids: Vec::new(),
            tproxy: false,
            tracing_endpoint: None,
            tracing_sampling: None,
            service_name: None,
            native_sidecar: true,
            drain_timeout: None,
            lame_duck: None,
            rewrite_probes: true,
            trust_domain,
            proxy_uid: None,
        }
    }
}
