//! Every shard's counts summed, as families.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{Family, Kind, Value, family, label, labels};
use crate::breaker::Limit;
use crate::telemetry::metrics::{
    Counter, DURATION_BOUNDS_US, DownstreamProtocol, GRPC_STATUSES, RESET_CODES, Refusal, TLS_FAILURE_REASONS, TlsSide,
    Traffic, UpstreamMetrics, UpstreamProtocol, VIOLATIONS,
};
use crate::telemetry::registry::{DIRECTIONS, Registry, ShardData, lock};
use crate::telemetry::{identity, process};

/// Sums by label text.
type Sums = BTreeMap<String, u64>;

fn traffic_labels(traffic: &Traffic) -> Vec<(&'static str, &str)> {
    vec![("direction", traffic.direction.as_str()), ("cluster", &traffic.cluster)]
}

fn counts(series: Sums) -> Vec<(&'static str, String, Value)> {
    series.into_iter().map(|(labels, count)| ("", labels, Value::Count(count))).collect()
}

/// Reads every shard and sums.
pub(crate) fn gather(registry: &Registry) -> Vec<Family> {
    let shards = registry.shards();
    let mut families = Vec::with_capacity(40);
    let traffic: Vec<_> =
        shards.iter().flat_map(|shard| lock(&shard.traffic).values().cloned().collect::<Vec<_>>()).collect();
    gather_requests(&traffic.iter().map(|traffic| &**traffic).collect::<Vec<_>>(), &mut families);
    gather_downstream(&shards, &mut families);
    gather_detection(&shards, &mut families);
    gather_tcp(&traffic.iter().map(|traffic| &**traffic).collect::<Vec<_>>(), &mut families);
    let upstream: Vec<_> =
        shards.iter().flat_map(|shard| lock(&shard.upstream).values().cloned().collect::<Vec<_>>()).collect();
    gather_upstream(&upstream.iter().map(|upstream| &**upstream).collect::<Vec<_>>(), &mut families);
    gather_in_use(registry, &mut families);
    gather_tls(&shards, &mut families);
    identity::gather(registry, &shards, &mut families);
    gather_control(registry, &shards, &mut families);
    gather_memory(registry, &mut families);
    process::gather(&mut families);
    families
}

/// A histogram summed over shards: buckets not cumulated, and the sum in nanoseconds.
type Durations = ([u64; DURATION_BOUNDS_US.len() + 1], u64);

fn gather_requests(all: &[&Traffic], families: &mut Vec<Family>) {
    let (mut requests, mut grpc, mut active, mut sent, mut received) =
        (Sums::new(), Sums::new(), Sums::new(), Sums::new(), Sums::new());
    let mut durations: BTreeMap<String, Durations> = BTreeMap::new();
    for traffic in all {
        let base = traffic_labels(traffic);
        let base_text = labels(&base);
        let (buckets, sum) = traffic.duration.read();
        if buckets.iter().all(|count| *count == 0) && traffic.active.value() == 0 {
            continue;
        }
        for (protocol, code, flag, count) in traffic.requests() {
            let all = [&base[..], &[("protocol", protocol), ("code", code), ("flag", flag)]].concat();
            *requests.entry(labels(&all)).or_default() += count;
        }
        for status in 0..GRPC_STATUSES {
            let count = traffic.grpc[status].value();
            if count > 0 {
                let status = status.to_string();
                let all = [&base[..], &[("grpc_status", &*status)]].concat();
                *grpc.entry(labels(&all)).or_default() += count;
            }
        }
        add_durations(durations.entry(base_text.clone()).or_default(), (buckets, sum));
        *active.entry(base_text.clone()).or_default() += traffic.active.value();
        *sent.entry(base_text.clone()).or_default() += traffic.request_bytes.value();
        *received.entry(base_text).or_default() += traffic.response_bytes.value();
    }
    families.extend([
        family(
            "remora_requests_total",
            "Requests that ended, by what became of them.",
            Kind::Counter,
            counts(requests),
        ),
        family("remora_grpc_responses_total", "gRPC calls that ended, by status code.", Kind::Counter, counts(grpc)),
        family(
            "remora_request_duration_seconds",
            "From the request's head to the end of the response's body.",
            Kind::Histogram,
            durations.into_iter().flat_map(|(labels, durations)| histogram(&labels, &durations)).collect(),
        ),
        family("remora_request_bytes_total", "Bytes of request bodies.", Kind::Counter, counts(sent)),
        family("remora_response_bytes_total", "Bytes of response bodies.", Kind::Counter, counts(received)),
        family("remora_requests_active", "Requests under way.", Kind::Gauge, counts(active)),
    ]);
}

