//! OpenTelemetry's semantic conventions for HTTP and gRPC, and what counts as a failure.

use std::str::FromStr;

use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, Version};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::span::{Outcome, RequestFacts, SpanRecord, SpanRole};
use crate::error::ResponseFlag;

/// gRPC's CANCELLED.
pub(crate) const GRPC_CANCELLED: u8 = 1;
/// gRPC's UNKNOWN.
const GRPC_UNKNOWN: u8 = 2;

/// The `grpc-status` of trailers or of a trailers-only head; what is not one of gRPC's codes is UNKNOWN.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    let text = headers.get("grpc-status")?.to_str().unwrap_or_default();
    Some(text.parse().ok().filter(|status| *status <= 16).unwrap_or(GRPC_UNKNOWN))
}

/// The gRPC status of a response that has none, by its HTTP status (gRPC's HTTP to gRPC status code mapping).
pub(crate) fn grpc_status_of(status: Option<StatusCode>) -> Option<u8> {
    Some(match status?.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => GRPC_UNKNOWN,
    })
}

/// Whether a gRPC status is the server's failure (the semantic conventions' rule for server spans).
pub(crate) fn grpc_server_error(status: u8) -> bool {
    matches!(status, 2 | 4 | 12 | 13 | 14 | 15)
}

/// Whether a request failed: a response flag, a status of 500 or more, or a gRPC status that means the server's failure.
pub(crate) fn failed(outcome: &Outcome) -> bool {
    outcome.flag.is_some()
        || outcome.status.is_some_and(|status| status.as_u16() >= 500)
        || outcome.grpc_status.is_some_and(grpc_server_error)
}

/// A span record in OpenTelemetry's words.
pub(crate) fn span_data(record: SpanRecord, scope: &InstrumentationScope) -> SpanData {
    let grpc = record.request.grpc.then(|| grpc_method(&record.request.path)).flatten();
    let flags = TraceFlags::new(1 | if record.random { 2 } else { 0 });
    let state = record.tracestate.as_deref().and_then(|text| TraceState::from_str(text).ok()).unwrap_or_default();
    let trace_id = TraceId::from(record.trace_id);
    SpanData {
        span_context: SpanContext::new(trace_id, SpanId::from(record.span_id), flags, false, state),
        parent_span_id: record.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: record.parent.is_some() && record.parent_is_remote,
        span_kind: match record.role {
            SpanRole::Server => SpanKind::Server,
            SpanRole::Client => SpanKind::Client,
        },
        name: name(&record, grpc).into(),
        start_time: record.start,
        end_time: record.end,
        attributes: attributes(&record, grpc),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: status(&record),
        instrumentation_scope: scope.clone(),
    }
}

/// The path template of the request's route. The route that takes every path has none.
fn template(record: &SpanRecord) -> Option<&str> {
    record.route.as_deref().filter(|route| *route != "/")
}

/// `Service/Method` of gRPC, else method and route: never the path, which anyone can vary.
fn name(record: &SpanRecord, grpc: Option<(&str, &str)>) -> String {
    if let Some((service, method)) = grpc {
        return format!("{service}/{method}");
    }
    let method = known_method(&record.request.method).unwrap_or("HTTP");
    template(record).map_or_else(|| method.to_owned(), |route| format!("{method} {route}"))
}

/// `/package.Service/Method` as its two parts.
fn grpc_method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

/// The methods of RFC 9110 and RFC 5789; others are `_OTHER` in attributes.
fn known_method(method: &Method) -> Option<&'static str> {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
        .into_iter()
        .find(|known| *known == method.as_str())
}

