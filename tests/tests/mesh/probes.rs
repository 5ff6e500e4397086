//! The kubelet's probes of an application behind strict mTLS. A pod without a sidecar stands for the kubelet: it has no identity either.

use remora_test::mesh::Mesh;
use remora_test::netns::{run, tool};
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::{Sidecar, ask};

/// The application's probes, as injection tells the proxy of them.
fn probes() -> String {
    let http = |container: &str, kind: &str, path: &str, port: u16| {
        let key = format!("/app-health/{container}/{kind}");
        (key, serde_json::json!({"httpGet": {"path": path, "port": port, "scheme": "HTTP"}, "timeoutSeconds": 5}))
    };
    let mut table: serde_json::Map<_, _> =
        [http("app", "readyz", "/anything", 8080), http("app", "livez", "/status/500", 8080)].into_iter().collect();
    table.insert("/app-health/app/startupz".into(), serde_json::json!({"tcpSocket": {"port": 8080}}));
    table.insert("/app-health/gone/livez".into(), serde_json::json!({"tcpSocket": {"port": 9}}));
    serde_json::Value::from(table).to_string()
}

/// An application in `server` that is probed, and its strict sidecar.
fn probed(server: &Pod) -> (Process, Sidecar) {
    let app = server.peer("http", 8080, &[]);
    server.identity();
    server.redirect();
    let environment = [("REMORA_INBOUND_MTLS", "strict"), ("REMORA_PROBES", &probes())];
    let sidecar = server.proxy_with(&server.config(""), &environment);
    sidecar.ready();
    (app, sidecar)
}

#[test]
fn probes_reach_the_application_that_nobody_else_does() {
    let mesh = Mesh::new();
    let (server, kubelet) = (mesh.pod("server"), mesh.pod("kubelet"));
    let (_app, sidecar) = probed(&server);

    assert!(ask(&kubelet, server.at(8080), "GET", "/name").is_none(), "strict");
    let probe = |path: &str| ask(&kubelet, server.at(15_020), "GET", path).unwrap();
    for path in ["/app-health/app/readyz", "/app-health/app/startupz"] {
        assert_eq!(probe(path).code, 200, "{path}");
    }
    let failing = probe("/app-health/app/livez");
    assert_eq!((failing.code, failing.body.as_str()), (500, "the application answered 500 Internal Server Error\n"));
    let gone = probe("/app-health/gone/livez");
    assert!(gone.code == 503 && gone.body.contains("refused"), "{gone:?}");
    let _ = sidecar.said("/app-health/gone/livez");
    for path in ["/app-health/app/prestopz", "/app-health/other/livez", "/app-health/", "/name"] {
        assert_eq!(probe(path).code, 404, "{path}");
    }
    assert_eq!(ask(&kubelet, server.at(15_020), "POST", "/app-health/app/readyz").unwrap().code, 405);
    // Not by way of the inbound listener: nothing of it is counted as the mesh's traffic.
    assert_eq!(sidecar.metric("remora_requests_total", &[("direction", "inbound")]), 0.0);
}

#[test]
fn a_pod_without_ipv4_is_probed_and_scraped() {
    let mesh = Mesh::new();
    let (server, kubelet) = (mesh.pod("server"), mesh.pod("kubelet"));
    let v4 = format!("{}/24", server.v4());
    run(server.command(tool("ip")).args(["addr", "del", &v4, "dev", "eth0"])).unwrap();
    let _probed = probed(&server);

    let code = |port, path| ask(&kubelet, server.at6(port), "GET", path).unwrap().code;
    for path in ["/app-health/app/readyz", "/app-health/app/startupz", "/metrics", "/healthz/ready"] {
        assert_eq!(code(15_020, path), 200, "{path}");
    }
    assert_eq!((code(15_020, "/app-health/app/livez"), code(15_021, "/healthz/ready")), (500, 200));
}

#[test]
fn an_address_that_does_not_exist_here_is_left_out() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let nowhere = |port| format!("[\"0.0.0.0:{port}\", \"[2001:db8::1]:{port}\"]");
    let admin = format!("admin: {{metrics: {}, readiness: {}}}", nowhere(15_020), nowhere(15_021));
    let sidecar = pod.proxy(&format!("service: pod\n{admin}\n"));
    sidecar.ready();
    for port in [15_020, 15_021] {
        let line = sidecar.said(&format!("[2001:db8::1]:{port}"));
        assert!(line.contains("not listening"), "{line}");
    }
    drop(sidecar);
    let mut alone = pod.proxy("service: pod\nadmin: {metrics: \"[2001:db8::1]:15020\"}\n");
    assert_eq!(alone.wait().code(), Some(3));
    let _ = alone.said("cannot listen on [2001:db8::1]:15020 (metrics)");
}

#[test]
fn a_table_that_cannot_be_read_ends_the_start() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let table = r#"{"/app-health/app/readyz": {"httpGet": {"path": "/", "port": "http"}}}"#;
    let mut proxy = pod.proxy_with("service: pod\n", &[("REMORA_PROBES", table)]);
    assert_eq!(proxy.wait().code(), Some(2));
    let line = proxy.said("REMORA_PROBES");
    assert!(line.contains(r#""/app-health/app/readyz".httpGet.port: expected a whole number"#), "{line}");
}
