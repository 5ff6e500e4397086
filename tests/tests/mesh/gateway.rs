//! The proxy as an API gateway: an address of its own, routes by path, no redirection.

use std::process::Command;

use remora_test::mesh::Mesh;
use remora_test::netns::tool;
use remora_test::pod::Pod;
use remora_test::process::Process;

struct Services {
    mesh: Mesh,
    gateway: Pod,
    a: Pod,
    b: Pod,
    _apps: [Process; 2],
}

fn services() -> Services {
    let mesh = Mesh::new();
    let (gateway, a, b) = (mesh.pod("gateway"), mesh.pod("a"), mesh.pod("b"));
    let apps = [a.peer("http", 8080, &[]), b.peer("http", 8080, &[])];
    Services { mesh, gateway, a, b, _apps: apps }
}

#[test]
fn the_most_specific_path_wins_whichever_stands_first() {
    let services = services();
    let routes = [
        format!("- {{path: /, to: \"{}\"}}", services.a.at(8080)),
        format!("- {{path: /api, to: \"{}\"}}", services.b.at(8080)),
    ];
    let caller = services.mesh.pod("caller");
    let gateway = services.gateway.at(8080);
    for (first, second) in [(0, 1), (1, 0)] {
        let config = format!(
            "service: gateway\ngateway:\n  listen: 0.0.0.0:8080\n  routes:\n    {}\n    {}\n",
            routes[first], routes[second]
        );
        let proxy = services.gateway.proxy(&config);
        proxy.ready();
        for (path, name) in
            [("/", "a"), ("/api", "b"), ("/api/", "b"), ("/api/users?x=1", "b"), ("/apix", "a"), ("/other/api", "a")]
        {
            for flag in ["--http1.1", "--http2-prior-knowledge"] {
                let answer = caller.curl(&[&format!("http://{gateway}{path}"), flag]);
                assert_eq!(answer.code, 200, "{path}: {answer:?}");
                assert_eq!(answer.json()["name"], name, "{path}");
                assert_eq!(answer.json()["path"], path, "the path arrives as it was");
            }
        }
        assert_eq!(proxy.metric("remora_requests_total", &[("direction", "gateway"), ("code", "200")]), 12.0);
        caller.h2load(&["--h1", "-n", "500", "-c", "5", &format!("http://{gateway}/api")]).assert_clean(500);
    }
}

#[test]
fn names_are_resolved() {
    let services = services();
    let hosts = [(services.a.v4().to_string(), "service-a"), (services.b.v4().to_string(), "service-b")];
    services.gateway.hosts(&hosts).unwrap();
    let proxy = services.gateway.proxy(
        "gateway:\n  listen: 0.0.0.0:8080\n  routes:\n    - {path: /, to: \"service-a:8080\"}\n    \
         - {path: /api, to: \"service-b:8080\"}\n",
    );
    proxy.ready();
    let caller = services.mesh.pod("caller");
    for (path, name) in [("/", "a"), ("/api", "b")] {
        let answer = caller.curl(&[&format!("http://{}{path}", services.gateway.at(8080))]);
        assert_eq!(answer.json()["name"], name, "{answer:?}");
    }
}

#[test]
fn a_path_without_a_route_is_404() {
    let services = services();
    let proxy = services.gateway.proxy(&format!(
        "service: gateway\ngateway:\n  listen: 0.0.0.0:8080\n  routes:\n    - {{path: /api, to: \"{}\"}}\n",
        services.b.at(8080)
    ));
    proxy.ready();
    let answer = services.mesh.pod("caller").curl(&[&format!("http://{}/elsewhere", services.gateway.at(8080))]);
    assert_eq!(answer.code, 404, "{answer:?}");
    assert!(answer.header("x-remora-reason").unwrap_or_default().starts_with("NR "), "{answer:?}");
}

#[test]
fn weights_split_the_traffic() {
    let services = services();
    let proxy = services.gateway.proxy(&format!(
        "service: gateway\ngateway:\n  listen: 0.0.0.0:8080\n  routes:\n    - path: /\n      clusters: [{{cluster: a, weight: 90}}, {{cluster: b, weight: 10}}]\n\
         clusters:\n  a: {{endpoints: [\"{}\"]}}\n  b: {{endpoints: [\"{}\"]}}\n",
        services.a.at(8080),
        services.b.at(8080)
    ));
    proxy.ready();
    let caller = services.mesh.pod("caller");
    caller
        .h2load(&["-n", "2000", "-c", "4", &format!("http://{}/name", services.gateway.at(8080))])
        .assert_clean(2_000);
    let b = proxy.metric("remora_requests_total", &[("cluster", "b")]) / 2_000.0;
    assert!((b - 0.1).abs() <= 0.05, "b got {b}");
}

#[test]
fn tls_is_terminated() {
    let services = services();
    let folder = services.gateway.folder();
    let (key, cert) = (folder.join("gw-key.pem"), folder.join("gw-cert.pem"));
    let mut command = Command::new(tool("openssl"));
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]);
    command.args(["-subj", "/CN=gw.example", "-addext", "subjectAltName=DNS:gw.example"]);
    assert!(command.arg("-keyout").arg(&key).arg("-out").arg(&cert).output().unwrap().status.success());
    std::os::unix::fs::chown(&key, Some(1337), Some(1337)).unwrap();
    let proxy = services.gateway.proxy(&format!(
        "service: gateway\ngateway:\n  listen: 0.0.0.0:8443\n  tls: {{certificate: {}, key: {}}}\n  routes:\n    - {{path: /, to: \"{}\"}}\n",
        cert.display(),
        key.display(),
        services.a.at(8080)
    ));
    proxy.ready();
    let caller = services.mesh.pod("caller");
    let resolve = format!("gw.example:8443:{}", services.gateway.v4());
    for flag in ["--http1.1", "--http2"] {
        let arguments =
            ["--resolve", &*resolve, "--cacert", cert.to_str().unwrap(), flag, "https://gw.example:8443/name"];
        let answer = caller.curl(&arguments);
        assert_eq!((answer.code, answer.body.as_str()), (200, "a"), "{answer:?}");
        assert_eq!(answer.head.starts_with("HTTP/2"), flag == "--http2", "{}", answer.head);
    }
}

#[test]
fn it_reaches_meshed_services() {
    let mesh = Mesh::new();
    let (gateway, server) = (mesh.pod("gateway"), mesh.pod("server"));
    let _app = server.peer("http", 8080, &[]);
    let _inbound = server.sidecar("inbound: {mtls: strict}");
    gateway.identity();
    let proxy = gateway.proxy(&gateway.config(&format!(
        "gateway:\n  listen: 0.0.0.0:8080\n  routes:\n    - {{path: /, endpoints: [\"{}\"], mtls: true}}",
        server.at(8080)
    )));
    proxy.ready();
    let seen =
        mesh.pod("caller").curl(&[&format!("http://{}/", gateway.at(8080)), "-H", "x-forwarded-client-cert: forged"]);
    let values = seen.json()["headers"]["x-forwarded-client-cert"].clone();
    assert_eq!(values.as_array().unwrap().len(), 1, "{values}");
    assert!(values[0].as_str().unwrap().contains(&gateway.id()), "{values}");
}
