//! The pages of the proxy's own interfaces.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use remora_certs::{Identity, TrustBundle};
use serde::Serialize;
use serde_json::{Map, Number, Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::server::{Interface, Page};
use super::{AdminState, IdentityView};
use crate::drain::Phase;
use crate::telemetry::{ConnectionStatus, Value};

/// Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageId {
    Certs,
    Clusters,
    ConfigDump,
    Connections,
    Help,
    Leave,
    Listeners,
    Live,
    Loggers,
    Prometheus,
    Quit,
    Ready,
    ServerInfo,
    Stats,
}

/// A path, where it is, and what may be done with it.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) page: PageId,
    pub(crate) on: &'static [Interface],
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// Only for peers on loopback, wherever the interface listens.
    pub(crate) loopback: bool,
    help: &'static str,
}

const fn route(path: &'static str, page: PageId, on: &'static [Interface], help: &'static str) -> Route {
    Route { path, page, on, read: true, write: false, loopback: false, help }
}

const ADMIN: &[Interface] = &[Interface::Admin];
const ADMIN_AND_METRICS: &[Interface] = &[Interface::Admin, Interface::Metrics];
const EVERYWHERE: &[Interface] = &[Interface::Admin, Interface::Metrics, Interface::Readiness];

pub(crate) const ROUTES: [Route; 19] = [
    route("/", PageId::Help, ADMIN, "this list"),
    route("/certs", PageId::Certs, ADMIN, "the workload's SVID and trust anchors"),
    route("/clusters", PageId::Clusters, ADMIN, "clusters and their endpoints; ?format=json"),
    route("/config_dump", PageId::ConfigDump, ADMIN, "the configuration in force"),
    route(
        "/connections",
        PageId::Connections,
        ADMIN,
        "open downstream connections and their requests, the oldest first; ?format=json",
    ),
    route("/healthz/live", PageId::Live, ADMIN_AND_METRICS, "whether the proxy runs"),
    route("/healthz/ready", PageId::Ready, EVERYWHERE, "whether traffic may come"),
    route("/help", PageId::Help, ADMIN, "this list"),
    Route {
        read: false,
        write: true,
        loopback: true,
        ..route(
            "/leave",
            PageId::Leave,
            ADMIN,
            "POST: the pod leaves; inbound connections are soon replaced, again and again; from loopback only",
        )
    },
    route("/listeners", PageId::Listeners, ADMIN, "listening addresses; ?format=json"),
    Route {
        write: true,
        ..route("/loggers", PageId::Loggers, ADMIN, "log levels; POST ?level=debug or ?TARGET=debug sets")
    },
    Route { read: false, write: true, ..route("/logging", PageId::Loggers, ADMIN, "POST: as /loggers") },
    route("/metrics", PageId::Prometheus, &[Interface::Metrics], "metrics for Prometheus"),
    Route {
        read: false,
        write: true,
        loopback: true,
        ..route(
            "/quitquitquit",
            PageId::Quit,
            ADMIN,
            "POST ends the proxy after a drain, as SIGTERM does; from loopback only",
        )
    },
    route("/ready", PageId::Ready, &[Interface::Admin, Interface::Readiness], "whether traffic may come"),
    route("/server_info", PageId::ServerInfo, ADMIN, "version, state and uptime"),
    route("/stats", PageId::Stats, ADMIN, "metrics; ?filter=TEXT, ?format=json or prometheus"),
    route("/stats/prometheus", PageId::Prometheus, ADMIN_AND_METRICS, "metrics for Prometheus"),
    route("/livez", PageId::Live, &[Interface::Readiness], "whether the proxy runs"),
];

/// What there is on an interface.
pub(crate) fn help(interface: Interface) -> String {
    let mut text = String::new();
    for route in ROUTES.iter().filter(|route| route.on.contains(&interface)) {
        let _ = writeln!(text, "{:<20} {}", route.path, route.help);
    }
    text
}

pub(crate) async fn page(interface: Interface, state: &AdminState, page: PageId, write: bool, query: &str) -> Page {
    let parameter = |name| parameters(query).into_iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let json = parameter("format").as_deref() == Some("json");
    match page {
        PageId::Help => Page::ok(help(interface)),
        PageId::Leave => leave(state),
        PageId::Live => Page::ok("live\n"),
        PageId::Quit => quit(state),
        PageId::Ready => ready(state).await,
        PageId::Prometheus => prometheus(state),
        PageId::Stats => match parameter("format").as_deref() {
            Some("prometheus") => prometheus(state),
            None | Some("text" | "json") => stats(state, &parameter("filter").unwrap_or_default(), json),
            Some(_) => Page::text(StatusCode::BAD_REQUEST, "format is text, json or prometheus\n"),
        },
        PageId::Loggers if write => set_level(state, query),
        PageId::Loggers => Page::ok(state.loggers.to_string()),
        PageId::ConfigDump => as_json(&*Arc::clone(&state.snapshot.borrow())),
        PageId::Certs => certs(state),
        PageId::Clusters => clusters(state, json).await,
        PageId::Connections => connections(state, json).await,
        PageId::Listeners => listeners(state, json),
        PageId::ServerInfo => server_info(state).await,
    }
}

