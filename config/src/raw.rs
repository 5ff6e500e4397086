//! The native YAML as written: one private type for each of its objects, with the place of what the compiler may
//! complain about. Decodes and checks single values; whatever takes two values to judge is the compiler's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use remora_model::telemetry::{AccessLogFilter, AccessLogFormat, OtlpProtocol, Propagation};
use remora_model::{InvalidPortRange, MtlsMode, PortRange, Protocol};

use crate::decode::{Field, Fields, Located, Place, Spanned, list, number, one_of, one_or_many, parsed, some, spanned};
use crate::errors::{Complaint, Problems, quoted};
use crate::value::{self, Collector, HostPort};
use crate::yaml::Node;

mod limits;
mod mtls;
mod route;
mod upstream;

pub(crate) use limits::Limits;
pub(crate) use mtls::{Api, Ca, Mtls, trust_domain};
pub(crate) use route::{Route, Split, Target};
pub(crate) use upstream::Upstream;

/// A whole file.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) place: Place,
    pub(crate) service: Field<Service>,
    pub(crate) workers: Field<u32>,
    pub(crate) drain_timeout: Field<Duration>,
    pub(crate) lame_duck: Field<Duration>,
    pub(crate) mtls: Field<Mtls>,
    pub(crate) inbound: Field<Inbound>,
    pub(crate) outbound_listen: Field<Vec<Spanned<SocketAddr>>>,
    pub(crate) outbound: Field<Vec<Outbound>>,
    pub(crate) clusters: Vec<Named>,
    pub(crate) gateways: Field<Vec<Gateway>>,
    pub(crate) limits: Limits,
    pub(crate) tracing: Field<Tracing>,
    pub(crate) access_log: (AccessLogFormat, AccessLogFilter),
    pub(crate) admin: Admin,
}

/// `service`.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) version: Option<Arc<str>>,
}

/// `inbound`.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    pub(crate) mtls: Field<Spanned<MtlsMode>>,
    pub(crate) listen: Field<Vec<Spanned<SocketAddr>>>,
    pub(crate) tproxy: bool,
    pub(crate) ports: Vec<InboundPort>,
    pub(crate) timeouts: Timeouts,
}

/// One of `inbound.ports`.
#[derive(Debug)]
pub(crate) struct InboundPort {
    pub(crate) port: Field<Spanned<PortRange>>,
    pub(crate) protocol: Protocol,
    pub(crate) mtls: Field<Spanned<MtlsMode>>,
}

/// `timeouts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) connect: Option<Duration>,
    pub(crate) request: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    /// Above zero.
    pub(crate) unacknowledged: Option<Duration>,
}

/// One of `outbound`.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) host: Field<Spanned<HostPort>>,
    pub(crate) addresses: Field<Vec<Spanned<IpNet>>>,
    pub(crate) upstream: Upstream,
    pub(crate) routes: Field<Spanned<Vec<Route>>>,
}

/// One of `clusters`.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: Spanned<Arc<str>>,
    pub(crate) upstream: Upstream,
}

/// One of `gateway`.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) listen: Field<Vec<Spanned<SocketAddr>>>,
    pub(crate) tls: Field<GatewayTls>,
    pub(crate) routes: Vec<Route>,
    pub(crate) limits: Limits,
}

/// `gateway.tls`.
#[derive(Debug)]
pub(crate) struct GatewayTls {
    pub(crate) certificate: Field<PathBuf>,
    pub(crate) key: Field<PathBuf>,
}

/// `tracing`.
#[derive(Debug)]
pub(crate) struct Tracing {
    pub(crate) place: Place,
    pub(crate) endpoint: Field<Collector>,
    pub(crate) protocol: Field<OtlpProtocol>,
    pub(crate) sampling: Field<f64>,
    pub(crate) propagation: Field<Vec<Propagation>>,
    pub(crate) queue: Field<u32>,
    pub(crate) timeout: Field<Duration>,
    pub(crate) attributes: Vec<(String, String)>,
}

/// `admin`.
#[derive(Debug, Default)]
pub(crate) struct Admin {
    pub(crate) address: Field<Spanned<SocketAddr>>,
    pub(crate) metrics: Field<Vec<Spanned<SocketAddr>>>,
    pub(crate) readiness: Field<Vec<Spanned<SocketAddr>>>,
}

pub(crate) const PROTOCOLS: &[(&str, Protocol)] =
    &[("auto", Protocol::Auto), ("http", Protocol::Http), ("http2", Protocol::Http2), ("tcp", Protocol::Tcp)];
pub(crate) const MODES: &[(&str, MtlsMode)] =
    &[("strict", MtlsMode::Strict), ("permissive", MtlsMode::Permissive), ("off", MtlsMode::Off)];
