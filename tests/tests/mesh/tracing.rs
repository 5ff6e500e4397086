//! Spans, as a collector receives them.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use remora_test::collector::{Collector, Span};
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::Sidecar;

use crate::pair::entry;

const URL: &str = "http://10.96.0.10:8080/name";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

struct Traced {
    collector: Collector,
    client: Pod,
    _store: Pod,
    outbound: Sidecar,
    _inbound: Sidecar,
    _app: Process,
}

/// A client and a server that report to a collector in a pod of its own. `tracing` is YAML, `COLLECTOR` its address.
fn traced(port: u16, tracing: &str) -> Traced {
    let mesh = Mesh::new();
    let (client, server, store) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("store"));
    let collector = Collector::start(&store, store.at(port));
    let app = server.peer("http", 8080, &[]);
    let tracing = tracing.replace("COLLECTOR", &store.at(port).to_string());
    let inbound = server.sidecar(&format!("inbound: {{mtls: strict}}\ntracing: {tracing}"));
    let outbound = client.sidecar(&format!("{}\ntracing: {tracing}", entry(8080, &[server.at(8080)], "")));
    Traced { collector, client, _store: store, outbound, _inbound: inbound, _app: app }
}

/// The usual chain of one request: the client's sidecar and the server's.
fn assert_joined(spans: &[Span], root: &str) {
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let [out, server] = [SpanKind::Client, SpanKind::Server]
        .map(|kind| spans.iter().find(|span| span.kind == kind).unwrap_or_else(|| panic!("no {kind:?} in {spans:#?}")));
    assert_eq!((out.service.as_str(), server.service.as_str()), ("client", "server"));
    assert_eq!((out.parent.as_str(), server.parent.as_str()), (root, out.id.as_str()));
    assert!(out.start <= server.start && server.end <= out.end, "one within the other: {spans:#?}");
    for span in spans {
        assert_eq!(span.attributes.get("http.request.method").map(String::as_str), Some("GET"), "{span:#?}");
        assert_eq!(span.attributes.get("http.response.status_code").map(String::as_str), Some("200"), "{span:#?}");
        assert_eq!(span.resource.get("service.namespace").map(String::as_str), Some("test"), "{span:#?}");
    }
}

#[test]
fn one_request_makes_one_joined_trace() {
    for (port, tracing) in [
        (4317, "{endpoint: \"http://COLLECTOR\", sampling: 1.0}"),
        (4318, "{endpoint: \"http://COLLECTOR\", protocol: http, sampling: 1.0}"),
    ] {
        let traced = traced(port, tracing);
        for _ in 0..3 {
            assert_eq!(traced.client.curl(&[URL]).code, 200);
        }
        let roots = remora_test::eventually("three traces", || {
            let spans = traced.collector.spans();
            let roots: Vec<_> =
                spans.iter().filter(|span| span.parent.is_empty()).map(|span| span.trace.clone()).collect();
            (roots.len() >= 3 && spans.len() >= 6).then_some(roots)
        });
        assert_eq!(roots.len(), 3, "{roots:?}");
        for root in &roots {
            assert_joined(&traced.collector.trace(root, 2), "");
        }
        assert_eq!(traced.collector.spans().len(), 6);
        traced.outbound.metric_until("remora_spans_exported_total", &[], |n| n == 3.0);
    }
}

#[test]
fn a_callers_context_is_continued() {
    let traced = traced(4317, "{endpoint: \"http://COLLECTOR\", sampling: 0.0}");
    let w3c = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    assert_eq!(traced.client.curl(&[URL, "-H", &w3c]).code, 200);
    assert_joined(&traced.collector.trace(TRACE, 2), PARENT);

    let other = TRACE.replace("0af7", "1bf8");
    let single = format!("b3: {other}-{PARENT}-1");
    assert_eq!(traced.client.curl(&[URL, "-H", &single]).code, 200);
    assert_joined(&traced.collector.trace(&other, 2), PARENT);

    let third = TRACE.replace("0af7", "2cf9");
    let multi = [format!("X-B3-TraceId: {third}"), format!("X-B3-SpanId: {PARENT}"), "X-B3-Sampled: 1".to_owned()];
    assert_eq!(traced.client.curl(&[URL, "-H", &multi[0], "-H", &multi[1], "-H", &multi[2]]).code, 200);
    assert_joined(&traced.collector.trace(&third, 2), PARENT);

    // The caller's decision against sampling is kept, though the ratio alone would say otherwise; so is ours without a caller.
    let unsampled = format!("traceparent: 00-{}-{PARENT}-00", TRACE.replace("0af7", "3dfa"));
    assert_eq!(traced.client.curl(&[URL, "-H", &unsampled]).code, 200);
    assert_eq!(traced.client.curl(&[URL]).code, 200);
    let last = TRACE.replace("0af7", "4efb");
    assert_eq!(traced.client.curl(&[URL, "-H", &format!("traceparent: 00-{last}-{PARENT}-01")]).code, 200);
    assert_joined(&traced.collector.trace(&last, 2), PARENT);
    assert_eq!(traced.collector.spans().len(), 8, "{:#?}", traced.collector.spans());
}

