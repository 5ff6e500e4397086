use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use remora_model::Direction;

use super::*;
use crate::error::ResponseFlag;
use crate::telemetry::metrics::{DownstreamProtocol, Refusal, RequestProtocol, TlsSide, UpstreamProtocol};
use crate::telemetry::registry::Registry;

/// Two workers that counted a little of everything.
fn two_workers() -> std::sync::Arc<Registry> {
    let registry = Registry::new();
    for _ in 0..2 {
        let shard = registry.shard();
        let traffic = shard.traffic(Direction::Outbound, "cat\"alog\\\n:50051");
        traffic.request(RequestProtocol::Grpc, Some(StatusCode::OK), None);
        traffic.request(RequestProtocol::Http1, Some(StatusCode::SERVICE_UNAVAILABLE), Some(ResponseFlag::UH));
        traffic.grpc[0].add(1);
        traffic.duration.record(Duration::from_millis(3));
        traffic.duration.record(Duration::from_secs(400));
        traffic.request_bytes.add(10);
        traffic.response_bytes.add(20);
        traffic.active.up();
        let relayed = shard.traffic(Direction::Inbound, "inbound");
        relayed.tcp_connections.add(1);
        relayed.tcp_sent.add(7);
        relayed.tcp_received.add(8);
        let downstream = shard.downstream(Direction::Inbound);
        downstream.opened();
        downstream.identified(DownstreamProtocol::Http2);
        downstream.refused(Refusal::Loop);
        downstream.joined();
        let upstream = shard.upstream("a");
        upstream.connection_opened(UpstreamProtocol::Http2);
        upstream.connect_failed();
        upstream.attempt();
        upstream.retry();
        upstream.reused();
        shard.tls().handshake(TlsSide::Server, true);
        shard.tls().handshake_failed(TlsSide::Client, "expired");
        shard.spans_dropped(3);
        shard.access_log_dropped(4);
    }
    registry.config_reload(true);
    (0..5).for_each(|_| registry.identity_reload(true));
    registry.identity_reload(false);
    (0..2).for_each(|_| registry.bundle_reload());
    registry.identity_renewals(6, 2);
    registry.identity_expiry(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    registry.spans_exported(11);
    registry.spans_dropped(1);
    registry
}

#[test]
fn every_metric_is_written_as_prometheus_reads_it() {
    let text = two_workers().render_prometheus();
    // What the process and its network are at this moment is not a golden's business.
    let passing = |line: &str| ["process_", "remora_tcp_retransmitted_"].iter().any(|name| line.contains(name));
    let own: Vec<&str> = text.lines().filter(|line| !passing(line)).collect();
    let golden = include_str!("golden.prom").replace("VERSION", env!("CARGO_PKG_VERSION"));
    assert_eq!(own.join("\n") + "\n", golden);
}

#[test]
fn stats_are_sorted_by_metric_and_buckets_by_bound() {
    let stats = two_workers().stats();
    let names: Vec<&str> = stats.iter().map(|(name, _)| name.split('{').next().unwrap()).collect();
    let metrics: Vec<&str> = names.iter().map(|name| name.split("_seconds").next().unwrap()).collect();
    assert!(metrics.is_sorted(), "{metrics:#?}");
    let bounds: Vec<&str> = stats.iter().filter_map(|(name, _)| name.split("le=\"").nth(1)).collect();
    assert_eq!((bounds[0], bounds.len()), ("0.0005\"}", 18));
    assert_eq!(*bounds.last().unwrap(), "+Inf\"}");
    assert!(stats.contains(&("remora_upstream_attempts_total{cluster=\"a\"}".to_owned(), Value::Count(2))));
}

#[test]
fn a_proxy_that_did_nothing_has_no_series_of_traffic() {
    let registry = Registry::new();
    registry.shard().traffic(Direction::Inbound, "inbound");
    let stats = registry.stats();
    assert!(stats.iter().all(|(name, _)| !name.contains("cluster=")), "{stats:#?}");
    assert!(!registry.render_prometheus().contains("identity_expiry"));
}