pub(crate) const INTERCEPTIONS: &[(&str, bool)] = &[("redirect", false), ("tproxy", true)];
const OTLP_PROTOCOLS: &[(&str, OtlpProtocol)] = &[
    ("grpc", OtlpProtocol::Grpc),
    ("http", OtlpProtocol::HttpProtobuf),
    ("http/protobuf", OtlpProtocol::HttpProtobuf),
];
const PROPAGATIONS: &[(&str, Propagation)] =
    &[("tracecontext", Propagation::TraceContext), ("b3", Propagation::B3), ("b3multi", Propagation::B3Multi)];
const FORMATS: &[(&str, AccessLogFormat)] = &[("text", AccessLogFormat::Text), ("json", AccessLogFormat::Json)];
const FILTERS: &[(&str, AccessLogFilter)] =
    &[("off", AccessLogFilter::Off), ("failed", AccessLogFilter::Failed), ("all", AccessLogFilter::All)];

const FIELDS: &[&str] = &[
    "service",
    "workers",
    "drain_timeout",
    "lame_duck",
    "mtls",
    "inbound",
    "outbound_listen",
    "outbound",
    "clusters",
    "gateway",
    "limits",
    "tracing",
    "access_log",
    "admin",
];

impl Document {
    /// Decodes the tree; `None` only where it is no object at all.
    pub(crate) fn decode(root: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Located::root(root).fields(FIELDS, problems)?;
        Some(Self {
            place: fields.place.clone(),
            service: fields.optional("service", Service::decode),
            workers: fields.optional("workers", number(1..=256)),
            drain_timeout: fields.optional("drain_timeout", duration),
            lame_duck: fields.optional("lame_duck", duration),
            mtls: fields.optional("mtls", Mtls::decode),
            inbound: fields.optional("inbound", Inbound::decode),
            outbound_listen: fields.optional("outbound_listen", listen),
            outbound: fields.optional("outbound", list(Outbound::decode)),
            clusters: take(fields.optional("clusters", Named::decode_all)),
            gateways: fields.optional("gateway", some(Gateway::decode)),
            limits: take(fields.optional("limits", Limits::decode)),
            tracing: fields.optional("tracing", Tracing::decode),
            access_log: take(fields.optional("access_log", access_log)),
            admin: take(fields.optional("admin", Admin::decode)),
        })
    }
}

impl Service {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        if !at.is_object() {
            let name = parsed("a name, or an object with name, namespace, version", value::name);
            return Some(Self { name: name(at, problems)?, namespace: None, version: None });
        }
        let mut fields = at.fields(&["name", "namespace", "version"], problems)?;
        let service = fields.required("name", name);
        let (namespace, version) = (fields.optional("namespace", name), fields.optional("version", name));
        Some(Self {
            name: service.given()?.clone(),
            namespace: namespace.given().cloned(),
            version: version.given().cloned(),
        })
    }
}

impl Inbound {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(&["mtls", "listen", "interception", "ports", "timeouts"], problems)?;
        Some(Self {
            mtls: fields.optional("mtls", spanned(one_of(MODES))),
            listen: fields.optional("listen", listen),
            tproxy: fields.optional("interception", one_of(INTERCEPTIONS)).or(false),
            ports: take(fields.optional("ports", list(InboundPort::decode))),
            timeouts: fields.optional("timeouts", timeouts).or_default(),
        })
    }
}

impl InboundPort {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(&["port", "protocol", "mtls"], problems)?;
        Some(Self {
            port: fields.required("port", spanned(parsed("a port or a range such as 8000-8099", port_range))),
            protocol: fields.optional("protocol", one_of(PROTOCOLS)).or(Protocol::Auto),
            mtls: fields.optional("mtls", spanned(one_of(MODES))),
        })
    }
}

impl Outbound {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let known = [&["host", "addresses", "routes"], Upstream::FIELDS].concat();
        let mut fields = at.fields(&known, problems)?;
        Some(Self {
            host: fields.required("host", spanned(host_port)),
            addresses: fields.optional("addresses", some(spanned(parsed("an IP address or network", value::network)))),
            upstream: Upstream::decode(&mut fields, timeouts),
            routes: fields.optional("routes", spanned(some(Route::decode))),
        })
    }
}

impl Named {
    fn decode_all(at: &Located<'_>, problems: &mut Problems) -> Option<Vec<Self>> {
        let named = at.named("an object of named clusters", problems)?;
        Some(named.into_iter().map(|(name, place, cluster)| Self::decode(name, place, &cluster, problems)).collect())
    }

    /// A cluster whose body is wrong still counts as named: references to it are not to be reported too.
    fn decode(name: &str, place: Place, cluster: &Located<'_>, problems: &mut Problems) -> Self {
        if let Err(complaint) = value::name(name) {
            problems.report(&place, complaint);
        }
        let upstream = cluster
            .fields(Upstream::FIELDS, problems)
            .map(|mut fields| Upstream::decode(&mut fields, cluster_timeouts));
        let upstream = upstream.unwrap_or_else(|| Upstream::nothing(&cluster.place));
        Self { name: Spanned { value: name.into(), place }, upstream }
    }
}

