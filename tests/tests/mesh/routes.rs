//! Outbound entries: how a connection finds its own, and how a request finds its way inside it.

use remora_test::client;
use remora_test::mesh::Mesh;

use crate::pair::service;
use crate::wire::Wire;

#[test]
fn the_host_header_chooses_no_other_service() {
    let mesh = Mesh::new();
    let (client, a, b) = (mesh.pod("client"), mesh.pod("a"), mesh.pod("b"));
    let _apps = [a.peer("http", 8080, &[]), b.peer("http", 8080, &[])];
    let _outbound = client.plain_sidecar(&format!(
        "outbound:\n  - {{host: \"a.example:8080\", addresses: [10.96.0.10], endpoints: [\"{}\"]}}\n  \
         - {{host: \"b.example:8080\", addresses: [10.96.0.20], endpoints: [\"{}\"]}}",
        a.at(8080),
        b.at(8080)
    ));
    for host in ["a.example:8080", "b.example:8080", "c.example"] {
        for (address, name) in [("10.96.0.10", "a"), ("10.96.0.20", "b")] {
            for flag in ["--http1.1", "--http2-prior-knowledge"] {
                let url = format!("http://{address}:8080/");
                let answer = client.curl(&[&url, flag, "-H", &format!("host: {host}")]);
                assert_eq!(answer.json()["name"], name, "{host} at {address}");
            }
        }
    }
}

#[test]
fn a_name_is_matched_and_reached_by_what_it_resolves_to() {
    let mesh = Mesh::new();
    let (client, a, b) = (mesh.pod("client"), mesh.pod("a"), mesh.pod("b"));
    let _apps = [a.peer("http", 8080, &[]), b.peer("http", 8080, &[])];
    let _inbound = [a.sidecar("inbound: {mtls: strict}"), b.sidecar("inbound: {mtls: strict}")];
    let hosts = [(a.v4().to_string(), "catalog"), (b.v4().to_string(), "catalog"), (b.v4().to_string(), "pods")];
    client.hosts(&hosts).unwrap();
    let outbound = client.sidecar(
        "outbound:\n  - {host: \"catalog:8080\", balance: round_robin}\n  \
         - {host: \"virtual:8080\", addresses: [10.96.0.10], dns: \"pods:8080\"}",
    );
    // Whichever of the two addresses the client picks, both serve.
    let to = a.at(8080);
    let names = client.block_on(|| async move {
        let mut h1 = client::h1(to).await.unwrap();
        let mut names = Vec::new();
        for _ in 0..6 {
            h1.ready().await.unwrap();
            let response = h1.send_request(client::get("catalog:8080", "/name")).await.unwrap();
            names.push(client::text(response).await.unwrap().2);
        }
        names
    });
    let count = |name: &str| names.iter().filter(|found| *found == name).count();
    assert_eq!((count("a"), count("b")), (3, 3), "{names:?}");
    assert_eq!(outbound.metric("remora_requests_total", &[("cluster", "catalog:8080")]), 6.0);
    assert_eq!(client.curl(&["http://10.96.0.10:8080/name"]).body, "b", "by the name of its pods");
}

