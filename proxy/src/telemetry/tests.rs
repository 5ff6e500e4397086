//! The three guards, seen from what they record.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::HeaderMap;
use http::{HeaderValue, Method, StatusCode, Version};
use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::SpanData;
use remora_model::telemetry::{OtlpProtocol, Propagation, Tracing};

use super::*;
use crate::error::Error;
use crate::http::head::{RequestHead, ResponseHead};

pub(super) const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

pub(super) fn tracing(endpoint: &str) -> Tracing {
    Tracing {
        endpoint: endpoint.to_owned(),
        protocol: OtlpProtocol::Grpc,
        sampling_ratio: 1.0,
        queue: 2048,
        timeout: Duration::from_secs(10),
        headers: Vec::new(),
        service_name: "storefront".to_owned(),
        resource: Vec::new(),
        propagation: vec![Propagation::TraceContext],
    }
}

/// One worker and what leaves it.
pub(super) struct Bench {
    pub(super) registry: Arc<Registry>,
    pub(super) sources: Sources,
    sinks: Sinks,
    pub(super) worker: Rc<WorkerTelemetry>,
}

impl Bench {
    pub(super) fn new(tracing: Option<Tracing>, filter: AccessLogFilter) -> Self {
        let registry = Registry::new();
        let (sinks, sources) = channels(&registry);
        let worker = WorkerTelemetry::new(&registry, sinks.clone());
        worker.apply(&Telemetry { tracing, access_log: AccessLog { filter, ..AccessLog::default() } });
        Self { registry, sources, sinks, worker }
    }

    /// Ends the worker; what it handed on is still there.
    pub(super) fn end(self) -> (Arc<Registry>, channel::Source<SpanRecord>) {
        (self.registry, self.sources.spans)
    }

    /// Gives the spans away; the worker goes on.
    pub(super) fn without_spans(self) -> (Self, channel::Source<SpanRecord>) {
        let (_, empty) = channels(&self.registry);
        let spans = self.sources.spans;
        (Self { sources: Sources { spans: empty.spans, access_log: self.sources.access_log }, ..self }, spans)
    }

    fn spans(&mut self) -> Vec<SpanData> {
        self.worker.flush();
        let scope = InstrumentationScope::builder("test").build();
        let batches = std::iter::from_fn(|| self.sources.spans.receiver.try_recv().ok());
        batches.flatten().map(|span| semantics::span_data(span, &scope)).collect()
    }

    fn lines(&mut self) -> Vec<AccessRecord> {
        self.worker.flush();
        std::iter::from_fn(|| self.sources.access_log.receiver.try_recv().ok()).flatten().collect()
    }

    pub(super) fn connection(&self, direction: Direction) -> Rc<ConnectionInfo> {
        Rc::new(ConnectionInfo {
            direction,
            client: ClientAddr::new("10.7.0.1:40000".parse().unwrap()),
            orig_dst: OrigDst::new("10.7.0.2:8080".parse().unwrap()),
            peer: (direction == Direction::Inbound)
                .then(|| "spiffe://example.org/ns/shop/sa/storefront".parse().unwrap()),
            sni: None,
            https: false,
        })
    }

    pub(super) fn start(&self, direction: Direction, head: &mut RequestHead) -> RequestTelemetry {
        RequestTelemetry::start(&self.worker, &self.connection(direction), head)
    }

