//! Clients that stretch the rules, or the clock: each gets its due, and nothing gets past what reads the others' requests.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use nix::sys::signal::Signal;
use remora_test::client;
use remora_test::mesh::Mesh;
use remora_test::netns::tool;
use remora_test::pod::Pod;

use crate::pair::{Pair, Plan, service};
use crate::wire::Wire;

#[test]
fn a_port_that_becomes_strict_serves_no_old_plaintext_connection() {
    let pair = Pair::start(Plan { inbound: "{mtls: permissive}", ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    let mut h1 = Wire::open(&stranger, pair.server.at(8080));
    assert_eq!(h1.get("/name", &[]).code, 200);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let to = pair.server.at(8080);
    let ask = |h2: &mut Option<client::H2>| {
        stranger.enter(|| {
            runtime.block_on(async {
                if h2.is_none() {
                    *h2 = Some(client::h2(to).await.unwrap());
                }
                let h2 = h2.as_mut().unwrap();
                h2.ready().await.unwrap();
                let answer = h2.send_request(client::get2("server:8080", "/name")).await.unwrap();
                client::text(answer).await.unwrap()
            })
        })
    };
    let mut h2 = None;
    assert_eq!(ask(&mut h2).0, 200);

    let config = std::fs::read_to_string(pair.inbound.file()).unwrap();
    pair.inbound.configure(&config.replace("permissive", "strict"));
    pair.inbound.metric_until("remora_config_reloads_total", &[("result", "applied")], |n| n == 1.0);
    let answer = remora_test::eventually("the workers refuse", || {
        let answer = h1.get("/name", &[]);
        (answer.code != 200).then_some(answer)
    });
    assert_eq!(answer.code / 100, 4, "{answer:?}");
    assert!(answer.header("x-remora-reason").unwrap_or_default().starts_with("DPE "), "{answer:?}");
    let (code, headers, body) =
        remora_test::eventually("the workers refuse HTTP/2", || Some(ask(&mut h2)).filter(|answer| answer.0 != 200));
    assert_eq!(code / 100, 4, "{body}");
    assert!(headers["x-remora-reason"].to_str().unwrap().starts_with("DPE "), "{headers:?}");
    assert!(pair.inbound.metric("remora_requests_total", &[("direction", "inbound"), ("flag", "DPE")]) >= 2.0);
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200, "the mesh goes on");
}

/// An HTTP/2 request without `:authority`, with these Host lines.
fn without_authority(path: &str, hosts: &[&str]) -> Request<Full<Bytes>> {
    let mut request = Request::get(path);
    for host in hosts {
        request = request.header("host", *host);
    }
    request.body(Full::default()).unwrap()
}

#[test]
fn http2_without_authority_is_routed_by_its_host() {
    let mesh = Mesh::new();
    let (client, a, b) = (mesh.pod("client"), mesh.pod("a"), mesh.pod("b"));
    let _apps = [a.peer("http", 8080, &[]), b.peer("http", 8080, &[])];
    let _outbound = client.plain_sidecar(&format!(
        "outbound:
  - host: server:8080
    addresses: [10.96.0.10]
    endpoints: [\"{}\"]
    routes:
      - {{path: /, cluster: \"server:8080\"}}
      - {{path: /, hosts: [b.example], cluster: b}}
clusters:
  b: {{endpoints: [\"{}\"]}}",
        a.at(8080),
        b.at(8080)
    ));
    let ask = |request: Request<Full<Bytes>>| {
        client.block_on(|| async move {
            let mut h2 = client::h2(service(8080)).await.unwrap();
            client::text(h2.send_request(request).await?).await
        })
    };
    for (hosts, name) in [(&["b.example"][..], "b"), (&["a.example"], "a")] {
        let (code, _, body) = ask(without_authority("/name", hosts)).unwrap();
        assert_eq!((code, body.as_str()), (200, name), "{hosts:?}");
    }
    let mut malformed = [&["a.example", "b.example"][..], &["b.example", "b.example"], &["not a host"], &[]]
        .map(|hosts| without_authority("/name", hosts))
        .to_vec();
    malformed.push(client::get2("a.example", "/name"));
    malformed[4].headers_mut().insert("host", "b.example".parse().unwrap());
    malformed.extend([client::get2("user@b.example", "/name"), client::get2("b.example:70000", "/name")]);
    for request in malformed {
        let told = format!("{request:?}");
        let error = ask(request).expect_err(&told);
        let reset = error.chain().find_map(|error| error.downcast_ref::<h2::Error>()).and_then(h2::Error::reason);
        assert_eq!(reset, Some(h2::Reason::PROTOCOL_ERROR), "{told}: {error:?}");
    }
    let requests = |pod: &Pod| pod.curl(&[&format!("http://{}/counts", pod.at(8080))]).json()["requests"].clone();
    assert_eq!((requests(&a), requests(&b)), (1.into(), 1.into()), "what was refused reached nobody");
}

#[test]
fn grpc_web_stays_http_1_at_a_gateway() {
    let mesh = Mesh::new();
    let (gateway, server, caller) = (mesh.pod("gateway"), mesh.pod("server"), mesh.pod("caller"));
    let _app = server.peer("http", 8080, &[]);
    let proxy = gateway.proxy(&format!(
        "gateway:\n  listen: 0.0.0.0:8080\n  routes:\n    - {{path: /, to: \"{}\"}}\n",
        server.at(8080)
    ));
    proxy.ready();
    for kind in ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"] {
        let url = format!("http://{}/shop.Catalog/List", gateway.at(8080));
        let answer = caller.curl(&[&url, "--http1.1", "-H", &format!("content-type: {kind}"), "-d", "12345"]);
        assert_eq!(answer.code, 200, "{kind}: {answer:?}");
        assert_eq!((&answer.json()["version"], &answer.json()["body"]), (&"HTTP/1.1".into(), &5.into()), "{kind}");
    }
}

/// Relays each connection to `to`, whose client is not heard for a while after it has connected.
fn hesitating(pod: &Pod, to: SocketAddr) -> SocketAddr {
    let listener = pod.enter(|| TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let _relay = pod.spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = TcpStream::connect(to).unwrap();
        // Far past the silence after which a server is given the first word.
        std::thread::park_timeout(Duration::from_millis(300));
        let pump = |mut from: TcpStream, mut to: TcpStream| {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        };
        let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || pump(back.0, back.1));
        pump(client, server);
    });
    address
}

#[test]
fn a_late_client_hello_is_still_the_meshs() {
    late_client_hello("{mtls: permissive}");
}

#[test]
fn a_late_client_hello_is_the_meshs_on_a_port_declared_tcp_too() {
    late_client_hello("{mtls: permissive, ports: [{port: 8080, protocol: tcp}]}");
}

fn late_client_hello(inbound: &'static str) {
    let pair = Pair::start(Plan { inbound, ..Plan::default() });
    let other = pair.mesh.pod("other");
    other.identity();
    let to = hesitating(&other, pair.server.at(8080)).to_string();
    let file = |name: &str| other.tls().join(name);
    let mut command = other.command(tool("openssl"));
    command.args(["s_client", "-connect", &to, "-alpn", "istio-http/1.1", "-ign_eof", "-quiet", "-cert"]);
    command.arg(file("cert.pem")).arg("-key").arg(file("key.pem")).arg("-cert_chain").arg(file("cert.pem"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut input, request).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("HTTP/1.1 200"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("URI={}", other.id())), "the application is told who calls: {text}");
    assert_eq!(pair.inbound.metric("remora_tls_handshakes_total", &[("side", "server")]), 1.0);
}

#[test]
fn a_port_declared_tcp_relays_what_looks_like_http() {
    let inbound = "{mtls: permissive, ports: [{port: 8080, protocol: tcp}]}";
    let pair = Pair::start(Plan { app: "echo", inbound, ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    let request = "GET / HTTP/1.1\r\nhost: server\r\nx-forwarded-client-cert: kept\r\n\r\n";
    let mut wire = Wire::open(&stranger, pair.server.at(8080));
    wire.send(request);
    wire.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(String::from_utf8(wire.rest()).unwrap(), format!("{request}bye from server\n"));
    let labels = [("direction", "inbound")];
    pair.inbound.metric_until("remora_tcp_connections_total", &labels, |n| n == 1.0);
    assert_eq!(pair.inbound.metric("remora_requests_total", &labels), 0.0);
}

/// A plaintext client says whole requests and then half a one; the server's sidecar drains and must not wait for the rest.
fn drains_beside(words: &[&str]) {
    let mut pair = Pair::start(Plan {
        inbound: "{mtls: permissive}",
        both: "drain_timeout: 10m\nlame_duck: 0",
        ..Plan::default()
    });
    let stranger = pair.mesh.pod("stranger");
    let mut wire = Wire::open(&stranger, pair.server.at(8080));
    let (half, before) = words.split_last().unwrap();
    for whole in before {
        wire.send(whole);
        assert_eq!(wire.answer().code, 200);
    }
    wire.send(half);
    let labels = [("direction", "inbound")];
    pair.inbound.metric_until("remora_downstream_connections_active", &labels, |n| n == 1.0);
    pair.inbound.signal(Signal::SIGTERM);
    assert_eq!(pair.inbound.wait().code(), Some(0), "a clean end, long before the drain's timeout");
    drop(wire);
}

#[test]
fn half_a_first_head_does_not_keep_a_drain_waiting() {
    drains_beside(&["GET /name HTTP/1.1\r\nhost: ser"]);
}

#[test]
fn half_a_second_head_does_not_keep_a_drain_waiting() {
    drains_beside(&["GET /name HTTP/1.1\r\nhost: server:8080\r\n\r\n", "GET /name HTTP/1.1\r\nhos"]);
}
