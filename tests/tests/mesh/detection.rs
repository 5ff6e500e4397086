//! One port, any protocol: what the first bytes are decides, and none is lost.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use remora_test::mesh::Mesh;
use remora_test::netns::tool;
use remora_test::pod::Pod;
use remora_test::process::Process;

use crate::pair::{Pair, Plan, VIRTUAL, VIRTUAL6, entry, service};

/// An empty SETTINGS frame of HTTP/2.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// Sends bytes, ends, and returns what comes back before the peer ends.
fn exchange(pod: &Pod, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = pod.enter(|| TcpStream::connect(to)).unwrap();
    stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// The ClientHello of an application that speaks TLS itself.
fn client_hello(alpn: &[&str]) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut client = rustls::ClientConnection::new(config.into(), "mysql.example".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn plaintext_mesh_and_application_tls_share_a_permissive_port() {
    let pair = Pair::start(Plan { app: "echo", port: 3306, inbound: "{mtls: permissive}", ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    let bye = b"bye from server\n";
    let opaque = b"\x0a\x00\x00\x01plain".to_vec();
    assert_eq!(exchange(&stranger, pair.server.at(3306), &opaque), [&opaque[..], bye].concat());
    assert_eq!(exchange(&pair.client, service(3306), &opaque), [&opaque[..], bye].concat());
    for alpn in [&[][..], &["h2", "http/1.1"], &["mysql"]] {
        let hello = client_hello(alpn);
        let untouched = [&hello[..], bye].concat();
        assert_eq!(exchange(&stranger, pair.server.at(3306), &hello), untouched, "from outside, ALPN {alpn:?}");
        // Between meshed pods it travels inside the mTLS hop.
        assert_eq!(exchange(&pair.client, service(3306), &hello), untouched, "through the mesh, ALPN {alpn:?}");
    }
    assert_eq!(pair.inbound.metric("remora_tls_handshakes_total", &[("side", "server")]), 4.0, "the mesh's own only");
}

#[test]
fn a_silent_plaintext_client_hears_a_permissive_server() {
    let pair = Pair::start(Plan { app: "greeter", port: 3306, inbound: "{mtls: permissive}", ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    for (pod, to) in [(&stranger, pair.server.at(3306)), (&pair.client, service(3306))] {
        let mut stream = pod.enter(|| TcpStream::connect(to)).unwrap();
        stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello from server\n");
    }
}

#[test]
fn a_strict_port_tells_a_plaintext_client_nothing() {
    let pair = Pair::start(Plan { app: "greeter", port: 3306, ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    let mut stream = stranger.enter(|| TcpStream::connect(pair.server.at(3306))).unwrap();
    stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    stream.write_all(b"\x01who is there?").unwrap();
    let mut answer = Vec::new();
    // Ended or reset; in neither case with a word.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
}

/// A self-signed certificate for an application's own TLS.
fn own_certificate(pod: &Pod) -> [String; 2] {
    let (key, cert) = (pod.folder().join("app-key.pem"), pod.folder().join("app-cert.pem"));
    let mut command = Command::new(tool("openssl"));
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]);
    command.args(["-subj", "/CN=server", "-addext", "subjectAltName=DNS:server"]);
    let output = command.arg("-keyout").arg(&key).arg("-out").arg(&cert).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    [key, cert].map(|path| path.to_str().unwrap().to_owned())
}

/// An application's own TLS past the sidecar that `inbound` starts, in both families.
fn own_tls_stays_end_to_end(inbound: impl Fn(&Pod, &str) -> Process) {
    let mesh = Mesh::new();
    let (client, server, stranger) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("stranger"));
    let [key, cert] = own_certificate(&server);
    let mut command = server.command(tool("openssl"));
    command.args(["s_server", "-accept", "8443", "-www", "-key", &key, "-cert", &cert]);
    let _app = server.app(8443, &mut command);
    let _inbound = inbound(&server, "inbound: {mtls: permissive}");
    for (endpoint, service, own) in [
        (server.at(8443), VIRTUAL.to_owned(), server.v4().to_string()),
        (server.at6(8443), format!("[{VIRTUAL6}]"), format!("[{}]", server.v6())),
    ] {
        let outbound = client.sidecar(&entry(8443, &[endpoint], ""));
        // Inside the mTLS hop, through the client's sidecar without an entry, and from outside: the certificate is the server's own.
        for (pod, address) in [(&client, &service), (&client, &own), (&stranger, &own)] {
            let to = format!("server:8443:{address}");
            let answer = pod.curl(&["--resolve", &to, "--cacert", &cert, "https://server:8443/"]);
            assert_eq!(answer.code, 200, "{address} from {}: {answer:?}", pod.name());
        }
        assert_eq!(outbound.metric("remora_tls_handshakes_total", &[("side", "client")]), 1.0, "the mesh's own only");
    }
}

#[test]
fn an_applications_own_tls_passes_a_redirecting_sidecar() {
    own_tls_stays_end_to_end(|pod, rest| pod.sidecar(rest).into_process());
}

#[test]
fn an_applications_own_tls_passes_a_sidecar_with_tproxy() {
    own_tls_stays_end_to_end(crate::tproxy::start);
}

#[test]
fn a_declared_protocol_is_not_guessed() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _app = server.peer("http", 8080, &[]);
    let inbound = server.sidecar("inbound: {mtls: strict, ports: [{port: 8080, protocol: tcp}]}");
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], ", protocol: tcp"));
    let answer = client.curl(&["http://10.96.0.10:8080/"]);
    assert_eq!(answer.code, 200, "{answer:?}");
    assert!(answer.json()["headers"]["x-forwarded-client-cert"].is_null(), "nobody read the request");
    for (sidecar, direction) in [(&outbound, "outbound"), (&inbound, "inbound")] {
        let labels = [("direction", direction)];
        assert_eq!(sidecar.metric("remora_requests_total", &labels), 0.0, "{direction}");
        sidecar.metric_until("remora_tcp_connections_total", &labels, |n| n == 1.0);
    }
}

#[test]
fn tls_to_a_port_declared_as_http_is_told_once() {
    let mesh = Mesh::new();
    let (server, stranger) = (mesh.pod("server"), mesh.pod("stranger"));
    let ports = "[{port: 8443, protocol: http}, {port: 9443, protocol: http2}]";
    // One line a port, by whichever worker.
    let inbound = server.sidecar(&format!("workers: 2\ninbound: {{mtls: permissive, ports: {ports}}}"));
    for port in [8443, 8443, 8443, 9443] {
        let answer = exchange(&stranger, server.at(port), &client_hello(&["h2", "http/1.1"]));
        assert!(answer.is_empty(), "{port}: {}", answer.escape_ascii());
    }
    // The last connection's line stands behind those of the others.
    for (port, declared) in [(9443, "`protocol: http2`"), (8443, "`protocol: http`")] {
        let line = inbound.said(&format!("TLS came to port {port}"));
        assert!(line.contains(declared) && line.contains("declare `protocol: auto`"), "{line}");
    }
    assert_eq!(inbound.stderr().matches("only HTTP is served").count(), 2, "{}", inbound.stderr());
}

#[test]
fn a_request_that_comes_byte_by_byte_is_still_http() {
    let pair = Pair::usual();
    let mut stream = pair.client.enter(|| TcpStream::connect(service(8080))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    for byte in b"GET /name HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("server"), "{answer}");
    assert_eq!(pair.outbound.metric("remora_requests_total", &[("direction", "outbound"), ("protocol", "http1")]), 1.0);
}

#[test]
fn a_port_may_have_a_mode_of_its_own() {
    let mesh = Mesh::new();
    let (server, stranger) = (mesh.pod("server"), mesh.pod("stranger"));
    let _apps = [server.peer("http", 8080, &[]), server.peer("http", 9090, &[]), server.peer("http", 9191, &[])];
    let _inbound = server
        .sidecar("inbound: {mtls: strict, ports: [{port: 9090, mtls: off}, {port: 9100-9200, mtls: permissive}]}");
    for (port, code) in [(8080, 0), (9090, 200), (9191, 200)] {
        assert_eq!(stranger.curl(&[&format!("http://{}/", server.at(port))]).code, code, "{port}");
    }
}

#[test]
fn a_server_answers_half_a_word_that_could_begin_a_request() {
    let pair = Pair::start(Plan { app: "echo", port: 7000, ..Plan::default() });
    let mut stream = pair.client.enter(|| TcpStream::connect(service(7000))).unwrap();
    // A tenth of what detection may take in each of the two sidecars, and more than ten times what the exchange does.
    stream.set_read_timeout(Some(std::time::Duration::from_secs(8))).unwrap();
    for said in [&b"PI"[..], b"N", b"G\r\n\x01\x02\x03"] {
        stream.write_all(said).unwrap();
        let mut heard = vec![0; said.len()];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, said);
    }
    for (sidecar, direction) in [(&pair.outbound, "outbound"), (&pair.inbound, "inbound")] {
        let direction = [("direction", direction)];
        assert_eq!(sidecar.metric("remora_protocol_detection_timeouts_total", &direction), 1.0);
        assert_eq!(sidecar.metric("remora_protocol_detection_duration_seconds_count", &direction), 1.0);
    }
}

#[test]
fn half_a_word_and_its_rest_are_a_request_all_the_same() {
    let pair = Pair::start(Plan { inbound: "{mtls: permissive}", ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    let mut stream = stranger.enter(|| TcpStream::connect(pair.server.at(8080))).unwrap();
    stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    stream.write_all(b"GE").unwrap();
    pair.inbound.metric_until("remora_protocol_detection_timeouts_total", &[], |count| count == 1.0);
    // By now the application has seen the half, too; the request comes to it whole, on a connection of its own.
    let rest = b"T / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: forged\r\nconnection: close\r\n\r\n";
    stream.write_all(rest).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("forged"), "{answer}");
    assert_eq!(pair.inbound.metric("remora_requests_total", &[("direction", "inbound"), ("code", "200")]), 1.0);
}

/// Request lines that servers of Node, Python and others take, and the proxy's parser does not.
fn lenient_lines() -> Vec<Vec<u8>> {
    let mut lines: Vec<_> = [
        "SOURCE /admin ICE/1.1",
        "DESCRIBE /admin RTSP/1.0",
        "OPTIONS * RTSP/1.0",
        "GET rtsp://a/admin RTSP/1.0",
        "PROPFIND /admin",
        "PROPFIND http://a/admin",
        "OPTIONS *",
        "PROPFIND /admin HTTP/2.0",
        "PROPFIND /admin http/1.1",
        "get /admin HTTP/3.0",
        "G@T /admin HTTP/1.1",
    ]
    .map(|line| line.as_bytes().to_vec())
    .into();
    lines.push([&b"\r\n".repeat(8192)[..], b"GET /admin HTTP/1.1"].concat());
    lines.push([&b"GET"[..], &b" ".repeat(16_384), b"/admin HTTP/1.1"].concat());
    lines
}

/// The application here takes anything for a request.
#[test]
fn what_only_lenient_servers_take_for_a_request_passes_no_forged_caller() {
    let mesh = Mesh::new();
    let [client, liar, server, stranger] = ["client", "liar", "server", "stranger"].map(|name| mesh.pod(name));
    let listener = server.enter(|| TcpListener::bind(server.at(8080))).unwrap();
    let _inbound = server.sidecar("inbound: {mtls: permissive}");
    let _outbound = client.sidecar(&entry(8080, &[server.at(8080)], ""));
    // Says on its hop that what it carries are bytes.
    let _lying = liar.sidecar(&entry(8080, &[server.at(8080)], ", protocol: tcp"));
    let application = std::thread::spawn(move || {
        let mut heard = Vec::new();
        loop {
            let (mut stream, mut said) = (listener.accept().unwrap().0, Vec::new());
            // A connection on which half a word was shown may be reset.
            let _ = stream.read_to_end(&mut said);
            if said == b"\0enough" {
                return heard;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            heard.push(said);
        }
    });
    let fields = b"\r\nhost: a\r\nx-forwarded-client-cert: forged\r\nconnection: close\r\n\r\n";
    let mut passed = Vec::new();
    for line in lenient_lines() {
        for (pod, to) in [(&stranger, server.at(8080)), (&client, service(8080)), (&liar, service(8080))] {
            let answer = exchange(pod, to, &[&line[..], fields].concat());
            if !answer.starts_with(b"HTTP/1.1 4") && !answer.starts_with(b"HTTP/1.1 505 ") {
                let shown = String::from_utf8_lossy(line.trim_ascii()).replace("  ", "");
                passed.push(format!("{shown:?} from {}: {}", pod.name(), answer.escape_ascii()));
            }
        }
    }
    exchange(&stranger, server.at(8080), b"\0enough");
    let heard = application.join().unwrap();
    let forged = heard.iter().filter(|said| said.windows(6).any(|part| part == b"forged")).count();
    assert!(passed.is_empty() && forged == 0, "{forged} forged, not refused: {passed:#?}");
}

/// Many HTTP/2 servers send SETTINGS before they have heard anything, which makes no bytes of what their clients say.
#[test]
fn a_server_that_speaks_first_and_http_2_has_its_requests_read() {
    let mesh = Mesh::new();
    let (server, stranger) = (mesh.pod("server"), mesh.pod("stranger"));
    let _inbound = server.sidecar("inbound: {mtls: permissive}");
    let listener = server.enter(|| TcpListener::bind(server.at(7000))).unwrap();
    let accept = || {
        let mut stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
        stream.write_all(SETTINGS).unwrap();
        stream
    };
    let mut client = stranger.enter(|| TcpStream::connect(server.at(7000))).unwrap();
    let mut ahead = accept();
    client.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let mut heard = [0; 9];
    client.read(&mut heard).expect_err("the client is told what it has not asked for");
    let name = b"x-forwarded-client-cert";
    let fields = [b"\x82\x86\x84\x01\x01a\0", &[name.len() as u8][..], name, b"\x06forged"].concat();
    let headers = [b"\0\0", &[fields.len() as u8][..], b"\x01\x05\0\0\0\x01", &fields].concat();
    client.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SETTINGS, &headers].concat()).unwrap();
    // The request comes on a connection of its own.
    let mut preface = [0; 24];
    accept().read_exact(&mut preface).unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut unread = Vec::new();
    ahead.read_to_end(&mut unread).unwrap();
    assert!(unread.is_empty(), "{}", unread.escape_ascii());
}