    fn stat(&self, name: &str) -> Option<Value> {
        self.registry.stats().into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn count(&self, name: &str) -> u64 {
        match self.stat(name) {
            Some(Value::Count(count)) => count,
            other => panic!("{name} is {other:?} among {:#?}", self.registry.stats()),
        }
    }
}

pub(super) fn head(headers: &[(&'static str, &str)]) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: None,
        authority: Some("catalog:50051".parse().unwrap()),
        path: "/items/7?token=secret".parse().unwrap(),
        version: Version::HTTP_11,
        headers: headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect(),
        upgrade: None,
        protocol: None,
        spelling: Default::default(),
        repeats: false,
    }
}

fn grpc_head() -> RequestHead {
    RequestHead {
        method: Method::POST,
        path: "/shop.Catalog/List".parse().unwrap(),
        version: Version::HTTP_2,
        ..head(&[("content-type", "application/grpc"), ("traceparent", TRACEPARENT)])
    }
}

fn response(status: u16) -> ResponseHead {
    ResponseHead {
        status: StatusCode::from_u16(status).unwrap(),
        version: Version::HTTP_2,
        headers: HeaderMap::new(),
        spelling: Default::default(),
    }
}

pub(super) fn endpoint() -> SocketAddr {
    "10.7.0.3:50051".parse().unwrap()
}

fn refused() -> Error {
    let source = Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    Error::Connect { cluster: "catalog:50051".into(), endpoint: endpoint(), source }
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    span.attributes.iter().find(|pair| pair.key.as_str() == name).map(|pair| pair.value.to_string())
}

fn traceparent(headers: &HeaderMap) -> String {
    headers["traceparent"].to_str().unwrap().to_owned()
}

fn ids(span: &SpanData) -> String {
    format!("00-{}-{}-01", span.span_context.trace_id(), span.span_context.span_id())
}

#[test]
fn without_tracing_headers_pass_untouched_and_no_id_is_made() {
    let mut bench = Bench::new(None, AccessLogFilter::Failed);
    let pairs = [("traceparent", "nonsense"), ("tracestate", "a=1"), ("b3", "0")];
    for direction in [Direction::Inbound, Direction::Outbound, Direction::Gateway] {
        let mut head = head(&pairs);
        let before = head.headers.clone();
        let request = bench.start(direction, &mut head);
        let upstream = bench.worker.shard().upstream("a");
        let attempt = request.attempt(&upstream, endpoint(), &mut head.headers);
        assert_eq!((&head.headers, request.trace_id()), (&before, None), "{direction:?}");
        attempt.complete();
    }
    assert_eq!(bench.spans().len(), 0);
}

#[test]
fn inbound_the_application_becomes_the_child_of_one_server_span() {
    let mut bench = Bench::new(Some(tracing("")), AccessLogFilter::Off);
    let mut head = head(&[("traceparent", TRACEPARENT), ("tracestate", "vendor=1"), ("user-agent", "curl/8")]);
    let mut request = bench.start(Direction::Inbound, &mut head);
    let written = traceparent(&head.headers);
    request.routed(&"/items".into(), &bench.worker.shard().traffic(Direction::Inbound, "inbound"));
    let attempt = request.attempt(&bench.worker.shard().upstream("inbound"), endpoint(), &mut head.headers);
    assert_eq!(traceparent(&head.headers), written, "an inbound attempt is no span");
    request.response(&response(200));
    attempt.complete();
    request.complete();
    drop(request);
    let spans = bench.spans();
    let [span] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!((&span.span_kind, span.name.as_ref(), ids(span)), (&SpanKind::Server, "GET /items", written));
    assert_eq!(span.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((span.parent_span_id.to_string(), span.parent_span_is_remote), ("00f067aa0ba902b7".into(), true));
    assert_eq!(span.span_context.trace_state().header(), "vendor=1");
    assert_eq!(span.status, Status::Unset);
    assert!(span.end_time >= span.start_time);
    let expected = [
        ("http.request.method", "GET"),
        ("url.scheme", "http"),
        ("url.path", "/items/7"),
        ("server.address", "catalog"),
        ("server.port", "50051"),
        ("client.address", "10.7.0.1"),
        ("client.port", "40000"),
        ("user_agent.original", "curl/8"),
        ("network.protocol.version", "1.1"),
        ("network.peer.address", "10.7.0.1"),
        ("network.peer.port", "40000"),
        ("http.route", "/items"),
        ("remora.direction", "inbound"),
        ("remora.upstream.cluster", "inbound"),
        ("remora.downstream.peer.id", "spiffe://example.org/ns/shop/sa/storefront"),
        ("http.response.status_code", "200"),
    ];
    let found: Vec<_> = span.attributes.iter().map(|pair| (pair.key.to_string(), pair.value.to_string())).collect();
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn outbound_each_attempt_is_a_client_span_that_the_upstream_continues() {
    let mut bench = Bench::new(Some(tracing("")), AccessLogFilter::Off);
    let mut head = head(&[("traceparent", TRACEPARENT)]);
    let mut request = bench.start(Direction::Outbound, &mut head);
    assert_eq!(traceparent(&head.headers), TRACEPARENT, "the client span is made by the attempt");
    let upstream = bench.worker.shard().upstream("catalog:50051");
    request.routed(&"/".into(), &bench.worker.shard().traffic(Direction::Outbound, "catalog:50051"));
    let mut first = request.attempt(&upstream, endpoint(), &mut head.headers);
    let first_written = traceparent(&head.headers);
    first.failed(&refused());
    drop(first);
    let mut second = request.attempt(&upstream, "10.7.0.4:50051".parse().unwrap(), &mut head.headers);
    let second_written = traceparent(&head.headers);
    second.response(&response(404));
    request.response(&response(404));
    second.complete();
    request.complete();
    drop(request);
    let spans = bench.spans();
    let [first, second] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!((ids(first), ids(second)), (first_written.clone(), second_written.clone()));
    assert_ne!(first_written, second_written);
    for span in [first, second] {
        assert_eq!((&span.span_kind, span.name.as_ref()), (&SpanKind::Client, "GET"));
        assert_eq!((span.parent_span_id.to_string(), span.parent_span_is_remote), ("00f067aa0ba902b7".into(), true));
        assert_eq!(attribute(span, "url.full").unwrap(), "http://catalog:50051/items/7");
        assert_eq!(attribute(span, "remora.upstream.cluster").unwrap(), "catalog:50051");
    }
    assert_eq!(attribute(first, "http.request.resend_count"), None);
    assert_eq!(
        (attribute(first, "error.type"), attribute(first, "remora.response_flag")),
        (Some("UF".into()), Some("UF".into()))
    );
    assert!(
        matches!(&first.status, Status::Error { description } if description.contains("cannot connect to 10.7.0.3:50051"))
    );
    assert_eq!(attribute(second, "http.request.resend_count").unwrap(), "1");
    assert_eq!(attribute(second, "network.peer.address").unwrap(), "10.7.0.4");
    // For a client a 404 is an error.
    assert_eq!(attribute(second, "error.type").unwrap(), "404");
    assert_eq!(bench.count("remora_upstream_attempts_total{cluster=\"catalog:50051\"}"), 2);
    assert_eq!(bench.count("remora_upstream_retries_total{cluster=\"catalog:50051\"}"), 1);
}

#[test]
fn a_gateway_makes_a_server_span_and_its_attempts_are_children() {
    let mut bench = Bench::new(Some(tracing("")), AccessLogFilter::Off);
    let mut head = head(&[]);
    let mut request = bench.start(Direction::Gateway, &mut head);
    let upstream = bench.worker.shard().upstream("a");
    let mut attempt = request.attempt(&upstream, endpoint(), &mut head.headers);
    attempt.response(&response(200));
    request.response(&response(200));
    attempt.complete();
    request.complete();
    drop(request);
    let spans = bench.spans();
    let [client, server] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!((&client.span_kind, &server.span_kind), (&SpanKind::Client, &SpanKind::Server));
    assert_eq!(client.parent_span_id, server.span_context.span_id());
    assert!(!client.parent_span_is_remote);
    assert_eq!(client.span_context.trace_id(), server.span_context.trace_id());
    assert_eq!(server.parent_span_id, opentelemetry::trace::SpanId::INVALID);
    assert_eq!((traceparent(&head.headers), server.name.as_ref()), (ids(client), "GET"));
}

#[test]
fn the_parents_decision_is_followed_whatever_the_ratio() {
    for (ratio, header, sampled) in [(0.0, TRACEPARENT, true), (1.0, UNSAMPLED, false)] {
        let settings = Tracing { sampling_ratio: ratio, ..tracing("") };
        let mut bench = Bench::new(Some(settings), AccessLogFilter::Off);
        let mut head = head(&[("traceparent", header), ("tracestate", "a=1")]);
        let mut request = bench.start(Direction::Inbound, &mut head);
        request.complete();
        drop(request);
        assert_eq!(bench.spans().len(), usize::from(sampled), "{header}");
        assert_eq!(head.headers["tracestate"], "a=1");
        assert_eq!(traceparent(&head.headers) == header, !sampled, "unsampled headers pass as they are");
    }
}

#[test]
fn an_unsampled_root_tells_everyone_after_it_so_and_makes_no_span() {
    let propagation = vec![Propagation::TraceContext, Propagation::B3];
    let settings = Tracing { sampling_ratio: 0.0, propagation, ..tracing("") };
    let mut bench = Bench::new(Some(settings), AccessLogFilter::Off);
    let mut head = head(&[("tracestate", "orphan=1")]);
    let request = bench.start(Direction::Outbound, &mut head);
    let written = traceparent(&head.headers);
    let attempt = request.attempt(&bench.worker.shard().upstream("a"), endpoint(), &mut head.headers);
    attempt.complete();
    assert!(written.ends_with("-00") && head.headers["b3"].to_str().unwrap().ends_with("-0"));
    assert!(!head.headers.contains_key("tracestate"), "it belonged to no trace");
    assert_eq!(traceparent(&head.headers), written);
    assert_eq!(format!("{:032x}", request.trace_id().unwrap()), written[3..35]);
    drop(request);
    assert_eq!(bench.spans().len(), 0);
}

#[test]
fn hostile_headers_begin_a_new_trace() {
    let long = "x".repeat(10_000);
    for header in ["", "00-00000000000000000000000000000000-0000000000000000-01", &long] {
        let mut bench = Bench::new(Some(tracing("")), AccessLogFilter::Off);
        let mut head = head(&[("traceparent", header), ("tracestate", &long), ("baggage", &long)]);
        drop(bench.start(Direction::Inbound, &mut head));
        let spans = bench.spans();
        assert_eq!((spans.len(), spans[0].parent_span_id), (1, opentelemetry::trace::SpanId::INVALID));
        assert_eq!(traceparent(&head.headers), ids(&spans[0]));
        assert!(!head.headers.contains_key("tracestate") && head.headers["baggage"].len() == 10_000);
    }
}

#[test]
fn b3_is_answered_in_b3_and_in_what_is_configured() {
    let mut bench = Bench::new(Some(tracing("")), AccessLogFilter::Off);
    let mut head = head(&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1"), ("tracestate", "other=1")]);
    drop(bench.start(Direction::Inbound, &mut head));
    let spans = bench.spans();
    assert_eq!(spans[0].span_context.trace_id().to_string(), "0000000000000000a3ce929d0e0e4736");
    assert_eq!(traceparent(&head.headers), ids(&spans[0]));
    assert_eq!(head.headers["b3"], format!("0000000000000000a3ce929d0e0e4736-{}-1", spans[0].span_context.span_id()));
    assert!(!head.headers.contains_key("tracestate"), "it belonged to another trace");
}

#[test]
fn a_grpc_call_is_named_and_judged_as_grpc() {
    for (status, direction, error) in [
        ("0", Direction::Outbound, None),
        ("5", Direction::Outbound, Some("5")),
        ("5", Direction::Inbound, None),
        ("14", Direction::Inbound, Some("14")),
        ("what", Direction::Inbound, Some("2")),
    ] {
        let mut bench = Bench::new(Some(tracing("")), AccessLogFilter::Off);
        let mut head = grpc_head();
        let mut request = bench.start(direction, &mut head);
        request.routed(&"/".into(), &bench.worker.shard().traffic(direction, "a"));
        let mut attempt = request.attempt(&bench.worker.shard().upstream("a"), endpoint(), &mut head.headers);
        attempt.response(&response(200));
        request.response(&response(200));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
        attempt.grpc_status(&trailers);
        request.grpc_status(&trailers);
        attempt.complete();
        request.complete();
        drop(request);
        let spans = bench.spans();
        let [span] = spans.as_slice() else { panic!("{spans:#?}") };
        assert_eq!(span.name, "shop.Catalog/List");
        assert_eq!(attribute(span, "error.type").as_deref(), error, "{status} {direction:?}");
        assert_eq!(matches!(span.status, Status::Error { .. }), error.is_some());
        for (name, value) in [("rpc.system", "grpc"), ("rpc.service", "shop.Catalog"), ("rpc.method", "List")] {
            assert_eq!(attribute(span, name).as_deref(), Some(value));
        }
        let code = if status == "what" { "2" } else { status };
        assert_eq!(attribute(span, "rpc.grpc.status_code").as_deref(), Some(code));
        let series = format!(
            "remora_grpc_responses_total{{direction=\"{}\",cluster=\"a\",grpc_status=\"{code}\"}}",
            direction.as_str()
        );
        assert_eq!(bench.count(&series), 1);
    }
}

#[test]
fn a_request_that_came_to_no_attempt_is_still_in_its_trace() {
    let mut bench = Bench::new(Some(tracing("")), AccessLogFilter::Failed);
    let mut head = head(&[("traceparent", TRACEPARENT)]);
    let mut request = bench.start(Direction::Outbound, &mut head);
    request.failed(&Error::NoEndpoint { cluster: "catalog:50051".into() });
    drop(request);
    let spans = bench.spans();
    assert_eq!((spans.len(), &spans[0].span_kind), (1, &SpanKind::Client));
    assert_eq!(attribute(&spans[0], "error.type").unwrap(), "UH");
    let lines = bench.lines();
    assert_eq!(lines[0].trace_id, Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
    assert_eq!(lines[0].outcome.reason.as_deref(), Some("no healthy endpoint in cluster \"catalog:50051\""));
}

#[test]
fn every_end_of_a_request_is_counted_once_by_what_became_of_it() {
    let bench = Bench::new(None, AccessLogFilter::Off);
    let traffic = bench.worker.shard().traffic(Direction::Outbound, "a");
    let finish = |mut head: RequestHead, end: &dyn Fn(&mut RequestTelemetry)| {
        let mut request = bench.start(Direction::Outbound, &mut head);
        request.routed(&"/".into(), &traffic);
        end(&mut request);
    };
    finish(head(&[]), &|request| {
        request.response(&response(200));
        request.complete();
    });
    finish(head(&[]), &|request| request.failed(&refused()));
    finish(grpc_head(), &|request| request.failed(&refused()));
    // Cut off before and within the response.
    finish(head(&[]), &|_| {});
    finish(head(&[]), &|request| request.response(&response(200)));
    finish(grpc_head(), &|_| {});
    // The upstream broke off.
    finish(head(&[]), &|request| {
        request.response(&response(200));
        request.failed(&Error::UpstreamProtocol { cluster: "a".into(), endpoint: endpoint(), message: String::new() });
    });
    let of =
        |labels: &str| bench.count(&format!("remora_requests_total{{direction=\"outbound\",cluster=\"a\",{labels}}}"));
    assert_eq!(of("protocol=\"http1\",code=\"200\",flag=\"\""), 1);
    assert_eq!(of("protocol=\"http1\",code=\"503\",flag=\"UF\""), 1);
    assert_eq!(of("protocol=\"grpc\",code=\"200\",flag=\"UF\""), 1);
    assert_eq!(of("protocol=\"http1\",code=\"0\",flag=\"DC\""), 1);
    assert_eq!(of("protocol=\"http1\",code=\"200\",flag=\"DC\""), 1);
    assert_eq!(of("protocol=\"grpc\",code=\"0\",flag=\"DC\""), 1);
    assert_eq!(of("protocol=\"http1\",code=\"200\",flag=\"UPE\""), 1);
    let grpc = |status| {
        bench.count(&format!(
            "remora_grpc_responses_total{{direction=\"outbound\",cluster=\"a\",grpc_status=\"{status}\"}}"
        ))
    };
    assert_eq!((grpc(14), grpc(1)), (1, 1));
    assert_eq!(bench.count("remora_request_duration_seconds_count{direction=\"outbound\",cluster=\"a\"}"), 7);
    assert_eq!(bench.count("remora_requests_active{direction=\"outbound\",cluster=\"a\"}"), 0);
}

#[test]
fn a_request_no_route_takes_is_counted_without_a_cluster() {
    let bench = Bench::new(None, AccessLogFilter::Off);
    let mut request = bench.start(Direction::Gateway, &mut head(&[]));
    request.failed(&Error::NoRoute { authority: "a".into(), path: "/".into() });
    drop(request);
    let name = "remora_requests_total{direction=\"gateway\",cluster=\"-\",protocol=\"http1\",code=\"404\",flag=\"NR\"}";
    assert_eq!(bench.count(name), 1);
}

#[test]
fn bytes_and_active_requests_of_two_workers_are_summed() {
    let bench = Bench::new(None, AccessLogFilter::Off);
    let second = WorkerTelemetry::new(&bench.registry, bench.sinks.clone());
    let mut open = Vec::new();
    for worker in [&bench.worker, &second] {
        let traffic = worker.shard().traffic(Direction::Inbound, "inbound");
        for _ in 0..3 {
            let mut head = head(&[]);
            let mut request = RequestTelemetry::start(worker, &bench.connection(Direction::Inbound), &mut head);
            request.routed(&"/".into(), &traffic);
            let bytes = request.request_bytes_handle();
            bytes.add(10);
            request.request_bytes_handle().add(5);
            request.response_bytes(100);
            request.response(&response(200));
            request.complete();
            open.push(request);
        }
    }
    let name = |metric: &str| format!("{metric}{{direction=\"inbound\",cluster=\"inbound\"}}");
    assert_eq!(bench.count(&name("remora_requests_active")), 6);
    open.clear();
    assert_eq!(bench.count(&name("remora_requests_active")), 0);
    assert_eq!(bench.count(&name("remora_request_bytes_total")), 90);
    assert_eq!(bench.count(&name("remora_response_bytes_total")), 600);
    let requests =
        "remora_requests_total{direction=\"inbound\",cluster=\"inbound\",protocol=\"http1\",code=\"200\",flag=\"\"}";
    assert_eq!(bench.count(requests), 6);
}

#[test]
fn counts_survive_a_snapshot() {
    let bench = Bench::new(None, AccessLogFilter::Off);
    bench.worker.shard().traffic(Direction::Outbound, "a").tcp_connections.add(1);
    bench.worker.shard().traffic(Direction::Outbound, "a").tcp_connections.add(1);
    bench.worker.shard().upstream("a").connect_failed();
    bench.worker.shard().upstream("a").connect_failed();
    assert_eq!(bench.count("remora_tcp_connections_total{direction=\"outbound\",cluster=\"a\"}"), 2);
    assert_eq!(bench.count("remora_upstream_connect_failures_total{cluster=\"a\"}"), 2);
}

#[test]
fn connections_are_counted_when_understood_and_logged_when_they_fail() {
    let mut bench = Bench::new(None, AccessLogFilter::Failed);
    let info = bench.connection(Direction::Inbound);
    let mut good = ConnectionTelemetry::start(&bench.worker, Direction::Inbound);
    good.connection(&info);
    good.protocol(DownstreamProtocol::Tcp);
    good.protocol(DownstreamProtocol::Tcp);
    good.tcp(&bench.worker.shard().traffic(Direction::Inbound, "inbound"));
    good.sent(7);
    good.received(3);
    assert_eq!(bench.count("remora_downstream_connections_active{direction=\"inbound\"}"), 1);
    assert_eq!(bench.count("remora_tcp_sent_bytes_total{direction=\"inbound\",cluster=\"inbound\"}"), 7);
    assert_eq!(bench.count("remora_tcp_received_bytes_total{direction=\"inbound\",cluster=\"inbound\"}"), 3);
    drop(good);
    let mut refused = ConnectionTelemetry::start(&bench.worker, Direction::Inbound);
    refused.connection(&info);
    refused.refused(Refusal::Plaintext);
    drop(refused);
    assert_eq!(bench.count("remora_downstream_connections_active{direction=\"inbound\"}"), 0);
    assert_eq!(bench.count("remora_downstream_connections_total{direction=\"inbound\",protocol=\"tcp\"}"), 1);
    assert_eq!(bench.count("remora_downstream_connections_total{direction=\"inbound\",protocol=\"unknown\"}"), 1);
    assert_eq!(bench.count("remora_connections_refused_total{direction=\"inbound\",reason=\"plaintext\"}"), 1);
    let lines = bench.lines();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].outcome.reason.as_deref(), Some("refused: plaintext"));
}

#[test]
fn the_access_log_takes_what_the_filter_says() {
    for (filter, expected) in [(AccessLogFilter::Off, 0), (AccessLogFilter::Failed, 2), (AccessLogFilter::All, 4)] {
        let mut bench = Bench::new(None, filter);
        // Status 13 is the server's failure, 5 (not found) is not.
        for (status, grpc) in [(200, None), (500, None), (200, Some("13")), (200, Some("5"))] {
            let mut head = if grpc.is_some() { grpc_head() } else { head(&[]) };
            let mut request = bench.start(Direction::Inbound, &mut head);
            let mut answer = response(status);
            if let Some(grpc) = grpc {
                answer.headers.insert("grpc-status", HeaderValue::from_static(grpc));
            }
            request.response(&answer);
            request.complete();
        }
        assert_eq!(bench.lines().len(), expected, "{filter:?}");
    }
}

#[test]
fn what_the_queue_cannot_hold_is_dropped_and_counted() {
    let settings = Tracing { queue: 10, ..tracing("") };
    let mut bench = Bench::new(Some(settings), AccessLogFilter::Off);
    for _ in 0..25 {
        drop(bench.start(Direction::Inbound, &mut head(&[])));
    }
    assert_eq!(bench.spans().len(), 10);
    assert_eq!(bench.count("remora_spans_dropped_total"), 15);
    bench.sources.spans.done(10);
    drop(bench.start(Direction::Inbound, &mut head(&[])));
    assert_eq!((bench.spans().len(), bench.count("remora_spans_dropped_total")), (1, 15));
}

#[test]
fn what_nobody_receives_is_counted() {
    let mut bench = Bench::new(Some(tracing("")), AccessLogFilter::All);
    bench.sources.spans.receiver.close();
    bench.sources.access_log.receiver.close();
    drop(bench.start(Direction::Inbound, &mut head(&[])));
    bench.worker.flush();
    assert_eq!(bench.count("remora_spans_dropped_total"), 1);
    assert_eq!(bench.count("remora_access_log_dropped_total"), 1);
}
