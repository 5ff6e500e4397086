//! Gateways: listening addresses of their own, where nothing is intercepted.

use std::time::Duration;

use remora_model::listener::DestinationMatch;
use remora_model::{Direction, DownstreamTls, FilterChain, HttpLimits, Listener, OriginalDst, Protocol};

use super::clusters::Clusters;
use super::{DETECT_TIMEOUT, IDLE_TIMEOUT, routes};
use crate::errors::Problems;
use crate::raw::{Document, Gateway};

/// How long a stranger's request may stand still, unless configured.
const STREAM_IDLE: Duration = Duration::from_secs(300);

pub(super) fn listeners(document: &Document, clusters: &mut Clusters, problems: &mut Problems) -> Vec<Listener> {
    let gateways = document.gateways.given().map_or(&[][..], Vec::as_slice);
    let name = |index| if gateways.len() == 1 { "gateway".to_owned() } else { format!("gateway[{index}]") };
    let gateways = gateways.iter().enumerate();
    let limits = document.limits.or(HttpLimits { stream_idle: STREAM_IDLE, ..HttpLimits::default() });
    gateways.map(|(index, gateway)| listener(&name(index), gateway, limits, clusters, problems)).collect()
}

fn listener(
    name: &str,
    gateway: &Gateway,
    limits: HttpLimits,
    clusters: &mut Clusters,
    problems: &mut Problems,
) -> Listener {
    let tls = gateway.tls.given().and_then(|tls| {
        Some(DownstreamTls::Terminate { certificate: tls.certificate.given()?.clone(), key: tls.key.given()?.clone() })
    });
    let listen = gateway.listen.given().map_or(&[][..], Vec::as_slice);
    Listener {
        name: name.into(),
        direction: Direction::Gateway,
        addresses: listen.iter().map(|address| address.value).collect(),
        original_dst: OriginalDst::None,
        limits: gateway.limits.or(limits),
        chains: Vec::new(),
        default_chain: FilterChain {
            name: name.into(),
            destination: DestinationMatch::default(),
            protocol: Protocol::Http,
            detect_timeout: DETECT_TIMEOUT,
            tls: tls.unwrap_or(DownstreamTls::Off),
            idle_timeout: IDLE_TIMEOUT,
            unacknowledged: None,
            routes: routes::table(name, &gateway.routes, None, clusters, problems),
            tcp: None,
        },
    }
}
