//! The inbound listener: declared ports are chains, every other port takes the default chain.

use remora_model::capture::{INBOUND_PORT, OWN_PORTS};
use remora_model::listener::DestinationMatch;
use remora_model::{
    ClusterId, Direction, DownstreamTls, FilterChain, HttpLimits, Listener, MtlsMode, OriginalDst, PortRange, Protocol,
};

use super::clusters::Clusters;
use super::variables::{INBOUND_MTLS, Overrides};
use super::{APPLICATION_IDLE_TIMEOUT, CONNECT_TIMEOUT, DETECT_TIMEOUT, IDLE_TIMEOUT, Mesh, listen, routes};
use crate::decode::{Field, Spanned};
use crate::errors::Problems;
use crate::raw::{Document, Inbound, InboundPort};

pub(super) fn listener(
    document: &Document,
    overrides: Overrides,
    mesh: &Mesh,
    clusters: &mut Clusters,
    problems: &mut Problems,
) -> Listener {
    let absent = Inbound::default();
    let inbound = document.inbound.given().unwrap_or(&absent);
    let timeouts = inbound.timeouts;
    let idle = timeouts.idle.unwrap_or(IDLE_TIMEOUT);
    let cluster = clusters
        .inbound(timeouts.connect.unwrap_or(CONNECT_TIMEOUT), timeouts.idle.unwrap_or(APPLICATION_IDLE_TIMEOUT));
    let mode = mode(&inbound.mtls, default_mode(mesh), mesh, problems);
    let mode = overrides.inbound_mtls.inspect(|mode| check_override(*mode, mesh, problems)).unwrap_or(mode);
    let tproxy = overrides.tproxy.unwrap_or(inbound.tproxy);

    let chain = |name: &str, destination, protocol, mode| FilterChain {
        name: name.into(),
        destination,
        protocol,
        detect_timeout: DETECT_TIMEOUT,
        tls: if mode == MtlsMode::Off { DownstreamTls::Off } else { DownstreamTls::Mesh(mode) },
        idle_timeout: idle,
        unacknowledged: timeouts.unacknowledged,
        // Also for a port declared as TCP: another sidecar may have found HTTP, and says so by ALPN.
        routes: table(Protocol::Auto, cluster, timeouts.request),
        tcp: tcp(protocol, cluster),
    };
    let mut chains = Vec::new();
    for InboundPort { port, protocol, mtls } in &inbound.ports {
        let mode = self::mode(mtls, mode, mesh, problems);
        if let Some(Spanned { value: port, .. }) = port.given() {
            let destination = DestinationMatch { ports: vec![*port], ..DestinationMatch::default() };
            chains.push(chain(&format!("inbound:{port}"), destination, *protocol, mode));
        }
    }
    check_ports(&inbound.ports, problems);
    Listener {
        name: "inbound".into(),
        direction: Direction::Inbound,
        addresses: listen(&inbound.listen, INBOUND_PORT),
        original_dst: if tproxy { OriginalDst::Tproxy } else { OriginalDst::Redirect },
        limits: document.limits.or(HttpLimits::default()),
        chains,
        default_chain: chain("inbound", DestinationMatch::default(), Protocol::Auto, mode),
    }
}

/// Where HTTP requests go: nowhere, if there can be none.
pub(super) fn table(
    protocol: Protocol,
    cluster: ClusterId,
    request_timeout: Option<std::time::Duration>,
) -> remora_model::RouteTable {
    match protocol {
        Protocol::Tcp => remora_model::RouteTable::default(),
        _ => routes::single(cluster, request_timeout.filter(|timeout| !timeout.is_zero())),
    }
}

/// Where other connections go: what is declared as HTTP is not to be anything else.
pub(super) fn tcp(protocol: Protocol, cluster: ClusterId) -> Option<ClusterId> {
    match protocol {
        Protocol::Auto | Protocol::Tcp => Some(cluster),
        Protocol::Http | Protocol::Http2 => None,
    }
}

fn default_mode(mesh: &Mesh) -> MtlsMode {
    if *mesh == Mesh::Absent { MtlsMode::Off } else { MtlsMode::Permissive }
}

/// The mode given, which only the top-level `mtls` makes possible.
fn mode(given: &Field<Spanned<MtlsMode>>, default: MtlsMode, mesh: &Mesh, problems: &mut Problems) -> MtlsMode {
    let Some(Spanned { value: mode, place }) = given.given() else { return default };
    if let Some(complaint) = impossible(*mode, mesh) {
        problems.report(place, complaint);
    }
    *mode
}

/// Why there cannot be mTLS in this mode.
fn impossible(mode: MtlsMode, mesh: &Mesh) -> Option<String> {
    let word = match mode {
        MtlsMode::Off => return None,
        MtlsMode::Permissive => "permissive",
        MtlsMode::Strict => "strict",
    };
    (*mesh == Mesh::Absent).then(|| format!("{word} needs the top-level mtls, which is missing"))
}

fn check_override(mode: MtlsMode, mesh: &Mesh, problems: &mut Problems) {
    if let Some(complaint) = impossible(mode, mesh) {
        problems.variable(INBOUND_MTLS, complaint);
    }
}

/// Reports ports declared twice, and ports of the proxy itself, on which no connection is ever forwarded.
fn check_ports(ports: &[InboundPort], problems: &mut Problems) {
    let mut ports: Vec<&Spanned<PortRange>> = ports.iter().filter_map(|port| port.port.given()).collect();
    for Spanned { value, place } in &ports {
        if let Some(own) = OWN_PORTS.into_iter().find(|own| value.contains(*own)) {
            problems.report(place, format!("port {own} is the proxy's own"));
        }
    }
    ports.sort_by_key(|port| (port.value, port.place.at()));
    let mut ports = ports.into_iter();
    let Some(mut widest) = ports.next() else { return };
    for port in ports {
        if port.value.first() <= widest.value.last() {
            let (earlier, later) = if widest.place.at() < port.place.at() { (widest, port) } else { (port, widest) };
            let message = format!("{} is declared in line {} already", later.value, earlier.place.at().line);
            problems.report(&later.place, message);
        }
        if port.value.last() > widest.value.last() {
            widest = port;
        }
    }
}
