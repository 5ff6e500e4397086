//! From what was written to what is meant: defaults, references, route order. The only maker of a [`Snapshot`].
//!
//! Handed a decoded document, in which wrong fields are already reported and absent ones are told apart from them;
//! hands on a snapshot whose references are all valid. Whatever takes two values to judge is judged here, so that a
//! complaint never follows from an earlier one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use remora_model::capture::{ADMIN_PORT, METRICS_PORT, READINESS_PORT};
use remora_model::snapshot::{Admin, Service};
use remora_model::{HttpLimits, Snapshot, TrustDomain};

use crate::decode::{Field, Spanned};
use crate::environment::Environment;
use crate::errors::Problems;
use crate::raw::Document;
use crate::value;
use clusters::Clusters;
use variables::{Overrides, RESOURCE, Variables};

mod addresses;
mod clusters;
mod gateway;
mod identity;
mod inbound;
mod outbound;
mod probes;
mod routes;
mod telemetry;
mod variables;

/// How long a drain waits unless configured.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long callers take to learn that a pod leaves, unless configured.
const LAME_DUCK: Duration = Duration::from_secs(5);
/// Bound of a connect to what is near: the application beside the proxy and meshed or named destinations. A SYN may be lost on the way, or
/// where the queue of connections is full: the kernel sends it again after one second and after three (RFC 6298), and the last has another for
/// its answer. Who has no place by then hangs, and another endpoint, if there is one, is asked.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// The same for a destination that nothing is known of: it may be far, and there is no other to go to.
const PASSTHROUGH_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing happens ends after this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// A connection to the application beside the proxy that no request needs is closed after this: another one is near, and an application that
/// serves few at a time serves nobody else meanwhile.
const APPLICATION_IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a client may take over the few bytes that tell its protocol.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of the top-level `mtls`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mesh {
    Absent,
    /// Whom it trusts, unless that was wrong.
    Present(Option<Trusted>),
}

/// The trust domains that peers may be of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trusted {
    /// Our own first.
    domains: Vec<TrustDomain>,
    /// There will be no others.
    closed: bool,
}

/// The snapshot of `document`; `None` or with problems reported: not to be used.
pub(crate) fn compile(document: &Document, env: &Environment, problems: &mut Problems) -> Option<Snapshot> {
    let mut variables = Variables { env, problems };
    let overrides = Overrides::read(&mut variables);
    let attributes = variables.pairs(RESOURCE);
    let (mesh, identity) = identity::identity(document, env, problems);
    let mut clusters = Clusters::new(mesh.clone());
    // All names first: a route may refer to what stands below it.
    let own = outbound::declare(document, &mut clusters, problems);
    clusters.declare_named(&document.clusters, problems);

    let mut listeners = Vec::new();
    let mut resolved_hosts = Vec::new();
    let sidecar = document.gateways.is_absent();
    if sidecar || !document.inbound.is_absent() {
        listeners.push(inbound::listener(document, overrides, &mesh, &mut clusters, problems));
    }
    if sidecar || !document.outbound.is_absent() || !document.outbound_listen.is_absent() {
        listeners.push(outbound::listener(document, &own, &mut clusters, &mut resolved_hosts, problems));
    }
    listeners.extend(gateway::listeners(document, &mut clusters, problems));
    addresses::check(document, &listeners, problems);

    let service = service(document, env, &attributes, problems);
    let telemetry = telemetry::telemetry(document, env, service.as_ref(), &attributes, problems);
    Some(Snapshot {
        service: service?,
        identity,
        limits: document.limits.or(HttpLimits::default()),
        listeners,
        clusters: clusters.into_list(),
        resolved_hosts,
        telemetry,
        admin: admin(document),
        exit_with_application: overrides.exit_with_application,
        probes: probes::probes(env, problems),
        drain_timeout: overrides.drain_timeout.unwrap_or(document.drain_timeout.or(DRAIN_TIMEOUT)),
        lame_duck: overrides.lame_duck.unwrap_or(document.lame_duck.or(LAME_DUCK)),
        workers: document.workers.given().copied(),
    })
}

/// What the file says of the workload, and where it is silent, the environment.
fn service(
    document: &Document,
    env: &Environment,
    attributes: &[(String, String)],
    problems: &mut Problems,
) -> Option<Service> {
    // A key that is given twice has its last value.
    let attribute = |key: &str| attributes.iter().rfind(|(name, value)| name == key && !value.is_empty());
    let mut named =
        |variable: &str, text: &str| value::name(text).map_err(|complaint| problems.variable(variable, complaint)).ok();
    let name = match env.variable("OTEL_SERVICE_NAME") {
        Some(name) => Some(named("OTEL_SERVICE_NAME", name)),
        None => attribute("service.name").map(|(_, name)| named(RESOURCE, name)),
    };
    let mut of_resource = |key: &str| attribute(key).and_then(|(_, value)| named(RESOURCE, value));
    let namespace = of_resource("service.namespace").or_else(|| of_resource("k8s.namespace.name"));
    let namespace = namespace.unwrap_or_else(|| "default".into());
    let version = of_resource("service.version");
    match (&document.service, name) {
        (Field::Given(service), _) => Some(Service {
            name: service.name.clone(),
            namespace: service.namespace.clone().unwrap_or(namespace),
            version: service.version.clone().or(version),
        }),
        (Field::Absent, Some(name)) => Some(Service { name: name?, namespace, version }),
        // A gateway stands beside no workload.
        (Field::Absent, None) if document.gateways.given().is_some() => {
            Some(Service { name: "gateway".into(), namespace, version })
        }
        (Field::Absent, None) => {
            problems.report(&document.place, "service is missing (the name of the workload beside the proxy)");
            None
        }
        (Field::Wrong, _) => None,
    }
}

fn admin(document: &Document) -> Admin {
    let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ADMIN_PORT);
    Admin {
        address: document.admin.address.given().map_or(loopback, |given| given.value),
        metrics: listen(&document.admin.metrics, METRICS_PORT),
        readiness: listen(&document.admin.readiness, READINESS_PORT),
    }
}

/// What a listener binds: what is given, or every address of both families at `port`.
fn listen(given: &Field<Vec<Spanned<SocketAddr>>>, port: u16) -> Vec<SocketAddr> {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    match given.given() {
        Some(given) => given.iter().map(|address| address.value).collect(),
        None => any.map(|ip| SocketAddr::new(ip, port)).to_vec(),
    }
}
