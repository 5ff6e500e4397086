use std::sync::mpsc;
use std::time::UNIX_EPOCH;

use http::StatusCode;

use super::*;
use crate::telemetry::registry::Registry;
use crate::telemetry::{Value, channels};

fn record(format: AccessLogFormat) -> AccessRecord {
    AccessRecord {
        time: UNIX_EPOCH + Duration::from_millis(1_785_500_000_123),
        format,
        direction: Direction::Outbound,
        client: ClientAddr::new("10.7.0.1:40000".parse().unwrap()),
        orig_dst: OrigDst::new("10.7.0.100:50051".parse().unwrap()),
        peer: None,
        subject: Subject::Request {
            method: Method::POST,
            authority: Some("catalog:50051".into()),
            path: "/shop.Catalog/List".into(),
            protocol: "grpc",
            route: Some("/".into()),
        },
        outcome: Outcome {
            status: Some(StatusCode::OK),
            grpc_status: Some(14),
            flag: Some(ResponseFlag::UH),
            reason: Some("no healthy endpoint in cluster \"catalog:50051\"".into()),
        },
        cluster: Some("catalog:50051".into()),
        endpoint: Some("10.7.0.3:50051".parse().unwrap()),
        duration: Duration::from_nanos(12_345_678),
        received: 5,
        sent: 0,
        trace_id: Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
    }
}

fn connection(format: AccessLogFormat) -> AccessRecord {
    AccessRecord {
        direction: Direction::Inbound,
        peer: Some("spiffe://example.org/ns/shop/sa/storefront".parse().unwrap()),
        subject: Subject::Connection { protocol: "tls", sni: Some("db.example".into()) },
        outcome: Outcome::default(),
        cluster: None,
        endpoint: None,
        trace_id: None,
        ..record(format)
    }
}

fn line(record: &AccessRecord) -> String {
    let mut text = String::new();
    record.write(&mut text);
    text
}

#[test]
fn text_lines() {
    assert_eq!(
        line(&record(AccessLogFormat::Text)),
        "2026-07-31T12:13:20.123Z outbound POST catalog:50051/shop.Catalog/List grpc 200 UH \
         \"no healthy endpoint in cluster \\\"catalog:50051\\\"\" grpc_status=14 route=/ cluster=catalog:50051 \
         endpoint=10.7.0.3:50051 client=10.7.0.1:40000 duration=12.345ms received=5 sent=0 \
         trace_id=4bf92f3577b34da6a3ce929d0e0e4736\n"
    );
    assert_eq!(
        line(&connection(AccessLogFormat::Text)),
        "2026-07-31T12:13:20.123Z inbound tls 10.7.0.100:50051 - sni=db.example client=10.7.0.1:40000 \
         peer=spiffe://example.org/ns/shop/sa/storefront duration=12.345ms received=5 sent=0\n"
    );
}

#[test]
fn json_lines() {
    assert_eq!(
        line(&record(AccessLogFormat::Json)),
        "{\"time\":\"2026-07-31T12:13:20.123Z\",\"direction\":\"outbound\",\"client\":\"10.7.0.1:40000\",\
         \"destination\":\"10.7.0.100:50051\",\"method\":\"POST\",\"authority\":\"catalog:50051\",\
         \"path\":\"/shop.Catalog/List\",\"protocol\":\"grpc\",\"status\":200,\"grpc_status\":14,\"flag\":\"UH\",\
         \"reason\":\"no healthy endpoint in cluster \\\"catalog:50051\\\"\",\"route\":\"/\",\
         \"cluster\":\"catalog:50051\",\"endpoint\":\"10.7.0.3:50051\",\"duration_ms\":12.345,\"received_bytes\":5,\
         \"sent_bytes\":0,\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\"}\n"
    );
    assert_eq!(
        line(&connection(AccessLogFormat::Json)),
        "{\"time\":\"2026-07-31T12:13:20.123Z\",\"direction\":\"inbound\",\"client\":\"10.7.0.1:40000\",\
         \"destination\":\"10.7.0.100:50051\",\"protocol\":\"tls\",\"duration_ms\":12.345,\"received_bytes\":5,\
         \"sent_bytes\":0,\"peer\":\"spiffe://example.org/ns/shop/sa/storefront\",\"sni\":\"db.example\"}\n"
    );
}

#[test]
fn nothing_a_client_sends_breaks_a_line() {
    for format in [AccessLogFormat::Text, AccessLogFormat::Json] {
        let mut hostile = record(format);
        hostile.outcome.reason = Some("a\"\n2026 forged\r\u{1b}[31m".into());
        let line = line(&hostile);
        assert!(line.ends_with('\n') && line.trim_end().chars().all(|c| !c.is_control()), "{line:?}");
    }
    assert_eq!(bounded(&"ä".repeat(10_000)).len(), TEXT);
}

/// Gives what is written to a test, each write only when the test has taken the one before.
struct Pipe(mpsc::SyncSender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn dropped(registry: &Registry) -> Value {
    let stats = registry.stats();
    stats.into_iter().find(|(name, _)| name == "remora_access_log_dropped_total").unwrap().1
}

/// One worker's records handed on, as fast as it can.
fn send(sinks: &crate::telemetry::Sinks, records: usize) -> u64 {
    let mut batch = crate::telemetry::channel::Batch::default();
    let dropped: u64 = (0..records).map(|_| batch.push(record(AccessLogFormat::Text), &sinks.lines)).sum();
    dropped + batch.flush(&sinks.lines)
}

#[tokio::test]
async fn lines_are_written_in_order_until_the_last_worker_ends() {
    let registry = Registry::new();
    let (sinks, sources) = channels(&registry);
    let (pipe, written) = mpsc::sync_channel(1024);
    let writer = start_on(sources.access_log, Pipe(pipe)).unwrap();
    assert_eq!(send(&sinks, 600), 0);
    drop(sinks);
    writer.finish(Duration::from_secs(60)).await;
    let text: Vec<u8> = written.iter().flatten().collect();
    assert_eq!(String::from_utf8(text).unwrap(), line(&record(AccessLogFormat::Text)).repeat(600));
    assert_eq!(dropped(&registry), Value::Count(0));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_stops_nobody() {
    let registry = Registry::new();
    let (sinks, sources) = channels(&registry);
    let (pipe, never_read) = mpsc::sync_channel(0);
    let writer = start_on(sources.access_log, Pipe(pipe)).unwrap();
    let lost = send(&sinks, 100_000);
    assert!(lost >= 80_000, "only {lost} of 100,000 were dropped");
    drop(sinks);
    writer.finish(Duration::from_secs(1)).await;
    drop(never_read);
}

#[tokio::test]
async fn lines_a_broken_pipe_refuses_are_counted() {
    let registry = Registry::new();
    let (sinks, sources) = channels(&registry);
    let (pipe, _) = mpsc::sync_channel(0);
    let writer = start_on(sources.access_log, Pipe(pipe)).unwrap();
    assert_eq!(send(&sinks, 10), 0);
    drop(sinks);
    writer.finish(Duration::from_secs(60)).await;
    assert_eq!(dropped(&registry), Value::Count(10));
}
