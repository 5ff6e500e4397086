use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use prost::Message;
use remora_model::snapshot::{Admin, Service};
use remora_model::telemetry::{AccessLogFilter, Telemetry};
use remora_model::{Direction, Snapshot};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;

use super::*;
use crate::telemetry::Value;
use crate::telemetry::tests::{Bench, head, tracing};

/// What a collector got: the header `x-key`, and the spans.
type Received = (Option<String>, ExportTraceServiceRequest);

struct GrpcCollector(mpsc::UnboundedSender<Received>);

#[tonic::async_trait]
impl TraceService for GrpcCollector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let key = request.metadata().get("x-key").map(|value| value.to_str().unwrap().to_owned());
        self.0.send((key, request.into_inner())).unwrap();
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A collector that takes OTLP/gRPC.
async fn grpc_collector() -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    let ((listener, address), (sender, receiver)) = (bind().await, mpsc::unbounded_channel());
    let service = TraceServiceServer::new(GrpcCollector(sender));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (address, receiver)
}

/// A collector that takes OTLP/HTTP at /v1/traces.
async fn http_collector() -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    let ((listener, address), (sender, receiver)) = (bind().await, mpsc::unbounded_channel());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: http::Request<Incoming>| async {
                assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
                assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                let key = request.headers().get("x-key").map(|value| value.to_str().unwrap().to_owned());
                let body = request.into_body().collect().await?.to_bytes();
                sender.send((key, ExportTraceServiceRequest::decode(body).unwrap())).unwrap();
                Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::new())))
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    (address, receiver)
}

fn snapshot(tracing: Option<Tracing>) -> Arc<Snapshot> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    Arc::new(Snapshot {
        service: Service { name: "storefront".into(), namespace: "shop".into(), version: Some("v1".into()) },
        identity: None,
        limits: Default::default(),
        listeners: Vec::new(),
        clusters: Vec::new(),
        resolved_hosts: Vec::new(),
        telemetry: Telemetry { tracing, access_log: Default::default() },
        admin: Admin { address: nowhere, metrics: vec![nowhere], readiness: vec![nowhere] },
        drain_timeout: Duration::from_secs(30),
        lame_duck: Duration::ZERO,
        exit_with_application: false,
        probes: Default::default(),
        workers: None,
    })
}

/// A worker that traces everything, and `count` spans handed on by it.
fn bench(tracing: &Tracing, count: usize) -> Bench {
    let bench = Bench::new(Some(tracing.clone()), AccessLogFilter::Off);
    record(&bench, count);
    bench
}

fn record(bench: &Bench, count: usize) {
    for _ in 0..count {
        let mut request = bench.start(Direction::Inbound, &mut head(&[]));
        request.complete();
    }
    bench.worker.flush();
}

fn counts(registry: &crate::telemetry::Registry) -> (u64, u64) {
    let count = |wanted| match registry.stats().into_iter().find(|(name, _)| name == wanted) {
        Some((_, Value::Count(count))) => count,
        other => panic!("{other:?}"),
    };
    (count("remora_spans_exported_total"), count("remora_spans_dropped_total"))
}

fn spans(request: &ExportTraceServiceRequest) -> usize {
    let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.map(|scope| scope.spans.len()).sum()
}

fn settings(protocol: OtlpProtocol, endpoint: String) -> Tracing {
    Tracing {
        protocol,
        headers: vec![("x-key".into(), "secret".into())],
        resource: vec![("deployment.environment".into(), "demo".into())],
        ..tracing(&endpoint)
    }
}

/// Exports until every worker is gone.
async fn run_to_the_end(bench: Bench, tracing: Tracing) -> (u64, u64) {
    let (_keep, snapshot) = watch::channel(snapshot(Some(tracing)));
    let (registry, source) = bench.end();
    run(source, snapshot, std::future::pending()).await;
    counts(&registry)
}

#[tokio::test]
async fn spans_reach_a_collector_with_who_sent_them() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let (address, mut received) = match protocol {
            OtlpProtocol::Grpc => grpc_collector().await,
            OtlpProtocol::HttpProtobuf => http_collector().await,
        };
        let tracing = settings(protocol, format!("http://{address}"));
        let counts = run_to_the_end(bench(&tracing, 700), tracing).await;
        assert_eq!(counts, (700, 0), "{protocol:?}");
        let (key, request) = received.recv().await.unwrap();
        assert_eq!(key.as_deref(), Some("secret"));
        let resource = request.resource_spans[0].resource.as_ref().unwrap();
        let attribute = |name: &str| {
            let value = resource.attributes.iter().find(|pair| pair.key == name).and_then(|pair| pair.value.clone());
            match value.and_then(|value| value.value) {
                Some(any_value::Value::StringValue(text)) => text,
                other => panic!("{name} is {other:?}"),
            }
        };
        for (name, value) in [
            ("service.name", "storefront"),
            ("service.namespace", "shop"),
            ("service.version", "v1"),
            ("deployment.environment", "demo"),
            ("telemetry.sdk.language", "rust"),
        ] {
            assert_eq!(attribute(name), value);
        }
        assert!(attribute("service.instance.id").ends_with(&format!("-{}", std::process::id())));
        assert_eq!(request.resource_spans[0].scope_spans[0].scope.as_ref().unwrap().name, "remora-proxy");
        let mut total = spans(&request);
        while let Ok((_, more)) = received.try_recv() {
            assert!(spans(&more) <= EXPORT);
            total += spans(&more);
        }
        assert_eq!(total, 700, "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_collector_costs_counted_spans_and_nothing_else() {
    let (listener, address) = bind().await;
    drop(listener);
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let tracing = Tracing { queue: 100, ..settings(protocol, format!("http://{address}")) };
        assert_eq!(run_to_the_end(bench(&tracing, 1_000), tracing).await, (0, 1_000), "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_never_answers_costs_counted_spans_and_nothing_else() {
    // The kernel accepts; nobody reads.
    let (_listener, address) = bind().await;
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let tracing = Tracing { queue: 100, ..settings(protocol, format!("http://{address}")) };
        assert_eq!(run_to_the_end(bench(&tracing, 1_000), tracing).await, (0, 1_000), "{protocol:?}");
    }
}

