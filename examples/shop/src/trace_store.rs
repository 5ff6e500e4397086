//! Spans in memory, and the two shapes they have at its doors: OTLP's messages coming in, Jaeger's JSON going out.

use std::collections::{HashMap, VecDeque};

use prost::Message;
use serde_json::{Value, json};

/// The part of `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest` that a trace viewer shows. Fields that
/// are not named here are skipped when a message is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) resource_spans: Vec<ResourceSpans>,
}

/// What the receiver answers: everything was taken.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExportReply {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(crate) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub(crate) attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    pub(crate) spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) name: String,
    #[prost(int32, tag = "6")]
    pub(crate) kind: i32,
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "7")]
    pub(crate) start: u64,
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "8")]
    pub(crate) end: u64,
    #[prost(message, repeated, tag = "9")]
    pub(crate) attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AnyValue {
    #[prost(oneof = "Scalar", tags = "1, 2, 3, 4")]
    pub(crate) value: Option<Scalar>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Scalar {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}

/// The last [`TraceStore::CAPACITY`] traces that spans arrived for.
#[derive(Default)]
pub(crate) struct TraceStore {
    traces: HashMap<Vec<u8>, Vec<Stored>>,
    /// The traces' ids in the order of their first span; the oldest goes first.
    order: VecDeque<Vec<u8>>,
}

struct Stored {
    service: String,
    span: Span,
}

impl TraceStore {
    const CAPACITY: usize = 20_000;

    /// Keeps every span of `request`.
    pub(crate) fn add(&mut self, request: ExportRequest) {
        for group in request.resource_spans {
            let service = service_name(group.resource.as_ref());
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let trace = self.traces.entry(span.trace_id.clone()).or_insert_with(|| {
                    self.order.push_back(span.trace_id.clone());
                    Vec::new()
                });
                trace.push(Stored { service: service.clone(), span });
            }
        }
        while self.order.len() > Self::CAPACITY {
            if let Some(oldest) = self.order.pop_front() {
                self.traces.remove(&oldest);
            }
        }
    }

    /// One trace by its id in hexadecimal, in the shape of Jaeger's `GET /api/traces/ID`.
    pub(crate) fn trace(&self, id: &str) -> Option<Value> {
        let found = self.traces.iter().find(|(trace_id, _)| hex(trace_id) == id);
        found.map(|(trace_id, spans)| trace_json(trace_id, spans))
    }

    /// Every service that sent a span.
    pub(crate) fn services(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.traces.values().flatten().map(|stored| stored.service.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn service_name(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    let name = attributes.iter().find(|attribute| attribute.key == "service.name");
    match name.and_then(|name| name.value.as_ref()).and_then(|value| value.value.as_ref()) {
        Some(Scalar::Text(name)) => name.clone(),
        _ => "unknown_service".to_owned(),
    }
}

fn trace_json(trace_id: &[u8], stored: &[Stored]) -> Value {
    let spans: Vec<Value> = stored.iter().map(|stored| span_json(trace_id, stored)).collect();
    let processes = stored.iter().map(|stored| {
        let process = json!({ "serviceName": stored.service, "tags": [] });
        (stored.service.clone(), process)
    });
    json!({
        "traceID": hex(trace_id),
        "spans": spans,
        "processes": processes.collect::<serde_json::Map<_, _>>(),
    })
}

fn span_json(trace_id: &[u8], stored: &Stored) -> Value {
    let span = &stored.span;
    let mut references = Vec::new();
    if !span.parent_span_id.is_empty() {
        references.push(json!({
            "refType": "CHILD_OF",
            "traceID": hex(trace_id),
            "spanID": hex(&span.parent_span_id),
        }));
    }
    let mut tags: Vec<Value> = span.attributes.iter().map(tag_json).collect();
    tags.push(json!({ "key": "span.kind", "type": "string", "value": kind(span.kind) }));
    json!({
        "traceID": hex(trace_id),
        "spanID": hex(&span.span_id),
        "operationName": span.name,
        "references": references,
        "startTime": span.start / 1000,
        "duration": span.end.saturating_sub(span.start) / 1000,
        "tags": tags,
        "logs": [],
        "processID": stored.service,
    })
}

fn tag_json(attribute: &KeyValue) -> Value {
    let scalar = attribute.value.as_ref().and_then(|value| value.value.as_ref());
    let (kind, value) = match scalar {
        Some(Scalar::Text(text)) => ("string", json!(text)),
        Some(Scalar::Bool(yes)) => ("bool", json!(yes)),
        Some(Scalar::Int(number)) => ("int64", json!(number)),
        Some(Scalar::Double(number)) => ("float64", json!(number)),
        None => ("string", json!("")),
    };
    json!({ "key": attribute.key, "type": kind, "value": value })
}

/// OTLP's span kinds under Jaeger's names.
fn kind(number: i32) -> &'static str {
    match number {
        1 => "internal",
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "unspecified",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(trace: u8, id: u8, parent: Option<u8>) -> Span {
        Span {
            trace_id: vec![trace; 16],
            span_id: vec![id; 8],
            parent_span_id: parent.map_or_else(Vec::new, |parent| vec![parent; 8]),
            name: "GET /products".to_owned(),
            kind: 2,
            start: 5_000_000,
            end: 7_000_000,
            attributes: vec![KeyValue {
                key: "http.response.status_code".to_owned(),
                value: Some(AnyValue { value: Some(Scalar::Int(200)) }),
            }],
        }
    }

    fn request(service: &str, spans: Vec<Span>) -> ExportRequest {
        let name = AnyValue { value: Some(Scalar::Text(service.to_owned())) };
        let attributes = vec![KeyValue { key: "service.name".to_owned(), value: Some(name) }];
        ExportRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource { attributes }),
                scope_spans: vec![ScopeSpans { spans }],
            }],
        }
    }

    #[test]
    fn a_trace_is_joined_from_several_exports() {
        let mut store = TraceStore::default();
        store.add(request("gateway", vec![span(1, 1, None)]));
        store.add(request("storefront", vec![span(1, 2, Some(1)), span(9, 3, None)]));
        let trace = store.trace(&"01".repeat(16)).unwrap();
        assert_eq!(trace["spans"].as_array().unwrap().len(), 2);
        let child = &trace["spans"][1];
        assert_eq!(child["references"][0]["spanID"], "01".repeat(8));
        assert_eq!(trace["processes"][child["processID"].as_str().unwrap()]["serviceName"], "storefront");
        assert_eq!((&child["startTime"], &child["duration"]), (&json!(5000), &json!(2000)));
        assert_eq!(child["tags"][0]["value"], 200);
        assert_eq!(child["tags"][1], json!({ "key": "span.kind", "type": "string", "value": "server" }));
        assert_eq!(store.services(), ["gateway", "storefront"]);
        assert_eq!(store.trace("00"), None);
    }

    #[test]
    fn an_export_survives_the_wire_and_fields_nobody_shows_are_skipped() {
        let mut bytes = request("pricing", vec![span(1, 1, None)]).encode_to_vec();
        // Field 15, a varint, is unknown to this reader.
        bytes.extend([0x78, 0x07]);
        assert_eq!(ExportRequest::decode(bytes.as_slice()).unwrap(), request("pricing", vec![span(1, 1, None)]));
    }

    #[test]
    fn the_oldest_trace_makes_room() {
        let mut store = TraceStore::default();
        for index in 0..=TraceStore::CAPACITY {
            let mut one = span(0, 1, None);
            one.trace_id = index.to_be_bytes().to_vec();
            store.add(request("gateway", vec![one]));
        }
        assert_eq!(store.traces.len(), TraceStore::CAPACITY);
        assert_eq!(store.trace("0000000000000000"), None);
        assert!(store.trace("0000000000000001").is_some());
    }
}