fn add_durations(total: &mut Durations, (buckets, sum): Durations) {
    total.0.iter_mut().zip(buckets).for_each(|(total, count)| *total += count);
    total.1 += sum;
}

fn histogram(base: &str, (buckets, sum_ns): &Durations) -> Vec<(&'static str, String, Value)> {
    let bounds = DURATION_BOUNDS_US.iter().map(|us| (*us as f64 / 1e6).to_string()).chain(["+Inf".to_owned()]);
    let mut total = 0;
    let mut series: Vec<_> = bounds
        .zip(buckets)
        .map(|(bound, count)| {
            total += count;
            let mut text = base.to_owned();
            label(&mut text, "le", &bound);
            ("_bucket", text, Value::Count(total))
        })
        .collect();
    series.push(("_sum", base.to_owned(), Value::Measure(*sum_ns as f64 / 1e9)));
    series.push(("_count", base.to_owned(), Value::Count(total)));
    series
}

fn gather_tcp(all: &[&Traffic], families: &mut Vec<Family>) {
    let (mut connections, mut sent, mut received) = (Sums::new(), Sums::new(), Sums::new());
    for traffic in all.iter().filter(|traffic| traffic.tcp_connections.value() > 0) {
        let base = labels(&traffic_labels(traffic));
        *connections.entry(base.clone()).or_default() += traffic.tcp_connections.value();
        *sent.entry(base.clone()).or_default() += traffic.tcp_sent.value();
        *received.entry(base).or_default() += traffic.tcp_received.value();
    }
    families.extend([
        family("remora_tcp_connections_total", "Connections relayed as bytes.", Kind::Counter, counts(connections)),
        family("remora_tcp_sent_bytes_total", "Bytes relayed to the client.", Kind::Counter, counts(sent)),
        family("remora_tcp_received_bytes_total", "Bytes relayed from the client.", Kind::Counter, counts(received)),
    ]);
}

fn gather_downstream(shards: &[std::sync::Arc<ShardData>], families: &mut Vec<Family>) {
    let (mut connections, mut active, mut refused) = (Sums::new(), Sums::new(), Sums::new());
    let (mut violations, mut resets, mut pauses) = (Sums::new(), Sums::new(), Sums::new());
    let (mut narrowed, mut joined) = (Sums::new(), Sums::new());
    for shard in shards {
        add_used(&mut narrowed, &[("peer", "client")], &shard.narrowed.clients);
        add_used(&mut narrowed, &[("peer", "endpoint")], &shard.narrowed.endpoints);
        for (direction, metrics) in DIRECTIONS.iter().zip(&shard.downstream) {
            let direction = ("direction", direction.as_str());
            for (protocol, counter) in DownstreamProtocol::ALL.iter().zip(&metrics.connections) {
                add_used(&mut connections, &[direction, ("protocol", protocol.as_str())], counter);
            }
            for (reason, counter) in Refusal::ALL.iter().zip(&metrics.refused) {
                add_used(&mut refused, &[direction, ("reason", reason.as_str())], counter);
            }
            for (reason, counter) in VIOLATIONS.iter().zip(&metrics.violations) {
                add_used(&mut violations, &[direction, ("reason", reason)], counter);
            }
            for (code, counter) in RESET_CODES.iter().zip(&metrics.resets) {
                add_used(&mut resets, &[direction, ("code", code)], counter);
            }
            add_used(&mut joined, &[direction], &metrics.joined);
            add_used(&mut pauses, &[direction], &metrics.accept_pauses);
            *active.entry(labels(&[direction])).or_default() += metrics.active.value();
        }
    }
    families.extend([
        family(
            "remora_protocol_violations_total",
            "Ways in which clients broke their protocols.",
            Kind::Counter,
            counts(violations),
        ),
        family(
            "remora_http2_resets_sent_total",
            "HTTP/2 streams of clients that were reset, by error code.",
            Kind::Counter,
            counts(resets),
        ),
        family(
            "remora_http2_windows_narrowed_total",
            "Times a worker made the windows that HTTP/2 streams may have narrower, for many were under way or memory was short.",
            Kind::Counter,
            counts(narrowed),
        ),
        family(
            "remora_http2_frames_joined_total",
            "Small DATA frames of clients that had to wait, and were joined with those before them.",
            Kind::Counter,
            counts(joined),
        ),
        family(
            "remora_accept_pauses_total",
            "Times accepting rested, for connections or open files were as many as there may be.",
            Kind::Counter,
            counts(pauses),
        ),
        family(
            "remora_downstream_connections_total",
            "Connections accepted, counted once what they speak is known.",
            Kind::Counter,
            counts(connections),
        ),
        family("remora_downstream_connections_active", "Accepted connections now open.", Kind::Gauge, counts(active)),
        family(
            "remora_connections_refused_total",
            "Accepted connections that were refused.",
            Kind::Counter,
            counts(refused),
        ),
    ]);
}

