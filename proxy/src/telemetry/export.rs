//! Spans to a collector (OTLP), on the control thread.
//!
//! Workers hand over batches and never wait. One export is under way at a time; while it is, batches gather in the bounded queue, and
//! past its bound workers drop. So a collector that is dead or slow costs the traffic nothing, and every span that is lost is counted.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SpanExporter as _;
use remora_model::Snapshot;
use remora_model::telemetry::{OtlpProtocol, Tracing};
use tokio::sync::watch;

use super::channel::{BATCH, Source};
use super::semantics;
use super::span::SpanRecord;

/// Spans of one export at most.
const EXPORT: usize = 512;
/// How long the last exports may take together.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Exports what workers hand over, with the settings of the current snapshot, until `shutdown` is done; then exports what is left, within
/// two seconds. Workers end, or flush for the last time, before that. Runs in a Tokio runtime with time and I/O.
pub async fn run(
    mut source: Source<SpanRecord>,
    mut snapshot: watch::Receiver<Arc<Snapshot>>,
    shutdown: impl Future<Output = ()>,
) {
    let mut collector = Collector::new(&snapshot.borrow_and_update());
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let batch = tokio::select! {
            biased;
            () = &mut shutdown => break,
            batch = next(&mut source) => batch,
        };
        let Some(batch) = batch else { return };
        if snapshot.has_changed().unwrap_or(false) {
            collector.follow(&snapshot.borrow_and_update());
        }
        let mut exporting = std::pin::pin!(collector.export(batch, &source));
        tokio::select! {
            biased;
            () = &mut exporting => {}
            () = &mut shutdown => {
                // Its spans count as lost below if the time is not enough.
                let _ = tokio::time::timeout(SHUTDOWN, exporting).await;
                break;
            }
        }
    }
    source.receiver.close();
    let _ = tokio::time::timeout(SHUTDOWN, async {
        while let Some(batch) = next(&mut source).await {
            collector.export(batch, &source).await;
        }
    })
    .await;
    source.registry.spans_dropped(source.pending() as u64);
}

/// The next batches, as many as one export takes.
async fn next(source: &mut Source<SpanRecord>) -> Option<Vec<SpanRecord>> {
    let mut spans = source.receiver.recv().await?;
    while spans.len() + BATCH <= EXPORT
        && let Ok(more) = source.receiver.try_recv()
    {
        spans.extend(more);
    }
    Some(spans)
}

/// The collector of the current settings.
struct Collector {
    tracing: Option<Tracing>,
    exporter: Option<SpanExporter>,
    scope: InstrumentationScope,
    /// Told once when it begins to fail, and once when it takes spans again.
    failing: bool,
}

impl Collector {
    fn new(snapshot: &Snapshot) -> Self {
        let scope = InstrumentationScope::builder("remora-proxy").with_version(env!("CARGO_PKG_VERSION")).build();
        let mut collector = Self { tracing: None, exporter: None, scope, failing: false };
        collector.follow(snapshot);
        collector
    }

    /// Takes the settings of a snapshot. Where it turns tracing off, spans recorded before still go where they were meant to go.
    fn follow(&mut self, snapshot: &Snapshot) {
        let Some(tracing) = &snapshot.telemetry.tracing else { return };
        if self.tracing.as_ref() == Some(tracing) {
            return;
        }
        self.failing = false;
        self.exporter = exporter(tracing, resource(snapshot, tracing))
            .inspect_err(|error| tracing::error!(endpoint = tracing.endpoint, %error, "spans cannot be exported"))
            .ok();
        self.tracing = Some(tracing.clone());
    }

    /// One export; its spans have left the queue when it ends.
    async fn export(&mut self, spans: Vec<SpanRecord>, source: &Source<SpanRecord>) {
        let count = spans.len();
        let taken = match (&self.exporter, &self.tracing) {
            (Some(exporter), Some(tracing)) => {
                let spans = spans.into_iter().map(|span| semantics::span_data(span, &self.scope)).collect();
                let result = tokio::time::timeout(tracing.timeout, exporter.export(spans)).await;
                let error = match result {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some(format!("no answer within {:?}", tracing.timeout)),
                };
                let endpoint = &tracing.endpoint;
                match (&error, self.failing) {
                    (Some(error), false) => {
                        tracing::warn!(endpoint, error, "the collector takes no spans; they are dropped")
                    }
                    (None, true) => tracing::info!(endpoint, "the collector takes spans again"),
                    _ => {}
                }
                self.failing = error.is_some();
                error.is_none()
            }
            _ => false,
        };
        match taken {
            true => source.registry.spans_exported(count as u64),
            false => source.registry.spans_dropped(count as u64),
        }
        source.done(count);
    }
}

fn exporter(tracing: &Tracing, resource: Resource) -> Result<SpanExporter, ExporterBuildError> {
    let mut exporter = match tracing.protocol {
        OtlpProtocol::Grpc => SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&tracing.endpoint)
            .with_timeout(tracing.timeout)
            .with_metadata(MetadataMap::from_headers(header_map(&tracing.headers)))
            .build()?,
        OtlpProtocol::HttpProtobuf => SpanExporter::builder()
            .with_http()
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_endpoint(traces_url(&tracing.endpoint))
            .with_timeout(tracing.timeout)
            .with_headers(tracing.headers.iter().cloned().collect::<HashMap<_, _>>())
            .build()?,
    };
    exporter.set_resource(&resource);
    Ok(exporter)
}

fn header_map(headers: &[(String, String)]) -> HeaderMap {
    let parse = |(name, value): &(String, String)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
    };
    headers.iter().filter_map(parse).collect()
}

/// An OTLP/HTTP endpoint without a path means the signal's default path.
fn traces_url(endpoint: &str) -> String {
    match endpoint.parse::<Uri>() {
        Ok(uri) if matches!(uri.path(), "" | "/") => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
        _ => endpoint.to_owned(),
    }
}

/// Who sends the spans. What the configuration says wins.
fn resource(snapshot: &Snapshot, tracing: &Tracing) -> Resource {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let mut own = vec![
        KeyValue::new("service.namespace", snapshot.service.namespace.to_string()),
        KeyValue::new("service.instance.id", format!("{host}-{}", std::process::id())),
        KeyValue::new("host.name", host),
    ];
    if let Some(version) = &snapshot.service.version {
        own.push(KeyValue::new("service.version", version.to_string()));
    }
    let configured = tracing.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own)
        .with_attributes(configured)
        .with_service_name(tracing.service_name.clone())
        .build()
}

#[cfg(test)]
mod tests;
