//! HTTP/1.1 and HTTP/2 through both sidecars, as if they were not there.

use remora_test::client;

use crate::pair::{Pair, VIRTUAL6, service};

#[test]
fn both_versions_arrive_as_they_were_sent() {
    let pair = Pair::usual();
    for (flag, version) in [("--http1.1", "HTTP/1.1"), ("--http2-prior-knowledge", "HTTP/2.0")] {
        let answer =
            pair.client.curl(&[&pair.url("/a/b?c=d"), flag, "-H", "x-one: 1", "-H", "x-one: 2", "-d", "12345"]);
        assert_eq!(answer.code, 200, "{answer:?}");
        assert_eq!(answer.header("x-app"), Some("remora-peer"));
        let seen = answer.json();
        assert_eq!(seen["version"], version, "{seen}");
        assert_eq!(seen["method"], "POST");
        assert_eq!(seen["path"], "/a/b?c=d");
        assert_eq!(seen["body"], 5);
        assert_eq!(seen["headers"]["x-one"], serde_json::json!(["1", "2"]));
        assert_eq!(seen["peer"], "127.0.0.6", "the inbound leg's own source address");
        let host = if version == "HTTP/1.1" { &seen["headers"]["host"][0] } else { &seen["authority"] };
        assert_eq!(host, &format!("{}:8080", crate::pair::VIRTUAL));
    }
}

#[test]
fn the_application_sees_no_header_of_the_hop() {
    let pair = Pair::usual();
    let seen = pair.client.curl(&[&pair.url("/"), "-H", "X-CamelCase: yes"]).json();
    let names: Vec<_> = seen["headers"].as_object().unwrap().keys().cloned().collect();
    let known = ["accept", "host", "user-agent", "x-camelcase", "x-forwarded-client-cert", "traceparent", "tracestate"];
    let strange: Vec<_> = names.iter().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(strange.is_empty(), "{strange:?}");
    for name in ["host", "user-agent", "x-camelcase", "x-forwarded-client-cert"] {
        assert!(names.iter().any(|seen| seen == name), "{name} is missing in {names:?}");
    }
}

#[test]
fn bodies_arrive_whole_in_both_directions() {
    let pair = Pair::usual();
    let file = pair.client.folder().join("body");
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n % 251).to_be_bytes()).collect();
    std::fs::write(&file, &body).unwrap();
    let from = format!("@{}", file.display());
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let url = pair.url("/echo");
        let output =
            pair.client.run("curl", &["-sS", flag, "--data-binary", &from, "-H", "expect:", "--max-time", "60", &url]);
        assert!(output.stdout == body, "{flag}: {} of {} bytes came back", output.stdout.len(), body.len());
    }
    // A body whose length is not told beforehand.
    let output = pair.client.run(
        "curl",
        &["-sS", "--data-binary", &from, "-H", "transfer-encoding: chunked", "-H", "expect:", &pair.url("/echo")],
    );
    assert!(output.stdout == body, "chunked: {} bytes", output.stdout.len());
}

#[test]
fn many_client_connections_share_few_connections_between_the_sidecars() {
    let pair = Pair::usual();
    pair.client.h2load(&["--h1", "-n", "2000", "-c", "50", &pair.url("/name")]).assert_clean(2_000);
    let downstream = pair.outbound.metric("remora_downstream_connections_total", &[("direction", "outbound")]);
    assert_eq!(downstream, 50.0);
    // A client that hesitates for 20 ms (on a busy machine) makes the proxy dial for a server that speaks first, too: not counted here.
    let hops = pair.inbound.metric("remora_downstream_connections_total", &[("protocol", "http2")]);
    assert!((1.0..=4.0).contains(&hops), "{hops} connections between the sidecars");
    let upstream = pair.outbound.metrics();
    let opened = upstream.sum("remora_upstream_connections_total", &[("protocol", "http2")]);
    assert!((1.0..=4.0).contains(&opened), "{opened} opened");
    let reused = upstream.sum("remora_upstream_pool_reuse_total", &[("cluster", "server:8080")]);
    assert_eq!(opened + reused, 2_000.0, "each request opened a connection or reused one");
}

#[test]
fn concurrent_streams_of_one_connection_are_answered() {
    let pair = Pair::usual();
    pair.client.h2load(&["-n", "2000", "-c", "2", "-m", "50", &pair.url("/bytes/1000")]).assert_clean(2_000);
    let output = pair.client.run("nghttp", &["-nv", &pair.url("/name")]);
    assert!(String::from_utf8_lossy(&output.stdout).contains(":status: 200"), "{output:?}");
}

#[test]
fn a_connection_is_kept_for_the_next_request() {
    let pair = Pair::usual();
    let (url, to) = (pair.url("/name"), service(8080));
    let output = pair.client.run("curl", &["-sS", "-w", " %{num_connects}\n", &url, &url, &url]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "server 1\nserver 0\nserver 0\n");
    let answers = pair.client.block_on(|| async move {
        let mut h1 = client::h1(to).await.unwrap();
        let mut answers = Vec::new();
        for path in ["/status/204", "/status/404", "/status/500", "/name"] {
            h1.ready().await.unwrap();
            let response = h1.send_request(client::get("server:8080", path)).await.unwrap();
            answers.push(client::text(response).await.unwrap().0);
        }
        answers
    });
    assert_eq!(answers, [204, 404, 500, 200], "all on one connection");
}

#[test]
fn head_answers_have_a_length_and_no_body() {
    let pair = Pair::usual();
    let answer = pair.client.curl(&["-I", &pair.url("/bytes/1234")]);
    assert_eq!((answer.code, answer.header("content-length"), answer.body.as_str()), (200, Some("1234"), ""));
}

#[test]
fn pods_speak_ipv6() {
    let pair = Pair::usual();
    let endpoint = pair.server.at6(8080);
    pair.outbound.configure(&pair.client.config(&crate::pair::entry(8080, &[endpoint], "")));
    remora_test::eventually("the IPv6 endpoint", || {
        pair.outbound.admin("/clusters").body.contains(&endpoint.ip().to_string()).then_some(())
    });
    let url = format!("http://[{VIRTUAL6}]:8080/");
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = pair.client.curl(&["-g", &url, flag]);
        assert_eq!(answer.code, 200, "{answer:?}");
        let seen = answer.json();
        assert_eq!(seen["peer"], "::6", "the inbound leg's own source address");
        assert!(seen["headers"]["x-forwarded-client-cert"][0].as_str().unwrap().contains(&pair.client.id()));
    }
    // h2load writes an IPv6 authority without its brackets; no server need take that.
    pair.client.h2load(&["-n", "300", "-c", "10", "-H", ":authority: server:8080", &url]).assert_clean(300);
}