/// Counts what an OTLP/HTTP collector does not take that always answers this.
async fn answered_with(status: u16, reply: ExportTraceServiceResponse) -> (u64, u64) {
    let (listener, address) = bind().await;
    let body = Bytes::from(reply.encode_to_vec());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: http::Request<Incoming>| {
                let response =
                    http::Response::builder().status(status).header("content-type", "application/x-protobuf");
                let response = response.body(Full::new(body.clone())).unwrap();
                async move {
                    request.into_body().collect().await?;
                    Ok::<_, hyper::Error>(response)
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    let tracing = settings(OtlpProtocol::HttpProtobuf, format!("http://{address}"));
    run_to_the_end(bench(&tracing, 300), tracing).await
}

#[tokio::test(start_paused = true)]
async fn what_a_collector_refuses_is_counted() {
    for status in [400, 403, 404, 429, 500, 503] {
        assert_eq!(answered_with(status, Default::default()).await, (0, 300), "{status}");
    }
    // What a collector takes only in part the OTLP library tells its log alone.
    let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too many".to_owned() };
    let partial = ExportTraceServiceResponse { partial_success: Some(partial) };
    assert_eq!(answered_with(200, partial).await, (300, 0));
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_bounded_and_what_is_left_is_counted() {
    let (_listener, address) = bind().await;
    let tracing =
        Tracing { timeout: Duration::from_secs(3600), ..settings(OtlpProtocol::Grpc, format!("http://{address}")) };
    let bench = bench(&tracing, 1_000);
    let (_keep, snapshot) = watch::channel(snapshot(Some(tracing)));
    let started = tokio::time::Instant::now();
    let shutdown = tokio::time::sleep(Duration::from_secs(60));
    run(bench.sources.spans, snapshot, shutdown).await;
    assert!(started.elapsed() <= Duration::from_secs(60) + 2 * SHUTDOWN, "{:?}", started.elapsed());
    assert_eq!(counts(&bench.registry), (0, 1_000));
}

#[tokio::test]
async fn shutdown_exports_what_is_left() {
    let (address, mut received) = grpc_collector().await;
    let tracing = settings(OtlpProtocol::Grpc, format!("http://{address}"));
    let bench = bench(&tracing, 300);
    let (_keep, snapshot) = watch::channel(snapshot(Some(tracing)));
    run(bench.sources.spans, snapshot, std::future::ready(())).await;
    assert_eq!(counts(&bench.registry), (300, 0));
    assert_eq!(spans(&received.recv().await.unwrap().1), 300);
}

#[tokio::test]
async fn a_reload_moves_the_export_to_another_collector() {
    let (first, mut first_received) = grpc_collector().await;
    let (second, mut second_received) = http_collector().await;
    let grpc = settings(OtlpProtocol::Grpc, format!("http://{first}"));
    let bench = bench(&grpc, 10);
    let (settings_sender, snapshots) = watch::channel(snapshot(Some(grpc)));
    let (bench, source) = bench.without_spans();
    let registry = Arc::clone(&bench.registry);
    let exporting = run(source, snapshots, std::future::pending());
    let reload = async {
        assert_eq!(spans(&first_received.recv().await.unwrap().1), 10);
        let http = settings(OtlpProtocol::HttpProtobuf, format!("http://{second}"));
        settings_sender.send_replace(snapshot(Some(http)));
        record(&bench, 20);
        assert_eq!(spans(&second_received.recv().await.unwrap().1), 20);
        // Turned off: what was recorded before still goes out.
        settings_sender.send_replace(snapshot(None));
        record(&bench, 30);
        assert_eq!(spans(&second_received.recv().await.unwrap().1), 30);
        drop(bench);
    };
    tokio::join!(exporting, reload);
    assert_eq!(counts(&registry), (60, 0));
}

#[test]
fn an_endpoint_without_a_path_means_the_default_path() {
    for (endpoint, url) in [
        ("http://a:4318", "http://a:4318/v1/traces"),
        ("http://a:4318/", "http://a:4318/v1/traces"),
        ("http://a:4318/otlp/v1/traces", "http://a:4318/otlp/v1/traces"),
    ] {
        assert_eq!(traces_url(endpoint), url);
    }
}
