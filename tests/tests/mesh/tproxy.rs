//! Inbound by TPROXY: the proxy is root with one capability, and its own traffic is known by its group. The application sees its
//! clients' addresses.

use std::net::{IpAddr, TcpListener, TcpStream};

use remora_test::binaries::binary;
use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::netns::{run, tool};
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::ask;

use crate::pair::{VIRTUAL, VIRTUAL6, entry};

/// As `Pod::sidecar`, with inbound connections by TPROXY.
pub(crate) fn start(pod: &Pod, rest: &str) -> Process {
    pod.identity();
    run(std::process::Command::new("chown").args(["-R", "0:0"]).arg(pod.tls())).unwrap();
    pod.redirect_with(&["--inbound-mode", "tproxy"]);
    let file = pod.folder().join("remora.yaml");
    pod.write(&file, &pod.config(rest));
    let mut command = pod.command(tool("setpriv"));
    command.args(["--regid", "1337", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all,+net_admin", "--"]);
    command.args(["/usr/bin/env", "REMORA_INTERCEPTION=tproxy"]).arg(binary("remora-proxy")).arg("--config").arg(&file);
    let proxy = pod.process("proxy", &mut command);
    eventually("readiness", || {
        ask(pod, ([127, 0, 0, 1], 15_021).into(), "GET", "/healthz/ready").filter(|answer| answer.code == 200)
    });
    proxy
}

#[test]
fn inbound_arrives_by_tproxy_in_both_families() {
    let mesh = Mesh::new();
    let (client, server, stranger) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("stranger"));
    let _app = server.peer("http", 8080, &[]);
    let inbound = start(&server, "inbound: {mtls: strict}");
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], ""));
    for (url, endpoint) in
        [(format!("http://{VIRTUAL}:8080/"), server.at(8080)), (format!("http://[{VIRTUAL6}]:8080/"), server.at6(8080))]
    {
        outbound.configure(&client.config(&entry(8080, &[endpoint], "")));
        eventually("the endpoint", || outbound.admin("/clusters").body.contains(&endpoint.to_string()).then_some(()));
        for flag in ["--http1.1", "--http2-prior-knowledge"] {
            let answer = client.curl(&["-g", &url, flag]);
            assert_eq!(answer.code, 200, "{answer:?}\n{}", inbound.stderr());
            let caller = answer.json()["headers"]["x-forwarded-client-cert"].to_string();
            assert!(caller.contains(&client.id()), "{caller}");
        }
        client.h2load(&["-n", "200", "-c", "10", "-H", ":authority: server:8080", &url]).assert_clean(200);
    }
    for to in [server.at(8080), server.at6(8080)] {
        assert_eq!(stranger.curl(&["-g", &format!("http://{to}/")]).code, 0, "plaintext in strict mode");
    }
    // The application's own way out is redirected as ever; what the proxy itself sends is not.
    let metrics = ask(&server, ([127, 0, 0, 1], 15_020).into(), "GET", "/metrics").unwrap();
    let metrics = remora_test::metrics::Metrics::parse(&metrics.body);
    assert_eq!(metrics.sum("remora_downstream_connections_total", &[("direction", "outbound")]), 0.0);
    assert_eq!(metrics.sum("remora_connections_refused_total", &[("reason", "plaintext")]), 2.0);
}

#[test]
fn the_application_sees_who_calls_by_every_protocol() {
    let mesh = Mesh::new();
    let (client, server, stranger) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("stranger"));
    let _app = server.peer("http", 8080, &[]);
    let listener = server.enter(|| TcpListener::bind("[::]:7000")).unwrap();
    let inbound = start(&server, "inbound: {mtls: permissive}");
    for v6 in [false, true] {
        let (http, bytes) = if v6 { (server.at6(8080), server.at6(7000)) } else { (server.at(8080), server.at(7000)) };
        let own = |pod: &Pod| if v6 { IpAddr::from(pod.v6()) } else { pod.v4().into() };
        let entries = format!(
            "outbound:\n  - {{host: \"server:8080\", addresses: [\"{}\"], endpoints: [\"{http}\"]}}",
            http.ip()
        );
        let outbound = client.sidecar(&entries);
        // Connections that wait for work are not lent to somebody else's requests.
        for pod in [&client, &stranger, &client, &stranger] {
            for flag in ["--http1.1", "--http2-prior-knowledge"] {
                let answer = pod.curl(&["-g", &format!("http://{http}/"), flag]);
                assert_eq!(answer.code, 200, "{answer:?}\n{}", inbound.stderr());
                assert_eq!(answer.json()["peer"], own(pod).to_string(), "{} by {flag}", pod.name());
                let caller = answer.json()["headers"]["x-forwarded-client-cert"].to_string();
                assert_eq!(caller.contains(&client.id()), pod.name() == "client", "{caller}");
            }
            let held = pod.enter(|| TcpStream::connect(bytes)).unwrap();
            let (accepted, peer) = listener.accept().unwrap();
            assert_eq!(peer.ip().to_canonical(), own(pod));
            drop((held, accepted));
        }
        stranger
            .h2load(&[
                "--h1",
                "-n",
                "2000",
                "-c",
                "200",
                "-H",
                ":authority: server:8080",
                &format!("http://{http}/name"),
            ])
            .assert_clean(2_000);
        outbound.terminate();
        outbound.into_process().wait();
    }
}
