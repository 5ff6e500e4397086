//! An OTLP collector inside the test: keeps the spans that arrive over gRPC or HTTP/protobuf on one port.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

use crate::eventually;
use crate::netns::Netns;

/// A span as a test looks at it.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.name` of its resource.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Server or client.
    pub kind: SpanKind,
    /// 16 bytes, in hexadecimal.
    pub trace: String,
    /// 8 bytes, in hexadecimal.
    pub id: String,
    /// 8 bytes, in hexadecimal; empty for a root.
    pub parent: String,
    /// Its attributes, values as text.
    pub attributes: BTreeMap<String, String>,
    /// Its resource's attributes.
    pub resource: BTreeMap<String, String>,
    /// The status code: 0 unset, 1 ok, 2 error.
    pub status: i32,
    /// Nanoseconds since the epoch.
    pub start: u64,
    /// Nanoseconds since the epoch.
    pub end: u64,
}

/// What arrived so far.
#[derive(Clone, Debug, Default)]
pub struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Starts it in a namespace; it runs until the test process ends.
    ///
    /// # Panics
    /// When the address cannot be bound.
    #[must_use]
    pub fn start(inside: &Netns, listen: SocketAddr) -> Self {
        let collector = Self::default();
        let spans = collector.clone();
        let listener = inside.enter(|| std::net::TcpListener::bind(listen).unwrap());
        listener.set_nonblocking(true).unwrap();
        inside.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, spans));
        });
        collector
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a trace has at least `count` spans, and returns it, first started first.
    ///
    /// # Panics
    /// After [`crate::PATIENCE`].
    #[must_use]
    pub fn trace(&self, id: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans of trace {id}; there are {:#?}", self.spans()), || {
            let mut spans: Vec<_> = self.spans().into_iter().filter(|span| span.trace == id).collect();
            spans.sort_by_key(|span| span.start);
            (spans.len() >= count).then_some(spans)
        })
    }

    fn keep(&self, request: ExportTraceServiceRequest) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in request.resource_spans {
            let resource = attributes(&part.resource.unwrap_or_default().attributes);
            for span in part.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Span {
                    service: resource.get("service.name").cloned().unwrap_or_default(),
                    kind: span.kind(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    attributes: attributes(&span.attributes),
                    resource: resource.clone(),
                    status: span.status.map_or(0, |status| status.code),
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    name: span.name,
                });
            }
        }
    }
}

async fn serve(listener: std::net::TcpListener, collector: Collector) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let collector = collector.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(collector.clone(), request));
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Reply = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(collector: Collector, request: Request<Incoming>) -> Result<Response<Reply>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (message, grpc) = match path.as_str() {
        "/v1/traces" => (Some(body), false),
        // One frame: a flag byte for compression, four bytes of length, the message.
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
            ((body.first() == Some(&0) && body.len() >= 5).then(|| body.slice(5..)), true)
        }
        _ => (None, false),
    };
    let Some(Ok(spans)) = message.map(ExportTraceServiceRequest::decode) else {
        let mut response = Response::new(Full::default().boxed());
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        return Ok(response);
    };
    collector.keep(spans);
    let mut response = if grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let empty = Full::new(Bytes::from_static(&[0; 5]));
        Response::new(empty.with_trailers(async move { Some(Ok(trailers)) }).boxed())
    } else {
        Response::new(Full::default().boxed())
    };
    let kind = if grpc { "application/grpc" } else { "application/x-protobuf" };
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    Ok(response)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    pairs.iter().map(|pair| (pair.key.clone(), shown(pair.value.as_ref()))).collect()
}

fn shown(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::ArrayValue(list)) => {
            list.values.iter().map(|value| shown(Some(value))).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}