fn attributes(record: &SpanRecord, grpc: Option<(&str, &str)>) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(24);
    request_attributes(&record.request, record.role, &mut all);
    let mut put = |name: &'static str, value: Value| all.push(KeyValue::new(name, value));
    let text = |text: &str| Value::from(text.to_owned());
    if let Some((service, method)) = grpc {
        put("rpc.system", "grpc".into());
        put("rpc.service", text(service));
        put("rpc.method", text(method));
    }
    let peer = match record.role {
        SpanRole::Server => Some(record.request.client),
        SpanRole::Client => record.endpoint,
    };
    if let Some(peer) = peer {
        put("network.peer.address", peer.ip().to_string().into());
        put("network.peer.port", i64::from(peer.port()).into());
    }
    if record.role == SpanRole::Server
        && grpc.is_none()
        && let Some(route) = template(record)
    {
        put("http.route", text(route));
    }
    if record.resend > 0 {
        put("http.request.resend_count", i64::from(record.resend).into());
    }
    put("remora.direction", record.direction.as_str().into());
    if let Some(cluster) = &record.cluster {
        put("remora.upstream.cluster", text(cluster));
    }
    if let Some(peer) = &record.request.peer {
        put("remora.downstream.peer.id", text(peer.as_str()));
    }
    outcome_attributes(record, &mut all);
    all
}

fn request_attributes(request: &RequestFacts, role: SpanRole, all: &mut Vec<KeyValue>) {
    let mut put = |name: &'static str, value: Value| all.push(KeyValue::new(name, value));
    let scheme = if request.https { "https" } else { "http" };
    match known_method(&request.method) {
        Some(method) => put("http.request.method", method.into()),
        None => {
            put("http.request.method", "_OTHER".into());
            put("http.request.method_original", request.method.as_str().to_owned().into());
        }
    }
    put("url.scheme", scheme.into());
    put("url.path", String::from(request.path.as_ref()).into());
    let authority = request.authority.as_deref().and_then(|text| Authority::from_str(text).ok());
    let default_port = if request.https { 443 } else { 80 };
    let (host, port) = match &authority {
        Some(authority) => (authority.host().to_owned(), authority.port_u16().unwrap_or(default_port)),
        None => (request.orig_dst.ip().to_string(), request.orig_dst.port()),
    };
    if role == SpanRole::Client {
        // Without what an authority may hold before an @.
        put("url.full", format!("{scheme}://{host}:{port}{}", request.path).into());
    }
    put("server.address", host.into());
    put("server.port", i64::from(port).into());
    if role == SpanRole::Server {
        put("client.address", request.client.ip().to_string().into());
        put("client.port", i64::from(request.client.port()).into());
    }
    if let Some(agent) = &request.user_agent {
        put("user_agent.original", String::from(agent.as_ref()).into());
    }
    let version = match request.version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    put("network.protocol.version", version.into());
}

fn outcome_attributes(record: &SpanRecord, all: &mut Vec<KeyValue>) {
    let mut put = |name: &'static str, value: Value| all.push(KeyValue::new(name, value));
    let outcome = &record.outcome;
    if let Some(status) = outcome.status {
        put("http.response.status_code", i64::from(status.as_u16()).into());
    }
    if let Some(status) = outcome.grpc_status {
        put("rpc.grpc.status_code", i64::from(status).into());
    }
    if let Some(flag) = outcome.flag {
        put("remora.response_flag", flag.as_str().into());
    }
    if let Some(error) = error_type(record) {
        put("error.type", error.into());
    }
}

/// What kind of error a span ended with; `None`: it is none. A client's span also counts what the server blames on the client.
fn error_type(record: &SpanRecord) -> Option<String> {
    let (outcome, client) = (&record.outcome, record.role == SpanRole::Client);
    if let Some(flag) = outcome.flag {
        return Some(flag.as_str().to_owned());
    }
    if let Some(status) = outcome.grpc_status {
        let error = if client { status != 0 } else { grpc_server_error(status) };
        return error.then(|| status.to_string());
    }
    let status = outcome.status?.as_u16();
    (status >= if client { 400 } else { 500 }).then(|| status.to_string())
}

fn status(record: &SpanRecord) -> Status {
    match error_type(record) {
        // A client that leaves is no error of ours.
        _ if record.outcome.flag == Some(ResponseFlag::DC) => Status::Unset,
        None => Status::Unset,
        Some(_) => Status::error(record.outcome.reason.as_deref().unwrap_or_default().to_owned()),
    }
}

#[cfg(test)]
mod tests;
