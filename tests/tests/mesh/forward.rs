//! Forward proxies: applications ask them in the forms that are for proxies, as if there were no sidecar.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use remora_test::mesh::Mesh;
use remora_test::pod::Pod;

use crate::pair::{entry, service};

/// Answers the absolute form, and CONNECT with a tunnel in which it plays the server; as squid does, it refuses the origin form.
fn proxy(pod: &Pod) -> SocketAddr {
    let at = pod.at(3128);
    let listener = pod.enter(|| TcpListener::bind(at)).unwrap();
    // Ends with the process.
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(|| serve(stream))))
    });
    at
}

/// Tells in each answer how it was asked for it.
fn serve(stream: TcpStream) {
    let mut writer = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let (mut told, mut tunnel) = (String::new(), false);
    while let Some(line) = lines.next() {
        let fields: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let host = fields.iter().find(|field| field.to_lowercase().starts_with("host:")).cloned().unwrap_or_default();
        told += &format!("{line} {host}\n");
        let good = tunnel || line.contains(" http://");
        tunnel |= line.starts_with("CONNECT ");
        let answer = match (good, tunnel) {
            (true, _) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len()),
            (false, true) => "HTTP/1.1 200 Connection established\r\n\r\n".to_owned(),
            (false, false) => "HTTP/1.1 400 Invalid URL\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        if good {
            told.clear();
        }
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Python's own client, by the proxy of the first argument: urllib's absolute form, and the tunnel that it opens for https, by HTTP/1.0 until Python 3.11.
const PYTHON: &str = "
import http.client, sys, urllib.request
proxy = urllib.request.ProxyHandler({'http': 'http://' + sys.argv[1]})
with urllib.request.build_opener(proxy).open('http://origin.example/path?q', timeout=30) as answer:
    print(answer.status, answer.read().decode())
tunnel = http.client.HTTPConnection(sys.argv[1], timeout=30)
tunnel.set_tunnel('origin.example', 80, {'Content-Length': '0'})
tunnel.request('GET', '/path?q')
answer = tunnel.getresponse()
print(answer.status, answer.read().decode())
";

fn python(pod: &Pod, proxy: &str) -> String {
    // Another one on the path may be root's own.
    let output = pod.run("/usr/bin/python3", &["-c", PYTHON, proxy]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Asks through both proxies, from a pod without a sidecar and from one with, in each form: they are told the same.
fn same(bare: &Pod, direct: &str, client: &Pod, meshed: &str) {
    let url = "http://origin.example/path?q";
    for (form, by) in [
        (&[][..], "-x"),
        (&["--http1.0"], "-x"),
        (&["-p", "--suppress-connect-headers"], "-x"),
        (&["-p", "--suppress-connect-headers"], "--proxy1.0"),
    ] {
        let ask = |pod: &Pod, proxy: &str| pod.curl(&[form, &[by, proxy, url]].concat());
        let (direct, meshed) = (ask(bare, direct), ask(client, meshed));
        assert_eq!((direct.code, meshed.code), (200, 200), "{by} {form:?}: {meshed:?}");
        assert!(meshed.body.contains("origin.example"), "{meshed:?}");
        assert_eq!(meshed.body, direct.body, "{by} {form:?}");
    }
    let told = python(client, meshed);
    assert_eq!(told.matches("200 ").count(), 2, "{told}");
    assert!(told.contains("GET http://origin.example/path?q HTTP/1.1"), "{told}");
    assert!(told.contains("CONNECT origin.example:80 HTTP/1."), "{told}");
    assert_eq!(told, python(bare, direct));
}

#[test]
fn a_forward_proxy_is_asked_as_without_a_sidecar() {
    let mesh = Mesh::new();
    let [client, bare, outside] = ["client", "bare", "outside"].map(|name| mesh.pod(name));
    let proxy = proxy(&outside).to_string();
    let outbound = client.plain_sidecar("");
    same(&bare, &proxy, &client, &proxy);
    let count = |metric| outbound.metric(metric, &[("direction", "outbound"), ("cluster", "passthrough")]);
    // The absolute form is read; of a tunnel the proxy knows nothing but its bytes.
    assert_eq!(count("remora_requests_total"), 3.0);
    assert_eq!(count("remora_tcp_connections_total"), 3.0);
}

#[test]
fn a_forward_proxy_with_a_sidecar_of_its_own_is_declared_as_bytes() {
    let mesh = Mesh::new();
    let [client, bare, outside, server] = ["client", "bare", "outside", "server"].map(|name| mesh.pod(name));
    let direct = proxy(&outside).to_string();
    let at = proxy(&server);
    let _inbound = server.sidecar("inbound: {mtls: strict, ports: [{port: 3128, protocol: tcp}]}");
    let _outbound = client.sidecar(&entry(3128, &[at], ", protocol: tcp"));
    same(&bare, &direct, &client, &service(3128).to_string());
}
