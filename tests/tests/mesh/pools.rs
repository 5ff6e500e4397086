//! Connections that many clients share: none is lost while lent, and nobody can use one up.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use tokio::net::TcpStream;

use crate::pair::{Pair, Plan, service};

/// More than all the windows between a client and an application that does not read.
const UPLOAD: usize = 8_000_000;
/// The silence after which an upload is taken to have stopped: no event tells it.
const STOPPED: Duration = Duration::from_millis(400);

/// Posts `count` bodies at once on one connection to an application that never reads them, sends each as far as its window
/// goes, and resets it. Returns how much of each was sent.
fn stalled_uploads(pod: &Pod, count: usize) -> Vec<usize> {
    pod.block_on(|| async move {
        let stream = TcpStream::connect(service(8080)).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let mut uploads = Vec::new();
        for _ in 0..count {
            let request = Request::post("http://server:8080/silent").body(()).unwrap();
            client = client.ready().await.unwrap();
            let (response, mut send) = client.send_request(request, false).unwrap();
            uploads.push(tokio::spawn(async move {
                let mut sent = 0;
                while sent < UPLOAD {
                    send.reserve_capacity(16_384);
                    let capacity = std::future::poll_fn(|cx| send.poll_capacity(cx));
                    let Ok(capacity) = tokio::time::timeout(STOPPED, capacity).await else { break };
                    let size = capacity.unwrap().unwrap();
                    send.send_data(Bytes::from(vec![b'u'; size]), false).unwrap();
                    sent += size;
                }
                (sent, send, response)
            }));
        }
        let mut sizes = Vec::new();
        let mut stopped = Vec::new();
        for upload in uploads {
            let (sent, send, response) = upload.await.unwrap();
            sizes.push(sent);
            stopped.push((send, response));
        }
        for (send, _) in &mut stopped {
            send.send_reset(h2::Reason::CANCEL);
        }
        // All of it is on the wire when the server has answered what came after it.
        let request = Request::get("http://server:8080/name").body(()).unwrap();
        client = client.ready().await.unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(
            tokio::time::timeout(remora_test::PATIENCE, response).await.expect("an answer").unwrap().status(),
            200
        );
        sizes
    })
}

#[test]
fn uploads_that_nobody_reads_stop_nobody_else() {
    let pair = Pair::start(Plan { both: "workers: 1", ..Plan::default() });
    let bystander = |when: &str| {
        for flag in ["--http1.1", "--http2-prior-knowledge"] {
            let answer = pair.client.curl(&["--max-time", "10", flag, &pair.url("/name")]);
            assert_eq!((answer.code, answer.body.as_str()), (200, "server"), "{when} {flag}: {answer:?}");
        }
    };
    bystander("before");
    let hops = || pair.outbound.metric("remora_upstream_connections_total", &[("cluster", "server:8080")]);
    let mut opened = Vec::new();
    for (round, count) in [10, 60, 60, 60].into_iter().enumerate() {
        let sizes = stalled_uploads(&pair.client, count);
        assert!(sizes.iter().all(|size| (65_535..UPLOAD).contains(size)), "each ran into its window: {sizes:?}");
        for sidecar in [&pair.outbound, &pair.inbound] {
            sidecar.metric_until("remora_requests_active", &[], |n| n == 0.0);
        }
        bystander(&format!("after round {round}"));
        opened.push(hops());
    }
    assert_eq!(opened[1], opened[3], "what was given up holds no place on a connection: {opened:?}");
}

#[test]
fn connections_that_are_always_lent_stay_in_their_pool() {
    let pair = Pair::start(Plan { both: "workers: 1", ..Plan::default() });
    // Eight clients at once for four seconds: a pool is looked through every second.
    pair.client.h2load(&["--h1", "-n", "104", "-c", "8", &pair.url("/delay/300")]).assert_clean(104);
    let connections = pair.inbound.metric("remora_upstream_connections_total", &[("cluster", "inbound")]);
    assert!((1.0..=10.0).contains(&connections), "8 clients, {connections} connections");
    let hops = pair.outbound.metric("remora_upstream_connections_total", &[("cluster", "server:8080")]);
    assert!(hops <= 2.0, "one shared hop, {hops} connections");
}

/// More than fifty connections' worth, if each carries a hundred streams.
const AT_ONCE: usize = 5_000;

/// An HTTP/2 application that carries a hundred streams a connection, and answers nobody before `AT_ONCE` have asked.
fn hundreds(pod: &Pod) {
    let listener = pod.enter(|| std::net::TcpListener::bind("[::]:8080")).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let all = std::sync::Arc::new(tokio::sync::Barrier::new(AT_ONCE));
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let all = all.clone();
                tokio::spawn(async move {
                    let mut h2 = h2::server::Builder::new();
                    let mut h2 = h2.max_concurrent_streams(100).handshake::<_, Bytes>(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = h2.accept().await {
                        let all = all.clone();
                        tokio::spawn(async move {
                            all.wait().await;
                            let _ = respond.send_response(http::Response::new(()), true);
                        });
                    }
                });
            }
        });
    });
}

#[test]
fn more_streams_than_a_connection_carries_get_more_connections() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    hundreds(&server);
    let inbound = server.sidecar("inbound: {mtls: strict}");
    let outbound = client.sidecar(&crate::pair::entry(8080, &[server.at(8080)], ""));
    let load = ["-n", "5000", "-c", "50", "-m", "100", "http://10.96.0.10:8080/"];
    client.h2load(&load).assert_clean(AT_ONCE as u64);
    for (sidecar, cluster) in [(&outbound, "server:8080"), (&inbound, "inbound")] {
        let connections = sidecar.metric("remora_upstream_connections_total", &[("cluster", cluster)]);
        // Fifty would do. One carries no more than one stream where a server takes longer than half a second to say how many it takes.
        assert!((50.0..500.0).contains(&connections), "{cluster}: {connections} connections for {AT_ONCE} streams");
        assert_eq!(sidecar.metric("remora_upstream_retries_total", &[]), 0.0, "{cluster}");
    }
}