impl Gateway {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(&["listen", "tls", "routes", "limits"], problems)?;
        Some(Self {
            listen: fields.required("listen", listen),
            tls: fields.optional("tls", GatewayTls::decode),
            routes: take(fields.required("routes", some(Route::decode))),
            limits: take(fields.optional("limits", Limits::decode)),
        })
    }
}

impl GatewayTls {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(&["certificate", "key"], problems)?;
        Some(Self { certificate: fields.required("certificate", file), key: fields.required("key", file) })
    }
}

impl Tracing {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let known = ["endpoint", "protocol", "sampling", "propagation", "queue", "timeout", "attributes"];
        let mut fields = at.fields(&known, problems)?;
        Some(Self {
            place: fields.place.clone(),
            endpoint: fields.optional("endpoint", parsed("a URL such as http://127.0.0.1:4317", value::collector)),
            protocol: fields.optional("protocol", one_of(OTLP_PROTOCOLS)),
            sampling: fields.optional("sampling", parsed("a share from 0 to 1", value::ratio)),
            propagation: fields.optional("propagation", one_or_many(one_of(PROPAGATIONS))),
            queue: fields.optional("queue", number(1..=1_000_000)),
            timeout: fields.optional("timeout", positive_duration),
            attributes: take(fields.optional("attributes", attributes)),
        })
    }
}

impl Admin {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(&["address", "metrics", "readiness"], problems)?;
        let address = spanned(parsed("an address such as 127.0.0.1:15000", value::listen_address));
        Some(Self {
            address: fields.optional("address", address),
            metrics: fields.optional("metrics", listen),
            readiness: fields.optional("readiness", listen),
        })
    }
}

fn take<T: Default>(field: Field<T>) -> T {
    match field {
        Field::Given(value) => value,
        Field::Absent | Field::Wrong => T::default(),
    }
}

fn access_log(at: &Located<'_>, problems: &mut Problems) -> Option<(AccessLogFormat, AccessLogFilter)> {
    let mut fields = at.fields(&["format", "filter"], problems)?;
    let format = fields.optional("format", one_of(FORMATS)).or_default();
    Some((format, fields.optional("filter", one_of(FILTERS)).or_default()))
}

fn attributes(at: &Located<'_>, problems: &mut Problems) -> Option<Vec<(String, String)>> {
    let named = at.named("an object of attributes", problems)?;
    let value = parsed("text", |text| Ok(text.to_owned()));
    Some(named.iter().filter_map(|(name, _, at)| Some(((*name).to_owned(), value(at, problems)?))).collect())
}

fn timeouts(at: &Located<'_>, problems: &mut Problems) -> Option<Timeouts> {
    timeouts_of(at.fields(&["connect", "request", "idle", "unacknowledged"], problems)?)
}

/// A request timeout belongs to the entry or route, not to one of the clusters its requests may go to.
fn cluster_timeouts(at: &Located<'_>, problems: &mut Problems) -> Option<Timeouts> {
    timeouts_of(at.fields(&["connect", "idle", "unacknowledged"], problems)?)
}

fn timeouts_of(mut fields: Fields<'_, '_>) -> Option<Timeouts> {
    Some(Timeouts {
        connect: fields.optional("connect", positive_duration).given().copied(),
        request: fields.optional("request", duration).given().copied(),
        idle: fields.optional("idle", duration).given().copied(),
        unacknowledged: fields.optional("unacknowledged", user_timeout).given().copied().filter(|time| !time.is_zero()),
    })
}

fn listen(at: &Located<'_>, problems: &mut Problems) -> Option<Vec<Spanned<SocketAddr>>> {
    some(spanned(parsed("an address such as 0.0.0.0:8080", value::listen_address)))(at, problems)
}

fn duration(at: &Located<'_>, problems: &mut Problems) -> Option<Duration> {
    parsed("a duration such as 250ms or 1s", value::duration)(at, problems)
}

fn positive_duration(at: &Located<'_>, problems: &mut Problems) -> Option<Duration> {
    parsed("a duration such as 250ms or 1s", value::positive_duration)(at, problems)
}

fn user_timeout(at: &Located<'_>, problems: &mut Problems) -> Option<Duration> {
    parsed("a duration such as 250ms or 1s", value::user_timeout)(at, problems)
}

fn host_port(at: &Located<'_>, problems: &mut Problems) -> Option<HostPort> {
    parsed("HOST:PORT", HostPort::parse)(at, problems)
}

fn name(at: &Located<'_>, problems: &mut Problems) -> Option<Arc<str>> {
    parsed("a name", value::name)(at, problems)
}

fn file(at: &Located<'_>, problems: &mut Problems) -> Option<PathBuf> {
    parsed("a file's path", value::file)(at, problems)
}

fn port_range(text: &str) -> Result<PortRange, Complaint> {
    text.parse().map_err(|error| match error {
        InvalidPortRange::Port(part) => format!("{} is not a port (1 to 65535)", quoted(&part)).into(),
        InvalidPortRange::Reversed { .. } => error.to_string().into(),
    })
}