#[test]
fn the_application_gets_the_context_to_pass_on() {
    let traced = traced(4317, "{endpoint: \"http://COLLECTOR\", sampling: 1.0, propagation: [tracecontext, b3]}");
    let seen =
        traced.client.curl(&["http://10.96.0.10:8080/", "-H", &format!("traceparent: 00-{TRACE}-{PARENT}-01")]).json();
    let spans = traced.collector.trace(TRACE, 2);
    let server = spans.iter().find(|span| span.kind == SpanKind::Server).unwrap();
    assert_eq!(seen["headers"]["traceparent"], serde_json::json!([format!("00-{TRACE}-{}-01", server.id)]));
    let b3 = seen["headers"]["b3"][0].as_str().unwrap();
    assert!(b3.starts_with(&format!("{TRACE}-{}-1", server.id)), "{b3}");
}

#[test]
fn each_attempt_has_a_span() {
    let mesh = Mesh::new();
    let (client, server, store) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("store"));
    let dead = mesh.pod("dead");
    let collector = Collector::start(&store, store.at(4317));
    let _app = server.peer("http", 8080, &[]);
    let tracing = format!("tracing: {{endpoint: \"http://{}\", sampling: 0}}", store.at(4317));
    let endpoints = [dead.at(8080), server.at(8080)];
    let _outbound =
        client.sidecar(&format!("{}\n{tracing}", entry(8080, &endpoints, ", mtls: false, balance: round_robin")));
    // One of two consecutive requests meets the dead endpoint first.
    let attempts = (0..8).map(|n| {
        let trace = format!("{n:032x}").replacen("00", "ab", 1);
        assert_eq!(client.curl(&[URL, "-H", &format!("traceparent: 00-{trace}-{PARENT}-01")]).code, 200);
        let spans = collector.trace(&trace, 1);
        assert!(spans.iter().all(|span| span.kind == SpanKind::Client && span.parent == PARENT), "{spans:#?}");
        let failed = spans.iter().filter(|span| span.status == 2).count();
        assert_eq!(spans.len(), failed + 1, "one good, the others marked as errors: {spans:#?}");
        spans.len()
    });
    assert!(attempts.max() >= Some(2), "some request needed two attempts");
}

#[test]
fn a_dead_or_slow_collector_costs_the_traffic_nothing_and_is_counted() {
    for slow in [false, true] {
        let mesh = Mesh::new();
        let (client, server, store) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("store"));
        let _app = server.peer("http", 8080, &[]);
        // Slow: the kernel takes the connection, nobody ever reads. Dead: packets vanish.
        let _listener = if slow {
            Some(store.enter(|| std::net::TcpListener::bind(store.at(4317))).unwrap())
        } else {
            store.output("iptables", &["-A", "INPUT", "-p", "tcp", "-j", "DROP"]).unwrap();
            None
        };
        let endpoint = format!("http://{}", store.at(4317));
        let tracing = format!("tracing: {{endpoint: \"{endpoint}\", sampling: 1.0, queue: 64, timeout: 1s}}");
        let inbound = server.sidecar(&format!("inbound: {{mtls: strict}}\n{tracing}"));
        let mut outbound = client.sidecar(&format!("{}\n{tracing}", entry(8080, &[server.at(8080)], "")));
        client.h2load(&["--h1", "-n", "2000", "-c", "10", URL]).assert_clean(2_000);
        for sidecar in [&outbound, &inbound] {
            // All but what still waits in the queue and in one batch under way.
            let dropped = sidecar.metric_until("remora_spans_dropped_total", &[], |n| n >= 1_000.0);
            assert!(dropped <= 2_000.0, "{dropped}");
            assert_eq!(sidecar.metric("remora_spans_exported_total", &[]), 0.0);
        }
        outbound.terminate();
        assert_eq!(outbound.wait().code(), Some(0), "it does not hang at the end either");
    }
}

#[test]
fn standard_variables_rule_over_the_file() {
    let mesh = Mesh::new();
    let (client, server, store) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("store"));
    let collector = Collector::start(&store, store.at(4317));
    let _app = server.peer("http", 8080, &[]);
    client.redirect();
    client.identity();
    let endpoint = format!("http://{}", store.at(4317));
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_SERVICE_NAME", "renamed"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,team=a"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_on"),
    ];
    let outbound = client.proxy_with(&client.config(&entry(8080, &[server.at(8080)], ", mtls: false")), &environment);
    outbound.ready();
    assert_eq!(client.curl(&[URL]).code, 200);
    let spans = remora_test::eventually("a span", || Some(collector.spans()).filter(|spans| !spans.is_empty()));
    assert_eq!(spans[0].service, "renamed");
    assert_eq!(spans[0].resource.get("team").map(String::as_str), Some("a"));
}
