//! The admin pages, each with something of its own to say.

use remora_test::eventually;
use remora_test::sidecar::Sidecar;

use crate::pair::{Pair, service};
use crate::wire::Wire;

#[test]
fn every_page_answers() {
    let pair = Pair::usual();
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
    let expected: [(&str, &[&str]); 10] = [
        ("/ready", &["ready"]),
        ("/help", &["/config_dump", "/loggers", "/certs"]),
        ("/stats", &["remora_requests_total"]),
        ("/stats/prometheus", &["# TYPE remora_requests_total counter"]),
        ("/loggers", &["info"]),
        ("/config_dump", &["server:8080", "10.96.0.10"]),
        ("/certs", &["spiffe://example.org/ns/test/sa/client"]),
        ("/clusters", &["server:8080", "passthrough"]),
        ("/listeners", &["15001", "15006"]),
        ("/server_info", &["version"]),
    ];
    for (path, parts) in expected {
        let answer = pair.outbound.admin(path);
        assert_eq!(answer.code, 200, "{path}: {}", answer.body);
        for part in parts {
            assert!(answer.body.contains(part), "{path} lacks {part}:\n{}", answer.body);
        }
    }
    assert!(pair.outbound.admin("/clusters").body.contains(&pair.server.at(8080).to_string()), "the endpoint");
    for path in ["/config_dump", "/certs", "/server_info", "/stats?format=json"] {
        let _ = pair.outbound.admin(path).json();
    }
    let key = std::fs::read_to_string(pair.client.tls().join("key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    for path in ["/config_dump", "/certs"] {
        assert!(!pair.outbound.admin(path).body.contains(secret), "{path} shows the key");
    }
    assert_eq!(pair.outbound.admin("/nothing").code, 404);
}

#[test]
fn open_connections_are_listed_until_they_end() {
    let pair = Pair::usual();
    let listed = |sidecar: &Sidecar, wanted: &[&str]| {
        let page = sidecar.admin("/connections").body;
        page.lines().any(|line| wanted.iter().all(|part| line.contains(part)))
    };
    let mut wire = Wire::open(&pair.client, service(8080));
    let client = wire.local().to_string();
    assert_eq!(wire.get("/name", &[]).code, 200);
    assert!(listed(&pair.outbound, &["outbound", "http1", &client, "active 0 requests 1", "peer -"]));
    assert!(listed(&pair.inbound, &["inbound", "http2", "active 0 requests 1", "ns/test/sa/client"]));
    wire.send("POST /work HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 5\r\n\r\n");
    eventually("the request", || listed(&pair.inbound, &["http2", "active 1 requests 2"]).then_some(()));
    drop(wire);
    eventually("its end", || (!listed(&pair.outbound, &[&client])).then_some(()));
    eventually("the stream's, too", || listed(&pair.inbound, &["http2", "active 0 requests 2"]).then_some(()));
}

#[test]
fn statistics_are_filtered() {
    let pair = Pair::usual();
    let answer = pair.outbound.admin("/stats?filter=remora_config_reloads");
    assert_eq!(answer.code, 200);
    assert!(!answer.body.contains("remora_build_info"), "{}", answer.body);
    let prometheus = pair.outbound.admin("/stats?format=prometheus");
    assert!(prometheus.body.contains("# TYPE remora_build_info gauge"));
}

#[test]
fn log_levels_change_at_run_time() {
    let pair = Pair::usual();
    assert!(!pair.outbound.stderr().contains("DEBUG"));
    for (change, back) in
        [("/loggers?level=debug", "/loggers?level=info"), ("/logging?level=trace", "/logging?level=info")]
    {
        let told = pair.outbound.stderr().len();
        let answer = pair.outbound.ask("POST", 15_000, change).unwrap();
        assert_eq!(answer.code, 200, "{}", answer.body);
        eventually("debug lines", || {
            let _ = pair.client.curl(&[&pair.url("/name")]);
            pair.outbound.stderr()[told..].contains("DEBUG").then_some(())
        });
        let level = change.split('=').next_back().unwrap();
        assert!(pair.outbound.admin("/loggers").body.contains(level), "{}", pair.outbound.admin("/loggers").body);
        assert_eq!(pair.outbound.ask("POST", 15_000, back).unwrap().code, 200);
    }
    assert_eq!(pair.outbound.ask("POST", 15_000, "/loggers?level=loud").unwrap().code, 400);
}

#[test]
fn only_loopback_reaches_it() {
    let pair = Pair::usual();
    let stranger = pair.mesh.pod("stranger");
    let direct = stranger.curl(&["--max-time", "5", &format!("http://{}/certs", pair.server.at(15_000))]);
    assert_eq!(direct.code, 0, "{direct:?}");
    let meshed = pair.client.curl(&["--max-time", "5", &format!("http://{}/certs", pair.server.at(15_000))]);
    assert_ne!(meshed.code, 200, "not by the proxy itself either: {meshed:?}");
}

#[test]
fn changes_need_post() {
    let pair = Pair::usual();
    let answer = pair.outbound.admin("/loggers?level=debug");
    assert!(!pair.outbound.stderr().contains("DEBUG"), "GET changed the level: {}", answer.body);
}
