//! Connections that many clients share: none is lost while lent, and nobody can use one up.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
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