fn gather_detection(shards: &[std::sync::Arc<ShardData>], families: &mut Vec<Family>) {
    let (mut timeouts, mut durations) = (Sums::new(), BTreeMap::<String, Durations>::new());
    for shard in shards {
        for (direction, metrics) in DIRECTIONS.iter().zip(&shard.downstream) {
            let direction = ("direction", direction.as_str());
            add_used(&mut timeouts, &[direction], &metrics.detection_timeouts);
            let read = metrics.detection.read();
            if read.0.iter().any(|count| *count > 0) {
                add_durations(durations.entry(labels(&[direction])).or_default(), read);
            }
        }
    }
    families.extend([
        family(
            "remora_protocol_detection_duration_seconds",
            "From accepting a connection until it was known what it speaks.",
            Kind::Histogram,
            durations.into_iter().flat_map(|(labels, durations)| histogram(&labels, &durations)).collect(),
        ),
        family(
            "remora_protocol_detection_timeouts_total",
            "Connections whose first bytes could begin anything, and were not followed in time.",
            Kind::Counter,
            counts(timeouts),
        ),
    ]);
}

fn add_used(sums: &mut Sums, pairs: &[(&str, &str)], counter: &Counter) {
    if counter.value() > 0 {
        *sums.entry(labels(pairs)).or_default() += counter.value();
    }
}

fn gather_upstream(all: &[&UpstreamMetrics], families: &mut Vec<Family>) {
    let (mut connections, mut overflows) = (Sums::new(), Sums::new());
    for metrics in all {
        for (limit, counter) in Limit::ALL.iter().zip(&metrics.overflows) {
            add_used(&mut overflows, &[("cluster", &*metrics.cluster), ("limit", limit.as_str())], counter);
        }
        for (protocol, counter) in UpstreamProtocol::ALL.iter().zip(&metrics.connections) {
            add_used(&mut connections, &[("cluster", &*metrics.cluster), ("protocol", protocol.as_str())], counter);
        }
    }
    families.push(family(
        "remora_upstream_connections_total",
        "Connections made to endpoints.",
        Kind::Counter,
        counts(connections),
    ));
    families.push(family(
        "remora_upstream_overflows_total",
        "What was refused, or had to wait, since as much of the cluster was in use as may be.",
        Kind::Counter,
        counts(overflows),
    ));
    type Read = fn(&UpstreamMetrics) -> u64;
    let by_cluster: [(&str, &str, Kind, Read); 6] = [
        ("remora_upstream_connections_active", "Connections to endpoints now open.", Kind::Gauge, |m| m.active.value()),
        (
            "remora_upstream_connect_failures_total",
            "Connections to endpoints that could not be made.",
            Kind::Counter,
            |m| m.connect_failures.value(),
        ),
        ("remora_upstream_attempts_total", "Requests and connections tried on an endpoint.", Kind::Counter, |m| {
            m.attempts.value()
        }),
        ("remora_upstream_retries_total", "Attempts that were not the first.", Kind::Counter, |m| m.retries.value()),
        ("remora_upstream_pool_reuse_total", "Requests that found a pooled connection.", Kind::Counter, |m| {
            m.reuse.value()
        }),
        (
            "remora_upstream_surplus_answers_total",
            "Connections given up since endpoints sent more on them than was asked for.",
            Kind::Counter,
            |m| m.surplus.value(),
        ),
    ];
    for (name, help, kind, read) in by_cluster {
        let mut sums = Sums::new();
        for metrics in all {
            *sums.entry(labels(&[("cluster", &metrics.cluster)])).or_default() += read(metrics);
        }
        families.push(family(name, help, kind, counts(sums)));
    }
}

