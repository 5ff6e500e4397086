//! What the proxy tells of the traffic: spans, access log, log levels.

use std::time::Duration;

use serde::Serialize;

/// The telemetry part of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Telemetry {
    /// Where spans go; `None`: no spans are made, but trace headers still pass.
    pub tracing: Option<Tracing>,
    /// Which requests and connections are written to the access log.
    pub access_log: AccessLog,
}

/// How spans are made and exported (OTLP).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tracing {
    /// The collector, such as `http://127.0.0.1:4317` (gRPC) or `http://127.0.0.1:4318/v1/traces` (HTTP).
    pub endpoint: String,
    /// How spans travel to it.
    pub protocol: OtlpProtocol,
    /// The share of requests without a sampled parent that start a trace, 0.0 to 1.0; a parent's decision is followed.
    pub sampling_ratio: f64,
    /// Spans waiting for export at most; more are dropped and counted.
    pub queue: usize,
    /// Bound of one export.
    pub timeout: Duration,
    /// Headers sent with every export (authentication); never shown or logged.
    #[serde(skip)]
    pub headers: Vec<(String, String)>,
    /// `service.name`.
    pub service_name: String,
    /// Further resource attributes, such as `service.namespace`.
    pub resource: Vec<(String, String)>,
    /// Header formats written to the upstream beside what was read; W3C is always read first.
    pub propagation: Vec<Propagation>,
}

/// The OTLP transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// OTLP/gRPC.
    #[default]
    Grpc,
    /// OTLP/HTTP with protobuf bodies.
    HttpProtobuf,
}

/// A trace-context header format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// W3C Trace Context (`traceparent`, `tracestate`).
    TraceContext,
    /// B3 single header (`b3`).
    B3,
    /// B3 multiple headers (`x-b3-traceid` and so on).
    B3Multi,
}

/// The access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessLogFormat,
    /// What gets a line.
    pub filter: AccessLogFilter,
}

/// How an access log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogFormat {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What gets an access log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogFilter {
    /// Nothing.
    Off,
    /// What failed: a response flag, a status of 500 or more, or a gRPC status that means the server's failure.
    #[default]
    Failed,
    /// Everything.
    All,
}
