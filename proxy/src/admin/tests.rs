//! The interfaces over real sockets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use remora_certs::ca::{Authority, Validity};
use remora_model::TrustDomain;
use remora_model::identity::IdentityFiles;
use remora_model::snapshot::{Admin, Service};
use remora_model::telemetry::{OtlpProtocol, Telemetry, Tracing};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::drain::Phase;

fn snapshot() -> Snapshot {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let tracing = Tracing {
        endpoint: "http://127.0.0.1:4317".into(),
        protocol: OtlpProtocol::Grpc,
        sampling_ratio: 0.01,
        queue: 2048,
        timeout: Duration::from_secs(10),
        headers: vec![("authorization".into(), "Bearer hush".into())],
        service_name: "storefront".into(),
        resource: Vec::new(),
        propagation: Vec::new(),
    };
    Snapshot {
        service: Service { name: "storefront".into(), namespace: "shop".into(), version: None },
        identity: None,
        limits: Default::default(),
        listeners: Vec::new(),
        clusters: Vec::new(),
        resolved_hosts: Vec::new(),
        telemetry: Telemetry { tracing: Some(tracing), access_log: Default::default() },
        admin: Admin { address: nowhere, metrics: vec![nowhere], readiness: vec![nowhere] },
        drain_timeout: Duration::from_secs(30),
        lame_duck: Duration::ZERO,
        exit_with_application: false,
        probes: Default::default(),
        workers: None,
    }
}

/// An identity of a CA of its own, read from files as the proxy does.
fn identity() -> Identity {
    let domain: TrustDomain = "example.org".parse().unwrap();
    let validity = || Validity::around(SystemTime::now(), Duration::from_secs(60), Duration::from_secs(3600));
    let root = Authority::root(&domain, validity()).unwrap();
    let intermediate = root.intermediate(&domain, validity()).unwrap();
    let issued =
        intermediate.issue(&"spiffe://example.org/ns/shop/sa/storefront".parse().unwrap(), validity()).unwrap();
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("remora-admin-test-{}-{count}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let files = IdentityFiles {
        certificate: directory.join("cert.pem"),
        key: directory.join("key.pem"),
        trust_bundle: directory.join("bundle.pem"),
    };
    std::fs::write(&files.certificate, issued.chain_pem).unwrap();
    std::fs::write(&files.key, issued.key_pem).unwrap();
    std::fs::write(&files.trust_bundle, root.certificate_pem()).unwrap();
    let identity = remora_certs::identity::load(&domain, &files).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    identity
}

fn state() -> Arc<AdminState> {
    let endpoint = EndpointStatus { address: "10.7.0.2:50051".parse().unwrap(), weight: 3, active: 2, healthy: true };
    let status = vec![
        ClusterStatus { name: "catalog:50051".into(), endpoints: vec![endpoint] },
        ClusterStatus { name: "empty".into(), endpoints: Vec::new() },
    ];
    // Their senders may go: the last value stays.
    let (_, snapshot) = watch::channel(Arc::new(snapshot()));
    let (_, identity) = watch::channel(Some(Arc::new(identity())));
    Arc::new(AdminState {
        registry: Registry::new(),
        snapshot,
        rejected: watch::channel(None).1,
        readiness: Readiness::new(),
        identity: Some(IdentityView { source: "files (cert.pem)".into(), identity, status: Arc::default() }),
        loggers: Loggers::new("info", |_| Ok(())).unwrap(),
        clusters: Box::new(move || {
            let status = status.clone();
            Box::pin(async { status })
        }),
        connections: Box::new(|| {
            let relayed = ConnectionStatus {
                direction: "outbound",
                protocol: "tcp",
                client: "10.7.0.1:40000".parse().unwrap(),
                original_destination: "10.7.0.9:3306".parse().unwrap(),
                peer: None,
                age_seconds: 61.04,
                active: 0,
                requests: 0,
                endpoint: Some("10.7.0.3:3306".parse().unwrap()),
                received: 10,
                sent: 2000,
            };
            let asked = ConnectionStatus {
                direction: "inbound",
                protocol: "http2",
                peer: Some("spiffe://example.org/ns/shop/sa/web".into()),
                active: 3,
                requests: 120,
                endpoint: None,
                age_seconds: 1.0,
                ..relayed.clone()
            };
            Box::pin(async { vec![relayed, asked] })
        }),
        quit: Arc::default(),
        farewell: Farewell::default(),
        prober: Prober::new(&Default::default()),
        started: SystemTime::now(),
    })
}

/// Starts one of the interfaces.
fn start(state: &Arc<AdminState>, interface: Interface) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve(listener, interface, Arc::clone(state)));
    address
}