fn gather_in_use(registry: &Registry, families: &mut Vec<Family>) {
    let in_use = registry.in_use();
    let each =
        in_use.iter().flat_map(|(cluster, in_use)| Limit::ALL.map(|limit| (cluster, limit, in_use.count(limit))));
    let series = each.map(|(cluster, limit, count)| {
        ("", labels(&[("cluster", &**cluster), ("limit", limit.as_str())]), Value::Count(count.into()))
    });
    families.push(family(
        "remora_upstream_in_use",
        "What counts against a cluster's circuit breakers.",
        Kind::Gauge,
        series.collect(),
    ));
}

fn gather_tls(shards: &[std::sync::Arc<ShardData>], families: &mut Vec<Family>) {
    let (mut handshakes, mut failures) = (Sums::new(), Sums::new());
    for shard in shards {
        for side in TlsSide::ALL {
            for (resumed, counter) in ["false", "true"].iter().zip(&shard.tls.handshakes[side as usize]) {
                add_used(&mut handshakes, &[("side", side.as_str()), ("resumed", resumed)], counter);
            }
            for (reason, counter) in TLS_FAILURE_REASONS.iter().zip(&shard.tls.failures[side as usize]) {
                add_used(&mut failures, &[("side", side.as_str()), ("reason", reason)], counter);
            }
        }
    }
    families.extend([
        family("remora_tls_handshakes_total", "TLS handshakes that succeeded.", Kind::Counter, counts(handshakes)),
        family(
            "remora_tls_handshake_failures_total",
            "TLS handshakes that failed, by reason.",
            Kind::Counter,
            counts(failures),
        ),
    ]);
}

fn gather_control(registry: &Registry, shards: &[std::sync::Arc<ShardData>], families: &mut Vec<Family>) {
    let control = &registry.control;
    let results = |counts: &[std::sync::atomic::AtomicU64; 2]| {
        ["applied", "failed"]
            .iter()
            .zip(counts)
            .map(|(result, count)| ("", labels(&[("result", result)]), Value::Count(count.load(Ordering::Relaxed))))
            .collect()
    };
    let single = |count: u64| vec![("", String::new(), Value::Count(count))];
    let dropped_spans = control.spans_dropped.load(Ordering::Relaxed)
        + shards.iter().map(|shard| shard.spans_dropped.value()).sum::<u64>();
    let dropped_lines = control.access_log_dropped.load(Ordering::Relaxed)
        + shards.iter().map(|shard| shard.access_log_dropped.value()).sum::<u64>();
    families.extend([
        family(
            "remora_config_reloads_total",
            "Configuration reloads.",
            Kind::Counter,
            results(&control.config_reloads),
        ),
        family(
            "remora_spans_exported_total",
            "Spans a collector took.",
            Kind::Counter,
            single(control.spans_exported.load(Ordering::Relaxed)),
        ),
        family("remora_spans_dropped_total", "Spans that were lost.", Kind::Counter, single(dropped_spans)),
        family(
            "remora_access_log_dropped_total",
            "Access log lines that were lost.",
            Kind::Counter,
            single(dropped_lines),
        ),
        family(
            "remora_log_dropped_total",
            "Lines of the log that were lost, for nobody took them.",
            Kind::Counter,
            single(crate::admin::dropped_lines()),
        ),
        family(
            "remora_build_info",
            "What is running; always 1.",
            Kind::Gauge,
            vec![("", labels(&[("version", env!("CARGO_PKG_VERSION"))]), Value::Count(1))],
        ),
    ]);
}

/// Nothing where memory has no limit.
fn gather_memory(registry: &Registry, families: &mut Vec<Family>) {
    let value = |count: &std::sync::atomic::AtomicU64| Value::Count(count.load(Ordering::Relaxed));
    let control = &registry.control;
    if control.memory_limit.load(Ordering::Relaxed) == 0 {
        return;
    }
    families.extend([
        Family::single("remora_memory_limit_bytes", "Memory there may be.", Kind::Gauge, value(&control.memory_limit)),
        Family::single(
            "remora_memory_used_bytes",
            "Memory that counts against the limit.",
            Kind::Gauge,
            value(&control.memory_used),
        ),
        Family::single(
            "remora_memory_shortages_total",
            "Times memory became so short that connections, or requests, are held back.",
            Kind::Counter,
            value(&control.memory_shortages),
        ),
    ]);
}
