//! Metrics that agree with what the clients counted, to the last request.

use remora_test::netns::tool;
use remora_test::sidecar::Sidecar;

use crate::pair::{Pair, service};

fn requests(sidecar: &Sidecar, labels: &[(&str, &str)]) -> f64 {
    sidecar.metric("remora_requests_total", labels)
}

#[test]
fn counts_equal_the_loads_totals() {
    let pair = Pair::usual();
    pair.client.h2load(&["--h1", "-n", "700", "-c", "7", &pair.url("/bytes/100")]).assert_clean(700);
    pair.client.h2load(&["-n", "500", "-c", "5", "-m", "10", &pair.url("/bytes/100")]).assert_clean(500);
    let load = pair.client.h2load(&["--h1", "-n", "30", "-c", "3", &pair.url("/status/404")]);
    assert_eq!(load.status, [0, 0, 30, 0]);

    for (sidecar, direction, cluster) in
        [(&pair.outbound, "outbound", "server:8080"), (&pair.inbound, "inbound", "inbound")]
    {
        let labelled = |more: &[(&'static str, &'static str)]| [&[("direction", direction)], more].concat();
        assert_eq!(requests(sidecar, &labelled(&[("code", "200")])), 1_200.0, "{direction}");
        assert_eq!(requests(sidecar, &labelled(&[("code", "404")])), 30.0, "{direction}");
        assert_eq!(requests(sidecar, &labelled(&[("protocol", "http1")])), 730.0, "{direction}");
        assert_eq!(requests(sidecar, &labelled(&[("protocol", "http2")])), 500.0, "{direction}");
        assert_eq!(requests(sidecar, &labelled(&[("cluster", cluster)])), 1_230.0, "{direction}");
        assert_eq!(requests(sidecar, &labelled(&[("flag", "")])), 1_230.0, "{direction}");
        let metrics = sidecar.metrics();
        let all = [("direction", direction)];
        assert_eq!(metrics.sum("remora_request_duration_seconds_count", &all), 1_230.0);
        assert_eq!(
            metrics.sum("remora_request_duration_seconds_bucket", &labelled(&[("le", "+Inf")])),
            1_230.0,
            "{direction}"
        );
        // "server" is the body of a 404.
        assert_eq!(metrics.sum("remora_response_bytes_total", &all), 1_200.0 * 100.0 + 30.0 * 6.0);
        assert_eq!(metrics.sum("remora_request_bytes_total", &all), 0.0);
        sidecar.metric_until("remora_requests_active", &all, |n| n == 0.0);
    }
    let downstream = [("direction", "outbound")];
    assert_eq!(pair.outbound.metric("remora_downstream_connections_total", &downstream), 15.0);
    pair.outbound.metric_until("remora_downstream_connections_active", &downstream, |n| n == 0.0);

    let (client, server) = (pair.outbound.metrics(), pair.inbound.metrics());
    let made = client.sum("remora_tls_handshakes_total", &[("side", "client")]);
    assert_eq!(made, server.sum("remora_tls_handshakes_total", &[("side", "server")]));
    assert_eq!(made, client.sum("remora_upstream_connections_total", &[("cluster", "server:8080")]));
    // A client that a busy machine keeps silent for 20 ms has its connection dialled ahead, and that is an attempt, too.
    let attempts = client.sum("remora_upstream_attempts_total", &[("cluster", "server:8080")]);
    assert!((1_230.0..=1_245.0).contains(&attempts), "{attempts} attempts for 1,230 requests on 15 connections");
    assert_eq!(client.sum("remora_upstream_connect_failures_total", &[]), 0.0);
}

#[test]
fn request_bodies_and_tcp_bytes_are_counted() {
    use std::io::{Read, Write};
    let mut pair = Pair::usual();
    let body = "b".repeat(5_000);
    assert_eq!(pair.client.curl(&[&pair.url("/echo"), "-d", &body]).body.len(), 5_000);
    for (sidecar, direction) in [(&pair.outbound, "outbound"), (&pair.inbound, "inbound")] {
        assert_eq!(sidecar.metric("remora_request_bytes_total", &[("direction", direction)]), 5_000.0);
        assert_eq!(sidecar.metric("remora_response_bytes_total", &[("direction", direction)]), 5_000.0);
    }
    pair.replace_app("echo", 8080, &[]);
    let mut stream = pair.client.enter(|| std::net::TcpStream::connect(service(8080))).unwrap();
    stream.write_all(&[1; 1_000]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    for (sidecar, direction) in [(&pair.outbound, "outbound"), (&pair.inbound, "inbound")] {
        let labels = [("direction", direction)];
        sidecar.metric_until("remora_tcp_connections_total", &labels, |n| n == 1.0);
        // Named from the downstream's place, as Istio does: what it was sent, and what was received from it.
        sidecar.metric_until("remora_tcp_sent_bytes_total", &labels, |n| n == answer.len() as f64);
        sidecar.metric_until("remora_tcp_received_bytes_total", &labels, |n| n == 1_000.0);
    }
}

#[test]
fn the_format_is_prometheus_own() {
    let pair = Pair::usual();
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
    let text = pair.outbound.ask("GET", 15_020, "/metrics").unwrap();
    assert!(text.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"), "{}", text.head);
    for path in ["/stats/prometheus", "/metrics"] {
        for port in [15_020, 15_000] {
            let answer = pair.outbound.ask("GET", port, path).unwrap();
            // /metrics is the pod's port only.
            assert!(answer.code == 200 || (port, path) == (15_000, "/metrics"), "{port}{path}: {}", answer.code);
        }
    }
    let names: Vec<_> = text.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    for wanted in
        ["remora_build_info gauge", "remora_requests_total counter", "remora_request_duration_seconds histogram"]
    {
        assert!(names.contains(&wanted), "{wanted} is missing in {names:#?}");
    }
    assert!(pair.outbound.metric("process_resident_memory_bytes", &[]) > 1e6);
    assert!(pair.outbound.metric("process_cpu_seconds_total", &[]) > 0.0);
    let expiry = pair.outbound.metric("remora_identity_expiry_timestamp_seconds", &[]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((expiry - now - 86_400.0).abs() < 3_700.0, "about a day: {}", expiry - now);

    let promtool = tool("promtool");
    if promtool.is_absolute() {
        let file = pair.client.folder().join("scrape");
        std::fs::write(&file, &text.body).unwrap();
        let input = std::fs::File::open(&file).unwrap();
        let output = std::process::Command::new(promtool).args(["check", "metrics"]).stdin(input).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    } else {
        println!("SKIPPED promtool: not installed (Debian: prometheus)");
    }
}

#[test]
fn another_pod_may_scrape() {
    let pair = Pair::usual();
    let prometheus = pair.mesh.pod("prometheus");
    for to in [pair.server.at(15_020), pair.server.at(15_021)] {
        let path = if to.port() == 15_020 { "/metrics" } else { "/healthz/ready" };
        assert_eq!(prometheus.curl(&[&format!("http://{to}{path}")]).code, 200, "{to}");
    }
}