#[test]
fn routes_choose_by_path_method_and_header() {
    let mesh = Mesh::new();
    let (client, a, b) = (mesh.pod("client"), mesh.pod("a"), mesh.pod("b"));
    let _apps = [a.peer("http", 8080, &[]), b.peer("http", 8080, &[])];
    let outbound = client.plain_sidecar(&format!(
        "outbound:
  - host: server:8080
    addresses: [10.96.0.10]
    endpoints: [\"{}\"]
    routes:
      - {{path: /, cluster: \"server:8080\"}}
      - {{path: /api, cluster: b, rewrite: /inner}}
      - {{exact: /exact, cluster: b}}
      - {{path: /, methods: [DELETE], cluster: b}}
      - {{path: /, headers: {{x-tester: \"yes\"}}, cluster: b}}
      - {{path: /, hosts: [\"*.b.example\"], cluster: b}}
      - {{path: /silent, cluster: b, timeout: 200ms}}
clusters:
  b: {{endpoints: [\"{}\"]}}",
        a.at(8080),
        b.at(8080)
    ));
    let cases: [(&str, &[&str], &str, &str); 10] = [
        ("/", &[], "a", "/"),
        ("/api", &[], "b", "/inner"),
        ("/api/x?y=1", &[], "b", "/inner/x?y=1"),
        ("/apis", &[], "a", "/apis"),
        ("/exact", &[], "b", "/exact"),
        ("/exact/not", &[], "a", "/exact/not"),
        ("/x", &["-X", "DELETE"], "b", "/x"),
        ("/x", &["-H", "x-tester: yes"], "b", "/x"),
        ("/x", &["-H", "x-tester: no"], "a", "/x"),
        ("/x", &["-H", "host: one.b.example"], "b", "/x"),
    ];
    for (path, more, name, arrives) in cases {
        for flag in ["--http1.1", "--http2-prior-knowledge"] {
            let url = format!("http://10.96.0.10:8080{path}");
            let answer = client.curl(&[&[url.as_str(), flag], more].concat());
            assert_eq!(answer.code, 200, "{path} {more:?}: {answer:?}");
            assert_eq!(
                (&answer.json()["name"], &answer.json()["path"]),
                (&name.into(), &arrives.into()),
                "{path} {more:?}"
            );
        }
    }
    assert_eq!(client.curl(&["http://10.96.0.10:8080/silent"]).code, 504, "the route's own timeout");
    assert_eq!(outbound.metric("remora_requests_total", &[("cluster", "b"), ("flag", "UT")]), 1.0);
}

/// RFC 9112 section 3.2.2: of an absolute target and a Host beside it, the target counts; so it chooses the route, too.
#[test]
fn an_absolute_target_is_routed_by_its_own_host() {
    let mesh = Mesh::new();
    let [client, bare, gateway, a, b] = ["client", "bare", "gateway", "a", "b"].map(|name| mesh.pod(name));
    let _apps = [a.peer("http", 8080, &[]), b.peer("http", 8080, &[])];
    let routes = format!(
        "[{{hosts: [a.example], endpoints: [\"{}\"]}}, {{hosts: [b.example], endpoints: [\"{}\"]}}]",
        a.at(8080),
        b.at(8080)
    );
    let outbound = client.plain_sidecar(&format!(
        "outbound:\n  - {{host: \"server:8080\", addresses: [10.96.0.10], endpoints: [], routes: {routes}}}"
    ));
    let front = gateway.proxy(&format!("gateway: {{listen: \"0.0.0.0:8080\", routes: {routes}}}\n"));
    front.ready();
    for (pod, to, proxy) in [(&client, service(8080), &outbound), (&bare, gateway.at(8080), &front)] {
        for (version, target, host) in [
            ("1.1", "b.example", "a.example"),
            ("1.1", "a.example", "b.example"),
            ("1.1", "b.example:8080", "a.example:8080"),
            ("1.1", "b.example", "nobody.example"),
            ("1.0", "b.example", "a.example"),
        ] {
            let mut wire = Wire::open(pod, to);
            wire.send(&format!("GET http://{target}/path?q HTTP/{version}\r\nhost: {host}\r\n\r\n"));
            let answer = wire.answer();
            assert_eq!(answer.code, 200, "{target} beside {host}: {answer:?}");
            let seen = answer.json();
            assert_eq!(seen["name"], target[..1], "the route of {target}, not of {host}");
            assert_eq!((&seen["path"], &seen["headers"]["host"]), (&"/path?q".into(), &[target].into()), "{seen}");
        }
        let mut wire = Wire::open(pod, to);
        wire.send("GET http://nobody.example/ HTTP/1.1\r\nhost: a.example\r\n\r\n");
        assert_eq!(wire.answer().code, 404, "no route has that host, whatever Host says");
        let overridden = [("reason", "host_overridden")];
        proxy.metric_until("remora_protocol_violations_total", &overridden, |count| count == 6.0);
    }
}

#[test]
fn what_is_idle_too_long_is_closed() {
    use std::io::{ErrorKind, Read, Write};
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _apps = [server.peer("http", 8080, &[]), server.peer("echo", 7000, &[])];
    let outbound = client.plain_sidecar(&format!(
        "outbound:\n  - {{host: \"server:8080\", addresses: [10.96.0.10], endpoints: [\"{}\"], timeouts: {{idle: 300ms}}}}\n  \
         - {{host: \"server:7000\", addresses: [10.96.0.10], endpoints: [\"{}\"], timeouts: {{idle: 300ms}}}}",
        server.at(8080),
        server.at(7000)
    ));
    let request = "GET /name HTTP/1.1\r\nhost: server:8080\r\n\r\n";
    for (port, words, answer) in [(8080, request, "server"), (7000, "\u{1}opaque", "\u{1}opaque")] {
        let mut stream = client.enter(|| std::net::TcpStream::connect(service(port))).unwrap();
        stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        let mut text = String::new();
        // Kept alive by the client, it ends without its doing.
        let ended = stream.read_to_string(&mut text);
        assert!(text.ends_with(answer), "{port}: {text:?}");
        // Bytes whose peers have not ended may not be all there was: a reset says so.
        assert_eq!(ended.map_err(|error| error.kind()).err(), (port == 7000).then_some(ErrorKind::ConnectionReset));
    }
    // A request that takes longer than that is not idle.
    assert_eq!(client.curl(&["http://10.96.0.10:8080/delay/900"]).body, "server");
    outbound.metric_until("remora_downstream_connections_active", &[("direction", "outbound")], |n| n == 0.0);
}