/// Sends bytes and reads to the end: the status, the head, and the body.
async fn raw(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

async fn ask(address: SocketAddr, method: &str, target: &str) -> (u16, String, String) {
    raw(address, &format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")).await
}

async fn body(address: SocketAddr, target: &str) -> String {
    let (status, _, body) = ask(address, "GET", target).await;
    assert_eq!(status, 200, "{target}: {body}");
    body
}

#[tokio::test]
async fn every_page_of_every_interface_answers() {
    let state = state();
    for interface in [Interface::Admin, Interface::Metrics, Interface::Readiness] {
        let address = start(&state, interface);
        for route in pages::ROUTES.iter().filter(|route| route.on.contains(&interface)) {
            let method = if route.read { "GET" } else { "POST" };
            let (status, head, _) = ask(address, method, route.path).await;
            let fine = route.read || matches!(route.path, "/leave" | "/quitquitquit");
            assert_eq!(status, if fine { 200 } else { 400 }, "{interface:?} {}", route.path);
            assert!(head.contains("cache-control: no-store") && head.contains("x-content-type-options: nosniff"));
        }
        let (status, _, text) = ask(address, "GET", "/nowhere").await;
        assert!(status == 404 && text.contains("/healthz/ready"), "{text}");
    }
    let metrics = start(&state, Interface::Metrics);
    assert_eq!(ask(metrics, "GET", "/config_dump").await.0, 404);
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let state = state();
    let address = start(&state, Interface::Readiness);
    let guard = state.readiness.register("worker 0");
    let (status, _, text) = ask(address, "GET", "/healthz/ready").await;
    assert_eq!((status, text.as_str()), (503, "not ready\nwaiting for worker 0\n"));
    drop(guard);
    assert_eq!(body(address, "/healthz/ready").await, "ready\n");
    state.readiness.draining();
    let (status, _, text) = ask(address, "GET", "/ready").await;
    assert_eq!((status, text.as_str()), (503, "not ready\ndraining\n"));
}

#[tokio::test]
async fn stats_are_filtered_and_formatted() {
    let state = state();
    state.registry.config_reload(true);
    let address = start(&state, Interface::Admin);
    let text = body(address, "/stats?filter=config_reloads").await;
    assert_eq!(
        text,
        "remora_config_reloads_total{result=\"applied\"}: 1\nremora_config_reloads_total{result=\"failed\"}: 0\n"
    );
    let json: Json = serde_json::from_str(&body(address, "/stats?format=json&filter=reloads_total").await).unwrap();
    assert_eq!(json["remora_config_reloads_total{result=\"applied\"}"], 1);
    let (_, head, prometheus) = ask(address, "GET", "/stats?format=prometheus").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(prometheus.contains("# TYPE remora_config_reloads_total counter\n"));
    assert_eq!(ask(address, "GET", "/stats?format=xml").await.0, 400);
}

#[tokio::test]
async fn levels_are_read_and_set() {
    let address = start(&state(), Interface::Admin);
    assert_eq!(body(address, "/loggers").await, "default: info\n");
    let set = ask(address, "POST", "/loggers?remora_proxy%3A%3Atls=trace").await;
    assert_eq!((set.0, set.2.as_str()), (200, "default: info\nremora_proxy::tls: trace\n"));
    assert_eq!(ask(address, "POST", "/logging?level=debug").await.2, "default: debug\n");
    for target in ["/logging?level=loud", "/loggers", "/loggers?a=debug&b=debug", "/loggers?%00=debug"] {
        assert_eq!(ask(address, "POST", target).await.0, 400, "{target}");
    }
    assert_eq!(body(address, "/loggers").await, "default: debug\n");
}

#[tokio::test]
async fn methods_are_checked() {
    let address = start(&state(), Interface::Admin);
    for (method, target, allow) in [
        ("POST", "/stats", "allow: get, head\r"),
        ("GET", "/logging", "allow: post\r"),
        ("DELETE", "/loggers", "allow: get, head, post\r"),
    ] {
        let (status, head, _) = ask(address, method, target).await;
        assert!(status == 405 && format!("{head}\r").contains(allow), "{method} {target}: {head}");
    }
    let (status, _, text) = ask(address, "HEAD", "/stats").await;
    assert_eq!((status, text.as_str()), (200, ""));
}

#[tokio::test]
async fn a_page_of_another_site_reaches_nothing() {
    let address = start(&state(), Interface::Admin);
    for fields in [
        "host: evil.example\r\n",
        "host: localhost\r\norigin: http://evil.example\r\n",
        "",
        "host: a\r\nhost: localhost\r\n",
    ] {
        let request = format!("POST /loggers?level=trace HTTP/1.1\r\n{fields}connection: close\r\n\r\n");
        let (status, _, _) = raw(address, &request).await;
        assert!(matches!(status, 400 | 403), "{fields:?} got {status}");
    }
    assert_eq!(body(address, "/loggers").await, "default: info\n");
}

#[tokio::test]
async fn the_end_is_asked_for_by_post_and_by_names_of_this_machine() {
    let state = state();
    let address = start(&state, Interface::Admin);
    assert_eq!(ask(address, "GET", "/quitquitquit").await.0, 405);
    for fields in ["host: evil.example", "host: localhost\r\norigin: http://evil.example"] {
        let request = format!("POST /quitquitquit HTTP/1.1\r\n{fields}\r\nconnection: close\r\n\r\n");
        assert_eq!(raw(address, &request).await.0, 403);
    }
    for interface in [Interface::Metrics, Interface::Readiness] {
        assert_eq!(ask(start(&state, interface), "POST", "/quitquitquit").await.0, 404);
    }
    let asked = |bound| tokio::time::timeout(bound, state.quit.notified());
    asked(Duration::ZERO).await.unwrap_err();
    let (status, _, text) = ask(address, "POST", "/quitquitquit").await;
    assert_eq!((status, text.as_str()), (200, "draining\n"));
    asked(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn connections_are_shown_with_what_they_carry() {
    let address = start(&state(), Interface::Admin);
    assert_eq!(
        body(address, "/connections").await,
        "outbound tcp     10.7.0.1:40000 -> 10.7.0.9:3306 age 61.0s endpoint 10.7.0.3:3306 received 10 sent 2000 peer -\n\
         inbound  http2   10.7.0.1:40000 -> 10.7.0.9:3306 age 1.0s active 3 requests 120 peer spiffe://example.org/ns/shop/sa/web\n"
    );
    let json: Json = serde_json::from_str(&body(address, "/connections?format=json").await).unwrap();
    assert_eq!((&json[0]["sent"], &json[1]["active"]), (&Json::from(2000), &Json::from(3)));
}

#[tokio::test]
async fn that_the_pod_leaves_is_told_by_post_and_may_be_told_again() {
    let state = state();
    let address = start(&state, Interface::Admin);
    assert_eq!(ask(address, "GET", "/leave").await.0, 405);
    assert_eq!(ask(start(&state, Interface::Metrics), "POST", "/leave").await.0, 404);
    let told = state.farewell.subscribe();
    assert_eq!(*told.borrow(), Phase::Serving);
    for _ in 0..2 {
        let (status, _, text) = ask(address, "POST", "/leave").await;
        assert_eq!((status, text.as_str(), *told.borrow()), (200, "leaving\n", Phase::Leaving));
    }
    assert_eq!(ask(address, "GET", "/ready").await.0, 200, "it serves whoever comes");
}

#[tokio::test]
async fn certificates_are_shown_and_no_secret_is() {
    let state = state();
    let address = start(&state, Interface::Admin);
    let text = body(address, "/certs").await;
    let json: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(json["identity"]["spiffe_id"], "spiffe://example.org/ns/shop/sa/storefront");
    assert_eq!(json["identity"]["trust_anchors"].as_array().unwrap().len(), 1);
    assert_eq!(json["source"]["from"], "files (cert.pem)");
    assert!(json["identity"]["seconds_left"].as_u64().unwrap() > 3000);
    let dump = body(address, "/config_dump").await;
    assert_eq!(serde_json::from_str::<Json>(&dump).unwrap()["service"]["name"], "storefront");
    for page in [text, dump] {
        assert!(!page.contains("PRIVATE") && !page.contains("hush"), "{page}");
    }
}

#[tokio::test]
async fn clusters_and_listeners_are_listed() {
    let state = state();
    let address = start(&state, Interface::Admin);
    assert_eq!(
        body(address, "/clusters").await,
        "catalog:50051\n  10.7.0.2:50051           healthy   weight 3 active 2\nempty\n  no endpoint\n"
    );
    let json: Json = serde_json::from_str(&body(address, "/clusters?format=json").await).unwrap();
    assert_eq!(json[0]["endpoints"][0]["address"], "10.7.0.2:50051");
    let info: Json = serde_json::from_str(&body(address, "/server_info").await).unwrap();
    assert_eq!((&info["state"], &info["service"]), (&"LIVE".into(), &"storefront".into()));
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let address = start(&state(), Interface::Admin);
    let request = format!("GET /stats HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    assert!(!response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response));
    assert_eq!(body(address, "/healthz/live").await, "live\n");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_head_is_dropped() {
    let address = start(&state(), Interface::Admin);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /stats HTTP/1.1\r\nhost: loc").await.unwrap();
    let mut rest = Vec::new();
    // Ends by the server's bound; the clock is paused.
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}