/// A query's parameters, decoded; those that cannot be decoded stand as they are.
fn parameters(query: &str) -> Vec<(String, String)> {
    let pair = |part: &str| match part.split_once('=') {
        Some((name, value)) => (decoded(name), decoded(value)),
        None => (decoded(part), String::new()),
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escape = escape.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match (byte, escape.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
        rest = after;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn as_json(value: &impl Serialize) -> Page {
    match serde_json::to_string_pretty(value) {
        Ok(mut body) => {
            body.push('\n');
            Page { content_type: "application/json", ..Page::ok(body) }
        }
        Err(error) => Page::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn ready(state: &AdminState) -> Page {
    match state.readiness.check().await {
        Ok(()) => Page::ok("ready\n"),
        Err(missing) => {
            let body = missing.iter().fold("not ready\n".to_owned(), |body, missing| format!("{body}{missing}\n"));
            Page::text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

fn leave(state: &AdminState) -> Page {
    if state.farewell.advance(Phase::Leaving) {
        tracing::info!("the pod leaves: inbound connections are replaced from now on");
    }
    Page::ok("leaving\n")
}

fn quit(state: &AdminState) -> Page {
    state.quit.notify_one();
    Page::ok("draining\n")
}

fn prometheus(state: &AdminState) -> Page {
    Page { content_type: PROMETHEUS, ..Page::ok(state.registry.render_prometheus()) }
}

fn stats(state: &AdminState, filter: &str, json: bool) -> Page {
    let stats = state.registry.stats().into_iter().filter(|(name, _)| name.contains(filter));
    if json {
        let number = |value| match value {
            Value::Count(count) => Number::from(count).into(),
            Value::Measure(measure) => Number::from_f64(measure).map_or(Json::Null, Json::Number),
        };
        return as_json(&stats.map(|(name, value)| (name, number(value))).collect::<Map<_, _>>());
    }
    let mut body = String::new();
    for (name, value) in stats {
        let _ = writeln!(body, "{name}: {value}");
    }
    Page::ok(body)
}

fn set_level(state: &AdminState, query: &str) -> Page {
    let parameters = parameters(query);
    let [(name, level)] = parameters.as_slice() else {
        return Page::text(StatusCode::BAD_REQUEST, "one parameter: level=debug, or TARGET=debug\n");
    };
    let result = match name.as_str() {
        "level" => state.loggers.set_all(level),
        target => state.loggers.set_target(target, level),
    };
    match result {
        Ok(()) => {
            tracing::info!(target = name, level, "log level set");
            Page::ok(state.loggers.to_string())
        }
        Err(error) => Page::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn timestamp(time: SystemTime) -> String {
    // Certificates tell whole seconds.
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Certificates are public; the key is never read here.
fn certs(state: &AdminState) -> Page {
    let Some(IdentityView { source, identity, status }) = &state.identity else {
        return as_json(&json!({ "identity": null }));
    };
    as_json(&json!({
        "identity": identity.borrow().as_deref().map(identity_json),
        "source": {
            "from": source,
            "renewed": status.succeeded(),
            "failed": status.failed(),
            "last_error": status.last_error(),
            "next_renewal": status.next_renewal().map(timestamp),
            "clock_skew_seconds": status.clock_skew_ms() as f64 / 1e3,
        },
    }))
}

fn identity_json(identity: &Identity) -> Json {
    let (svid, bundles) = (identity.svid(), identity.bundles());
    let left = svid.not_after().duration_since(SystemTime::now()).map_or(0, |left| left.as_secs());
    let federated = bundles
        .federated()
        .iter()
        .map(|bundle| json!({ "trust_domain": bundle.trust_domain().as_str(), "trust_anchors": anchors_json(bundle) }));
    let crls = bundles.crls().iter().map(|list| {
        json!({
            "issuer": list.issuer(),
            "this_update": timestamp(list.this_update()),
            "next_update": timestamp(list.next_update()),
            "revoked": list.entries(),
        })
    });
    json!({
        "spiffe_id": svid.spiffe_id().as_str(),
        "serial": svid.serial(),
        "sha256": svid.fingerprint().to_string(),
        "not_before": timestamp(svid.not_before()),
        "not_after": timestamp(svid.not_after()),
        "seconds_left": left,
        "certificates": svid.certificates().len(),
        "trust_domain": bundles.own().trust_domain().as_str(),
        "trust_anchors": anchors_json(bundles.own()),
        "federated": federated.collect::<Vec<_>>(),
        "crls": crls.collect::<Vec<_>>(),
    })
}

fn anchors_json(bundle: &TrustBundle) -> Vec<Json> {
    let anchor = |root: &remora_certs::bundle::Root| {
        json!({
            "subject": root.subject(),
            "sha256": root.fingerprint().to_string(),
            "not_before": timestamp(root.not_before()),
            "not_after": timestamp(root.not_after()),
        })
    };
    bundle.roots().iter().map(anchor).collect()
}

async fn clusters(state: &AdminState, json: bool) -> Page {
    let clusters = (state.clusters)().await;
    if json {
        return as_json(&clusters);
    }
    let mut body = String::new();
    for cluster in clusters {
        let _ = writeln!(body, "{}", cluster.name);
        if cluster.endpoints.is_empty() {
            body.push_str("  no endpoint\n");
        }
        for endpoint in cluster.endpoints {
            let health = if endpoint.healthy { "healthy" } else { "unhealthy" };
            let (address, weight, active) = (endpoint.address.to_string(), endpoint.weight, endpoint.active);
            let _ = writeln!(body, "  {address:<24} {health:<9} weight {weight} active {active}");
        }
    }
    Page::ok(body)
}

async fn connections(state: &AdminState, json: bool) -> Page {
    let connections = (state.connections)().await;
    if json {
        return as_json(&connections);
    }
    let mut body = String::new();
    for open in connections {
        let ConnectionStatus { direction, protocol, client, original_destination: aim, age_seconds: age, .. } = open;
        let _ = write!(body, "{direction:<8} {protocol:<7} {client} -> {aim} age {age:.1}s");
        let _ = match open.endpoint {
            Some(endpoint) => write!(body, " endpoint {endpoint} received {} sent {}", open.received, open.sent),
            None => write!(body, " active {} requests {}", open.active, open.requests),
        };
        let _ = writeln!(body, " peer {}", open.peer.as_deref().unwrap_or("-"));
    }
    Page::ok(body)
}

fn listeners(state: &AdminState, json: bool) -> Page {
    let snapshot = state.snapshot.borrow();
    if json {
        let listener = |listener: &remora_model::Listener| {
            json!({
                "name": *listener.name,
                "direction": listener.direction.as_str(),
                "addresses": listener.addresses,
                "chains": listener.chains.iter().map(|chain| &*chain.name).collect::<Vec<_>>(),
                "default_chain": *listener.default_chain.name,
            })
        };
        return as_json(&snapshot.listeners.iter().map(listener).collect::<Vec<_>>());
    }
    let mut body = String::new();
    for listener in &snapshot.listeners {
        for address in &listener.addresses {
            let _ = writeln!(body, "{}::{address}", listener.name);
        }
    }
    Page::ok(body)
}

async fn server_info(state: &AdminState) -> Page {
    let uptime = state.started.elapsed().map_or(0, |uptime| uptime.as_secs());
    let missing = state.readiness.check().await.err().unwrap_or_default();
    let service = state.snapshot.borrow().service.clone();
    let state_name = match missing.first().map(String::as_str) {
        None => "LIVE",
        Some("draining") => "DRAINING",
        Some(_) => "INITIALIZING",
    };
    as_json(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state_name,
        "missing": missing,
        "configuration_rejected": *state.rejected.borrow(),
        "service": *service.name,
        "namespace": *service.namespace,
        "pid": std::process::id(),
        "started": timestamp(state.started),
        "uptime_seconds": uptime,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_hostile_ones_do_no_harm() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(parameters("level=debug"), [pair("level", "debug")]);
        assert_eq!(
            parameters("remora_proxy%3A%3Atls=trace&a+b"),
            [pair("remora_proxy::tls", "trace"), pair("a b", "")]
        );
        assert_eq!(
            parameters("a=%&b=%f&c=%zz&d=%+1&&"),
            [pair("a", "%"), pair("b", "%f"), pair("c", "%zz"), pair("d", "% 1"),]
        );
        assert_eq!(parameters("a=%ff%fe"), [pair("a", "%ff%fe")]);
    }

    #[test]
    fn each_path_is_listed_once_an_interface() {
        for interface in [Interface::Admin, Interface::Metrics, Interface::Readiness] {
            let mut paths: Vec<_> =
                ROUTES.iter().filter(|route| route.on.contains(&interface)).map(|route| route.path).collect();
            let all = paths.len();
            paths.sort_unstable();
            paths.dedup();
            assert_eq!(paths.len(), all, "{interface:?}");
        }
    }
}
